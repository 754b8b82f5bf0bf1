"""
Importance sampling of a policy, where its weights leave enough episodes a say.
"""

import math
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from sb3_genpolicy.common.utils import tree_map
from sb3_genpolicy.evaluation.acting import Acting
from sb3_genpolicy.evaluation.fitted_q import FittedQ
from sb3_genpolicy.evaluation.importance import (
    Weighted,
    Weights,
    by_step,
    doubly_robust,
    step_weights,
    weighted_per_decision,
)
from sb3_genpolicy.evaluation.question import Question, some_of
from sb3_genpolicy.evaluation.result import KINDS, Estimate
from sb3_genpolicy.evaluation.support import log_density, why_no_density

#: The estimators, as the table names them
WEIGHTED, ROBUST = "weighted importance", "doubly robust"
# Rows at which it is foreseen how many episodes will have a say
_PILOT = 512
# Densities of flows take a while: of more rows, whole episodes of so many are weighed
_WEIGHED_ROWS = 20_000
# What is foreseen has to be so many times too small for nothing to be computed: weights are no normal distributions
_BENEFIT_OF_DOUBT = 0.2


class Densities(NamedTuple):
    """
    Where the densities of the logged actions come from.

    :param behaviour: policy with a density, a model of the behaviour
    :param logged: logarithms of the logged densities of the judging rows, (n_rows,); None where they were not logged
    """

    behaviour: Any
    logged: np.ndarray | None


def weighed_estimates(
    ask: Question, acting: Acting, densities: Densities, fitted: FittedQ, level: float, fewest_effective: float
) -> list[Estimate]:
    """
    :param ask: what is asked
    :param acting: the policy
    :param densities: of the logged actions
    :param fitted: what was learnt of Q
    :param level: probability of the intervals
    :param fewest_effective: effective number of episodes below which they are withheld
    :return: lines for the table
    """
    names = [KINDS[kind] for kind in range(len(fitted.q))]
    methods = [(name, method) for name in names for method in (WEIGHTED, ROBUST)]

    def withheld(why: str) -> list[Estimate]:
        return [Estimate(name, "policy", method, withheld=why) for name, method in methods]

    if acting.execute_length > 1:
        return withheld(
            f"the policy commits itself to {acting.execute_length} actions at a time, and rows are weighed one by one"
        )
    why = why_no_density(acting)
    if why is not None:
        return withheld(f"the density of the policy's actions is not known, as {why}")
    foreseen = _foreseen_size(ask, acting, densities)
    if foreseen < _BENEFIT_OF_DOUBT * fewest_effective:
        return withheld(
            f"of {ask.data.n_episodes} episodes about {foreseen:.2g} would have a say, fewer than {fewest_effective:g}"
        )
    chosen = some_of(ask.data, np.arange(ask.data.n_episodes), _WEIGHED_ROWS, seed=0)
    rows = ask.data.rows_of(chosen)
    ratios = np.zeros(ask.data.n_rows)
    ratios[rows] = log_ratios(ask, acting, densities, rows)
    lines = []
    for kind, name in enumerate(names):
        weights = step_weights(ask, ratios, ask.gamma_of(kind)).of(chosen)
        size = weights.effective_size
        if not size >= fewest_effective:
            why = f"of {len(chosen)} episodes {size:.2g} have a say, fewer than {fewest_effective:g}"
            lines += [Estimate(name, "policy", method, withheld=why) for method in (WEIGHTED, ROBUST)]
            continue
        lines += _weighed(ask, weights, chosen, fitted, kind, level)
    return lines


def _weighed(ask: Question, weights: Weights, chosen: np.ndarray, fitted: FittedQ, kind: int, level: float) -> list[Estimate]:
    """The two estimates of a kind, from the chosen episodes."""
    rewards = by_step(ask, np.where(ask.is_counted, ask.rewards, 0.0))[chosen]
    q, v = fitted.q[kind].mean(axis=0), fitted.v[kind].mean(axis=0)
    following = v[np.asarray(ask.data.next_rows)[ask.last_rows]]
    v_last = np.where(ask.is_open(kind), ask.gamma_of(kind) * following, 0.0)[chosen]
    steps = [by_step(ask, np.where(ask.is_counted, each, 0.0))[chosen] for each in (q, v[: len(ask.rewards)])]
    robust = doubly_robust(weights, rewards, steps[0], steps[1], v_last, normalise=True)
    # What episodes were cut off with is valued by Q here too: a reward of their last step
    rewards[np.arange(len(v_last)), ask.steps[ask.last_rows[chosen]]] += v_last
    of_note = f"{weights.effective_size:.0f} of {len(chosen)} episodes have a say"
    return [
        _line(KINDS[kind], WEIGHTED, weighted_per_decision(weights, rewards), level, of_note),
        _line(KINDS[kind], ROBUST, robust, level, of_note),
    ]


def _line(kind: str, method: str, found: Weighted, level: float, note: str) -> Estimate:
    half = NormalDist().inv_cdf(0.5 + 0.5 * level) * found.error
    return Estimate(kind, "policy", method, found.value, found.value - half, found.value + half, note)


def log_ratios(ask: Question, acting: Acting, densities: Densities, rows: np.ndarray) -> np.ndarray:
    """
    :param ask: what is asked
    :param acting: the policy, with a density
    :param densities: of the logged actions
    :param rows: of the judging data, (n,)
    :return: (n,), how much more likely the policy is to do what was logged, logarithms
    """
    observations = tree_map(lambda array: array[rows], ask.data.states)
    actions = np.asarray(ask.data.actions[rows]).reshape(len(rows), -1)
    own = log_density(acting.policy, acting.seen(observations), actions)
    if densities.logged is not None:
        return own - densities.logged[rows]
    return own - log_density(densities.behaviour, observations, actions)


def _foreseen_size(ask: Question, acting: Acting, densities: Densities) -> float:
    """As if logarithms of the ratios were normal and steps independent, up to where discounted rewards come from."""
    rows = np.linspace(0, ask.data.n_rows - 1, min(_PILOT, ask.data.n_rows)).astype(int)
    ratios = log_ratios(ask, acting, densities, rows)
    ratios = ratios[np.isfinite(ratios)]
    if len(ratios) < 2:
        return 0.0
    steps = min(ask.data.n_rows / ask.data.n_episodes, 0.5 / (1.0 - ask.gamma) + 1.0)
    return ask.data.n_episodes * math.exp(-float(ratios.var()) * steps)
