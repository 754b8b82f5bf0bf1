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
from sb3_genpolicy.common.transitions.transitions import Transitions, normalized_score
from sb3_genpolicy.common.utils import on_one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# An action counts as saturated within this share of its range of a bound
_SATURATED = 0.01
# Dimensions of actions whose numbers stand side by side, and below each other
_ON_A_LINE, _LISTED = 6, 60
# Spaces that take more letters are told in short
_LONGEST_SPACE = 90
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
    :param saturation: (action_dim,), share of the actions that lie within 1 % of a bound; NaN where there are none
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

    @property
    def bounded(self) -> np.ndarray:
        """
        :return: (action_dim,), whether actions have both bounds
        """
        return _bounded(self.action_space)

    @property
    def drawn_range(self) -> np.ndarray:
        """
        :return: (2, action_dim), the bounds of the actions; where there are none, the least and the largest of the data
        """
        bounds = np.stack([self.action_space.low.reshape(-1), self.action_space.high.reshape(-1)]).astype(np.float64)
        low, high = np.where(self.bounded, bounds, self.action_range)
        # All of them the same: in the middle
        same = high <= low
        return np.stack([low - same, high + same])

    def __str__(self) -> str:
        lines = self.lines()
        width = max(map(len, lines)) + 2
        return "\n".join(f"{key:<{width}}" + value.replace("\n", "\n" + width * " ") for key, value in lines.items())

    def lines(self) -> dict[str, str]:
        """
        :return: what is told of it -> in words
        """
        n_terminated = int(self.terminated.sum())
        least, mean, largest = self.reward_range
        best = int(self.returns.argmax())
        return {
            "name": self.name or "none",
            "environment": self.env_id or "not said",
            "observations": _in_short(self.observation_space),
            "actions": _in_short(self.action_space),
            "steps": f"{self.n_steps:,} ({self.nbytes / 1e6:,.1f} MB)",
            "episodes": f"{self.n_episodes:,}: {n_terminated:,} ended by the environment, "
            f"{self.n_episodes - n_terminated:,} cut off",
            "lengths": _summary(self.lengths, ".0f"),
            "returns": f"{_summary(self.returns, '.2f')}; best: episode {best}",
            "scores": self._score_line(),
            "rewards": f"mean {mean:.4g}, from {least:.4g} to {largest:.4g}",
            **self._action_lines(),
        }

    def _action_lines(self) -> dict[str, str]:
        ranges = [f"{low:.3g} to {high:.3g}" for low, high in self.action_range.T]
        shares = ["no bounds" if np.isnan(share) else f"{share:.1%}" for share in self.saturation]
        if len(ranges) <= _ON_A_LINE:
            saturation = ", ".join(shares) + " of the actions lie at a bound"
            return {"action range": ", ".join(ranges), "saturation": saturation if self.bounded.any() else "no bounds"}
        rows = list(zip(map(str, range(len(ranges))), ranges, shares, strict=True))
        table = _aligned([("dimension", "range", "at a bound"), *rows[:_LISTED]])
        if len(rows) > _LISTED:
            least, largest = self.action_range[:, _LISTED:]
            table += f"\n... {len(rows) - _LISTED} more, from {least.min():.3g} to {largest.max():.3g}"
        return {"action range": table}

    def _score_line(self) -> str:
        if self.scores is None or self.reference_scores is None:
            return "no reference scores"
        low, high = self.reference_scores
        return f"{_summary(self.scores, '.1f')} (0: return {low:.6g}, 100: return {high:.6g})"

    def figure(self) -> "Figure":
        """
        :return: one figure of returns, lengths, rewards and actions
        """
        from sb3_genpolicy.common.datasets.picture import draw

        return draw(self)

    def figures(self) -> "list[Figure]":
        """
        :return: its panels, a figure each, for pages on which they stand one below the other
        """
        from sb3_genpolicy.common.datasets.picture import draw_apart

        return draw_apart(self)

    def save_picture(self, path: str | Path) -> None:
        """
        :param path: file to write the figure to; its ending says in which format (``.png``, ``.pdf``, ``.svg``). Its folder is
            made if it is not there.
        :raises ValueError: if its ending is of no format, or nothing can be written there
        """
        from sb3_genpolicy.common.datasets.picture import check_picture_path

        path = check_picture_path(path)
        self.figure().savefig(path, format=path.suffix[1:].lower())


def _summary(values: np.ndarray, form: str) -> str:
    mean, spread, least, most = (format(value, form) for value in (values.mean(), values.std(), values.min(), values.max()))
    return f"mean {mean} +/- {spread}, from {least} to {most}"


def _aligned(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)


def _in_short(space: spaces.Space) -> str:
    if isinstance(space, spaces.Dict):
        return "\n".join(f"{key}: {_in_short(part)}" for key, part in space.spaces.items())
    text = on_one_line(space)
    if len(text) <= _LONGEST_SPACE:
        return text
    bounds = f", bounds from {space.low.min():.4g} to {space.high.max():.4g}" if isinstance(space, spaces.Box) else ""
    return f"{type(space).__name__} of shape {space.shape}, {space.dtype}{bounds}"


def _bounded(space: spaces.Box) -> np.ndarray:
    return (np.isfinite(space.low) & np.isfinite(space.high)).reshape(-1)


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
    bounded = _bounded(data.action_space)
    low, high = (bound.reshape(-1).astype(np.float64) for bound in (data.action_space.low, data.action_space.high))
    margin = _SATURATED * np.where(bounded, high - np.where(bounded, low, 0.0), 0.0)
    least, largest, saturated = np.full_like(low, np.inf), np.full_like(low, -np.inf), np.zeros(len(low))
    for rows in slices(data.n_rows):
        actions = data.actions[rows].reshape(-1, len(low))
        least, largest = np.minimum(least, actions.min(axis=0)), np.maximum(largest, actions.max(axis=0))
        saturated += ((actions <= low + margin) | (actions >= high - margin)).sum(axis=0)
    return np.stack([least, largest]), np.where(bounded, saturated / data.n_rows, np.nan)
