"""
One verdict in words, and why.
"""

from dataclasses import dataclass

from sb3_genpolicy.generative.checks import check_number, with_named_options

#: What can be said of a policy beside what acts now
BETTER, ALIKE, WORSE, UNKNOWN = "better", "not distinguishable", "worse", "cannot be told"


@with_named_options
@dataclass(frozen=True)
class Guards:
    """
    What an evaluation has to pass, lest it says that it cannot tell.

    :param fewest_episodes: number of episodes of which the difference has to be a mean, >= 0
    :param largest_error: of the held-out Bellman error, in standard deviations of what Q should be. Chance in rewards and
        steps is a part of it, so that it is not 0 where Q is right
    :param largest_outside: share of the policy's actions beyond the rim of the data, in [0, 1]
    :param largest_beyond: share of the discounted value that is earned after a first such action, in [0, 1]
    :param largest_disagreement: how many times as much the networks may disagree about the policy's actions as about the
        logged, >= 0
    :param largest_drift: by how much the value still changed in the last quarter of the steps, in half widths of its interval
    :param fewest_effective: effective number of episodes below which importance sampling is withheld
    """

    fewest_episodes: int = 10
    largest_error: float = 0.8
    largest_outside: float = 0.2
    largest_beyond: float = 0.5
    largest_disagreement: float = 3.0
    largest_drift: float = 1.0
    fewest_effective: float = 10.0

    def __post_init__(self) -> None:
        for name in ("fewest_episodes", "largest_error", "largest_disagreement", "largest_drift", "fewest_effective"):
            check_number(name, getattr(self, name), low=0.0)
        for name in ("largest_outside", "largest_beyond"):
            check_number(name, getattr(self, name), low=0.0, high=1.0)


@dataclass(frozen=True)
class Verdict:
    """
    :param word: ``better``, ``not distinguishable``, ``worse`` or ``cannot be told``
    :param reasons: why, in words
    """

    word: str
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.word}: {'; '.join(self.reasons)}"


@dataclass(frozen=True)
class Evidence:
    """
    What a verdict rests on.

    :param difference: interval of the policy's value beyond the behaviour's
    :param level: the probability that the interval has
    :param n_episodes: episodes
    :param error: held-out Bellman error, in standard deviations
    :param disagreement: how many times as much networks disagree about the policy's actions as about the logged
    :param outside: share of the policy's actions beyond the rim of the data
    :param beyond: share of the value that is earned after a first of these
    :param drift: change in the last quarter of the steps, in half widths of the interval
    """

    difference: tuple[float, float]
    level: float
    n_episodes: int
    error: float
    disagreement: float
    outside: float
    beyond: float
    drift: float


def doubts(evidence: Evidence, guards: Guards) -> list[str]:
    """
    :param evidence: what was found
    :param guards: what it has to pass
    :return: what it does not pass, in words
    """
    found = []
    if evidence.n_episodes < guards.fewest_episodes:
        found.append(f"{evidence.n_episodes} episodes are fewer than {guards.fewest_episodes}")
    if not evidence.error <= guards.largest_error:
        found.append(
            f"the held-out Bellman error is {evidence.error:.2f} standard deviations of Q, more than {guards.largest_error:g}"
        )
    if not evidence.outside <= guards.largest_outside:
        found.append(
            f"{evidence.outside:.0%} of the policy's actions are where hardly any were logged, more than "
            f"{guards.largest_outside:.0%}"
        )
    elif not evidence.beyond <= guards.largest_beyond:
        found.append(
            f"{evidence.beyond:.0%} of its value is earned after a first action where hardly any were logged, more than "
            f"{guards.largest_beyond:.0%}"
        )
    if not evidence.disagreement <= guards.largest_disagreement:
        found.append(
            f"the networks disagree {evidence.disagreement:.1f} times as much about the policy's actions as about the logged "
            f"ones, more than {guards.largest_disagreement:g} times"
        )
    if not evidence.drift <= guards.largest_drift:
        found.append("the value still changed when the steps were over: give more steps")
    return found


def judge(evidence: Evidence, guards: Guards) -> Verdict:
    """
    :param evidence: what was found
    :param guards: what it has to pass
    :return: the verdict
    """
    against = doubts(evidence, guards)
    if against:
        return Verdict(UNKNOWN, tuple(against))
    low, high = evidence.difference
    about = f"the {evidence.level:.0%} interval of the difference, {low:.4g} to {high:.4g},"
    if low > 0.0:
        return Verdict(BETTER, (f"{about} is above 0",))
    if high < 0.0:
        return Verdict(WORSE, (f"{about} is below 0",))
    return Verdict(ALIKE, (f"{about} contains 0",))
