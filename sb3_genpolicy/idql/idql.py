"""
IDQL: a cloned flow or diffusion policy among whose actions critics choose.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from sb3_genpolicy.common.algorithms.pretrained import PretrainedSource
from sb3_genpolicy.common.algorithms.pretraining import PretrainingAlgorithm
from sb3_genpolicy.common.datasets import DatasetSource
from sb3_genpolicy.common.policies.critics import CriticOptions, IQLCritic
from sb3_genpolicy.common.policies.named import POLICY_ALIASES
from sb3_genpolicy.common.transitions.rewards import RewardTransform
from sb3_genpolicy.common.transitions.transforms import Transform
from sb3_genpolicy.common.updates.batch import Batch
from sb3_genpolicy.common.updates.objective import Objective
from sb3_genpolicy.common.updates.precision import Precision
from sb3_genpolicy.generative.checks import check_choice, check_number, named_options

Choice = Literal["best", "expectile", "softmax"]
CHOICES: tuple[Choice, ...] = ("best", "expectile", "softmax")
# What the options of the algorithm say, and those of its policy would say again
_OF_POLICY = ("n_candidates", "candidate_temperature", "candidate_expectile")


class IDQL(PretrainingAlgorithm):
    """
    Implicit Diffusion Q-learning (IDQL): a flow or diffusion policy clones the behaviour policy, and critics by implicit
    Q-learning are trained beside it. They meet while acting alone: of ``n_candidates`` actions of the clone, one is chosen by
    their values. No weight and no temperature takes part in training.

    Paper: https://arxiv.org/abs/2304.10573

    :param policy: The policy model to use (FlowPolicy, DiffusionPolicy, FlowMultiInputPolicy, ...)
    :param env: The environment that the policy is for (if registered in Gym, can be str). ``learn`` does not step it.
        None where there is no simulator: the spaces then come from ``dataset``.
    :param learning_rate: learning rate of actor and critics; can be a function of the progress remaining (from 1 to 0).
        Default: as GMPO's, for 100,000 steps (paper: 3e-4, for millions)
    :param batch_size: rows of the dataset for each gradient step
    :param tau: the soft update coefficient of the target critics (between 0 and 1; paper: 0.005)
    :param gamma: the discount factor, in [0, 1]
    :param n_candidates: number N of actions that one is chosen of, >= 1; 1 acts as the clone. More follow the critics further,
        and their errors too (the published code's default is 64).
    :param choice: which is taken: ``best``, that of the largest Q; ``expectile``, at random with weights
        ``|expectile - 1[Q < V]|``, which is the policy whose value V is; ``softmax``, at random in proportion to the
        exponential of the advantage. ``predict(deterministic=True)`` takes the best of fixed candidates, with ``softmax`` the
        clone's action of noise zero.
    :param temperature: of ``softmax``, in units of the spread of Q in a state, > 0
    :param expectile: short for ``critic=IQLCritic(expectile=...)``: expectile of V, in (0, 1) (default: 0.7; AntMaze 0.9)
    :param actor_tau: the soft update coefficient of the averaged actor, which acts (in (0, 1]; 1: the latest parameters act)
    :param pretrained: a model, or the file of one, whose critics and behaviour model (if it has one) are taken: GMPG, or GMPO
        with ``beta=0``. It acts as it is; ``learn`` goes on cloning, and the critics stay as they are.
    :param critic: what Q is of and by which networks: ``iql``, ``onestep``, ``policy``, or an object with options, see
        :mod:`sb3_genpolicy.common.policies.critics.options`; ``choice="expectile"`` is of ``iql`` alone. Default: that of
        ``pretrained``, else ``iql`` (paper)
    :param reward_transform: ``locomotion`` (the default: returns of the dataset span 1000), ``antmaze`` (reward - 1),
        ``none`` (or None), an object (``AffineReward``, ``ReturnRange``) or a function of an array of rewards
    :param transforms: what else is done to the dataset, in the order given: ``BestEpisodes``, ``WeightedEpisodes``,
        ``HeldOutEpisodes``, ``NStepReturns``, ``ClipActions``, ``RescaleActions``, see
        :mod:`sb3_genpolicy.common.transitions.transforms`
    :param dataset: the logged data: a Minari id, a file, an SB3 replay buffer, a mapping of arrays, a list of these, or
        anything else that ``load_dataset`` takes. They are read in ``learn``. Default: what the environment carries
        (``env.get_dataset()``).
    :param precision: of matrix products while training: ``float32``, ``tf32`` or ``bfloat16``
    :param capture: on a CUDA device, whether a whole update is recorded once as a CUDA graph and replayed
    :param stats_window_size: number of episodes that the rollout log is a mean of, when the model goes on online
    :param tensorboard_log: the log location for tensorboard (if None, no logging)
    :param policy_kwargs: Additional arguments to be passed to the policy on creation,
        see :class:`~sb3_genpolicy.common.policies.generative_policy.GenerativePolicy`
    :param verbose: Verbosity level: 0 for no output, 1 for info messages (such as device or wrappers used),
        2 for debug messages
    :param seed: seed of all pseudo random generators, a whole number >= 0; None: not repeatable
    :param device: Device (cpu, cuda, ...) on which the code should run, also where the dataset lives
    :param _init_setup_model: Whether or not to build the network at the creation of the instance
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = POLICY_ALIASES
    needs_behaviour = False
    default_critic = "iql"

    @named_options
    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None = None,
        learning_rate: float | Schedule = 1e-3,
        batch_size: int = 256,
        tau: float = 0.01,
        gamma: float = 0.99,
        n_candidates: int = 32,
        choice: Choice = "best",
        temperature: float = 1.0,
        expectile: float | None = None,
        actor_tau: float = 0.001,
        pretrained: PretrainedSource | None = None,
        critic: str | CriticOptions | None = None,
        reward_transform: RewardTransform | None = "locomotion",
        transforms: Sequence[Transform] = (),
        dataset: DatasetSource | None = None,
        precision: Precision = "float32",
        capture: bool = False,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ):
        super().__init__(
            policy,
            env,
            learning_rate,
            batch_size=batch_size,
            tau=tau,
            gamma=gamma,
            critic=critic,
            expectile=expectile,
            actor_tau=actor_tau,
            pretraining_steps=0,
            pretrained=pretrained,
            reward_transform=reward_transform,
            transforms=transforms,
            precision=precision,
            capture=capture,
            dataset=dataset,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            seed=seed,
        )
        self.n_candidates = n_candidates
        self.choice = choice
        self.temperature = temperature
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        check_number("n_candidates", self.n_candidates, low=1, whole=True)
        check_choice("choice", self.choice, CHOICES)
        check_number("temperature", self.temperature, low=0.0, low_open=True)
        for name in _OF_POLICY:
            if name in self.policy_kwargs:
                raise ValueError(
                    f"policy_kwargs has {name}, which IDQL's n_candidates, choice and temperature say: leave it out."
                )
        super()._setup_model()
        if self.choice == "expectile" and not isinstance(self.critic_options, IQLCritic):
            raise ValueError(
                f"choice='expectile' weighs by an expectile, and {self.critic_options} has none: give critic='iql'."
            )
        # Set here, so that `load(path, choice=...)` heeds them too
        self.policy.n_candidates = self.n_candidates
        self.policy.candidate_temperature = self.temperature if self.choice == "softmax" else 0.0
        self.policy.candidate_expectile = self.expectile if self.choice == "expectile" else None

    def objective(self, batch: Batch) -> Objective:
        # Policy: matching loss. Critics, unless they are given: V towards an expectile of Q, Q towards r + gamma V(s')
        return self.cloning_objective(batch) if self.critics_are_frozen else self.pretraining_objective(batch)
