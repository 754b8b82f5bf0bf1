"""
Which policy to try next, where a few real episodes are allowed.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sb3_genpolicy.evaluation.choose import PolicyChoice
from sb3_genpolicy.evaluation.verdict import UNKNOWN
from sb3_genpolicy.generative.checks import check_choice, check_number, named_options

if TYPE_CHECKING:
    from pandas import DataFrame

# Draws by which probabilities are estimated
_DRAWS = 4_000
# So often the runner-up is tried in place of the one that was drawn as the best
_RUNNER_UP = 0.5
# Doubts about an offline estimate that its interval does not have: it counts as so many times as wide
_DOUBT = 2.0


class Belief(NamedTuple):
    """
    What is believed of a policy's mean return.

    :param mean: of the normal distribution
    :param deviation: its standard deviation
    :param episodes: that were tried
    """

    mean: float
    deviation: float
    episodes: int


class PolicyBandit:
    """
    A few real episodes among several policies: top-two Thompson sampling (Russo, 2016), which finds the best with few
    episodes, from the offline estimates as a prior.

    ::

        bandit = PolicyBandit.from_choice(choose_policy(models, dataset))
        for _ in range(20):
            name = bandit.next()
            bandit.record(name, return_of_an_episode(models[name]))
        print(bandit.to_frame())

    :param means: name -> what is expected of its return before anything was tried
    :param deviations: name -> standard deviation of that
    :param noise: standard deviation of the return of one episode about its policy's mean, > 0; it is only the beginning, what
        is seen takes over
    :param seed: of its draws, a whole number >= 0
    :raises ValueError: if policies or numbers do not fit together, or are out of range
    """

    @named_options
    def __init__(self, means: Mapping[str, float], deviations: Mapping[str, float], noise: float, seed: int = 0):
        check_number("noise", noise, low=0.0, low_open=True)
        if not means or set(means) != set(deviations):
            raise ValueError("means and deviations have to name the same policies, one or more.")
        for name, deviation in deviations.items():
            check_number(f"deviations['{name}']", deviation, low=0.0, low_open=True)
        self.names = list(means)
        self._means, self._deviations = dict(means), dict(deviations)
        self._noise = noise
        #: name -> returns of its episodes so far
        self.returns: dict[str, list[float]] = {name: [] for name in self.names}
        self._random = np.random.default_rng(seed)

    @classmethod
    def from_choice(cls, choice: PolicyChoice, seed: int = 0) -> "PolicyBandit":
        """
        :param choice: policies that were evaluated; undiscounted values have to be known of one at least
        :param seed: of the draws, a whole number >= 0
        :return: a bandit that begins with these estimates. Of policies of which nothing can be told it expects what the
            behaviour earns, give or take all that there is between the policies.
        :raises ValueError: if time limits are not known, so that no return of an episode is
        """
        own, noise, logged = {}, 1.0, 0.0
        for name, found in choice.evaluations.items():
            line = found.estimate("undiscounted")
            behaviour = found.estimate("undiscounted", "behaviour", "logged returns")
            logged = float(behaviour.value or 0.0)
            if line.value is None or line.low is None or line.high is None or found.verdict.word == UNKNOWN:
                continue
            returns = found.values["undiscounted"].behaviour.mean(axis=0)
            noise = max(float(returns.std()), 1e-6)
            own[name] = line.value, max(0.5 * _DOUBT * (line.high - line.low) / 1.645, 1e-3 * noise)
        if not own:
            raise ValueError(
                "There is no offline estimate of the return of an episode to begin with: give PolicyBandit(means=..., "
                "deviations=..., noise=...) yourself."
            )
        among = [value for value, _ in own.values()]
        vague = logged, max(noise, float(np.ptp([*among, logged])))
        beliefs = {name: own.get(name, vague) for name in choice.evaluations}
        return cls({k: v[0] for k, v in beliefs.items()}, {k: v[1] for k, v in beliefs.items()}, noise, seed)

    @property
    def noise(self) -> float:
        """Standard deviation of one episode's return: the given one counts as two episodes, and what was seen besides."""
        squares, freedom = 2.0 * self._noise**2, 2.0
        for returns in self.returns.values():
            if len(returns) > 1:
                squares += float(np.var(returns) * len(returns))
                freedom += len(returns) - 1
        return math.sqrt(squares / freedom)

    def belief(self, name: str) -> Belief:
        """
        :param name: of a policy
        :return: what is believed of its mean return
        :raises ValueError: if there is no such policy
        """
        check_choice("name", name, self.names)
        returns = self.returns[name]
        precision, of_one = self._deviations[name] ** -2, self.noise**-2
        total = precision + len(returns) * of_one
        mean = (precision * self._means[name] + of_one * sum(returns)) / total
        return Belief(mean, total**-0.5, len(returns))

    def next(self) -> str:
        """
        :return: which policy to try now
        """
        first = self._names_by_draws(1)[0]
        if len(self.names) == 1 or self._random.random() >= _RUNNER_UP:
            return first
        for name in self._names_by_draws(100):
            if name != first:
                return name
        others = [name for name in self.names if name != first]
        return max(others, key=lambda name: self.belief(name).mean + self.belief(name).deviation)

    def record(self, name: str, episode_return: float) -> None:
        """
        :param name: of the policy that acted
        :param episode_return: undiscounted return of its episode
        :raises ValueError: if there is no such policy, or the return is not finite
        """
        check_choice("name", name, self.names)
        if not math.isfinite(episode_return):
            raise ValueError(f"The return of an episode of '{name}' is not finite: {episode_return}.")
        self.returns[name].append(float(episode_return))

    @property
    def best(self) -> str:
        """The policy of the highest expected return, by all that is known."""
        return max(self.names, key=lambda name: self.belief(name).mean)

    def to_frame(self) -> "DataFrame":
        """
        :return: a row for each policy, the best first: mean, standard deviation, episodes, probability that it is the best
        """
        import pandas as pd

        drawn = self._names_by_draws(_DRAWS)
        rows = [
            {"policy": name, **self.belief(name)._asdict(), "probability": drawn.count(name) / len(drawn)}
            for name in self.names
        ]
        return pd.DataFrame(rows).sort_values("mean", ascending=False, ignore_index=True)

    def _names_by_draws(self, n_draws: int) -> list[str]:
        beliefs = [self.belief(name) for name in self.names]
        means, deviations = ([getattr(belief, part) for belief in beliefs] for part in ("mean", "deviation"))
        drawn = self._random.normal(means, deviations, (n_draws, len(beliefs)))
        return [self.names[number] for number in drawn.argmax(axis=1)]
