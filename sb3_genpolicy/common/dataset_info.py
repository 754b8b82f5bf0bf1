"""
What a dataset holds, in words and as a picture.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from sb3_genpolicy.common.datasets import DatasetSource, load_dataset
from sb3_genpolicy.common.datasets.columns import slices
from sb3_genpolicy.common.transitions import Transitions, normalized_score

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# An action counts as saturated within this share of its range of a bound
_SATURATED = 0.01
# Rows that a picture is drawn of
_DRAWN_ROWS = 200_000


@dataclass(frozen=True, eq=False)
class DatasetInfo:
    """
    What a dataset holds.

    :param name: the name that it can be loaded by again, if any
    :param env_id: the id of the environment that it came from, if known
    :param observation_space: space of the observations
    :param action_space: space of the actions
    :param n_steps: number of transitions
    :param nbytes: bytes that it takes
    :param returns: (n_episodes,), undiscounted returns
    :param lengths: (n_episodes,), steps
    :param terminated: (n_episodes,), whether nothing is earned after the episode's last step, else it was cut off
    :param reference_scores: returns that count as normalised scores of 0 and 100, if known
    :param reward_range: least, mean and largest reward
    :param action_range: (2, action_dim), least and largest action in each dimension
    :param saturation: (action_dim,), share of the actions that lie within 1 % of a bound
    :param drawn_actions: (n, action_dim), evenly spaced actions, for the picture
    :param drawn_rewards: (n,), their rewards
    """

    name: str | None
    env_id: str | None
    observation_space: spaces.Space
    action_space: spaces.Box
    n_steps: int
    nbytes: int
    returns: np.ndarray
    lengths: np.ndarray
    terminated: np.ndarray
    reference_scores: tuple[float, float] | None
    reward_range: tuple[float, float, float]
    action_range: np.ndarray
    saturation: np.ndarray
    drawn_actions: np.ndarray
    drawn_rewards: np.ndarray

    @property
    def n_episodes(self) -> int:
        return len(self.returns)

    @property
    def scores(self) -> np.ndarray | None:
        """
        :return: (n_episodes,), normalised scores, None without reference scores
        """
        return None if self.reference_scores is None else normalized_score(self.returns, self.reference_scores)

    def __str__(self) -> str:
        n_terminated = int(self.terminated.sum())
        least, mean, largest = self.reward_range
        best = int(self.returns.argmax())
        lines = {
            "name": self.name or "none",
            "environment": self.env_id or "not said",
            "observations": str(self.observation_space),
            "actions": str(self.action_space),
            "steps": f"{self.n_steps:,} ({self.nbytes / 1e6:,.1f} MB)",
            "episodes": f"{self.n_episodes:,}: {n_terminated:,} ended by the environment, "
            f"{self.n_episodes - n_terminated:,} cut off",
            "lengths": _summary(self.lengths, ".0f"),
            "returns": f"{_summary(self.returns, '.2f')}; best: episode {best}",
            "scores": self._score_line(),
            "rewards": f"mean {mean:.4g}, from {least:.4g} to {largest:.4g}",
            "action range": ", ".join(f"{low:.3g} to {high:.3g}" for low, high in self.action_range.T),
            "saturation": ", ".join(f"{share:.1%}" for share in self.saturation) + " of the actions lie at a bound",
        }
        width = max(map(len, lines))
        return "\n".join(f"{key:<{width}}  {value}" for key, value in lines.items())

    def _score_line(self) -> str:
        if self.scores is None or self.reference_scores is None:
            return "no reference scores"
        low, high = self.reference_scores
        return f"{_summary(self.scores, '.1f')} (0: return {low:.6g}, 100: return {high:.6g})"

    def figure(self) -> "Figure":
        """
        :return: one figure of returns, lengths, rewards and actions
        """
        from sb3_genpolicy.common.dataset_picture import draw

        return draw(self)

    def save_picture(self, path: str | Path) -> None:
        """
        :param path: file to write the figure to; its ending says in which format (``.png``, ``.pdf``, ``.svg``)
        """
        self.figure().savefig(path)


def _summary(values: np.ndarray, form: str) -> str:
    mean, spread, least, most = (format(value, form) for value in (values.mean(), values.std(), values.min(), values.max()))
    return f"mean {mean} +/- {spread}, from {least} to {most}"


def dataset_info(source: DatasetSource) -> DatasetInfo:
    """
    Look at a dataset before learning from it.

    :param source: what :func:`~sb3_genpolicy.common.datasets.load_dataset` takes, or what it gave
    :return: episodes, steps, returns, lengths, terminations, actions, rewards and scores; ``print`` it for the text
    :raises ValueError: as ``load_dataset`` does
    """
    data = load_dataset(source)
    starts = data.episode_starts
    drawn = np.linspace(0, data.n_rows - 1, min(data.n_rows, _DRAWN_ROWS)).astype(int)
    action_range, saturation = _actions(data)
    rewards = data.rewards
    return DatasetInfo(
        name=data.name,
        env_id=data.env_id,
        observation_space=data.observation_space,
        action_space=data.action_space,
        n_steps=data.n_rows,
        nbytes=data.nbytes,
        returns=data.episode_returns(),
        lengths=np.diff(starts),
        terminated=np.asarray(data.terminals[starts[1:] - 1] > 0),
        reference_scores=data.reference_scores,
        reward_range=(float(rewards.min()), float(rewards.mean(dtype=np.float64)), float(rewards.max())),
        action_range=action_range,
        saturation=saturation,
        drawn_actions=np.asarray(data.actions[drawn]).reshape(len(drawn), -1),
        drawn_rewards=np.asarray(rewards[drawn]),
    )


def _actions(data: Transitions) -> tuple[Any, Any]:
    low, high = data.action_space.low.reshape(-1), data.action_space.high.reshape(-1)
    margin = _SATURATED * (high - low)
    least, largest, saturated = np.full_like(low, np.inf), np.full_like(low, -np.inf), np.zeros(len(low))
    for rows in slices(data.n_rows):
        actions = data.actions[rows].reshape(-1, len(low))
        least, largest = np.minimum(least, actions.min(axis=0)), np.maximum(largest, actions.max(axis=0))
        saturated += ((actions <= low + margin) | (actions >= high - margin)).sum(axis=0)
    return np.stack([least, largest]), saturated / data.n_rows
