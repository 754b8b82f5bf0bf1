"""
GMPO: generative model policy optimization by advantage-weighted matching.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from sb3_genpolicy.common.algorithms.pretrained import PretrainedSource
from sb3_genpolicy.common.algorithms.pretraining import PretrainingAlgorithm
from sb3_genpolicy.common.algorithms.support import SupportActions, agreed_values_of, values_of
from sb3_genpolicy.common.datasets import DatasetSource
from sb3_genpolicy.common.policies.critics import CriticOptions
from sb3_genpolicy.common.policies.named import POLICY_ALIASES
from sb3_genpolicy.common.transitions.rewards import RewardTransform
from sb3_genpolicy.common.transitions.transforms import Transform
from sb3_genpolicy.common.updates.batch import Batch
from sb3_genpolicy.common.updates.dependence import Dependence, Scope
from sb3_genpolicy.common.updates.objective import Objective
from sb3_genpolicy.common.updates.precision import Precision
from sb3_genpolicy.common.updates.temperature import (
    PAPERS_CLAMP,
    change_towards,
    changed,
    clamp_of,
    episode_kl_of,
    temperature_of,
)
from sb3_genpolicy.common.updates.weights import describe_weights, exponential_weights, kl_from_uniform
from sb3_genpolicy.common.utils import tree_map
from sb3_genpolicy.generative.checks import check_choice, check_flag, check_number, named_options

Weighting = Literal["advantage", "softmax"]
WEIGHTINGS: tuple[Weighting, ...] = ("advantage", "softmax")
# The shares of the first `learn` that are the first phase: of the softmax variant, and of the other where beta is found
_SHARE_OF_SOFTMAX, _SHARE_OF_ADVANTAGE = 0.5, 0.75
#: Divergence from the behaviour policy that is held where neither it nor beta is given, in nats. From a clone of weighted
#: episodes 0.1 was nowhere worse than the clone; 0.5 was more where critics know, and fell on hopper/medium-expert
DEFAULT_TARGET_KL = 0.1
_KEPT_ACTIONS = Dependence(
    Scope.DATASET, "redraw_actions=False keeps actions for the rows of a fixed dataset", "Take redraw_actions=True"
)


class GMPO(PretrainingAlgorithm):
    """
    Generative Model Policy Optimization (GMPO): a flow or diffusion policy is matched to the dataset's actions,
    each weighted by ``min(exp(beta (Q(s, a) - V(s))), weight_clamp)`` with critics by implicit Q-learning, trained beside it.

    In the variant ``weighting="softmax"`` it is matched to actions of a behaviour model instead, several for each state,
    weighted by the softmax of ``beta Q`` over them. The behaviour model and the critics are trained in a first phase.

    Paper: https://arxiv.org/abs/2412.01245 (section 4.1), critics: https://arxiv.org/abs/2110.06169

    :param policy: The policy model to use (FlowPolicy, DiffusionPolicy, FlowMultiInputPolicy, ...)
    :param env: The environment that the policy is for (if registered in Gym, can be str). ``learn`` does not step it.
        None where there is no simulator: the spaces then come from ``dataset``.
    :param learning_rate: learning rate of actor and critics; can be a function of the current progress remaining (from 1 to 0)
    :param batch_size: rows of the dataset for each gradient step
    :param tau: the soft update coefficient of the target critics (between 0 and 1)
    :param gamma: the discount factor, in [0, 1]
    :param beta: inverse temperature of the weights, >= 0, in units of the transformed reward; given, it is fixed. 0 clones the
        behaviour policy. Default: it is found, so that ``target_kl`` is held. Advantages of critics that look less far ahead
        than ``gamma`` are multiplied by how many times, so that beta means the same for all critics.
    :param target_kl: KL divergence of the weighted rows from the rows as they are, in nats, that ``beta`` is adapted to hold,
        > 0: how far the policy leaves the behaviour policy, whatever the unit and the spread of the advantages. 0.1, the
        default where no ``beta`` is given, leaves an effective sample size of about 0.8, 0.5 of a half, 1.5 of a tenth: more
        is more where the critics know (docs/guide/results.md). Beside a ``beta`` it starts there.
    :param weight_clamp: largest weight of a sample, > 0; the softmax needs none. Default: 10, so that ``target_kl`` is not
        spent on a few rows; beside a fixed beta 100 (paper).
    :param episode_kl: how much more often the policy is matched to rows of episodes with higher returns, >= 0, in nats of the
        rows drawn from the rows as they are: what is cloned and improved on is then nearer to the best of those who acted.
        As by :class:`~sb3_genpolicy.common.transitions.transforms.WeightedEpisodes`, but critics learn from all rows alike.
        Default: 1 where beta is found; 0, all alike, beside a given beta (paper).
    :param heed_disagreement: whether an advantage counts for less where the critics' networks do not agree on it: times m^2 /
        (m^2 + v), with their mean m and the square v of its standard error. Default: no.
    :param weighting: ``advantage``, of the dataset's actions, or ``softmax``, of actions drawn from a behaviour model
    :param n_actions: with ``softmax``, the actions of each state, >= 2 (published: 16)
    :param redraw_actions: with ``softmax``, whether actions are drawn anew for every batch (the paper's ``sample``) or once
        for the whole dataset (``static``: faster, and n_rows \\* n_actions \\* action_dim floats of memory)
    :param pretraining_steps: updates of a first phase that trains the critics and clones the behaviour policy; afterwards they
        stay as they are. Default: where beta is found, three quarters of the first call of ``learn``, in which all rows weigh
        the same (critics then go on until they have learnt): weights of untrained critics mislead, and clones are soon
        moved. None beside a fixed beta, as in the paper; with ``softmax`` half of the first call.
    :param pretrained: a model, or the file of one, whose critics and behaviour model (if it has one) are taken in place of a
        first phase: GMPG, or GMPO with ``beta=0``. They stay as they are, and the actor starts from the behaviour model.
    :param critic: what Q is of and by which networks: ``iql``, ``onestep``, ``policy``, or an object with options
        (``IQLCritic``, ``OneStepCritic``, ``PolicyCritic``), see :mod:`sb3_genpolicy.common.policies.critics.options`.
        Default: that of ``pretrained``, else what made the best policies (docs/guide/critics.md).
    :param expectile: short for ``critic=IQLCritic(expectile=...)``, the paper's critics: expectile of V, in (0, 1) (0.7 for
        locomotion, 0.9 for AntMaze)
    :param actor_tau: the soft update coefficient of the averaged actor, which acts (in (0, 1]; 1: the latest parameters act).
        The weights make each step's gradient noisy; an average over the last thousand steps acts more steadily.
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
        target_kl: float | None = None,
        weight_clamp: float | None = None,
        episode_kl: float | None = None,
        heed_disagreement: bool = False,
        expectile: float | None = None,
        actor_tau: float = 0.001,
        weighting: Weighting = "advantage",
        n_actions: int = 16,
        redraw_actions: bool = True,
        pretraining_steps: int | None = None,
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
        check_choice("weighting", weighting, WEIGHTINGS)
        self.needs_behaviour = weighting == "softmax"
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
        check_number("n_actions", n_actions, low=2, whole=True)
        check_flag("redraw_actions", redraw_actions)
        check_flag("heed_disagreement", heed_disagreement)
        # Of a model that is loaded its file says it
        self.kl_was_given = beta is not None or target_kl is not None or not _init_setup_model
        self.beta, self.target_kl = temperature_of(beta, target_kl, DEFAULT_TARGET_KL)
        self.weight_clamp = clamp_of(weight_clamp, self.target_kl, PAPERS_CLAMP)
        self.episode_kl = episode_kl_of(episode_kl, self.target_kl)
        self.heed_disagreement = heed_disagreement
        self.weighting = weighting
        self.n_actions = n_actions
        self.redraw_actions = redraw_actions
        self._support: SupportActions | None = None
        # Whether critics are trained beyond the first phase
        self.critics_go_on = False

        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        super()._setup_model()
        # What `target_kl` adapts, a tensor, which files have; without it beta is as given
        self.log_beta: Any = 0.0
        if self.target_kl is not None:
            self.log_beta = th.tensor(math.log(self.beta), device=self.device)

    @property
    def current_beta(self) -> float | th.Tensor:
        """The given beta, or where it has come to with ``target_kl``."""
        return self.beta if self.target_kl is None else self.log_beta.exp()

    def objective(self, batch: Batch) -> Objective:
        if self.pretraining:
            # First phase. Critics: V towards an expectile of Q, Q towards r + gamma V(s'). Behaviour model: matching loss
            return self.pretraining_objective(batch)
        if self.weighting == "softmax":
            policy = self._objective_on_behaviour_actions(batch.for_policy)
            return self.with_what_learns(policy, batch)
        return self._objective_on_dataset_actions(batch)

    def _objective_on_dataset_actions(self, batch: Batch) -> Objective:
        # Critics, unless they were trained before
        matched = batch.for_policy
        if self.critics_are_frozen:
            critics, advantage = Objective({}, ()), self.critics.advantage(matched)
        else:
            losses = self.critic_losses(batch)
            critics = losses.objective(q_value=losses.q_value.mean())
            advantage = losses.advantage if matched is batch else self.critics.advantage(matched)
        if self.heed_disagreement:
            advantage = self.critics.agreement_on(matched.observations, matched.actions)[:, None] * advantage
        # Policy: matching loss of the dataset's actions, weighted by their advantage
        weights = self.advantage_weights(self.horizon_ratio * advantage)
        actor_loss, matching_loss = self.actor.weighted_matching_loss(
            matched.observations, matched.actions, weights, matched.generator
        )
        means = dict(describe_weights(weights, batch.mean), matching_loss=matching_loss, advantage=advantage.mean())
        means.update(weight_clamped=(weights >= 0.999 * self.weight_clamp).float().mean())
        return critics + self._policy_objective(actor_loss, weights, means, batch)

    def _objective_on_behaviour_actions(self, batch: Batch) -> Objective:
        # Policy: matching loss of K actions of the behaviour model for each state, weighted by the softmax of beta Q
        actions = self._support_of_behaviour().draw("observations", batch, self.replay_buffer, self._vec_normalize_env)
        values = agreed_values_of if self.heed_disagreement else values_of
        q_values = values(self.critics.critic, batch.observations, actions)
        weights = (self.current_beta * self.horizon_ratio * q_values).softmax(dim=1).flatten() * self.n_actions
        observations = tree_map(lambda array: array.repeat_interleave(self.n_actions, dim=0), batch.observations)
        actor_loss, matching_loss = self.actor.weighted_matching_loss(
            observations, actions.flatten(0, 1), weights, batch.generator
        )
        means = dict(describe_weights(weights, batch.mean), matching_loss=matching_loss, q_value=q_values.mean())
        return self._policy_objective(actor_loss, weights, means, batch)

    def _policy_objective(
        self, actor_loss: th.Tensor, weights: th.Tensor, means: dict[str, th.Tensor], batch: Batch
    ) -> Objective:
        """The policy's objective, with what `target_kl` looks at."""
        extras: dict[str, th.Tensor] = {}
        if self.target_kl is not None:
            extras.update(weight_kl=kl_from_uniform(weights.detach(), batch.mean))
            means.update(weight_kl=extras["weight_kl"], beta=self.log_beta.exp())
        return Objective(dict(actor_loss=actor_loss), ("actor",), means, extras)

    def before_step(self, objective: Objective) -> dict[str, th.Tensor]:
        if self.held_kl is not None and "weight_kl" in objective.extras:
            change = change_towards(self.held_kl, objective.extras["weight_kl"])
            changed(self.log_beta, self.descent.guard.unless_broken(change))
        return super().before_step(objective)

    def _support_of_behaviour(self) -> SupportActions:
        if self._support is None:
            assert self.behaviour is not None
            seed = None if self.redraw_actions else self.seed or 0
            self._support = SupportActions(self.behaviour, self.n_actions, seed)
        return self._support

    def advantage_weights(self, advantage: th.Tensor) -> th.Tensor:
        """
        :param advantage: Q - V, (batch_size, 1)
        :return: ``min(exp(beta advantage), weight_clamp)``, (batch_size,)
        """
        return exponential_weights(advantage.squeeze(1), self.current_beta, self.weight_clamp)

    def dependences(self) -> tuple[Dependence, ...]:
        if self.weighting != "softmax":
            return super().dependences()
        own = () if self.redraw_actions else (_KEPT_ACTIONS,)
        return (*own, self.actor.sampling_dependence, *super().dependences())

    @property
    def critics_are_frozen(self) -> bool:
        return super().critics_are_frozen and not self.critics_go_on

    def _default_pretraining_steps(self, total_timesteps: int) -> int:
        if self.weighting == "softmax":
            return int(_SHARE_OF_SOFTMAX * total_timesteps)
        if self.target_kl is None or self.online:
            return 0
        # However short the first call
        self.critics_go_on = True
        return int(_SHARE_OF_ADVANTAGE * total_timesteps)

    def fill_replay_buffer(self, dataset: DatasetSource | None) -> None:
        # Of the dataset that there was
        self._support = None
        super().fill_replay_buffer(dataset)
