"""
Find observations that float32 would merge, because different values round to the same number: values that are far from zero
and near each other, such as metres of a map, or Unix time.
"""

from typing import Any

import numpy as np

# The rounding error of a type may be at most this share of an entry's range of values
_SHARE = 1e-5
_FLOAT32, _FLOAT64 = 2.0**-23, 2.0**-52
_SHARE_OF_ACTIONS = 1e-2
_FLOAT32_ROUNDING = 3e-7
# An entry whose range is a smaller share of its size is constant up to rounding
_ROUNDING = 1e-9
# Rows of a piece that are compared. Float32 merges an entry if it makes at least so many pairs of rows equal, and more than
# this share of them
_PAIRS, _SEVERAL, _MERGED = 512, 3, 0.01
# Narrow rows are folded to rows of about so many numbers, to find their bounds faster
_FOLDED = 1024


class ValueRanges:
    """
    The lowest and the highest value of every entry, by the name of the array.
    """

    def __init__(self) -> None:
        self._bounds: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        # Number of pairs of consecutive rows that differ, and of those among them that float32 makes equal
        self._counts: dict[str, Any] = {}

    def see(self, name: str, rows: np.ndarray) -> None:
        """
        :param name: of the array that the rows belong to
        :param rows: (n_rows, ...), in the type that they come in; those of four bytes and floating, or fewer, lose nothing
        """
        if not len(rows) or rows.dtype.kind not in "fiu" or rows.dtype.itemsize < (8 if rows.dtype.kind == "f" else 4):
            return
        low, high = _bounds(rows.reshape(len(rows), -1))
        self._count_merged(name, rows[:_PAIRS].reshape(min(len(rows), _PAIRS), -1))
        if name in self._bounds:
            low, high = np.minimum(low, self._bounds[name][0]), np.maximum(high, self._bounds[name][1])
        self._bounds[name] = low, high

    def _count_merged(self, name: str, rows: np.ndarray) -> None:
        """Among rows that follow each other, whatever a few others do to the range."""
        one, other = rows[:-1].astype(np.float64), rows[1:].astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            differ = np.abs(one - other) > _ROUNDING * np.abs(one)
            same = differ & (one.astype(np.float32) == other.astype(np.float32))
        counts = np.stack([differ.sum(axis=0), same.sum(axis=0)])
        self._counts[name] = self._counts.get(name, 0) + counts

    def refuse_merged(self, name: str, label: str) -> None:
        """
        Forget an array that stays float32.

        :param name: of the array
        :param label: what the source is called
        :raises ValueError: if float32 would merge some of its numbers
        """
        if name not in self._bounds:
            return
        low, high = (bound.astype(np.float64) for bound in self._bounds.pop(name))
        size, width = np.maximum(np.abs(low), np.abs(high)), high - low
        # A policy's actions are no finer than a hundredth of their range; what float32 makes of one number is no range
        merged = (_FLOAT32 * size > _SHARE_OF_ACTIONS * width) & (width > _FLOAT32_ROUNDING * size)
        if merged.any():
            entry = int(np.argmax(merged))
            raise ValueError(
                f"{label}: {name} go from {low[entry]:.10g} to {high[entry]:.10g} in entry {entry}, numbers that float32, in "
                "which policies act, would merge: subtract an offset from them in the environment and the dataset."
            )

    def width(self, name: str) -> Any:
        """
        :param name: of an array that was seen
        :return: what each of its entries ranges over, in the array's units
        """
        low, high = self._bounds[name]
        # Of integers, the difference may be larger than their type
        return (high.astype(object) - low.astype(object)).astype(np.float64) if low.dtype.kind in "iu" else high - low

    def finer(self, label: str) -> set[str]:
        """
        :param label: what the source is called
        :return: names of the arrays that need float64
        :raises ValueError: if integers are so large that float64 would merge them too
        """
        names = set()
        for name, (low, high) in self._bounds.items():
            size, width = np.maximum(np.abs(low.astype(np.float64)), np.abs(high.astype(np.float64))), self.width(name)
            merged = (_FLOAT64 * size > _SHARE * width) & (width > 0)
            if low.dtype.kind in "iu" and merged.any():
                entry = int(np.argmax(merged))
                raise ValueError(
                    f"{label}: {name} has integers from {low[entry]} to {high[entry]} in entry {entry}, which are too "
                    "large to be told apart as floating-point numbers: subtract an offset first, such as the lowest."
                )
            n_differ, n_same = self._counts[name]
            if _are_merged(size, width).any() or ((n_same >= _SEVERAL) & (n_same > _MERGED * n_differ)).any():
                names.add(name)
        return names


def _are_merged(size: np.ndarray, width: np.ndarray) -> np.ndarray:
    return (_FLOAT32 * size > _SHARE * width) & (width > _ROUNDING * size)


def _bounds(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of few numbers are looked at many at a time, which takes a fraction of the time."""
    n_rows, width = rows.shape
    fold = min(n_rows, max(1, _FOLDED // max(1, width)))
    whole = n_rows // fold * fold
    folded = rows[:whole].reshape(whole // fold, fold * width)
    low, high = (each.reshape(fold, width) for each in (folded.min(axis=0), folded.max(axis=0)))
    rest = rows[whole:]
    return np.concatenate([low, rest]).min(axis=0), np.concatenate([high, rest]).max(axis=0)
