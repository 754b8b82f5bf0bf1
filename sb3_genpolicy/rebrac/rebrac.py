"""
ReBRAC: TD3 with behaviour cloning, penalties in actor and critic apart.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from sb3_genpolicy.common.algorithms.exploration import exploration
from sb3_genpolicy.common.algorithms.offline_algorithm import OfflineAlgorithm
from sb3_genpolicy.common.datasets import DatasetSource
from sb3_genpolicy.common.policies.critics import CriticOptions, PolicyCritic, frozen
from sb3_genpolicy.common.policies.deterministic_policy import DeterministicPolicy
from sb3_genpolicy.common.transitions.rewards import RewardTransform
from sb3_genpolicy.common.transitions.transforms import Transform
from sb3_genpolicy.common.updates.batch import Batch
from sb3_genpolicy.common.updates.dependence import ON_ROWS, Dependence
from sb3_genpolicy.common.updates.objective import Objective
from sb3_genpolicy.common.updates.precision import Precision
from sb3_genpolicy.generative.checks import check_flag, check_number, handed_on, named_options
from sb3_genpolicy.generative.draws import Source, draw
from sb3_genpolicy.rebrac.policies import CnnPolicy, MlpPolicy, MultiInputPolicy

#: As published, with the penalty that most of the paper's locomotion tasks have
PUBLISHED_CRITIC = PolicyCritic(penalty=0.01, aggregation="minimum", net_arch=(256, 256, 256))
# TD3's bound of the noise on next actions
_NOISE_CLIP = 0.5


class ReBRAC(OfflineAlgorithm):
    """
    ReBRAC: a deterministic policy is trained by ``actor_penalty |pi(s) - a|^2 - Q(s, pi(s)) / mean |Q|``, its critics by
    ``r + gamma (min Q(s', a') - penalty |a' - a'_logged|^2)`` with ``a'`` from the policy. TD3+BC is the setting
    without the critics' penalty and with plain networks (docs/modules/rebrac.md).

    Paper: https://arxiv.org/abs/2305.09836

    :param policy: The policy model to use (MlpPolicy, CnnPolicy, MultiInputPolicy)
    :param env: The environment that the policy is for (if registered in Gym, can be str). ``learn`` does not step it.
        None where there is no simulator: the spaces then come from ``dataset``.
    :param learning_rate: learning rate of all networks; can be a function of the current progress remaining (from 1 to 0)
    :param batch_size: rows of the dataset for each gradient step
    :param tau: the soft update coefficient of the target critics (between 0 and 1)
    :param gamma: the discount factor, in [0, 1]
    :param actor_penalty: of the squared distance from the logged action, summed over dimensions of actions scaled to [-1, 1],
        >= 0 (published: 0.0005 to 1; TD3+BC's alpha is 1 / (actor_penalty action_dim))
    :param normalize_q: whether Q is divided by the batch's mean of abs(Q) in the policy's loss
    :param target_noise: standard deviation of the noise on next actions, which smooths the critics' targets (TD3), clipped at
        0.5; of actions scaled to [-1, 1]
    :param exploration_noise: standard deviation of the noise that is added to actions online, likewise
    :param actor_tau: the soft update coefficient of the averaged policy, which acts and which critics bootstrap with (in
        (0, 1]), as that of TD3's target policy
    :param critic: what Q is of and by which networks, a name or an object with options, see
        :mod:`sb3_genpolicy.common.policies.critics.options`. Default: as published, of the policy's own actions, the minimum
        of two networks with three layers of 256 and layer norm, and a penalty of 0.01 in units of the transformed reward
        (published: 0 to 0.5 of raw rewards).
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
        see :class:`~sb3_genpolicy.common.policies.deterministic_policy.DirectPolicy`
    :param verbose: Verbosity level: 0 for no output, 1 for info messages (such as device or wrappers used),
        2 for debug messages
    :param seed: seed of all pseudo random generators, a whole number >= 0; None: not repeatable
    :param device: Device (cpu, cuda, ...) on which the code should run, also where the dataset lives
    :param _init_setup_model: Whether or not to build the network at the creation of the instance
    """

    policy: DeterministicPolicy
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    batched_settings: ClassVar[tuple[str, ...]] = ("actor_penalty",)

    @named_options
    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None = None,
        learning_rate: float | Schedule = 1e-3,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float = 0.99,
        actor_penalty: float = 0.01,
        normalize_q: bool = True,
        target_noise: float = 0.2,
        exploration_noise: float = 0.1,
        actor_tau: float = 0.005,
        critic: str | CriticOptions = PUBLISHED_CRITIC,
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
        check_number("actor_penalty", actor_penalty, low=0.0)
        check_flag("normalize_q", normalize_q)
        check_number("target_noise", target_noise, low=0.0)
        check_number("exploration_noise", exploration_noise, low=0.0)
        self.actor_penalty, self.normalize_q = actor_penalty, normalize_q
        self.target_noise, self.exploration_noise = target_noise, exploration_noise
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        super()._setup_model()
        self.action_noise = exploration(self.policy.planning.action_space, self.exploration_noise)

    def objective(self, batch: Batch) -> Objective:
        # Critics: Q towards r + gamma (Q(s', a') - penalty |a' - a'_logged|^2), a' from the policy
        losses = self.critics.losses(batch, self.critic_gamma)
        # Policy: near to the logged action, and of large Q
        actor = self.policy.actor
        actions = actor(batch.observations)
        distance = (actions - batch.actions).square().sum(dim=1).mean()
        with frozen([self.critics.critic, self.critics.value_net], but=actor.parameters()):
            q_values = self.critics.critic.q_values(batch.observations, actions)[:, 0]
        unit = batch.mean(q_values.abs()).clamp(min=1e-6) if self.normalize_q else 1.0
        loss = self.actor_penalty * distance - (q_values / unit).mean()
        policy = Objective(dict(actor_loss=loss), ("actor",), dict(distance=distance, q_value=q_values.mean()))
        return losses.objective(advantage=losses.advantage.mean()) + policy

    @th.no_grad()
    def policy_actions(self, observations: Any, generator: Source) -> th.Tensor:
        actions = self.policy.actor_ema(observations)
        noise = self.target_noise * draw("normal", actions.shape, actions, generator)
        return (actions + noise.clamp(-_NOISE_CLIP, _NOISE_CLIP)).clamp(-1.0, 1.0)

    def dependences(self) -> tuple[Dependence, ...]:
        return (ON_ROWS,)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "action_noise"]
