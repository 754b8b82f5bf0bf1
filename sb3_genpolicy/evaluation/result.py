"""
What an evaluation says, as a table, in words and as a picture.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sb3_genpolicy.common.transitions.transitions import normalized_score
from sb3_genpolicy.evaluation.caution import Caution
from sb3_genpolicy.evaluation.fitted_q import Look
from sb3_genpolicy.evaluation.support import Support
from sb3_genpolicy.evaluation.values import EpisodeValues
from sb3_genpolicy.evaluation.verdict import Verdict

if TYPE_CHECKING:
    from pandas import DataFrame

#: What is estimated, by the number of its kind
KINDS = ("discounted", "undiscounted")


class Estimate(NamedTuple):
    """
    A line of the table.

    :param kind: ``discounted`` or ``undiscounted``
    :param of: ``policy``, ``behaviour`` or ``difference``
    :param method: how it was estimated
    :param value: in the environment's units; None where it is withheld
    :param low: lower end of its interval
    :param high: upper end of its interval
    :param withheld: why it is withheld, or its interval is, in words; empty where it is not
    """

    kind: str
    of: str
    method: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    withheld: str = ""


@dataclass(frozen=True, eq=False)
class OfflineEvaluation:
    """
    :param policy: what is evaluated, in words
    :param dataset: by what
    :param gamma: discount factor, in [0, 1)
    :param level: the probability that intervals have
    :param n_rows: rows that judged
    :param n_episodes: episodes that judged
    :param estimates: the table's lines
    :param verdict: in words
    :param support: where the policy's actions lie
    :param error: held-out Bellman error, in standard deviations of Q
    :param disagreement: how many times as much networks disagree about the policy's actions as about the logged ones
    :param curve: of fitted Q evaluation
    :param stopped: why it stopped
    :param reference_scores: returns that count as normalised scores of 0 and 100
    :param values: kind -> values of each episode by each network
    :param cautions: kind -> how much of the value lies beyond the data, and what that may cost
    """

    policy: str
    dataset: str
    gamma: float
    level: float
    n_rows: int
    n_episodes: int
    estimates: list[Estimate]
    verdict: Verdict
    support: Support
    error: float
    disagreement: float
    curve: list[Look]
    stopped: str
    reference_scores: tuple[float, float] | None
    values: Mapping[str, EpisodeValues] = field(repr=False)
    cautions: Mapping[str, Caution]

    @property
    def cautious_value(self) -> float:
        """
        :return: the discounted value if all that lies beyond the data is as bad as the worst that was logged, by which
            policies are put in order
        """
        return float(self.estimate().value or 0.0) - self.cautions[KINDS[0]].shortfall

    def estimate(self, kind: str = "discounted", of: str = "policy", method: str = "fitted Q") -> Estimate:
        """
        :param kind: ``discounted`` or ``undiscounted``
        :param of: ``policy``, ``behaviour`` or ``difference``
        :param method: as in the table
        :return: the line of the table
        :raises KeyError: if there is none
        """
        for line in self.estimates:
            if (line.kind, line.of, line.method) == (kind, of, method):
                return line
        raise KeyError((kind, of, method))

    def score(self, value: float | None, of: str = "policy") -> float | None:
        """
        :param value: an undiscounted one
        :param of: of a ``difference`` the zero is not shifted
        :return: the normalised score; None where nobody says what counts as 0 and 100
        """
        if value is None or self.reference_scores is None:
            return None
        low, high = self.reference_scores
        return 100.0 * value / (high - low) if of == "difference" else float(normalized_score(value, (low, high)))

    def to_frame(self) -> "DataFrame":
        """
        :return: a row for each estimate; scores are of undiscounted ones
        """
        import pandas as pd

        rows = []
        for line in self.estimates:
            is_total = line.kind == KINDS[1]
            scores = [self.score(each, line.of) if is_total else None for each in (line.value, line.low, line.high)]
            rows.append({**line._asdict(), **dict(zip(("score", "score_low", "score_high"), scores, strict=True))})
        return pd.DataFrame(rows)

    def __str__(self) -> str:
        lines = [
            f"{self.policy} by {self.n_episodes} episodes ({self.n_rows} steps) of {self.dataset}",
            f"  {self.verdict}",
        ]
        for line in self.estimates:
            lines.append("  " + self._in_words(line))
        support = self.support
        apart = "no density" if support.kl is None else f"{support.kl:.2f} nats from the behaviour"
        lines.append(
            f"  {support.outside:.0%} of its actions beyond the rim of the data (1% of those logged), mean quantile of "
            f"density {support.quantile:.2f}, {apart}"
        )
        careful = self.cautions[KINDS[0]]
        if careful.shortfall > 0.0:
            lines.append(
                f"  {careful.beyond:.0%} of its discounted value is earned after a first of these: with the "
                f"worst that was logged in its place it is {self.cautious_value:.4g}"
            )
        lines.append(
            f"  held-out Bellman error {self.error:.2f} standard deviations, disagreement {self.disagreement:.1f} times that "
            f"about logged actions, stopped {self.stopped}"
        )
        return "\n".join(lines)

    def _in_words(self, line: Estimate) -> str:
        kind = f"{line.kind} ({self.gamma:g})" if line.kind == KINDS[0] else line.kind
        words = f"{kind:19} {line.of:10} {line.method:26} "
        if line.value is None:
            return f"{words}withheld: {line.withheld}"
        words += f"{line.value:10.4g}"
        if line.low is not None and line.high is not None:
            words += f"  [{line.low:.4g}, {line.high:.4g}]"
        score = self.score(line.value, line.of) if line.kind == KINDS[1] else None
        if score is not None:
            words += f"  score {score:.1f}"
        return words + (f"  ({line.withheld})" if line.withheld else "")

    def picture(self, path: str | Path) -> Path:
        """
        Draw values with their intervals, and the learning curve.

        :param path: the file, whose ending says the format
        :return: the same
        :raises ValueError: if nothing can be written there
        """
        from sb3_genpolicy.evaluation.picture import draw_evaluation

        return draw_evaluation(self, path)
