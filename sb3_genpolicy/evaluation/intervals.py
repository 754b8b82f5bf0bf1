"""
Intervals: of means over episodes, of what networks that saw other episodes disagree on, and of what two ways to an estimate
disagree on.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Resamples:
    """
    One set of resamples, shared by all that is compared.

    :param weights: how often each episode is drawn, divided by their number, (n_resamples, n_episodes)
    :param members: normal draws for the networks' disagreement, (n_resamples, n_members)
    :param gaps: normal draws for the estimates' disagreement, (n_resamples,)
    """

    weights: np.ndarray
    members: np.ndarray
    gaps: np.ndarray

    @classmethod
    def draw(cls, n_resamples: int, n_episodes: int, n_members: int, seed: int) -> "Resamples":
        """
        :param n_resamples: how many
        :param n_episodes: episodes that are resampled
        :param n_members: networks
        :param seed: of the draw
        :return: resamples
        """
        random = np.random.default_rng(seed)
        counts = random.multinomial(n_episodes, np.full(n_episodes, 1.0 / n_episodes), n_resamples)
        # Student's t of few networks: their spread is itself an estimate
        freedom = n_members - 1
        spread = np.sqrt(random.chisquare(freedom, (n_resamples, 1)) / freedom)
        members = random.normal(size=(n_resamples, n_members)) / spread
        return cls(counts / n_episodes, members, random.normal(size=n_resamples))

    def of(self, of_episodes: np.ndarray, gap: float = 0.0) -> np.ndarray:
        """
        :param of_episodes: an estimate by each network of each episode, (n_members, n_episodes)
        :param gap: how far another estimate of the same is from it
        :return: resampled means, (n_resamples,)
        """
        n_members, n_episodes = of_episodes.shape
        mean = of_episodes.mean(axis=0)
        centre = mean.mean()
        # A resample of n has (n - 1) / n of the variance
        drawn = (self.weights @ mean - centre) * np.sqrt(n_episodes / max(1, n_episodes - 1))
        deviations = of_episodes.mean(axis=1) - centre
        return centre + drawn + self.members @ deviations / np.sqrt(n_members - 1) + gap * self.gaps


def interval(samples: np.ndarray, level: float) -> tuple[float, float]:
    """
    :param samples: resampled means, (n_resamples,)
    :param level: probability that the interval has, in (0, 1)
    :return: its ends
    """
    low, high = np.quantile(samples, [0.5 - 0.5 * level, 0.5 + 0.5 * level])
    return float(low), float(high)
