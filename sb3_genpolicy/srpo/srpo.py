"""
SRPO: a deterministic policy, held by the score of a diffusion model of the behaviour policy.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from sb3_genpolicy.common.algorithms.exploration import exploration
from sb3_genpolicy.common.algorithms.offline_algorithm import OfflineAlgorithm
from sb3_genpolicy.common.datasets import DatasetSource
from sb3_genpolicy.common.policies.critics import CriticOptions
from sb3_genpolicy.common.transitions.rewards import RewardTransform
from sb3_genpolicy.common.transitions.transforms import Transform
from sb3_genpolicy.common.updates.batch import Batch
from sb3_genpolicy.common.updates.dependence import ON_ROWS, Dependence
from sb3_genpolicy.common.updates.objective import Objective
from sb3_genpolicy.common.updates.precision import Precision
from sb3_genpolicy.generative.checks import check_flag, check_number, handed_on, named_options
from sb3_genpolicy.generative.draws import Source, draw
from sb3_genpolicy.srpo.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, ScoreRegularizedPolicy

# Times at which the score is asked for: at the ends it is not learnt, or says nothing (published, as in DreamFusion)
_FIRST, _LAST = 0.02, 0.98


class SRPO(OfflineAlgorithm):
    """
    Score Regularized Policy Optimization (SRPO): a deterministic policy follows the gradient of Q, and that of the behaviour
    policy's density, which a diffusion model knows as its score. With ``x = alpha a + sigma z`` at a random time, the
    policy's actions move along ``beta grad Q(s, a) - w (noise(s, x, t) - z)``, ``w = sigma^2``: no action is ever sampled from
    the diffusion. Behaviour model, critics and policy are trained together.

    Paper: https://arxiv.org/abs/2310.07297

    :param policy: The policy model to use (MlpPolicy, CnnPolicy, MultiInputPolicy)
    :param env: The environment that the policy is for (if registered in Gym, can be str). ``learn`` does not step it.
        None where there is no simulator: the spaces then come from ``dataset``.
    :param learning_rate: learning rate of all networks; can be a function of the current progress remaining (from 1 to 0)
    :param batch_size: rows of the dataset for each gradient step
    :param tau: the soft update coefficient of the target critics (between 0 and 1)
    :param gamma: the discount factor, in [0, 1]
    :param beta: inverse temperature, >= 0: how much the gradient of Q counts beside that of the density. 0 seeks the density's
        mode.
    :param normalize_q: whether the gradient of Q is divided by its root mean square over the batch, so that beta has no unit
    :param n_times: times, and noises, at which the score is asked for in each step, for every row, >= 1
    :param exploration_noise: standard deviation of the noise that is added to actions online, of actions scaled to [-1, 1]
    :param actor_tau: the soft update coefficient of the averaged policy, which acts (in (0, 1]; 1: the latest parameters act)
    :param critic: what Q is of and by which networks: ``iql`` (as published), ``onestep``, ``policy``, or an object with
        options, see :mod:`sb3_genpolicy.common.policies.critics.options`. Default: what GMPO and GMPG made
        the best policies of (docs/guide/critics.md).
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

    policy: ScoreRegularizedPolicy
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    batched_settings: ClassVar[tuple[str, ...]] = ("beta",)

    @named_options
    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None = None,
        learning_rate: float | Schedule = 1e-3,
        batch_size: int = 256,
        tau: float = 0.01,
        gamma: float = 0.99,
        beta: float = 0.1,
        normalize_q: bool = True,
        n_times: int = 1,
        exploration_noise: float = 0.1,
        actor_tau: float = 0.005,
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
        super().__init__(**handed_on(OfflineAlgorithm, locals()))
        check_number("beta", beta, low=0.0)
        check_flag("normalize_q", normalize_q)
        check_number("n_times", n_times, low=1, whole=True)
        check_number("exploration_noise", exploration_noise, low=0.0)
        self.beta, self.normalize_q, self.n_times = beta, normalize_q, n_times
        self.exploration_noise = exploration_noise
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        super()._setup_model()
        self.action_noise = exploration(self.policy.planning.action_space, self.exploration_noise)

    def objective(self, batch: Batch) -> Objective:
        # Critics, and behaviour model by the matching loss of the dataset's actions
        losses = self.critics.losses(batch, self.critic_gamma)
        loss = self.policy.behaviour.matching_loss(batch.observations, batch.actions, batch.generator).mean()
        behaviour = Objective(dict(matching_loss=loss), ("behaviour",))
        return losses.objective(advantage=losses.advantage.mean()) + behaviour + self._policy_objective(batch)

    def _policy_objective(self, batch: Batch) -> Objective:
        """A loss whose gradient in the policy's actions is that of the density minus that of beta Q."""
        actions = self.policy.actor(batch.observations)
        critic, at = self.critics.critic, actions.detach()
        with th.no_grad():
            q_values, pull_back = th.func.vjp(lambda actions: critic.q_values(batch.observations, actions)[:, 0], at)  # type: ignore[misc]
            (slopes,) = pull_back(th.ones_like(q_values))
        size = batch.mean(slopes.square().sum(dim=1)).sqrt()
        if self.normalize_q:
            slopes = slopes / size.clamp(min=1e-6)
        pull = self.score_gradient(batch.observations, at, batch.generator)
        loss = ((pull - self.beta * slopes) * actions).sum(dim=1).mean()
        distance = (at - batch.actions).square().sum(dim=1).mean()
        means = dict(distance=distance, q_value=q_values.mean(), q_slope=size, score=pull.square().sum(dim=1).mean().sqrt())
        return Objective(dict(actor_loss=loss), ("actor",), means)

    @th.no_grad()
    def score_gradient(self, observations: Any, actions: th.Tensor, generator: Source) -> th.Tensor:
        """
        :param observations: batch first
        :param actions: (batch_size, action_dim), scaled
        :param generator: source of times and noise
        :return: an estimate of ``E[sigma^2 (noise(s, x, t) - z)]``, away from where the behaviour policy acts, of the shape of
            the actions
        """
        behaviour = self.policy.behaviour
        features = behaviour.extract_features(observations, behaviour.features_extractor)
        total = th.zeros_like(actions)
        for _ in range(self.n_times):
            t = _FIRST + (_LAST - _FIRST) * draw("uniform", (len(actions), 1), actions, generator)
            noise = draw("normal", actions.shape, actions, generator)
            coefficients = behaviour.model.path(t)
            x = coefficients.alpha * actions + coefficients.sigma * noise
            predicted = behaviour.model.predict("noise", t, x, features, coefficients)
            total = total + coefficients.sigma.square() * (predicted - noise)
        return total / self.n_times

    @th.no_grad()
    def policy_actions(self, observations: Any, generator: Source) -> th.Tensor:
        return self.policy.actor_ema(observations)

    def dependences(self) -> tuple[Dependence, ...]:
        return (ON_ROWS,)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "action_noise"]
