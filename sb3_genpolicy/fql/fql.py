"""
FQL: flow Q-learning, a one-step policy held to a flow.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from sb3_genpolicy.common.algorithms.offline_algorithm import OfflineAlgorithm
from sb3_genpolicy.common.datasets import DatasetSource
from sb3_genpolicy.common.policies.critics import CriticOptions, frozen
from sb3_genpolicy.common.transitions.rewards import RewardTransform
from sb3_genpolicy.common.transitions.transforms import Transform
from sb3_genpolicy.common.updates.batch import Batch
from sb3_genpolicy.common.updates.dependence import Dependence
from sb3_genpolicy.common.updates.objective import Objective
from sb3_genpolicy.common.updates.precision import Precision
from sb3_genpolicy.fql.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, OneStepPolicy
from sb3_genpolicy.generative.checks import check_flag, check_number, handed_on, named_options
from sb3_genpolicy.generative.draws import Source, draw


class FQL(OfflineAlgorithm):
    """
    Flow Q-Learning (FQL): a flow clones the behaviour policy by matching. A one-step policy ``mu(s, z)``, one network from
    noise to action, is trained by ``alpha |mu(s, z) - flow(s, z)|^2 - Q(s, mu(s, z))``, and critics of the policy's own
    actions beside it. No gradient passes through the flow's steps, and nobody acts by them.

    Paper: https://arxiv.org/abs/2502.02538

    :param policy: The policy model to use (MlpPolicy, CnnPolicy, MultiInputPolicy)
    :param env: The environment that the policy is for (if registered in Gym, can be str). ``learn`` does not step it.
        None where there is no simulator: the spaces then come from ``dataset``.
    :param learning_rate: learning rate of all networks; can be a function of the current progress remaining (from 1 to 0)
    :param batch_size: rows of the dataset for each gradient step
    :param tau: the soft update coefficient of the target critics (between 0 and 1)
    :param gamma: the discount factor, in [0, 1]
    :param alpha: what the policy pays for its distance from the flow, >= 0; the distance is a mean over action dimensions, as
        in the published code. What is right differs between datasets: with ``normalize_q`` 0.03 to 10 (published), without it
        3 to 30,000. 0 follows the critics alone.
    :param normalize_q: whether Q is divided by the batch's mean of abs(Q), so that alpha has no unit
    :param actor_tau: the soft update coefficient of the averaged policy, which acts and which critics bootstrap with (in
        (0, 1]; 1: the latest parameters, as published)
    :param critic: what Q is of and by which networks: ``policy``, ``onestep``, ``iql``, or an object with options, see
        :mod:`sb3_genpolicy.common.policies.critics.options`. Default: of the policy's own actions, the mean of two networks
        with layer norm, as published.
    :param reward_transform: ``locomotion`` (the default: returns of the dataset span 1000), ``antmaze`` (reward - 1),
        ``none`` (or None), an object (``AffineReward``, ``ReturnRange``) or a function of an array of rewards
    :param transforms: what else is done to the dataset, in the order given, see
        :mod:`sb3_genpolicy.common.transitions.transforms`
    :param dataset: the logged data, anything that ``load_dataset`` takes. They are read in ``learn``. Default: what the
        environment carries (``env.get_dataset()``).
    :param precision: of matrix products while training: ``float32``, ``tf32`` or ``bfloat16``
    :param capture: on a CUDA device, whether a whole update is recorded once as a CUDA graph and replayed
    :param stats_window_size: number of episodes that the rollout log is a mean of, when the model goes on online
    :param tensorboard_log: the log location for tensorboard (if None, no logging)
    :param policy_kwargs: Additional arguments to be passed to the policy on creation,
        see :class:`~sb3_genpolicy.common.policies.cloning_policy.CloningPolicy`
    :param verbose: Verbosity level: 0 for no output, 1 for info messages (such as device or wrappers used),
        2 for debug messages
    :param seed: seed of all pseudo random generators, a whole number >= 0; None: not repeatable
    :param device: Device (cpu, cuda, ...) on which the code should run, also where the dataset lives
    :param _init_setup_model: Whether or not to build the network at the creation of the instance
    """

    policy: OneStepPolicy
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    batched_settings: ClassVar[tuple[str, ...]] = ("alpha",)

    @named_options
    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None = None,
        learning_rate: float | Schedule = 1e-3,
        batch_size: int = 256,
        tau: float = 0.01,
        gamma: float = 0.99,
        alpha: float = 1.0,
        normalize_q: bool = True,
        actor_tau: float = 0.005,
        critic: str | CriticOptions = "policy",
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
        super().__init__(**handed_on(OfflineAlgorithm, locals()))
        check_number("alpha", alpha, low=0.0)
        check_flag("normalize_q", normalize_q)
        self.alpha, self.normalize_q = alpha, normalize_q
        if _init_setup_model:
            self._setup_model()

    def objective(self, batch: Batch) -> Objective:
        # Critics: Q towards r + gamma Q(s', a'), a' from the one-step policy
        losses = self.critics.losses(batch, self.critic_gamma)
        critics = losses.objective(advantage=losses.advantage.mean())
        # Flow: matching loss of the dataset's actions
        loss = self.policy.behaviour.matching_loss(batch.observations, batch.actions, batch.generator).mean()
        return critics + Objective(dict(matching_loss=loss), ("behaviour",)) + self._policy_objective(batch)

    def _policy_objective(self, batch: Batch) -> Objective:
        """One step from noise: near to where the flow carries the same noise, and of large Q."""
        flow, actor = self.policy.behaviour, self.policy.actor
        noise = draw("normal", batch.actions.shape, batch.actions, batch.generator)
        with th.no_grad():
            features = flow.extract_features(batch.observations, flow.features_extractor)
            aims = flow.sample(features, noise, generator=batch.generator)
        actions = actor(batch.observations, noise)
        distance = (actions - aims).square().mean()
        with frozen([self.critics.critic, self.critics.value_net], but=actor.parameters()):
            q_values = self.critics.critic.q_values(batch.observations, actions.clamp(-1.0, 1.0))[:, 0]
        unit = batch.mean(q_values.abs()).clamp(min=1e-6) if self.normalize_q else 1.0
        loss = self.alpha * distance - (q_values / unit).mean()
        return Objective(dict(actor_loss=loss), ("actor",), dict(distillation_loss=distance, q_value=q_values.mean()))

    @th.no_grad()
    def policy_actions(self, observations: Any, generator: Source) -> th.Tensor:
        actor = self.policy.actor_ema
        rows = next(iter(observations.values())) if isinstance(observations, dict) else observations
        noise = draw("normal", (len(rows), actor.action_dim), th.empty(0, device=self.device), generator)
        return actor(observations, noise).clamp(-1.0, 1.0)

    def dependences(self) -> tuple[Dependence, ...]:
        return (self.policy.behaviour.matching_dependence, self.policy.behaviour.sampling_dependence)
