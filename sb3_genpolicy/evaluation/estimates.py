"""
The lines of an evaluation's table that fitted Q evaluation gives, and what its verdict rests on.
"""

from typing import NamedTuple

import numpy as np

from sb3_genpolicy.evaluation.caution import Caution
from sb3_genpolicy.evaluation.fitted_q import FittedQ
from sb3_genpolicy.evaluation.intervals import Resamples, interval
from sb3_genpolicy.evaluation.question import DISCOUNTED, TOTAL, Question
from sb3_genpolicy.evaluation.result import KINDS, Estimate
from sb3_genpolicy.evaluation.support import Support
from sb3_genpolicy.evaluation.values import EpisodeValues
from sb3_genpolicy.evaluation.verdict import Evidence, Guards


class Found(NamedTuple):
    """
    What an evaluation rests on.

    :param values: kind -> values of each episode by each network
    :param resamples: of episodes and networks
    :param fitted: what fitted Q evaluation learnt
    :param cautions: kind -> what lies beyond the data
    :param level: probability of the intervals
    """

    values: dict[str, EpisodeValues]
    resamples: Resamples
    fitted: FittedQ
    cautions: dict[str, Caution]
    level: float


class Allowed(NamedTuple):
    """
    :param low: the least that can be earned, if rewards are as those that were logged
    :param high: the most
    """

    low: float
    high: float

    def clip(self, value: float) -> float:
        """
        :param value: an estimate, or an end of its interval
        :return: the nearest that is possible
        """
        return min(max(value, self.low), self.high)

    def beside(self, low: float, high: float) -> "Allowed":
        """
        :param low: lower end of what somebody else earns
        :param high: upper end of it
        :return: what the difference to that may be
        """
        return Allowed(self.low - high, self.high - low)


def allowed_by_rewards(ask: Question, kind: int) -> Allowed:
    """
    :param ask: what is asked
    :param kind: discounted or total
    :return: what the least and the largest logged reward in every step come to, and nothing where episodes end by themselves
    """
    least, largest = float(ask.rewards.min()), float(ask.rewards.max())
    if ask.terminals.any():
        least, largest = min(least, 0.0), max(largest, 0.0)
    steps = 1.0 / (1.0 - ask.gamma)
    if kind == TOTAL:
        assert ask.horizon.steps is not None
        steps = float(ask.horizon.steps)
    return Allowed(least * steps, largest * steps)


def _half_width(values: EpisodeValues, resamples: Resamples, level: float) -> float:
    low, high = interval(resamples.of(values.difference, values.gap), level)
    return 0.5 * (high - low)


def _drift(fitted: FittedQ, kind: int, half_width: float) -> float:
    """Change of the value in the last quarter of the steps, in half widths of the interval of the difference."""
    curve = fitted.curve
    if len(curve) < 2:
        return 0.0
    before = curve[-1 - max(1, len(curve) // 4)] if len(curve) > 4 else curve[0]
    return abs(curve[-1].values[kind] - before.values[kind]) / max(half_width, 1e-12)


def _disagreement(fitted: FittedQ, n_rows: int) -> float:
    """About the policy's actions, beside that about logged ones, apart from what networks disagree on in all states alike."""

    def of(values: np.ndarray) -> float:
        return float((values - values.mean(axis=1, keepdims=True)).std(axis=0).mean())

    return of(fitted.v[DISCOUNTED][:, :n_rows]) / max(of(fitted.q[DISCOUNTED]), 1e-12)


def evidence_of(found: Found, support: Support) -> Evidence:
    """
    :param found: what was found
    :param support: where the policy's actions lie
    :return: what the verdict rests on
    """
    values, resamples, fitted, cautions, level = found
    discounted, careful = values[KINDS[DISCOUNTED]], cautions[KINDS[DISCOUNTED]]
    low, high = interval(resamples.of(discounted.difference, discounted.gap), level)
    return Evidence(
        difference=(low - careful.shortfall, high),
        level=level,
        n_episodes=discounted.initial.shape[1],
        error=fitted.curve[-1].error[DISCOUNTED],
        disagreement=_disagreement(fitted, fitted.q.shape[2]),
        outside=support.outside,
        beyond=careful.beyond,
        drift=_drift(fitted, DISCOUNTED, _half_width(discounted, resamples, level)),
    )


def fitted_estimates(found: Found, question: Question, guards: Guards) -> list[Estimate]:
    """
    :param found: what was found
    :param question: what was asked
    :param guards: that totals have to pass
    :return: the table's lines of fitted Q evaluation, and of what was logged
    """
    values, resamples, fitted, cautions, level = found
    lines = []
    for kind in (DISCOUNTED, TOTAL):
        name = KINDS[kind]
        if name not in values:
            returns = question.sums(question.rewards)[None].repeat(2, axis=0)
            low, high = interval(resamples.of(np.resize(returns, (resamples.members.shape[1], returns.shape[1]))), 0.9)
            lines.append(Estimate(name, "policy", "fitted Q", withheld=question.horizon.why))
            lines.append(Estimate(name, "behaviour", "logged returns", float(returns.mean()), low, high))
            continue
        own = values[name]
        doubt = _why_withheld(own, fitted, kind, resamples, level, guards)
        allowed, behaviour = allowed_by_rewards(question, kind), interval(resamples.of(own.behaviour), level)
        for of, method, of_episodes, gap in (
            ("policy", "fitted Q", own.policy, own.gap),
            ("behaviour", "logged returns", own.behaviour, 0.0),
            ("difference", "fitted Q", own.difference, own.gap),
            ("policy", "fitted Q, initial states", own.initial, own.gap),
        ):
            if doubt and of != "behaviour" and kind == TOTAL:
                lines.append(Estimate(name, of, method, withheld=doubt))
            else:
                low, high = interval(resamples.of(of_episodes, gap), level)
                value, within = float(of_episodes.mean()), allowed if of == "policy" else allowed.beside(*behaviour)
                if of != "behaviour":
                    low -= cautions[name].shortfall
                    value, low, high = (within.clip(number) for number in (value, low, high))
                lines.append(Estimate(name, of, method, value, low, high))
    return lines


def _why_withheld(
    values: EpisodeValues, fitted: FittedQ, kind: int, resamples: Resamples, level: float, guards: Guards
) -> str:
    look = fitted.curve[-1]
    if not look.error[kind] <= guards.largest_error:
        return f"the held-out Bellman error is {look.error[kind]:.2f} standard deviations of Q"
    if _drift(fitted, kind, _half_width(values, resamples, level)) > guards.largest_drift:
        return "the value still changed when the steps were over: give more steps"
    return ""
