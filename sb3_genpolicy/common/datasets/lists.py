"""
Lists of sources: many small mappings are read as one, and what is said of several is said once.
"""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from sb3_genpolicy.common.datasets.names import MARKS, named_columns
from sb3_genpolicy.common.transitions import Transitions

#: What a mapping may say of itself beside its arrays
SAID = ("observation_space", "action_space", "env_id", "reference_scores")
# What a warning calls a source at its beginning, and its numbers
_PARTICULARS = re.compile(r"^(File .*?|Dataset '.*?'( \(.*?\))?|The (dataset|replay buffer)( \(.*?\))?)(?=[: ] ?)|\d+")


@contextmanager
def merged_warnings() -> Iterator[None]:
    """
    :return: a context whose warnings are said at its end, those that differ by the source and by numbers alone once
    """
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    finally:
        said: dict[Any, list[warnings.WarningMessage]] = {}
        for warning in caught:
            said.setdefault((warning.category, _PARTICULARS.sub("", str(warning.message))), []).append(warning)
        for first, *others in said.values():
            more = f" The same holds for {len(others)} more of the list." if others else ""
            warnings.warn_explicit(f"{first.message}{more}", first.category, first.filename, first.lineno)


def joined_mappings(sources: Sequence[Any]) -> tuple[Mapping[str, Any], np.ndarray] | None:
    """
    :param sources: of a list
    :return: one mapping of all rows, and the last row of every source but the last; None where they are not all mappings of
        the same columns, which are read one by one
    """
    first = sources[0]
    if not all(isinstance(source, Mapping) and not isinstance(source, Transitions) for source in sources):
        return None
    if not all(source.keys() == first.keys() and _say_the_same(source, first) for source in sources):
        return None
    columns = named_columns({key: value for key, value in first.items() if key not in SAID})
    used = [key for key in first if str(key).partition("/")[0] in {*columns.sources.values(), *MARKS} and key not in SAID]
    if not used:
        return None
    joined, lengths = dict(first), list[int]()
    for key in used:
        try:
            parts = [_arrays(source[key]) for source in sources]
        except ValueError:
            return None
        if not all(part.keys() == parts[0].keys() for part in parts):
            return None
        arrays = {}
        for name in parts[0]:
            pieces = [part[name] for part in parts]
            kinds = {(piece.shape[1:], piece.dtype.kind, piece.ndim) for piece in pieces}
            if len(kinds) > 1 or pieces[0].ndim == 0 or pieces[0].dtype.hasobject:
                return None
            rows = [len(piece) for piece in pieces]
            if min(rows) == 0 or rows != (lengths or rows):
                return None
            lengths, arrays[name] = rows, np.concatenate(pieces)
        joined[key] = arrays if isinstance(first[key], dict) else arrays[None]
    return joined, np.cumsum(lengths)[:-1] - 1


def _say_the_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one.get(key) is other.get(key) or one.get(key) == other.get(key) for key in SAID)


def _arrays(tree: Any) -> dict[Any, np.ndarray]:
    if isinstance(tree, dict):
        return {key: np.asarray(value) for key, value in tree.items()}
    return {None: np.asarray(tree)}
