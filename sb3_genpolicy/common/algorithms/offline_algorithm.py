"""
The base of the offline algorithms: SB3's off-policy algorithm, with a dataset in the replay buffer and no environment stepped.
"""

import sys
import time
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import get_parameters_by_name
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_genpolicy.common.algorithms.callbacks import GradientStepProgressBar
from sb3_genpolicy.common.algorithms.option_checks import check_base_options
from sb3_genpolicy.common.algorithms.resumable_algorithm import ResumableAlgorithm
from sb3_genpolicy.common.algorithms.scales import fit_action_range, fit_normalizer, say_coarse_space, say_other_units
from sb3_genpolicy.common.algorithms.space_checks import check_model_spaces
from sb3_genpolicy.common.algorithms.value_watch import ValueWatch
from sb3_genpolicy.common.datasets import DatasetSource, dataset_spaces, load_dataset
from sb3_genpolicy.common.datasets.envs import SpacesVecEnv, find_dataset, made_env
from sb3_genpolicy.common.datasets.fitting import fit_to_spaces
from sb3_genpolicy.common.datasets.vec_wrappers import check_normalized_last
from sb3_genpolicy.common.policies.critics import ValueNetwork
from sb3_genpolicy.common.policies.generative_policy import GenerativeActor, GenerativePolicy
from sb3_genpolicy.common.policies.twin_critic import TwinCritic
from sb3_genpolicy.common.replay.buffer import OfflineReplayBuffer
from sb3_genpolicy.common.replay.vec_normalize import fit_observations, fit_rewards
from sb3_genpolicy.common.transitions.rewards import (
    RewardFunction,
    RewardTransform,
    check_reward_transform,
    fit_reward_transform,
)
from sb3_genpolicy.common.transitions.transforms import Transform, action_transforms, check_transforms, prepare
from sb3_genpolicy.common.transitions.transitions import Transitions, label_of
from sb3_genpolicy.common.updates.device_means import DeviceMeans
from sb3_genpolicy.common.updates.processes import processes
from sb3_genpolicy.common.utils import on_one_line
from sb3_genpolicy.generative import Sampler
from sb3_genpolicy.generative.checks import check_class, check_number, did_you_mean

# Held-out rows that losses are computed on whenever the log is written
_HELD_OUT_ROWS = 4096

SelfOfflineAlgorithm = TypeVar("SelfOfflineAlgorithm", bound="OfflineAlgorithm")


class OfflineAlgorithm(ResumableAlgorithm):
    """
    Base of algorithms that learn from a dataset. One gradient step is one timestep and one ``callback.on_step()``.

    :param policy: The policy model to use (FlowPolicy, DiffusionPolicy, ...)
    :param env: The environment that the policy is for (if registered in Gym, can be str). ``learn`` does not step it.
        None where there is no simulator: the spaces then come from the dataset.
    :param learning_rate: learning rate of every optimizer; can be a function of the current progress remaining (from 1 to 0)
    :param batch_size: rows of the dataset for each gradient step
    :param tau: the soft update coefficient of the target critics (between 0 and 1)
    :param gamma: the discount factor
    :param actor_tau: the soft update coefficient of the averaged actor, which acts (in (0, 1]; 1: the latest parameters act)
    :param reward_transform: ``locomotion``, ``antmaze``, ``none`` (or None), an object or a function of an array of rewards,
        see :func:`~sb3_genpolicy.common.transitions.rewards.fit_reward_transform`
    :param transforms: what else is done to the dataset, in the order given: ``BestEpisodes``, ``HeldOutEpisodes``,
        ``NStepReturns``, ``ClipActions``, ``RescaleActions``, see :mod:`sb3_genpolicy.common.transitions.transforms`
    :param dataset: the logged data: a Minari id, a file, an SB3 replay buffer, a mapping of arrays, a list of these, or
        anything else that :func:`~sb3_genpolicy.common.datasets.load_dataset` takes. They are read in ``learn``. Default: what
        the environment carries (``env.get_dataset()``).
    :param stats_window_size: Window size for the rollout logging when the model goes on online
    :param tensorboard_log: the log location for tensorboard (if None, no logging)
    :param policy_kwargs: Additional arguments to be passed to the policy on creation
    :param verbose: Verbosity level: 0 for no output, 1 for info messages (such as device or wrappers used),
        2 for debug messages
    :param seed: Seed for the pseudo random generators
    :param device: Device on which the code should run, also where the dataset lives
    """

    policy: GenerativePolicy
    actor: GenerativeActor
    actor_ema: GenerativeActor
    critic: TwinCritic
    critic_target: TwinCritic
    value_net: ValueNetwork
    replay_buffer: OfflineReplayBuffer  # type: ignore[assignment]
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {}

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
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
    ):
        if not isinstance(policy, str):
            check_class("policy", policy, GenerativePolicy, "FlowPolicy")
        check_base_options(env, learning_rate, stats_window_size, tensorboard_log, verbose, seed, device)
        transforms = check_transforms(transforms)
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
            self._take_env(env, policy)
        self._check_action_space()
        check_number("batch_size", batch_size, low=1, whole=True)
        check_number("tau", tau, low=0.0, high=1.0)
        check_number("gamma", gamma, low=0.0, high=1.0)
        check_number("actor_tau", actor_tau, low=0.0, high=1.0, low_open=True)
        check_reward_transform(reward_transform)
        self.actor_tau = actor_tau
        self.reward_transform = reward_transform
        self.transforms = transforms
        self.dataset = dataset
        # What stays of the dataset when the model is saved
        self.dataset_name: str | None = dataset if isinstance(dataset, str) else None
        self._dataset_on_disk = False
        self.reference_scores: tuple[float, float] | None = None
        # Fitted to the first dataset: critics that were trained on one scale cannot go over to another
        self.reward_function: RewardFunction | None = None
        self._normalizer_is_fitted = False
        self._action_range_is_fitted = False
        # A wrapper may come with statistics of rewards that no transform was applied to
        self._vec_rewards_are_fitted = False

    def _take_env(self, env: GymEnv | str, policy: str | type[BasePolicy]) -> None:
        """As SB3's constructor does, which refuses unbounded actions."""
        made = self._wrap_env(env, self.verbose)
        self.env, self.n_envs = made, made.num_envs
        self.observation_space, self.action_space = made.observation_space, made.action_space
        self._vec_normalize_env = unwrap_vec_normalize(made)
        if policy in ("MlpPolicy", "CnnPolicy") and isinstance(self.observation_space, spaces.Dict):
            raise ValueError(f"The observations are a dictionary: use 'MultiInputPolicy' in place of '{policy}'.")

    @staticmethod
    def _wrap_env(env: GymEnv | str, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        # `load` and `set_env` come by here too, and take an environment's id as the constructor does
        env = made_env(env, verbose)
        if isinstance(env, VecEnv):
            check_normalized_last(env)
        check_model_spaces(env.observation_space, env.action_space)
        return ResumableAlgorithm._wrap_env(env, verbose, monitor_wrapper)

    def _check_action_space(self) -> None:
        # None while a saved model is being loaded, before its spaces are there
        if self.env is not None and not isinstance(self.action_space, spaces.Box):
            raise ValueError(
                f"{type(self).__name__} learns continuous actions (a Box space), but the actions are "
                f"{on_one_line(self.action_space)}. For discrete actions see SB3's DQN or QR-DQN of sb3-contrib."
            )

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
        self._held_out: Any = None
        self._value_watch = ValueWatch()
        super()._setup_model()
        self._connect_replay_buffer()
        self.means = DeviceMeans()
        self._create_aliases()

    def _connect_replay_buffer(self) -> None:
        """Let it treat rewards, actions and observations as this model was trained with."""
        self.replay_buffer.action_range = self.policy.action_range
        self.replay_buffer.hold_finer(self.policy.normalizer.keys_with_offset())
        if self.reward_function is not None:
            self.replay_buffer.reward_function = self.reward_function

    def _create_aliases(self) -> None:
        self.actor = self.policy.actor
        self.actor_ema = self.policy.actor_ema
        self.critic = self.policy.critic
        self.critic_target = self.policy.critic_target
        self.value_net = self.policy.value_net
        # Running mean and running var of batch normalisation go to the target as they are (SB3, GH issue #996)
        self.batch_norm_stats = get_parameters_by_name(self.critic, ["running_"])
        self.batch_norm_stats_target = get_parameters_by_name(self.critic_target, ["running_"])
        self.actor_batch_norm_stats = get_parameters_by_name(self.actor, ["running_"])
        self.actor_batch_norm_stats_ema = get_parameters_by_name(self.actor_ema, ["running_"])

    # Data

    def read_dataset(self) -> None:
        """
        Read the dataset now, which ``learn`` does otherwise.

        :raises ValueError: if there is none, or it is damaged or does not fit the spaces
        """
        self._fill_replay_buffer(None)

    def _fill_replay_buffer(self, dataset: DatasetSource | None) -> None:
        """
        Read the dataset into the replay buffer, unless it is there already.

        :param dataset: the dataset of this call of ``learn``; None for the one given or filled before, or the environment's
        """
        if dataset is None and self.replay_buffer.n_from_dataset > 0:
            return
        source = find_dataset((dataset, self.dataset), self.env, self.dataset_name, type(self).__name__)
        assert isinstance(self.action_space, spaces.Box)
        known = isinstance(source, str) and source == self.dataset_name
        data = load_dataset(
            source,
            memory_map=True if known and self._dataset_on_disk else None,
            action_space=self.action_space,
            reference_scores=self.reference_scores if known else None,
            action_transforms=action_transforms(self.transforms),
        )
        data = fit_to_spaces(data, self.observation_space, self.action_space)
        self.dataset_name, self.reference_scores = data.name, data.reference_scores
        self._dataset_on_disk = data.memory_mapped
        if self.reward_function is None:
            self.reward_function = fit_reward_transform(self.reward_transform, data, self.gamma)
        chosen = prepare(data, self.transforms)
        # A model of release 0.1 was trained on the whole space
        fit_action_range(self.policy, chosen.data, first=not self._action_range_is_fitted and self._n_updates == 0)
        self._action_range_is_fitted = True
        self.replay_buffer.fill(chosen.data, self.reward_function, chosen.learnt, chosen.n_steps, self.gamma)
        self._fit_vec_normalize(chosen.data)
        if not self._normalizer_is_fitted and self._n_updates == 0:
            fit_normalizer(self.policy, self.replay_buffer, self._vec_normalize_env, label_of(data))
            self._normalizer_is_fitted = True
        else:
            say_other_units(self.policy, self.replay_buffer, label_of(data))
        if not isinstance(self.env, SpacesVecEnv) and self.env is not None:
            say_coarse_space(self.observation_space, self.replay_buffer, label_of(data))
        self._hold_out(chosen.held_out)
        if self.verbose >= 1:
            print(data.describe())

    def _fit_vec_normalize(self, data: Transitions) -> None:
        wrapper = self._vec_normalize_env
        if wrapper is None:
            return
        assert self.reward_function is not None
        fit_observations(wrapper, self.replay_buffer.observation_chunks(), label_of(data))
        fit_rewards(wrapper, data, self.reward_function, self.gamma, known=self._vec_rewards_are_fitted)
        self._vec_rewards_are_fitted = True

    def _hold_out(self, rows: np.ndarray) -> None:
        """Rows that losses are watched on: at most so many, evenly spaced."""
        self._held_out = None
        if len(rows):
            chosen = th.as_tensor(rows[:: -(-len(rows) // _HELD_OUT_ROWS)])
            self._held_out = self.replay_buffer.rows(chosen, self._vec_normalize_env)

    # Learning

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
        dataset: DatasetSource | None = None,
    ) -> tuple[int, BaseCallback]:
        """
        cf `BaseAlgorithm`.
        """
        if self.env is None:
            self.env = SpacesVecEnv(self.observation_space, self.action_space)
        if not processes().is_first:
            # The first process logs and is listened to
            self.verbose, callback, progress_bar = 0, None, False
            self.set_logger(Logger(None, []))
        self._fill_replay_buffer(dataset)
        self._prepare_random_state()
        self.means = DeviceMeans()
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        callback = super()._init_callback(callback, progress_bar=False)
        if progress_bar:
            callback = CallbackList([callback, GradientStepProgressBar()])
            callback.init_callback(self)
        return processes().listening(callback)

    def learn(  # type: ignore[override]
        self: SelfOfflineAlgorithm,
        total_timesteps: int = 100_000,
        callback: MaybeCallback = None,
        log_interval: int | None = 1000,
        tb_log_name: str = "run",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
        dataset: DatasetSource | None = None,
    ) -> SelfOfflineAlgorithm:
        """
        Learn from the dataset; the environment is not stepped.

        :param total_timesteps: number of gradient steps
        :param callback: callback(s) called after every gradient step
        :param log_interval: number of gradient steps between two lines of the log (None for no log)
        :param tb_log_name: the name of the run for TensorBoard logging
        :param reset_num_timesteps: whether to start counting (and the schedules) anew
        :param progress_bar: display a progress bar using tqdm and rich
        :param dataset: the logged data, in place of those given to the constructor
        :return: the trained model
        """
        check_number("total_timesteps", total_timesteps, low=0, infinite=True)
        if log_interval is not None:
            check_number("log_interval", log_interval, low=1)
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar, dataset
        )
        callback.on_training_start(locals(), globals())
        assert self.env is not None
        # Nothing happens in the environment; callbacks look into these locals for what SB3's online loop would have there
        new_obs = self._last_obs
        infos: list[dict[str, Any]] = [{} for _ in range(self.env.num_envs)]
        rewards, dones = np.zeros(self.env.num_envs), np.zeros(self.env.num_envs, dtype=bool)

        while self.num_timesteps < total_timesteps:
            self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
            self.train(gradient_steps=1, batch_size=self.batch_size)
            self.num_timesteps += 1
            callback.update_locals(locals())
            if not callback.on_step():
                break
            if log_interval is not None and self.num_timesteps % log_interval == 0:
                self.dump_logs()
        self._watch_values()
        callback.on_training_end()
        return self

    @abstractmethod
    def train(self, gradient_steps: int, batch_size: int) -> None:
        """
        Draw batches from the dataset and update the networks.

        :param gradient_steps: number of updates
        :param batch_size: rows of each batch
        """

    @abstractmethod
    def _losses_of(self, batch: Any, generator: th.Generator) -> dict[str, th.Tensor]:
        """
        :param batch: rows of the dataset
        :param generator: source of the noise
        :return: losses by name, without gradient
        """

    def _validation_losses(self) -> dict[str, th.Tensor]:
        """Of the held-out rows, with the same noise every time, and without touching the training's random state."""
        self.policy.set_training_mode(False)
        with th.no_grad():
            return self._losses_of(self._held_out, th.Generator(self.device).manual_seed(0))

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        solver: str | Sampler | None = None,
        sampling_steps: int | None = None,
        time_grid: str | None = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        # Its last three options are for this prediction alone, see `SamplingPolicy.predict`
        return self.policy.predict(observation, state, episode_start, deterministic, solver, sampling_steps, time_grid)

    # Log

    def _watch_values(self) -> None:
        """Whether critics say what no policy can earn."""
        if not self._value_watch.has_spoken:
            was_training = self.policy.training
            self.policy.set_training_mode(False)
            self._value_watch.look(self.policy, self.replay_buffer, self._vec_normalize_env, self.gamma, self.logger)
            if was_training:
                self._set_training_mode()

    def _set_training_mode(self) -> None:
        """For an update. A walk over all modules, which is left out where there is nothing to change."""
        if not self.policy.training:
            self.policy.set_training_mode(True)

    def dump_logs(self) -> None:
        """
        Write log data.
        """
        for name, mean in self.means.pop().items():
            self.logger.record(f"train/{name}", float(mean))
        if self._held_out is not None:
            for name, loss in self._validation_losses().items():
                self.logger.record(f"validation/{name}", float(loss))
        self._watch_values()
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        elapsed = max((time.time_ns() - self.start_time) / 1e9, sys.float_info.epsilon)
        self.logger.record("time/seconds_per_step", elapsed / max(self.num_timesteps - self._num_timesteps_at_start, 1))
        super().dump_logs()

    # Files

    def _excluded_save_params(self) -> list[str]:
        networks = ["actor", "actor_ema", "critic", "critic_target", "value_net"]
        statistics = [name for name in vars(self) if "batch_norm_stats" in name]
        return [*super()._excluded_save_params(), *networks, *statistics, "dataset", "means", "_held_out", "_value_watch"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, tensors = super()._get_torch_save_params()
        return ["policy", "actor.optimizer", "critic.optimizer", "value_net.optimizer", *state_dicts], tensors
