"""
What is done to a dataset before it is learnt from: small objects, given as ``transforms=[...]`` and saved with the model.
Rewards have objects of their own, see :mod:`sb3_genpolicy.common.transitions.rewards`; observations are normalised inside
the policy.
"""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from gymnasium import spaces

from sb3_genpolicy.common.transitions.episode_weights import episode_weights
from sb3_genpolicy.common.transitions.transitions import Transitions, count_fragments, label_of
from sb3_genpolicy.generative.checks import check_number, shown, with_named_options


@dataclass(frozen=True)
class Prepared:
    """
    A dataset, and what is to be learnt from it.

    :param data: the dataset
    :param learnt: (n_episodes,), whether an episode is learnt from
    :param held_out: (n_episodes,), whether losses are watched on it
    :param n_steps: steps of n-step returns
    :param drawn: (n_episodes,), how often rows of an episode are drawn, 0 for those that are not learnt from; None: alike
    """

    data: Transitions
    learnt: np.ndarray
    held_out: np.ndarray
    n_steps: int = 1
    drawn: np.ndarray | None = None


class ActionTransform(ABC):
    """
    Changes actions as they are read, before their bounds are checked.
    """

    @abstractmethod
    def __call__(self, actions: np.ndarray, space: spaces.Box) -> np.ndarray:
        """
        :param actions: (n_rows, \\*shape), as they were logged
        :param space: of the environment's actions
        :return: (n_rows, \\*shape), in the environment's units
        """


class DatasetTransform(ABC):
    """
    Chooses what is learnt from a dataset that was read.
    """

    @abstractmethod
    def __call__(self, prepared: Prepared) -> Prepared:
        """
        :param prepared: the dataset, as earlier transforms left it
        :return: the same, with what this one chose
        """


Transform = ActionTransform | DatasetTransform


@with_named_options
@dataclass(frozen=True)
class ClipActions(ActionTransform):
    """
    Clip logged actions to the bounds of the action space, as most environments did with them.
    """

    def __call__(self, actions: np.ndarray, space: spaces.Box) -> np.ndarray:
        clipped: np.ndarray = np.clip(actions, space.low, space.high)
        return clipped


@with_named_options
@dataclass(frozen=True)
class RescaleActions(ActionTransform):
    """
    Actions were logged in other units than the environment's: bring them linearly to the action space.

    :param low: what the action space's lower bound was logged as
    :param high: what its upper bound was logged as, > ``low``
    :raises ValueError: if it is not above ``low``
    """

    low: float | tuple[float, ...] = -1.0
    high: float | tuple[float, ...] = 1.0

    def __post_init__(self) -> None:
        if not np.all(np.asarray(self.high) > np.asarray(self.low)):
            raise ValueError(f"RescaleActions: high={self.high} has to be above low={self.low}.")

    def __call__(self, actions: np.ndarray, space: spaces.Box) -> np.ndarray:
        if not space.is_bounded():
            raise ValueError(
                f"RescaleActions needs bounds to bring actions to, but the action space is {space}: leave it out."
            )
        low, high = np.asarray(self.low, np.float32), np.asarray(self.high, np.float32)
        scaled: np.ndarray = space.low + (actions - low) / (high - low) * (space.high - space.low)
        return scaled


@with_named_options
@dataclass(frozen=True)
class BestEpisodes(DatasetTransform):
    """
    Keep the episodes of the highest returns, of those that are learnt from (with ``beta=0``: "percent behaviour cloning").

    :param share: share of the episodes, in (0, 1]; at least one is kept
    """

    share: float

    def __post_init__(self) -> None:
        check_number("BestEpisodes: share", self.share, low=0.0, high=1.0, low_open=True)

    def __call__(self, prepared: Prepared) -> Prepared:
        fragments = count_fragments(prepared.data)
        if fragments:
            warnings.warn(
                f"{label_of(prepared.data)}: BestEpisodes chooses by returns, but {fragments} of {prepared.data.n_episodes} "
                "episodes are single steps or cuts that were inferred: what is kept are single rewards. Give episodes whole, "
                "in their order, or leave it out.",
                stacklevel=2,
            )
        candidates = np.flatnonzero(prepared.learnt)
        n_kept = max(1, math.ceil(self.share * len(candidates) - 1e-9))
        returns = prepared.data.episode_returns()[candidates]
        kept = np.zeros_like(prepared.learnt)
        kept[candidates[np.argsort(-returns, kind="stable")[:n_kept]]] = True
        return replace(prepared, learnt=kept)


@with_named_options
@dataclass(frozen=True)
class WeightedEpisodes(DatasetTransform):
    """
    Draw the rows of an episode in proportion to ``exp(eta (G - V(s_0)))``: G is the episode's return, V what episodes that
    begin like it return in the mean, so that an easy start is no merit, and eta what gives the asked divergence from drawing
    all rows alike. Where several agents were logged, it is the better ones that are learnt from; no row is left out. (Weights
    of trajectories by their advantage: Hong et al., arXiv 2306.13085. Returns are of the rewards as they were logged.)

    Where weights would leave fewer than twenty episodes' worth (by Kish's effective number), as many are kept; with fewer
    than that in all, and where returns are all equal or episodes are single steps, all are drawn alike.

    :param kl: divergence of the rows as they are drawn from the rows as they are, in nats, > 0: 1 leaves about a third of the
        episodes in force, 0.5 a half
    """

    kl: float = 1.0

    def __post_init__(self) -> None:
        check_number("WeightedEpisodes: kl", self.kl, low=0.0, low_open=True)

    def __call__(self, prepared: Prepared) -> Prepared:
        fragments = count_fragments(prepared.data)
        if fragments:
            warnings.warn(
                f"{label_of(prepared.data)}: WeightedEpisodes weighs by returns, but {fragments} of "
                f"{prepared.data.n_episodes} episodes are single steps or cuts that were inferred: all rows are drawn alike. "
                "Give episodes whole, in their order, or leave it out.",
                stacklevel=2,
            )
        return replace(prepared, drawn=episode_weights(prepared.data, prepared.learnt, self.kl))


@with_named_options
@dataclass(frozen=True)
class HeldOutEpisodes(DatasetTransform):
    """
    Learn nothing from some episodes, drawn at random, and log on them the losses, and the correlation of the critics'
    advantage with what followed (``validation/...``).

    :param share: share of the episodes, in (0, 1); at least one is held out and at least one learnt from
    :param seed: of the draw; with one seed, the same episodes are held out in every run
    """

    share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        check_number("HeldOutEpisodes: share", self.share, low=0.0, high=1.0, low_open=True)

    def __call__(self, prepared: Prepared) -> Prepared:
        candidates = np.flatnonzero(prepared.learnt)
        if len(candidates) < 2:
            raise ValueError("HeldOutEpisodes needs a dataset of two episodes or more; this one has one.")
        n_held_out = min(max(1, round(self.share * len(candidates))), len(candidates) - 1)
        held_out = prepared.held_out.copy()
        held_out[np.random.default_rng(self.seed).choice(candidates, n_held_out, replace=False)] = True
        return replace(prepared, held_out=held_out, learnt=prepared.learnt & ~held_out)


@with_named_options
@dataclass(frozen=True)
class NStepReturns(DatasetTransform):
    """
    Critics learn from the rewards of several steps at once: news of a reward travels faster, at the price of a bias towards
    the behaviour policy. Fewer steps are summed where the episode ends before.

    :param n_steps: steps, >= 1
    """

    n_steps: int = 3

    def __post_init__(self) -> None:
        check_number("NStepReturns: n_steps", self.n_steps, low=1, whole=True)

    def __call__(self, prepared: Prepared) -> Prepared:
        return replace(prepared, n_steps=int(self.n_steps))


class LearningRows(NamedTuple):
    """
    :param data: the dataset, without episodes that nobody asks for (they stay where it is mapped from files)
    :param learnt: rows that are learnt from, None: all
    :param held_out: rows that losses are watched on
    :param n_steps: steps of n-step returns
    :param drawn: (n_episodes,), how often rows of an episode are drawn; None: alike
    :param matched: the same of the rows that the policy is matched to; None: as all others
    """

    data: Transitions
    learnt: np.ndarray | None
    held_out: np.ndarray
    n_steps: int
    drawn: np.ndarray | None
    matched: np.ndarray | None


def check_transforms(transforms: Sequence[Transform]) -> tuple[Transform, ...]:
    """
    :param transforms: as a user gave them
    :return: the same
    :raises TypeError: if one is none
    :raises ValueError: if there are two of a kind
    """
    if isinstance(transforms, Transform):
        raise TypeError(f"transforms= takes a list: transforms=[{transforms!r}].")
    if isinstance(transforms, str) or not isinstance(transforms, Sequence):
        raise TypeError(f"transforms= takes a list of transforms, not {shown(transforms)}.")
    for transform in transforms:
        if not isinstance(transform, Transform):
            known = [cls.__name__ for base in (ActionTransform, DatasetTransform) for cls in base.__subclasses__()]
            raise TypeError(
                f"transforms= holds {shown(transform)}, which is no transform. There are: {', '.join(sorted(known))}."
            )
    kinds = [type(transform) for transform in transforms]
    for kind in kinds:
        if kinds.count(kind) > 1:
            raise ValueError(f"transforms= holds {kind.__name__} twice: give it once.")
    return tuple(transforms)


def prepare(data: Transitions, transforms: Sequence[Transform], episode_kl: float = 0.0) -> LearningRows:
    """
    :param data: the dataset
    :param transforms: applied in their order; those of actions were applied when it was read
    :param episode_kl: divergence of the rows that the policy is matched to, drawn by the returns of their episodes, from the
        rows as they are, in nats; 0 for none, and nothing where :class:`WeightedEpisodes` says how all rows are drawn
    :return: what is learnt from
    """
    prepared = Prepared(data, np.ones(data.n_episodes, dtype=bool), np.zeros(data.n_episodes, dtype=bool))
    for transform in transforms:
        if isinstance(transform, DatasetTransform):
            prepared = transform(prepared)
    learnt, held_out, drawn, matched = prepared.learnt, prepared.held_out, prepared.drawn, None
    if episode_kl > 0.0 and not any(isinstance(transform, WeightedEpisodes) for transform in transforms):
        matched = episode_weights(data, learnt, episode_kl)
    if drawn is not None:
        # Transforms that follow may have chosen among them
        drawn = np.where(learnt, drawn, 0.0)
    wanted = learnt | held_out
    if not wanted.all() and not data.memory_mapped:
        data, learnt, held_out = data.select_episodes(wanted), learnt[wanted], held_out[wanted]
        drawn, matched = (None if each is None else each[wanted] for each in (drawn, matched))
    rows = None if learnt.all() else data.rows_of(learnt)
    return LearningRows(data, rows, data.rows_of(held_out), prepared.n_steps, drawn, matched)


def action_transforms(transforms: Sequence[Transform]) -> list[ActionTransform]:
    """
    :param transforms: transforms
    :return: those of actions
    """
    return [transform for transform in transforms if isinstance(transform, ActionTransform)]
