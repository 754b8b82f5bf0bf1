"""
Recorded rows that are not steps, but resets: some vector environments record a row for the reset between two episodes.
"""

import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from sb3_genpolicy.common.datasets.arrays import ArrayWriter, MemoryWriter
from sb3_genpolicy.common.datasets.columns import slices
from sb3_genpolicy.common.transitions.transitions import Transitions
from sb3_genpolicy.common.utils import tree_items

_AFTER = (
    "are resets of a vector environment and no steps: each starts at the last observation of the episode before, earns "
    "nothing and leads to the first observation of the next"
)
_LED_TO = (
    "end episodes that were cut off but lead to the first observation of the next one, as where a vector environment resets "
    "in the same step, so that nobody knows what they led to"
)
# Rows are taken for resets if steps would look like this with less than this probability
_CHANCE = 1e-3
# A step is a leap if at most this share of all other steps goes as far
_LEAP, _LEAP_OF_UNPAID = 0.1, 0.2
# At least this share of the rows in question has to look like a reset. A reward of 0 counts as rare if at most this share of
# all other rows has it
_NEARLY_ALL, _RARE = 0.9, 0.2
# Without exact next observations, a row counts as starting at the end of the episode before within so many times the length
# that nearly all steps stay below
_NEARBY = 1.5
# Smallest unit by which changes of an entry are measured, as a share of its standard deviation
_STILL = 0.01
# Number of steps that others are compared to, at most, and of numbers that may be held for them
_COMPARED, _NUMBERS = 4000, 2**22


def without_resets(data: Transitions, label: str, where: Callable[[int], str], writer: ArrayWriter) -> Transitions:
    """
    Leave out rows that a vector environment's reset left among the steps:

    - resets in the step after an episode's end (gymnasium's ``NEXT_STEP``): the first row of the next episode starts at the
      last observation of the one before, earns nothing and leads to the observation after the reset;
    - resets in the same step, whose last observation was not recorded (``SAME_STEP`` without ``final_obs``): the last row of
      an episode leads to the first observation of the next. After a terminal step it is never used; where the episode was
      truncated, that row is left out.

    :param data: what was read
    :param label: what the source is called
    :param where: from a row to words
    :param writer: where its arrays are
    :return: the same where there are none
    :raises ValueError: if there are such rows on a disk, where they stay
    """
    look = _Look(data)
    rows, what = look.resets_after_ends(), _AFTER
    if not len(rows):
        rows, what = look.cuts_that_lead_to_resets(), _LED_TO
    if not len(rows):
        return data
    found = f"{label}: {len(rows)} rows, first {where(int(rows[0]))}, {what}"
    if not isinstance(writer, MemoryWriter):
        raise ValueError(
            f"{found}. On a disk they cannot be left out: load with memory_map=False, or write the data without them."
        )
    warnings.warn(f"{found}. They are left out.", stacklevel=2)
    kept = np.ones(data.n_rows, dtype=bool)
    kept[rows] = False
    return replace(data.select_rows(np.flatnonzero(kept)), name=data.name)


class _Look:
    """Finds resets among the rows at the boundaries of episodes."""

    def __init__(self, data: Transitions):
        self.data = data
        #: Last rows of episodes that another follows
        self.last = np.flatnonzero(data.ends[:-1])
        self.linked = self._linked()
        self._compared: _Steps | None = None

    @property
    def steps(self) -> "_Steps":
        if self._compared is None:
            inside = np.ones(self.data.n_rows, dtype=bool)
            inside[self.last] = inside[self.last + 1] = inside[-1] = False
            self._compared = _Steps(self.data, np.flatnonzero(inside))
        return self._compared

    def _linked(self) -> np.ndarray:
        """Whether the first observation of the next episode equals the next observation of the last step, for each end."""
        data, same = self.data, np.ones(len(self.last), dtype=bool)
        for part in slices(len(self.last), 2**12):
            end = self.last[part]
            for _, array in tree_items(data.states, ""):
                same[part] &= (array[data.next_rows[end]] == array[end + 1]).reshape(len(end), -1).all(axis=1)
        return same

    def resets_after_ends(self) -> np.ndarray:
        """
        :return: rows that are resets in the step after an episode's end
        """
        rows = self.last[self.linked] + 1
        if len(rows) and self._are_resets(rows, exactly=True):
            return rows
        # Without next observations, or with rounded ones, a reset's row starts only near the end of the episode before
        rows = self.last[~self.linked] + 1
        if len(rows) < 3 or self.data.rewards[0] == 0 or not (self.data.rewards[rows] == 0).any() or not self.steps.usable:
            return rows[:0]
        near = self.steps.lengths(self.data.next_rows[rows - 1], rows) <= _NEARBY * np.quantile(self.steps.compared, 0.95)
        if near.sum() < 3 or not self._are_resets(rows[near], exactly=False):
            return rows[:0]
        # Rows with a reward of 0 whose episode ended with a long last step are resets too, though they start far from its end
        return rows[self.data.rewards[rows] == 0]

    def _are_resets(self, rows: np.ndarray, exactly: bool) -> bool:
        data = self.data
        goes_on = np.zeros(data.n_rows, dtype=bool)
        goes_on[self.last[self.linked]] = True
        alike = (data.rewards[rows] == 0) & (data.terminals[rows] == 0) & ~goes_on[rows]
        if alike.mean() < _NEARLY_ALL or not self.steps.usable:
            return False
        others = data.n_rows - len(rows)
        unpaid = (int((data.rewards == 0).sum()) - int((data.rewards[rows] == 0).sum()) + 1) / (others + 2)
        by_chance = unpaid ** int(alike.sum())
        leap = self.steps.chance_of_leaps(rows[alike], _LEAP_OF_UNPAID if unpaid <= _RARE else _LEAP)
        if leap is not None:
            return by_chance * leap < _CHANCE and (exactly or unpaid <= _RARE)
        # If even ordinary steps lead far away, leaps are no evidence
        return exactly and unpaid <= _RARE and by_chance < _CHANCE and not self.steps.smooth

    def cuts_that_lead_to_resets(self) -> np.ndarray:
        """
        :return: last rows of cut episodes that lead to the first observation of the next episode
        """
        data, ends = self.data, self.last[self.linked]
        cut = ends[data.terminals[ends] == 0]
        if not len(cut) or not self.steps.usable:
            return ends[:0]
        leap = self.steps.chance_of_leaps(ends, _LEAP)
        after = self.steps.chance_of_leaps(ends + 1, _LEAP)
        return cut if leap is not None and leap < _CHANCE and after is None else ends[:0]


class _Steps:
    """
    Lengths of steps: the largest change of an entry of the observation, each in units of its usual change in a step.

    :param data: the rows
    :param inside: rows that neither end nor start an episode
    """

    def __init__(self, data: Transitions, inside: np.ndarray):
        self._arrays = [array for _, array in tree_items(data.states, "")]
        self._next_rows = data.next_rows
        width = sum(int(np.prod(array.shape[1:], dtype=np.int64)) for array in self._arrays)
        self._size = int(np.clip(_NUMBERS // max(1, width), 64, _COMPARED))
        rows, anywhere = self._some(inside), self._some(np.arange(data.n_rows))
        led_to = data.next_rows[rows]
        units = []
        for array in self._arrays:
            spread = array[anywhere].astype(np.float64).std(axis=0)
            step = array[led_to].astype(np.float64) - array[rows] if len(rows) else np.zeros((1, *array.shape[1:]))
            # An entry that is constant within an episode, such as a goal, needs a unit too
            units.append(np.maximum(np.sqrt((step**2).mean(axis=0)), _STILL * spread))
        self._factors = [np.divide(1.0, unit, out=np.zeros_like(unit), where=unit > 0) for unit in units]
        #: Whether there is anything to compare
        self.usable = len(rows) > 0 and any(factor.any() for factor in self._factors)
        self.compared = np.sort(self.lengths(rows, led_to))
        apart = self.lengths(anywhere, np.random.default_rng(0).permutation(anywhere))
        #: Whether ordinary steps are short, compared with the distance of two random observations
        self.smooth = self.usable and bool(np.median(self.compared) <= 0.5 * np.median(apart))

    def _some(self, rows: np.ndarray) -> np.ndarray:
        return rows[np.unique(np.linspace(0, len(rows) - 1, min(self._size, len(rows))).astype(np.int64))]

    def lengths(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """
        :param one: which observations, (n,)
        :param other: likewise
        :return: (n,), distances between them
        """
        most = np.zeros(len(one))
        for array, factor in zip(self._arrays, self._factors, strict=True):
            for part in slices(len(one), self._size):
                difference = np.abs((array[one[part]].astype(np.float64) - array[other[part]]) * factor)
                most[part] = np.maximum(most[part], difference.reshape(len(difference), -1).max(axis=1))
        return most

    def chance_of_leaps(self, rows: np.ndarray, share: float) -> float | None:
        """
        :param rows: steps
        :param share: share of the compared steps that may go as far as a leap, at most
        :return: the probability that ordinary steps go as far as these; None if these are no leaps
        """
        if len(rows) == 0:
            return None
        lengths = self.lengths(rows, self._next_rows[rows])
        chances = []
        # The length that four fifths of them reach, and the one that half of them reach
        for level, weight in ((0.2, 0.8), (0.5, 0.5)):
            length = np.quantile(lengths, level, method="lower" if level < 0.5 else "linear")
            further = (len(self.compared) - np.searchsorted(self.compared, length) + 1) / (len(self.compared) + 2)
            if further <= share:
                chances.append(further ** max(1.0, weight * len(rows)))
        return min(chances, default=None)
