"""
Fitted Q evaluation: networks of its own learn what the policy would earn from logged steps (Le et al., arXiv 1903.08738; first
choice in the comparisons of Fu et al., arXiv 2103.16596, and Paine et al., arXiv 2007.09055).

It begins with the behaviour's own values, which are a regression on logged returns, and goes on from there to the policy's:
what is estimated is the difference between the two, and where data or steps do not suffice, it is too small, not too large.
"""

import copy
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import polyak_update
from tqdm import tqdm

from sb3_genpolicy.common.policies.normalization import ObservationNormalizer
from sb3_genpolicy.common.utils import tree_map
from sb3_genpolicy.evaluation.kinds import rows_of_kind
from sb3_genpolicy.evaluation.networks import ValueEnsemble
from sb3_genpolicy.evaluation.plans import Held, Plans
from sb3_genpolicy.evaluation.question import Question
from sb3_genpolicy.generative.checks import check_number, with_named_options

# So often the held-out error is looked at, and what episodes were cut off with is valued anew
_LOOKS = 20
# Held-out rows, and first observations, that are looked at
_LOOKED_AT = 2048
# States at a time when all are valued
_CHUNK = 4096
# Stop where the held-out error is so many times its least for so many looks
_WORSE, _PATIENCE = 1.5, 3
# Fewer episodes than that are not resampled for members
_FEWEST_TO_RESAMPLE = 5


@with_named_options
@dataclass(frozen=True)
class FittedQOptions:
    """
    How fitted Q evaluation learns.

    :param n_members: K, networks that learn each from an own resample of the episodes; 2 or more
    :param net_arch: widths of the hidden layers, >= 1, each followed by a layer norm
    :param steps: gradient steps towards the policy's values, at most
    :param first_steps: gradient steps towards the behaviour's values, before these
    :param batch_size: rows of each step, of each member
    :param learning_rate: Adam's at the start, > 0; it falls to a tenth
    :param tau: the rate at which the target copy follows, in (0, 1]
    :param held_out: share of the episodes that no member learns from, for the error by which it stops, in (0, 1)
    """

    n_members: int = 5
    net_arch: tuple[int, ...] = (128, 128)
    steps: int = 6_000
    first_steps: int = 1_500
    batch_size: int = 256
    learning_rate: float = 1e-3
    tau: float = 0.02
    held_out: float = 0.1

    def __post_init__(self) -> None:
        check_number("n_members", self.n_members, low=2, whole=True)
        for name in ("steps", "first_steps"):
            check_number(name, getattr(self, name), low=0, whole=True)
        check_number("batch_size", self.batch_size, low=1, whole=True)
        check_number("learning_rate", self.learning_rate, low=0.0, low_open=True)
        check_number("tau", self.tau, low=0.0, high=1.0, low_open=True)
        check_number("held_out", self.held_out, low=0.0, high=1.0, low_open=True, high_open=True)


class Look(NamedTuple):
    """
    A point of the learning curve.

    :param step: gradient steps so far, the first ones among them
    :param error: root mean square of the Bellman error on held-out rows, in standard deviations of what Q should be there,
        for each kind
    :param values: of the initial states, mean over members, for each kind
    """

    step: int
    error: list[float]
    values: list[float]


@dataclass(frozen=True, eq=False)
class FittedQ:
    """
    What was learnt of a policy. Kinds are discounted values and, where a time limit is known, totals.

    :param q: Q of logged actions, (n_kinds, n_members, n_rows); of a policy that plans, followed by the rest of
        the plan that it has there if it first planned where the episode began
    :param v: mean of Q over the policy's actions, of every state, (n_kinds, n_members, n_states); likewise
    :param behaviour_tails: what episodes that were cut off would have gone on to earn from their last row on, as the
        behaviour acts, (n_kinds, n_members, n_episodes); 0 of those that ended, or were at their time limit for totals
    :param curve: the learning curve
    :param is_held_out: (n_episodes,), which nobody learnt from
    :param stopped: why it stopped, in words
    """

    q: np.ndarray
    v: np.ndarray
    behaviour_tails: np.ndarray
    curve: list[Look]
    is_held_out: np.ndarray
    stopped: str


class Begun(NamedTuple):
    """
    Networks that have learnt the behaviour's values, with which the evaluation of any policy of single actions begins.

    :param networks: their state
    :param random_state: of the generator, afterwards
    :param tails: ``behaviour_tails``
    """

    networks: dict[str, Any]
    random_state: th.Tensor
    tails: th.Tensor


class Learner:
    """
    :param question: what is asked
    :param states: observations, tensors on the device
    :param plans: what was logged and what the policy does, scaled
    :param extractor: features extractor of its own
    :param normalizer: of the observations
    :param options: how it learns
    :param seed: of all its random numbers
    """

    def __init__(
        self,
        question: Question,
        states: Any,
        plans: Plans,
        extractor: BaseFeaturesExtractor,
        normalizer: ObservationNormalizer,
        options: FittedQOptions,
        seed: int,
    ):
        self.question, self.states, self.plans = question, states, plans
        self.options, self.device = options, plans.actions.device
        self.random = np.random.default_rng(seed)
        self.generator = th.Generator(self.device).manual_seed(seed)
        self.n_kinds = question.n_kinds
        n_networks = self.n_kinds * options.n_members
        self.network = ValueEnsemble(extractor, normalizer, plans.input_dim, n_networks, list(options.net_arch))
        self.network.to(self.device)
        self.target = copy.deepcopy(self.network).requires_grad_(False)
        self.rewards = self._tensor(question.rewards)
        self.times = self._tensor(2.0 * question.steps_of_states / (question.horizon.steps or 1) - 1.0)
        self.kinds = [rows_of_kind(question, kind, self.device) for kind in range(self.n_kinds)]
        numbers = ([kind.shift, kind.scale, kind.least, kind.most] for kind in self.kinds)
        # (n_kinds, 1, 1) each
        self.shift, self.scale, self.least, self.most = th.tensor(list(numbers), device=self.device).T[..., None, None]
        self._share_episodes_out()
        self.curve: list[Look] = []

    # What is learnt from

    def _tensor(self, array: np.ndarray) -> th.Tensor:
        kind = np.float32 if np.issubdtype(array.dtype, np.floating) else array.dtype
        return th.as_tensor(array.astype(kind), device=self.device)

    def _share_episodes_out(self) -> None:
        n_episodes, options = self.question.data.n_episodes, self.options
        self.is_held_out = np.zeros(n_episodes, dtype=bool)
        if n_episodes > 1:
            n_held_out = min(max(1, round(options.held_out * n_episodes)), n_episodes - 1)
            self.is_held_out[self.random.choice(n_episodes, n_held_out, replace=False)] = True
        learnt = np.flatnonzero(~self.is_held_out)
        starts = self.question.starts
        self.pools = []
        for _ in range(options.n_members):
            resampled = self.random.choice(learnt, len(learnt)) if len(learnt) >= _FEWEST_TO_RESAMPLE else learnt
            self.pools.append(self._tensor(np.concatenate([np.arange(starts[e], starts[e + 1]) for e in resampled])))
        rows = self.question.data.rows_of(self.is_held_out if n_episodes > 1 else learnt)
        self.watched = self._tensor(rows[:: -(-len(rows) // _LOOKED_AT)])
        first = self.question.starts[:-1]
        self.first_rows = self._tensor(first[:: -(-len(first) // _LOOKED_AT)])

    # Values

    def _values(self, network: ValueEnsemble, states: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """
        Of states and actions, (n_members, batch_size) and (n_members, batch_size, input_dim), or 1 for n_members: in units of
        the rewards, (n_kinds, n_members, batch_size).
        """
        features = network.features(tree_map(lambda array: array[states], self.states))
        members = self.options.n_members
        times = self.times[states].expand(members, -1)
        shared = len(states) == 1

        def of_kinds(tensor: th.Tensor) -> th.Tensor:
            return tensor if shared else tensor.repeat(self.n_kinds, 1, 1)

        of_time = th.cat([th.zeros_like(times), times][: self.n_kinds])
        outputs = network(of_kinds(features), of_kinds(actions), of_time).unflatten(0, (self.n_kinds, members))
        return outputs * self.scale + self.shift

    def _draw_rows(self) -> th.Tensor:
        size = (self.options.batch_size,)
        return th.stack(
            [pool[th.randint(len(pool), size, generator=self.generator, device=self.device)] for pool in self.pools]
        )

    @th.no_grad()
    def _targets(self, rows: th.Tensor, held: Held) -> th.Tensor:
        """One step, then the policy: (n_kinds, n_members, batch_size)."""
        following = self._values(self.target, *self.plans.following(rows, held, self.generator))
        discounts = th.stack([kind.discounts[rows] for kind in self.kinds])
        return (self.rewards[rows] + discounts * following).clamp(self.least, self.most)

    @th.no_grad()
    def _tails(self) -> th.Tensor:
        """Q of the last rows of episodes that are open, as the behaviour acts, (n_kinds, n_members, n_episodes)."""
        last = self._tensor(self.question.last_rows)
        parts = []
        for some in last.split(self._per_chunk(self.plans.n_rests)):
            parts.append(self._of_logged(some))
        is_open = th.stack([self._tensor(self.question.is_open(kind).astype(float)) for kind in range(self.n_kinds)])
        return th.cat(parts, dim=2).clamp(self.least, self.most) * is_open[:, None]

    # Learning

    def learn(self, progress_bar: bool, begun: dict[str, Begun]) -> FittedQ:
        """
        :param progress_bar: whether to show one
        :param begun: what evaluations by the same question have begun with, by features extractor; it is filled
        :return: what was learnt
        """
        options = self.options
        with tqdm(total=options.first_steps + options.steps, desc="fitted Q", delay=2.0, disable=not progress_bar) as bar:
            tails = self._begin(bar, begun)
            stopped = self._learn_policy(bar)
        q, v = self._all_values()
        return FittedQ(q, v, tails.double().cpu().numpy(), self.curve, self.is_held_out, stopped)

    def _begin(self, bar: Any, begun: dict[str, Begun]) -> th.Tensor:
        """From the behaviour's values, which are learnt once for all policies that see the same rows in the same order."""
        first = begun.get(str(self.network.extractor)) if self.plans.length == 1 else None
        if first is None:
            first = Begun(copy.deepcopy(self._learn_behaviour(bar)), self.generator.get_state(), self._tails())
            if self.plans.length == 1:
                begun[str(self.network.extractor)] = first
        else:
            bar.update(self.options.first_steps)
        self.network.load_state_dict(first.networks)
        self.target.load_state_dict(first.networks)
        self.generator.set_state(first.random_state)
        self._look(self.options.first_steps)
        return first.tails

    def _learn_behaviour(self, bar: Any) -> dict[str, Any]:
        """A regression on returns; what episodes were cut off with is valued by the networks themselves."""
        steps = self.options.first_steps
        optimizer = self._optimizer()
        episodes = self._tensor(self.question.episodes)
        tails = self._tails()
        for step in range(steps):
            if step % max(1, steps // _LOOKS) == 0:
                tails = self._tails()
            rows = self._draw_rows()
            held = self.plans.draw(rows, self.generator)
            with th.no_grad():
                of_members = th.arange(len(rows), device=self.device)[:, None]
                returns = th.stack([kind.returns[rows] for kind in self.kinds])
                discounts = th.stack([kind.tail_discounts[rows] for kind in self.kinds])
                weights = th.stack([kind.first_weights[rows] for kind in self.kinds])
                targets = returns + discounts * tails[:, of_members, episodes[rows]]
            self._descend(optimizer, rows, held, targets, weights, step / steps)
            bar.update()
        self.target.load_state_dict(self.network.state_dict())
        return self.target.state_dict()

    def _learn_policy(self, bar: Any) -> str:
        steps, first = self.options.steps, self.options.first_steps
        optimizer = self._optimizer()
        every = max(1, steps // _LOOKS)
        best: tuple[float, dict[str, Any]] | None = None
        worse = 0
        for step in range(1, steps + 1):
            rows = self._draw_rows()
            held = self.plans.draw(rows, self.generator)
            self._descend(optimizer, rows, held, self._targets(rows, held), None, step / steps)
            bar.update()
            if step % every == 0 or step == steps:
                look = self._look(first + step)
                bar.set_postfix_str(f"held-out error {max(look.error):.2f}")
                if not all(map(math.isfinite, look.error)):
                    return "what was learnt is not finite"
                # The first values are the behaviour's: that they fit says nothing of the policy
                if 2 * step < steps:
                    continue
                if best is None or max(look.error) < best[0]:
                    best = max(look.error), copy.deepcopy(self.target.state_dict())
                worse = worse + 1 if max(look.error) > _WORSE * best[0] else 0
                if worse == _PATIENCE:
                    self.target.load_state_dict(best[1])
                    return f"the held-out error rose to {max(look.error):.2f} from {best[0]:.2f}, where it was taken back to"
        return f"after all {steps} steps"

    def _optimizer(self) -> th.optim.Optimizer:
        return th.optim.Adam(self.network.parameters(), self.options.learning_rate, fused=True)

    def _descend(
        self,
        optimizer: th.optim.Optimizer,
        rows: th.Tensor,
        held: Held,
        targets: th.Tensor,
        weights: th.Tensor | None,
        progress: float,
    ) -> None:
        for group in optimizer.param_groups:
            group["lr"] = self.options.learning_rate * (1.0 - 0.9 * progress)
        values = self._values(self.network, rows, self.plans.logged(rows, held))
        errors = ((values - targets) / self.scale).square()
        loss = (errors if weights is None else errors * weights).mean(dim=2).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        polyak_update(self.network.parameters(), self.target.parameters(), self.options.tau)

    @th.no_grad()
    def _look(self, step: int) -> Look:
        watched = self.watched[None]
        held = self.plans.along(watched, watched % self.plans.n_draws)
        values = self._values(self.target, watched, self.plans.logged(watched, held))
        targets = self._targets(self.watched.expand(self.options.n_members, -1), held)
        # One network's targets are another's error too: all members together are what is believed
        errors = (values.mean(dim=1) - targets.mean(dim=1)).square().mean(dim=1).sqrt()
        spreads = targets.mean(dim=1).std(dim=1).clamp(min=1e-6)
        look = Look(step, (errors / spreads).tolist(), self._means_over_actions(self.first_rows).mean(dim=(1, 2)).tolist())
        self.curve.append(look)
        return look

    @th.no_grad()
    def _means_over_actions(self, states: th.Tensor) -> th.Tensor:
        """Of states, (batch_size,): means of Q over the policy's actions, (n_kinds, n_members, batch_size)."""
        repeated, held = self._each_draw(states, self.plans.n_draws)
        return self._means(repeated, self.plans.planned(held), len(states))

    @th.no_grad()
    def _of_logged(self, rows: th.Tensor) -> th.Tensor:
        """Of rows, (batch_size,): Q of what was logged, the mean over the plans it may be followed by."""
        repeated, held = self._each_draw(rows, self.plans.n_rests)
        return self._means(repeated, self.plans.logged(repeated, held), len(rows))

    def _each_draw(self, states: th.Tensor, n_draws: int) -> tuple[th.Tensor, Held]:
        repeated = states.repeat_interleave(n_draws)
        return repeated, self.plans.along(repeated, th.arange(n_draws, device=self.device).repeat(len(states)))

    def _means(self, states: th.Tensor, actions: th.Tensor, n_states: int) -> th.Tensor:
        return self._values(self.target, states[None], actions[None]).unflatten(2, (n_states, -1)).mean(dim=3)

    def _per_chunk(self, n_draws: int) -> int:
        return max(1, _CHUNK // n_draws)

    @th.no_grad()
    def _all_values(self) -> tuple[np.ndarray, np.ndarray]:
        states, rows = (th.arange(n, device=self.device) for n in (len(self.times), len(self.rewards)))
        v = [self._means_over_actions(some).cpu() for some in states.split(self._per_chunk(self.plans.n_draws))]
        q = [self._of_logged(some).cpu() for some in rows.split(self._per_chunk(self.plans.n_rests))]
        return th.cat(q, dim=2).numpy(), th.cat(v, dim=2).numpy()
