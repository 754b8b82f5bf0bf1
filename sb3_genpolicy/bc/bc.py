"""
BC: behaviour cloning.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from sb3_genpolicy.bc.policies import POLICY_ALIASES
from sb3_genpolicy.common.algorithms.offline_algorithm import OfflineAlgorithm
from sb3_genpolicy.common.datasets import DatasetSource
from sb3_genpolicy.common.policies.critics import NoCritic
from sb3_genpolicy.common.policies.sampling_policy import SamplingPolicy
from sb3_genpolicy.common.transitions.transforms import Transform
from sb3_genpolicy.common.updates.batch import Batch
from sb3_genpolicy.common.updates.dependence import Dependence, Scope
from sb3_genpolicy.common.updates.objective import Objective
from sb3_genpolicy.common.updates.precision import Precision
from sb3_genpolicy.generative.checks import named_options

_IMITATION = Dependence(
    Scope.IMITATION,
    "behaviour cloning imitates whoever chose the dataset's actions, and online it would imitate itself",
    "Take an algorithm that learns from rewards, as IQL or GMPO",
)


class BC(OfflineAlgorithm):
    """
    Behaviour cloning (BC): the policy, a flow, a diffusion, a Gaussian or a deterministic one, is made to act as the dataset
    does. Rewards are not looked at, and there are no critics.

    Flow matching: https://arxiv.org/abs/2210.02747, cloning by diffusion: https://arxiv.org/abs/2301.10677

    :param policy: The policy model to use (FlowPolicy, DiffusionPolicy, GaussianPolicy, DeterministicPolicy, ...)
    :param env: The environment that the policy is for (if registered in Gym, can be str). ``learn`` does not step it.
        None where there is no simulator: the spaces then come from ``dataset``.
    :param learning_rate: learning rate; can be a function of the current progress remaining (from 1 to 0). Default: as GMPO's,
        for 100,000 steps; longer trainings take a third.
    :param batch_size: rows of the dataset for each gradient step
    :param actor_tau: the soft update coefficient of the averaged actor, which acts (in (0, 1]; 1: the latest parameters act)
    :param transforms: what is done to the dataset, in the order given: ``BestEpisodes`` (cloning of the best episodes),
        ``WeightedEpisodes``, ``HeldOutEpisodes``, ``ClipActions``, ``RescaleActions``, see
        :mod:`sb3_genpolicy.common.transitions.transforms`
    :param dataset: the logged data: a Minari id, a file, an SB3 replay buffer, a mapping of arrays, a list of these, or
        anything else that ``load_dataset`` takes. They are read in ``learn``. Default: what the environment carries
        (``env.get_dataset()``).
    :param precision: of matrix products while training: ``float32``, ``tf32`` or ``bfloat16``
    :param capture: on a CUDA device, whether a whole update is recorded once as a CUDA graph and replayed
    :param tensorboard_log: the log location for tensorboard (if None, no logging)
    :param policy_kwargs: Additional arguments to be passed to the policy on creation, see
        :class:`~sb3_genpolicy.common.policies.generative_policy.GenerativePolicy` and
        :class:`~sb3_genpolicy.common.policies.deterministic_policy.DirectPolicy`; options that need critics are refused
    :param verbose: Verbosity level: 0 for no output, 1 for info messages (such as device or wrappers used),
        2 for debug messages
    :param seed: seed of all pseudo random generators, a whole number >= 0; None: not repeatable
    :param device: Device (cpu, cuda, ...) on which the code should run, also where the dataset lives
    :param _init_setup_model: Whether or not to build the network at the creation of the instance
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = POLICY_ALIASES
    needs_critics: ClassVar[bool] = False
    actor: Any

    @named_options
    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None = None,
        learning_rate: float | Schedule = 1e-3,
        batch_size: int = 256,
        actor_tau: float = 0.001,
        transforms: Sequence[Transform] = (),
        dataset: DatasetSource | None = None,
        precision: Precision = "float32",
        capture: bool = False,
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
            actor_tau=actor_tau,
            reward_transform=None,
            transforms=transforms,
            dataset=dataset,
            precision=precision,
            capture=capture,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            critic=NoCritic(),
            verbose=verbose,
            seed=seed,
            device=device,
        )
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        super()._setup_model()
        if isinstance(self.policy, SamplingPolicy):
            self.policy.check_acts_without_critics()

    def objective(self, batch: Batch) -> Objective:
        losses = self.actor.cloning_loss(batch.observations, batch.actions, batch.generator)
        return Objective(dict(cloning_loss=losses.mean()), ("actor",))

    def dependences(self) -> tuple[Dependence, ...]:
        return self.actor.cloning_dependence, _IMITATION
