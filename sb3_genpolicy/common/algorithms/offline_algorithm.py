"""
The base of the offline algorithms: SB3's off-policy algorithm, with a dataset in the replay buffer and no environment stepped
until somebody asks for that. What it is made of are parts: the random state, the gradient step with its guard and averages,
the recorder of updates, the processes that train together.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_genpolicy.common.algorithms import acting, collecting, critic_hooks, learning, online, saving
from sb3_genpolicy.common.algorithms.filling import fill_replay_buffer
from sb3_genpolicy.common.algorithms.held_out import HeldOutRows
from sb3_genpolicy.common.algorithms.kept_log import KeptLog
from sb3_genpolicy.common.algorithms.option_checks import check_base_options
from sb3_genpolicy.common.algorithms.space_checks import check_continuous_actions, check_model_spaces, take_env
from sb3_genpolicy.common.algorithms.spreads import forget_spreads
from sb3_genpolicy.common.algorithms.training_log import write_log
from sb3_genpolicy.common.algorithms.value_watch import ValueWatch
from sb3_genpolicy.common.datasets import DatasetSource, dataset_spaces
from sb3_genpolicy.common.datasets.envs import SpacesVecEnv, made_env
from sb3_genpolicy.common.datasets.vec_wrappers import check_normalized_last
from sb3_genpolicy.common.policies.critic_policy import CriticPolicy
from sb3_genpolicy.common.policies.critics import CriticOptions, Critics
from sb3_genpolicy.common.policies.critics.options import with_critic
from sb3_genpolicy.common.policies.option_checks import check_kwargs
from sb3_genpolicy.common.replay.buffer import OfflineReplayBuffer
from sb3_genpolicy.common.transitions.rewards import RewardFunction, RewardTransform, check_reward_transform
from sb3_genpolicy.common.transitions.transforms import Transform, action_transforms, check_transforms
from sb3_genpolicy.common.updates.batch import Batch
from sb3_genpolicy.common.updates.dependence import Dependence, Scope
from sb3_genpolicy.common.updates.descent import GradientDescent
from sb3_genpolicy.common.updates.device_means import DeviceMeans
from sb3_genpolicy.common.updates.objective import Objective
from sb3_genpolicy.common.updates.precision import PRECISIONS, Precision, matmul_precision
from sb3_genpolicy.common.updates.processes import OneProcess, processes
from sb3_genpolicy.common.updates.random_state import RandomState
from sb3_genpolicy.common.updates.recorded_update import UpdateRecorder
from sb3_genpolicy.generative.checks import check_choice, check_class, check_flag, check_number, did_you_mean


class OfflineAlgorithm(OffPolicyAlgorithm):
    """
    Base of algorithms that learn from a dataset, of yours too (docs/guide/own_algorithm.md). One gradient step is one timestep
    and one ``callback.on_step()``.

    A subclass says what an update descends on (:meth:`objective`), and what that depends on (:meth:`dependences`); its policy
    says which networks, optimizers and averages there are.

    :param policy: The policy model to use (FlowPolicy, DiffusionPolicy, ...)
    :param env: The environment that the policy is for (if registered in Gym, can be str). ``learn`` does not step it.
        None where there is no simulator: the spaces then come from the dataset.
    :param learning_rate: learning rate of every optimizer; can be a function of the current progress remaining (from 1 to 0)
    :param batch_size: rows of the dataset for each gradient step
    :param tau: the soft update coefficient of the target critics (between 0 and 1)
    :param gamma: the discount factor, in [0, 1]
    :param actor_tau: the soft update coefficient of the averaged actor, which acts (in (0, 1]; 1: the latest parameters act)
    :param reward_transform: ``locomotion``, ``antmaze``, ``none`` (or None), an object or a function of an array of rewards,
        see :func:`~sb3_genpolicy.common.transitions.rewards.fit_reward_transform`
    :param transforms: what else is done to the dataset, in the order given: ``BestEpisodes``, ``WeightedEpisodes``,
        ``HeldOutEpisodes``, ``NStepReturns``, ``ClipActions``, ``RescaleActions``, see
        :mod:`sb3_genpolicy.common.transitions.transforms`
    :param dataset: the logged data: a Minari id, a file, an SB3 replay buffer, a mapping of arrays, a list of these, or
        anything else that :func:`~sb3_genpolicy.common.datasets.load_dataset` takes. They are read in ``learn``. Default: what
        the environment carries (``env.get_dataset()``).
    :param precision: of matrix products while training: ``float32``, ``tf32`` or ``bfloat16``
    :param capture: on a CUDA device, whether to record a whole update as one CUDA graph and replay it
    :param stats_window_size: number of episodes that the rollout log is a mean of, when the model goes on online
    :param tensorboard_log: the log location for tensorboard (if None, no logging)
    :param policy_kwargs: Additional arguments to be passed to the policy on creation
    :param critic: what Q is of and by which networks: ``iql``, ``onestep``, ``policy``, or an object with options, see
        :mod:`sb3_genpolicy.common.policies.critics.options`. Default: what made the best policies (docs/guide/critics.md).
    :param verbose: Verbosity level: 0 for no output, 1 for info messages (such as device or wrappers used),
        2 for debug messages
    :param seed: seed of all pseudo random generators, a whole number >= 0; None: not repeatable
    :param device: Device on which the code should run, also where the dataset lives
    """

    policy: CriticPolicy
    replay_buffer: OfflineReplayBuffer  # type: ignore[assignment]
    #: Names of the policies, as SB3 has them
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {}
    #: Settings that may differ between models that are trained side by side: numbers or scalar tensors
    batched_settings: ClassVar[tuple[str, ...]] = ()
    #: Whether it asks critics for anything; without, it may have ``NoCritic()``
    needs_critics: ClassVar[bool] = True
    #: Attributes that say how far a run has come
    progress: ClassVar[tuple[str, ...]] = ("num_timesteps", "_n_updates", "_updates_before_policy")
    #: How much more often the policy is matched to rows of episodes with higher returns, in nats
    episode_kl: float = 0.0

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule,
        batch_size: int = 256,
        tau: float = 0.01,
        gamma: float = 0.99,
        actor_tau: float = 0.001,
        reward_transform: RewardTransform | None = "locomotion",
        transforms: Sequence[Transform] = (),
        dataset: DatasetSource | None = None,
        precision: Precision = "float32",
        capture: bool = False,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        critic: str | CriticOptions | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
    ):
        if not isinstance(policy, str):
            check_class("policy", policy, CriticPolicy, "FlowPolicy")
        check_base_options(env, learning_rate, stats_window_size, tensorboard_log, verbose, seed, device)
        transforms = check_transforms(transforms)
        check_kwargs("policy_kwargs", policy_kwargs)
        policy_kwargs = with_critic(policy_kwargs or {}, critic)
        if env is None and dataset is not None:
            env = SpacesVecEnv(*dataset_spaces(dataset, check_actions=not action_transforms(transforms)))
        super().__init__(
            policy,
            None,  # type: ignore[arg-type]
            learning_rate,
            batch_size=batch_size,
            tau=tau,
            gamma=gamma,
            replay_buffer_class=OfflineReplayBuffer,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose if processes().is_first else 0,
            device=device,
            seed=seed,
            support_multi_env=True,
            sde_support=False,
        )
        if env is not None:
            take_env(self, env, policy)
        # `env` is None while a saved model is being loaded, whose spaces are not known yet
        if self.env is not None:
            check_continuous_actions(self.action_space, type(self).__name__)
        check_number("batch_size", batch_size, low=1, whole=True)
        check_number("tau", tau, low=0.0, high=1.0)
        check_number("gamma", gamma, low=0.0, high=1.0)
        check_number("actor_tau", actor_tau, low=0.0, high=1.0, low_open=True)
        check_reward_transform(reward_transform)
        check_choice("precision", precision, PRECISIONS)
        check_flag("capture", capture)
        self.actor_tau = actor_tau
        self.reward_transform = reward_transform
        self.transforms = transforms
        self.precision: Precision = precision
        self.capture = capture
        self.dataset = dataset
        # All that is saved of the dataset
        self.dataset_name: str | None = dataset if isinstance(dataset, str) else None
        self._dataset_on_disk = False
        self.reference_scores: tuple[float, float] | None = None
        # Fitted to the first dataset: critics that were trained on one scale cannot go over to another
        self.reward_function: RewardFunction | None = None
        self.fitted_gamma: float | None = None
        self.fitted_length: float | None = None
        self._normalizer_is_fitted = False
        self._action_range_is_fitted = False
        # Whether VecNormalize's reward statistics are of transformed rewards; a wrapper may come with those of raw ones
        self._vec_rewards_are_fitted = False
        #: Whether online learning has begun: from then on the data are no longer fixed, and no network is frozen
        self.online = False
        # Updates made before the current phase began; the rate of the averaged actor depends on the updates since then
        self._updates_before_policy = 0

    @staticmethod
    def _wrap_env(env: GymEnv | str, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        # `load` and `set_env` come by here too, and take an environment's id as the constructor does
        env = made_env(env, verbose)
        if isinstance(env, VecEnv):
            check_normalized_last(env)
        check_model_spaces(env.observation_space, env.action_space)
        return OffPolicyAlgorithm._wrap_env(env, verbose, monitor_wrapper)

    def _get_policy_from_name(self, policy_name: str) -> type[BasePolicy]:
        if policy_name not in self.policy_aliases:
            raise ValueError(f"Policy '{policy_name}' is unknown. {did_you_mean(policy_name, self.policy_aliases)}")
        return self.policy_aliases[policy_name]

    def _setup_model(self) -> None:
        if getattr(self, "observation_space", None) is None:
            raise ValueError(
                f"{type(self).__name__} needs an environment or a dataset to know what it acts on: pass `env=`, or "
                "`dataset=` (a Minari id, a replay buffer or a mapping of arrays) where there is no simulator."
            )
        self.random = RandomState(self.device)
        super()._setup_model()
        # A model that is loaded takes the random state up when it goes on learning
        self.random.expect_loading()
        self.connect_replay_buffer()
        self.descent = GradientDescent(self.policy, self.device)
        self.recorder = UpdateRecorder()
        self.processes: OneProcess = OneProcess()
        #: Whether rows arrive between updates, from an environment that is stepped
        self.collects = False
        self.collecting = collecting.Collecting()
        self.held_out: HeldOutRows | None = None
        self.value_watch = ValueWatch()
        #: What was logged since the last training began
        self.kept_log = KeptLog()
        self.critics = Critics(self.policy, self)
        critic_hooks.check_critic(self)
        # As SB3's algorithms have them: model.actor, model.critic, ...
        for name, network in self.policy.networks().items():
            setattr(self, name, network)

    def connect_replay_buffer(self) -> None:
        """Give the replay buffer this model's action range, reward function, and the observations to store as float64."""
        self.replay_buffer.action_range = self.policy.action_range
        self.replay_buffer.hold_finer(self.policy.normalizer.keys_with_offset())
        if self.reward_function is not None:
            self.replay_buffer.reward_function = self.reward_function

    # Random numbers

    @property
    def generator(self) -> th.Generator:
        """Generator of the training's random numbers, except the choice of rows, which has its own in the replay buffer."""
        return self.random.generator

    @property
    def random_state(self) -> th.Tensor:
        """State of :attr:`generator`, as it is saved and loaded."""
        return self.random.state

    @property
    def row_random_state(self) -> th.Tensor:
        """State of the replay buffer's generator, which draws the rows, as it is saved and loaded."""
        return self.random.row_state

    @property
    def means(self) -> DeviceMeans:
        """Means of the logged scalars since the log was last written."""
        return self.descent.means

    def set_random_seed(self, seed: int | None = None) -> None:
        """
        Set the seed of the pseudo-random generators (python, numpy, pytorch, gym, action_space, and the training's own)

        :param seed: the seed; None changes nothing
        """
        super().set_random_seed(seed)
        if seed is not None:
            self.random.seed(seed, self.replay_buffer)

    # Data

    def read_dataset(self) -> None:
        """
        Read the dataset now, which ``learn`` does otherwise.

        :raises ValueError: if there is none, or it is damaged or does not fit the spaces
        """
        self.fill_replay_buffer(None)

    def fill_replay_buffer(self, dataset: DatasetSource | None) -> None:
        """
        Read the dataset into the replay buffer, unless it is there already, or not needed.

        :param dataset: the dataset of this call of ``learn``; None for the one given or filled before, or the environment's
        :raises ValueError: if there is none, or it is damaged or does not fit the spaces
        """
        is_there = self.replay_buffer.n_from_dataset > 0 or (self.collects and not online.needs_dataset(self))
        if dataset is not None or not is_there:
            fill_replay_buffer(self, dataset)
        forget_spreads(self)

    # Learning

    _setup_learn = learning.setup_learn

    _init_callback = learning.init_callback

    learn = learning.learn  # type: ignore[assignment]

    # Online

    learn_online = online.learn_online

    def go_online(self) -> None:
        """Unfreeze the networks that were frozen in offline learning. Called once, after the networks have been built."""

    _sample_action = collecting.sample_action

    _store_transition = collecting.store_transition

    # Acting

    predict_chunk = acting.predict_chunk

    # An update

    @property
    def phase(self) -> str:
        """What is being trained, for the log and the progress bar."""
        return "online" if self.online else "policy"

    def dependences(self) -> tuple[Dependence, ...]:
        """
        What the contribution of one row to an update depends on, besides that row. This decides whether models can be trained
        side by side, by several processes, with recorded updates, or online. An algorithm that does not override this method
        is trained alone, in one process, without recording.

        :return: every dependence on more than the row, see :class:`~sb3_genpolicy.common.updates.dependence.Scope`
        """
        unknown = f"nobody knows what an update of {type(self).__name__} depends on"
        return (Dependence(Scope.HOST, unknown, f"Say it in {type(self).__name__}.dependences"),)

    @abstractmethod
    def objective(self, batch: Batch) -> Objective:
        """
        :param batch: rows of the dataset (online, also of the environment), with the source of random numbers
        :return: the losses of this update, and the networks that they train
        """

    def before_step(self, objective: Objective) -> dict[str, th.Tensor]:
        """
        Called between the backward pass and the optimizer steps, for instance to clip gradients. By default it does nothing.

        :param objective: the objective of this update
        :return: further scalars for the log
        """
        return {}

    def held_out_losses(self, batch: Batch) -> dict[str, th.Tensor]:
        """
        :param batch: held-out rows
        :return: losses by name, for the log; those of the objective, by default
        """
        return self.objective(batch).losses

    def train(self, gradient_steps: int, batch_size: int = 256) -> None:
        """
        Draw batches from the dataset and update the networks.

        :param gradient_steps: number of updates
        :param batch_size: rows of each batch
        """
        with matmul_precision(self.precision, self.device):
            for step in range(1, gradient_steps + 1):
                self.begin_update()
                kind = (self.phase, batch_size, self.replay_buffer.size(), self.replay_buffer.observations_are_at)
                self.recorder.make(lambda: learning.update(self, batch_size), kind)
                self.end_update(is_last=step == gradient_steps)

    critic_options = property(critic_hooks.critic_options)
    critic_gamma = property(critic_hooks.critic_gamma)
    horizon_ratio = property(critic_hooks.horizon_ratio)
    critic_to_load = critic_hooks.critic_to_load
    policy_actions = critic_hooks.policy_actions
    behaviour_log_prob = critic_hooks.behaviour_log_prob

    begin_update = learning.begin_update

    end_update = learning.end_update

    def set_training_mode(self) -> None:
        """Set the networks' modes for an update. Skipped where nothing would change, since it walks over all modules."""
        if not self.policy.training:
            self.policy.set_training_mode(True)

    _set_learning_rates = learning.set_learning_rates

    _set_learning_rate = learning.set_learning_rate

    # Log

    def dump_logs(self) -> None:
        """
        Write what was logged since the last time to the logger's outputs, as SB3 does.
        """
        write_log(self)
        super().dump_logs()

    # Files

    save = saving.save
    load = saving.load  # type: ignore[assignment]
    get_parameters = saving.get_parameters
    set_parameters = saving.set_parameters  # type: ignore[assignment]
    save_replay_buffer = saving.save_replay_buffer
    load_replay_buffer = saving.load_replay_buffer

    @classmethod
    def algorithm_names(cls) -> list[str]:
        """
        :return: names of this algorithm and of those that it derives from, as files have them
        """
        return saving.algorithm_names(cls, OfflineAlgorithm)

    def _excluded_save_params(self) -> list[str]:
        return saving.names_left_out(self)

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return saving.saved_networks(self), saving.saved_tensors(self)
