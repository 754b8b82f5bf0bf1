"""
GMPG: generative model policy gradient, by the likelihoods of policy and behaviour model.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import FloatSchedule

from sb3_genpolicy.common.algorithms.option_checks import check_rate
from sb3_genpolicy.common.algorithms.pretrained import PretrainedSource
from sb3_genpolicy.common.algorithms.pretraining import PretrainingAlgorithm
from sb3_genpolicy.common.datasets import DatasetSource
from sb3_genpolicy.common.policies.critics import CriticOptions
from sb3_genpolicy.common.transitions.rewards import RewardTransform
from sb3_genpolicy.common.transitions.transforms import Transform
from sb3_genpolicy.common.updates.batch import Batch
from sb3_genpolicy.common.updates.dependence import Dependence
from sb3_genpolicy.common.updates.objective import Objective
from sb3_genpolicy.common.updates.precision import Precision
from sb3_genpolicy.common.updates.temperature import change_towards, changed, episode_kl_of
from sb3_genpolicy.common.utils import tree_map
from sb3_genpolicy.generative import KLEstimator, PathKL
from sb3_genpolicy.generative.adjoint_matching import Adjoint, adjoint_matching, memoryless_rollout
from sb3_genpolicy.generative.checks import check_choice, check_flag, check_number, named_options
from sb3_genpolicy.generative.draws import Source, draw
from sb3_genpolicy.generative.kl import Conditioned, Draws, KLSample
from sb3_genpolicy.gmpg.dependences import of_estimator
from sb3_genpolicy.gmpg.losses import (
    GRADIENT_ESTIMATORS,
    GradientEstimator,
    PolicyLoss,
    kl_from_reference,
    pathwise_loss,
    reinforce_loss,
    reinforce_softmax_loss,
)
from sb3_genpolicy.gmpg.options import (
    check_adjoint,
    check_heeding,
    check_n_actions,
    clamp_for,
    make_kl_estimator,
    temperature_for,
)
from sb3_genpolicy.gmpg.policies import POLICY_ALIASES

# The share of the first `learn` that is the first phase
_PRETRAINING_SHARE = 0.8
# At so many times of each rollout the adjoint's regression is made (docs/modules/gmpg.md)
_N_TIMES = 2


class GMPG(PretrainingAlgorithm):
    """
    Generative Model Policy Gradient (GMPG): a flow or diffusion policy that starts as a copy of a model of the behaviour
    policy mu and minimises ``-beta Q(s, a) + log pi(a|s) - log mu(a|s)`` over its own actions, with gradients through the
    sampler.

    In the first phase the behaviour model (by matching) and the critics (by implicit Q-learning) are trained, in the second
    the policy; a step of either is one timestep.

    Paper: https://arxiv.org/abs/2412.01245 (section 4.2), critics: https://arxiv.org/abs/2110.06169

    :param policy: The policy model to use (FlowPolicy, DiffusionPolicy, FlowMultiInputPolicy, ...)
    :param env: The environment that the policy is for (if registered in Gym, can be str). ``learn`` does not step it.
        None where there is no simulator: the spaces then come from ``dataset`` or ``pretrained``.
    :param learning_rate: learning rate of the first phase; can be a function of the current progress remaining (from 1 to 0)
    :param batch_size: rows of the dataset for each gradient step
    :param tau: the soft update coefficient of the target critics (between 0 and 1)
    :param gamma: the discount factor, in [0, 1]
    :param beta: inverse temperature, >= 0: what a nat of divergence from the behaviour policy may buy is 1 / beta units of
        the transformed reward; given, it is fixed. Default: it is found, so that ``target_kl`` is held. Published values
        multiply Q while the log ratio is divided by d ln 2, with d action dimensions (or d numbers of the state, in the
        variants): ours is theirs times d ln 2. 0 stays at the behaviour policy.
    :param critic: what Q is of and by which networks: ``iql``, ``onestep``, ``policy``, or an object with options
        (``IQLCritic``, ``OneStepCritic``, ``PolicyCritic``), see :mod:`sb3_genpolicy.common.policies.critics.options`.
        Default: that of ``pretrained``, else what made the best policies (docs/guide/critics.md).
    :param expectile: short for ``critic=IQLCritic(expectile=...)``, the paper's critics: expectile of V, in (0, 1) (0.7 for
        locomotion, 0.9 for AntMaze)
    :param actor_tau: the soft update coefficient of the averaged actor, which acts (in (0, 1]; 1: the latest parameters act)
    :param policy_learning_rate: learning rate of the second phase; can be a function of the progress remaining
    :param pretraining_steps: updates of the first phase. Default: four fifths of the first call of ``learn``.
    :param pretrained: a model, or the file of one, whose behaviour model and critics are taken in place of a first phase:
        GMPG in either phase, or GMPO with ``beta=0``. They stay as they are.
    :param gradient_estimator: ``pathwise``, through the sampler; ``adjoint``, the same optimum by a regression on the
        gradient of Q, carried back along the policy's diffusion; ``reinforce``, the score function at actions of the behaviour
        policy, weighted as GMPO weights them; ``reinforce_softmax``, the same with weights softmax(beta Q) over ``n_actions``
        actions of a state; ``matching``, ``-beta Q`` plus the matching loss of the dataset's actions (Diffusion-QL);
        ``detached``, the published gradient, which is wrong, for comparison
    :param kl_estimator: ``discrete``, ``path``, ``ode`` or a :class:`~sb3_genpolicy.generative.kl.KLEstimator`. For
        ``adjoint`` it is a ``PathKL``, whose steps are those of the diffusion.
    :param adjoint: of ``gradient_estimator="adjoint"``: ``lean``, by a vector-Jacobian product a step; or ``scalar``, without,
        cheaper and with another optimum (docs/modules/gmpg.md)
    :param n_actions: actions drawn for every state of a batch, >= 1. Default: 1, for ``reinforce_softmax`` 10 (as published).
    :param weight_clamp: how many times its mean density an action may have in the policy that is aimed at, up to the
        normalisation, > 0: of ``pathwise`` and ``adjoint`` beta (Q - V) counts for at most its logarithm, of ``reinforce`` it
        is the largest weight. Default: 10, so that ``target_kl`` is not spent on a few states; beside a fixed beta none, and
        100 for ``reinforce`` (paper).
    :param target_kl: KL divergence from the behaviour policy, in nats, that ``beta`` is adapted to hold, > 0. Default:
        0.03 where no ``beta`` is given, less than GMPO's 0.1: the gradient of Q is followed to actions that nobody took;
        beside a ``beta`` it starts there.
    :param episode_kl: how much more often the policy is matched to rows of episodes with higher returns, >= 0, in nats of the
        rows drawn from the rows as they are: what is cloned and improved on is then nearer to the best of those who acted.
        As by :class:`~sb3_genpolicy.common.transitions.transforms.WeightedEpisodes`, but critics learn from all rows alike.
        Default: 1 where beta is found; 0, all alike, beside a given beta (paper).
    :param heed_disagreement: whether what critics say of an action counts for less where their networks do not agree on it:
        for ``pathwise`` and ``adjoint`` its slope, for ``reinforce`` its advantage, times m^2 / (m^2 + v), with their mean m
        and the square v of its standard error. Default: no.
    :param normalize_q: whether to divide Q by the batch's mean of abs(Q) (TD3+BC), so that beta has no unit
    :param max_grad_norm: largest norm of the policy's gradient, > 0; None for no clipping
    :param reward_transform: ``locomotion`` (the default: returns of the dataset span 1000), ``antmaze`` (reward - 1),
        ``none`` (or None), an object (``AffineReward``, ``ReturnRange``) or a function of an array of rewards
    :param transforms: what else is done to the dataset, in the order given: ``BestEpisodes``, ``WeightedEpisodes``,
        ``HeldOutEpisodes``, ``NStepReturns``, ``ClipActions``, ``RescaleActions``, see
        :mod:`sb3_genpolicy.common.transitions.transforms`
    :param dataset: the logged data: a Minari id, a file, an SB3 replay buffer, a mapping of arrays, a list of these, or
        anything else that ``load_dataset`` takes. They are read in ``learn``. Default: what the environment carries
        (``env.get_dataset()``).
    :param precision: of matrix products while training. ``float32``; ``tf32``, rounded to 10 bits on a GPU that can, elsewhere
        as ``float32``; ``bfloat16``, layers in 8 bits but for the last ones, about half the time of large batches
    :param capture: on a CUDA device, whether a whole update, drawing the batch included, is recorded once as a CUDA graph and
        replayed: the same numbers without the time that Python and single kernels take
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
    batched_settings: ClassVar[tuple[str, ...]] = ("beta", "log_beta")

    @named_options
    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None = None,
        learning_rate: float | Schedule = 1e-3,
        batch_size: int = 256,
        tau: float = 0.01,
        gamma: float = 0.99,
        beta: float | None = None,
        expectile: float | None = None,
        actor_tau: float = 0.001,
        policy_learning_rate: float | Schedule = 3e-4,
        pretraining_steps: int | None = None,
        pretrained: PretrainedSource | None = None,
        critic: str | CriticOptions | None = None,
        gradient_estimator: GradientEstimator = "pathwise",
        kl_estimator: str | KLEstimator | None = None,
        adjoint: Adjoint = "lean",
        n_actions: int | None = None,
        weight_clamp: float | None = None,
        target_kl: float | None = None,
        episode_kl: float | None = None,
        heed_disagreement: bool = False,
        normalize_q: bool = False,
        max_grad_norm: float | None = 1.0,
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
            pretraining_steps=pretraining_steps,
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
        check_choice("gradient_estimator", gradient_estimator, GRADIENT_ESTIMATORS)
        check_flag("normalize_q", normalize_q)
        check_heeding(heed_disagreement, gradient_estimator)
        check_rate("policy_learning_rate", policy_learning_rate)
        if max_grad_norm is not None:
            check_number("max_grad_norm", max_grad_norm, low=0.0, low_open=True, infinite=True)
        self.policy_learning_rate = policy_learning_rate
        self.gradient_estimator = gradient_estimator
        self.kl_estimator = make_kl_estimator(kl_estimator, gradient_estimator)
        self.adjoint = check_adjoint(adjoint, gradient_estimator)
        self.n_actions = check_n_actions(n_actions, gradient_estimator)
        # Of a model that is loaded its file says it
        self.kl_was_given = beta is not None or target_kl is not None or not _init_setup_model
        self.beta, self.target_kl = temperature_for(beta, target_kl, gradient_estimator)
        self.weight_clamp = clamp_for(weight_clamp, self.target_kl, gradient_estimator)
        self.episode_kl = episode_kl_of(episode_kl, self.target_kl)
        self.heed_disagreement = heed_disagreement
        self.normalize_q = normalize_q
        self.max_grad_norm = max_grad_norm

        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        super()._setup_model()
        self.policy_lr_schedule = FloatSchedule(self.policy_learning_rate)
        # What `target_kl` adapts, a tensor, which files have; without it beta is as given
        self.log_beta: Any = 0.0
        if self.target_kl is not None:
            self.log_beta = th.tensor(math.log(self.beta), device=self.device)

    def objective(self, batch: Batch) -> Objective:
        if self.pretraining:
            # Phase one. Critics: V towards an expectile of Q, Q towards r + gamma V(s'). Behaviour model: matching loss
            return self.pretraining_objective(batch)
        # Phase two. Policy, at first the behaviour model mu: -beta Q(s, a) + log pi(a|s) - log mu(a|s), a ~ pi
        with self.frozen_but_the_policy():
            policy = self._policy_objective(batch.for_policy)
        return self.with_what_learns(policy, batch)

    def _policy_objective(self, batch: Batch) -> Objective:
        policy = self.policy_loss(batch)
        means = dict(q_value=policy.q_value)
        extras: dict[str, th.Tensor] = {}
        if policy.kl is not None and policy.sample is not None:
            extras.update(kl=policy.kl)
            means.update(kl=policy.kl, beta=self.current_beta, not_invertible=1.0 - policy.sample.found.float().mean())
            if policy.sample.log_model is not None and policy.sample.log_reference is not None:
                means.update(log_pi=policy.sample.log_model.mean(), log_mu=policy.sample.log_reference.mean())
        return Objective(dict(policy_loss=policy.loss), ("actor",), means, extras)

    def before_step(self, objective: Objective) -> dict[str, th.Tensor]:
        if self.pretraining:
            return {}
        parameters = [parameter for parameter in self.actor.optimizer.param_groups[0]["params"] if parameter.grad is not None]
        norm = th.nn.utils.clip_grad_norm_(parameters, math.inf if self.max_grad_norm is None else self.max_grad_norm)
        if self.held_kl is not None and "kl" in objective.extras:
            change = change_towards(self.held_kl, objective.extras["kl"])
            changed(self.log_beta, self.descent.guard.unless_broken(change))
        return dict(gradient_norm=norm)

    def policy_loss(self, batch: Batch) -> PolicyLoss:
        """
        The loss of the second phase, as ``gradient_estimator`` and ``kl_estimator`` say.

        :param batch: rows of the dataset; ``matching`` alone looks at their actions
        :return: the loss, with gradient, and what it is made of
        """
        observations = tree_map(lambda array: array.repeat_interleave(self.n_actions, dim=0), batch.observations)
        if self.gradient_estimator == "matching":
            features = self.actor.extract_features(observations, self.actor.features_extractor)
            noise = self._draw_noise(len(features), batch.generator)
            actions = self.actor.model.sample(features, noise, self.actor.sampler, generator=batch.generator)
            q_values = self.q_values(observations, actions)
            matching_loss = self.actor.matching_loss(batch.observations, batch.actions, batch.generator).mean()
            return PolicyLoss(matching_loss - self.scaled(q_values, batch).mean(), q_values.mean(), None, None)
        if self.gradient_estimator == "adjoint":
            return self._adjoint_loss(observations, batch)

        sample = self._sample(observations, batch.generator)
        q_values = self.q_values(observations, sample.x1)
        if self.gradient_estimator in ("pathwise", "detached"):
            tilt = self._trust(observations, sample.x1) * self.tilt(observations, q_values, batch)
            loss, kl = pathwise_loss(sample, tilt, batch.mean), sample.log_ratio.mean()
        elif self.gradient_estimator == "reinforce":
            advantage = q_values - self.critics.value_net(observations)[:, 0]
            advantage = self.scaled(self._trust(observations, sample.x1) * advantage, batch, q_values)
            loss, kl = reinforce_loss(sample, advantage, self.weight_clamp, batch.mean), kl_from_reference(sample)
        else:
            loss = reinforce_softmax_loss(sample, self.scaled(q_values, batch), self.n_actions)
            kl = kl_from_reference(sample)
        return PolicyLoss(loss, q_values.mean(), kl, sample)

    def _adjoint_loss(self, observations: Any, batch: Batch) -> PolicyLoss:
        """A regression along the policy's diffusion, at whose end the gradient of beta Q is taken."""
        assert isinstance(self.kl_estimator, PathKL)
        policy, reference = self._both_models(observations)
        noise = self._draw_noise(len(reference.condition), batch.generator)
        xs = memoryless_rollout(policy, Draws(noise, self.actor.sampler, batch.generator), self.kl_estimator)
        # Beyond the bounds it is that at the bounds, in place of none
        actions = xs[-1].clamp(-1.0, 1.0)
        with th.no_grad():
            q_values, pull_back = th.func.vjp(lambda actions: self.q_values(observations, actions), actions)  # type: ignore[misc]
            scale = self._trust(observations, actions) * self.scale_of(q_values, batch).expand_as(q_values)
            if not math.isinf(self.weight_clamp):
                is_clamped = self.tilt(observations, q_values, batch) >= math.log(self.weight_clamp)
                scale = scale.masked_fill(is_clamped, 0.0)
            (gradient,) = pull_back(scale)
        loss, kl = adjoint_matching(
            policy, reference, xs, gradient, self.kl_estimator, self.adjoint, _N_TIMES, batch.generator
        )
        sample = KLSample(xs[-1], kl, th.ones_like(kl, dtype=th.bool), None, None)
        return PolicyLoss(loss.mean(), q_values.mean(), kl.mean(), sample)

    def _both_models(self, observations: Any) -> tuple[Conditioned, Conditioned]:
        """Policy and behaviour model, given observations."""
        behaviour = self.behaviour
        assert behaviour is not None
        policy = Conditioned(self.actor.model, self.actor.extract_features(observations, self.actor.features_extractor))
        with th.no_grad():
            reference = Conditioned(behaviour.model, behaviour.extract_features(observations, behaviour.features_extractor))
        return policy, reference

    def _sample(self, observations: Any, generator: Source) -> KLSample:
        """Actions of the policy, or for the score function those of the behaviour model, with their log ratio."""
        policy, reference = self._both_models(observations)
        noise = self._draw_noise(len(reference.condition), generator)
        estimate = self.kl_estimator.of_samples
        if self.gradient_estimator.startswith("reinforce"):
            estimate = self.kl_estimator.of_reference_samples
        return estimate(policy, reference, Draws(noise, self.actor.sampler, generator))

    def _draw_noise(self, n_rows: int, generator: Source) -> th.Tensor:
        return draw("normal", (n_rows, self.actor.action_dim), th.empty(0, device=self.device), generator)

    def q_values(self, observations: Any, actions: th.Tensor) -> th.Tensor:
        """
        :param observations: batch first
        :param actions: (batch_size, action_dim), scaled; beyond the bounds they count as the bounds, as environments clip them
        :return: Q, (batch_size,)
        """
        return self.critics.critic.q_values(observations, actions.clamp(-1.0, 1.0))[:, 0]

    def _trust(self, observations: Any, actions: th.Tensor) -> float | th.Tensor:
        """By how much less what critics say of actions counts where they do not agree on it, (batch_size,), or 1."""
        if not self.heed_disagreement:
            return 1.0
        actions = actions.detach().clamp(-1.0, 1.0)
        if self.gradient_estimator == "reinforce":
            return self.critics.agreement_on(observations, actions)
        return self.critics.critic.agreement_on_slopes(observations, actions)

    def tilt(self, observations: Any, q_values: th.Tensor, batch: Batch) -> th.Tensor:
        """
        :param observations: batch first
        :param q_values: Q of an action of each, (batch_size,)
        :param batch: the rows that they are of
        :return: the logarithm of the density ratio that is aimed at, up to the normalisation: beta (Q - V), at most that of
            ``weight_clamp``, (batch_size,)
        """
        tilt = self.scaled(q_values, batch)
        if math.isinf(self.weight_clamp):
            return tilt
        values = self.critics.value_net(observations)[:, 0]
        tilt = tilt - self.scaled(values, batch, q_values)
        # A Q that is infinite is not to look like one that is clamped: 0 times it is no number, which ends the training
        return tilt.clamp(max=math.log(self.weight_clamp)) + 0.0 * tilt

    @property
    def current_beta(self) -> th.Tensor:
        """The given beta, or where it has come to with ``target_kl``."""
        if self.target_kl is not None:
            return self.log_beta.exp()
        # No copy from the host, which no CUDA graph can hold
        return self.beta if isinstance(self.beta, th.Tensor) else th.full((), self.beta, device=self.device)

    def scaled(self, values: th.Tensor, batch: Batch, q_values: th.Tensor | None = None) -> th.Tensor:
        """
        :param values: Qs or advantages, (batch_size,)
        :param batch: the rows that they are of
        :param q_values: the Qs that ``normalize_q`` refers to, (batch_size,), ``values`` by default
        :return: beta times the values, in nats, (batch_size,)
        """
        return self.scale_of(values if q_values is None else q_values, batch) * values

    def scale_of(self, q_values: th.Tensor, batch: Batch) -> th.Tensor:
        """
        :param q_values: the Qs that ``normalize_q`` refers to, (batch_size,)
        :param batch: the rows that they are of
        :return: what they are multiplied by to be in nats, a scalar of shape ()
        """
        if not self.normalize_q:
            return self.current_beta * self.horizon_ratio
        return self.current_beta / batch.mean(q_values.abs()).clamp(min=1e-6)

    def _set_learning_rates(self) -> None:
        if self.pretraining or not self.critics_are_frozen:
            super()._set_learning_rates()
        if not self.pretraining:
            self._set_learning_rate(self.policy_lr_schedule(self._current_progress_remaining), ("actor",))

    def _default_pretraining_steps(self, total_timesteps: int) -> int:
        return int(_PRETRAINING_SHARE * total_timesteps)

    def dependences(self) -> tuple[Dependence, ...]:
        if self.gradient_estimator == "matching":
            return (self.actor.sampling_dependence, *super().dependences())
        return (*of_estimator(self.kl_estimator, self.actor.sampler), *super().dependences())
