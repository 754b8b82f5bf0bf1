"""
IQL: implicit Q-learning with a Gaussian policy.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from sb3_genpolicy.common.algorithms.offline_algorithm import OfflineAlgorithm
from sb3_genpolicy.common.datasets import DatasetSource
from sb3_genpolicy.common.policies.critics import CriticOptions
from sb3_genpolicy.common.policies.critics.options import changed_critic, with_expectile
from sb3_genpolicy.common.policies.gaussian_policy import GaussianActor
from sb3_genpolicy.common.transitions.rewards import RewardTransform
from sb3_genpolicy.common.transitions.transforms import Transform
from sb3_genpolicy.common.updates.batch import Batch
from sb3_genpolicy.common.updates.dependence import ON_ROWS, Dependence
from sb3_genpolicy.common.updates.objective import Objective
from sb3_genpolicy.common.updates.precision import Precision
from sb3_genpolicy.common.updates.weights import describe_weights, exponential_weights
from sb3_genpolicy.generative.checks import check_number, named_options
from sb3_genpolicy.iql.policies import POLICY_ALIASES


class IQL(OfflineAlgorithm):
    """
    Implicit Q-Learning (IQL): V is an upper expectile of Q over the dataset's actions, Q is trained towards
    ``r + gamma V(s')``, and a Gaussian policy maximises the log-density of the dataset's actions, each weighted by
    ``min(exp(beta (Q(s, a) - V(s))), weight_clamp)``. No action outside the dataset is ever valued.

    Paper: https://arxiv.org/abs/2110.06169

    :param policy: The policy model to use (GaussianPolicy, GaussianCnnPolicy, GaussianMultiInputPolicy)
    :param env: The environment that the policy is for (if registered in Gym, can be str). ``learn`` does not step it.
        None where there is no simulator: the spaces then come from ``dataset``.
    :param learning_rate: learning rate of actor and critics; can be a function of the progress remaining (from 1 to 0).
        Default: as GMPO's, for 100,000 steps (paper: 3e-4, for a million)
    :param batch_size: rows of the dataset for each gradient step
    :param tau: the soft update coefficient of the target critics (between 0 and 1; paper: 0.005)
    :param gamma: the discount factor, in [0, 1]
    :param beta: inverse temperature of the weights, >= 0, in units of the transformed reward (paper: 3 for locomotion, 10 for
        AntMaze, 0.5 for Adroit). 0 clones the behaviour policy.
    :param weight_clamp: largest weight of a sample, > 0 (paper: 100)
    :param expectile: short for ``critic=IQLCritic(expectile=...)``: expectile of V, in (0, 1) (default, as published: 0.7; for
        AntMaze 0.9)
    :param actor_tau: the soft update coefficient of the averaged actor, which acts (in (0, 1]; 1: the latest parameters act)
    :param critic: what Q is of and by which networks: ``iql``, ``onestep``, or an object with options (``IQLCritic``,
        ``OneStepCritic``), see :mod:`sb3_genpolicy.common.policies.critics.options`
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
    :param policy_kwargs: Additional arguments to be passed to the policy on creation, see
        :class:`~sb3_genpolicy.common.policies.deterministic_policy.DirectPolicy`
    :param verbose: Verbosity level: 0 for no output, 1 for info messages (such as device or wrappers used),
        2 for debug messages
    :param seed: seed of all pseudo random generators, a whole number >= 0; None: not repeatable
    :param device: Device (cpu, cuda, ...) on which the code should run, also where the dataset lives
    :param _init_setup_model: Whether or not to build the network at the creation of the instance
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = POLICY_ALIASES
    batched_settings: ClassVar[tuple[str, ...]] = ("beta",)
    actor: GaussianActor

    @named_options
    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None = None,
        learning_rate: float | Schedule = 1e-3,
        batch_size: int = 256,
        tau: float = 0.01,
        gamma: float = 0.99,
        beta: float = 3.0,
        weight_clamp: float = 100.0,
        expectile: float | None = None,
        actor_tau: float = 0.001,
        critic: str | CriticOptions = "iql",
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
            actor_tau=actor_tau,
            reward_transform=reward_transform,
            transforms=transforms,
            dataset=dataset,
            precision=precision,
            capture=capture,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            critic=with_expectile(critic, expectile),
            verbose=verbose,
            seed=seed,
            device=device,
        )
        check_number("beta", beta, low=0.0)
        check_number("weight_clamp", weight_clamp, low=0.0, low_open=True, infinite=True)
        self.beta = beta
        self.weight_clamp = weight_clamp
        if _init_setup_model:
            self._setup_model()

    def objective(self, batch: Batch) -> Objective:
        # Critics: V towards an expectile of Q, Q towards r + gamma V(s')
        critics = self.critics.losses(batch, self.critic_gamma)
        # Policy: log-density of the dataset's actions, weighted by their advantage
        weights = self.advantage_weights(self.horizon_ratio * critics.advantage)
        cloning_loss = self.actor.cloning_loss(batch.observations, batch.actions)
        means = dict(
            describe_weights(weights, batch.mean), cloning_loss=cloning_loss.mean(), advantage=critics.advantage.mean()
        )
        policy = Objective(dict(actor_loss=(weights * cloning_loss).mean()), ("actor",), means)
        return critics.objective(q_value=critics.q_value.mean()) + policy

    def advantage_weights(self, advantage: th.Tensor) -> th.Tensor:
        """
        :param advantage: Q - V, (batch_size, 1)
        :return: ``min(exp(beta advantage), weight_clamp)``, (batch_size,)
        """
        return exponential_weights(advantage.squeeze(1), self.beta, self.weight_clamp)

    def dependences(self) -> tuple[Dependence, ...]:
        return (ON_ROWS,)

    @classmethod
    def critic_to_load(cls, saved: CriticOptions, kwargs: dict[str, Any]) -> CriticOptions:
        return changed_critic(saved, kwargs.pop("critic", None), kwargs.pop("expectile", None))

    @property
    def expectile(self) -> float:
        """Expectile of Q over the dataset's actions that V is trained to be, as the option ``critic`` says."""
        return self.critic_options.value_expectile
