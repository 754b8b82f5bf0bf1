"""
Mappings of arrays, one or many.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sb3_genpolicy.common.datasets.arrays import MemoryWriter
from sb3_genpolicy.common.datasets.columns import ArrayColumn
from sb3_genpolicy.common.datasets.files import Relabel, relabelled
from sb3_genpolicy.common.datasets.flat import read_flat
from sb3_genpolicy.common.datasets.names import ALIASES, MARKS, Columns, Known, named_columns
from sb3_genpolicy.common.transitions.transitions import Transitions, check_reference_scores

#: What a mapping may say of itself beside its arrays
SAID = ("observation_space", "action_space", "env_id", "reference_scores")


def read_mapping(mapping: Mapping[str, Any], known: Known, relabel: Relabel | None, label: str) -> Transitions:
    """
    :param mapping: name -> array
    :param known: what it does not say of itself
    :param relabel: changes its arrays before they are read
    :param label: what it is called in messages
    :return: the record, checked
    :raises ValueError: if it does not hold a dataset
    """
    columns, known = mapping_columns(mapping, known, relabel, label)
    return read_flat(columns, MemoryWriter(), known, label, None)


def mapping_columns(
    mapping: Mapping[str, Any], known: Known, relabel: Relabel | None, label: str = "The dataset"
) -> tuple[Columns, Known]:
    """
    :param mapping: as for :func:`read_mapping`, and the others likewise
    :param known: what it does not say of itself
    :param relabel: changes its arrays before they are read
    :param label: what it is called in messages
    :return: its columns, and what is known with what it says itself
    """
    # A column that is None is none
    names = {alias for aliases in ALIASES.values() for alias in aliases}
    arrays = {key: value for key, value in mapping.items() if key not in SAID and not (value is None and key in names)}
    said = {key: mapping[key] for key in SAID if mapping.get(key) is not None}
    if "action_space" in said:
        said["action_space"] = known.space_for(said["action_space"])
    if "reference_scores" in said:
        said["reference_scores"] = check_reference_scores(said["reference_scores"], f"{label}: reference_scores")
    if relabel is not None:
        arrays = dict(relabelled(arrays, relabel, label))
    return named_columns(arrays, lambda array, key: _as_column(array, key, label)), replace(known, **said)


def _as_column(array: Any, key: str, label: str) -> ArrayColumn:
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        raise ValueError(f"{label}: {key} has {np.ma.count_masked(array)} masked entries: fill them, or leave rows out.")
    try:
        column = np.asarray(array)
        if column.dtype.hasobject and column.size:
            # Numbers that stand in an array of objects
            column = _of_numbers(column)
        return ArrayColumn(column)
    except ValueError as error:
        raise ValueError(f"{label}: {key} is no array ({error}): give one with a row for every step.") from error


def _of_numbers(column: np.ndarray) -> np.ndarray:
    try:
        numbers = np.asarray(column.tolist())
    except ValueError:
        return column
    return numbers if numbers.dtype.kind in "fiub" else column


def read_joined(sources: Sequence[Any], known: Known) -> Transitions | None:
    """
    Many mappings at the cost of one.

    :param sources: of a list
    :param known: what they do not say of themselves
    :return: the record of all; None where they are not all mappings of the same columns, or one has a fault, which is then
        found by reading them one by one
    """
    joined = _joined(sources)
    if joined is None:
        return None
    mapping, part_ends = joined
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            columns, known = mapping_columns(mapping, known, None)
            columns.part_ends = part_ends
            data = read_flat(columns, MemoryWriter(), known, "The dataset", None)
        except ValueError:
            return None
    for warning in caught:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return data


def _joined(sources: Sequence[Any]) -> tuple[Mapping[str, Any], np.ndarray] | None:
    """
    :param sources: of a list
    :return: one mapping of all rows, and the last row of every source but the last; None where they are not all mappings of
        the same columns, which are read one by one
    """
    first = sources[0]
    if not all(isinstance(source, Mapping) and not isinstance(source, Transitions) for source in sources):
        return None
    if not all(source.keys() == first.keys() or _known(source) == _known(first) for source in sources):
        return None
    if not all(_say_the_same(source, first) for source in sources):
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


def _known(mapping: Mapping[str, Any]) -> set[str]:
    """Its names but those that are not used."""
    columns = named_columns({key: value for key, value in mapping.items() if key not in SAID})
    return {str(key) for key in mapping if key in SAID or str(key).partition("/")[0] not in columns.unused or key in MARKS}


def _say_the_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one.get(key) is other.get(key) or one.get(key) == other.get(key) for key in SAID)


def _arrays(tree: Any) -> dict[Any, np.ndarray]:
    if isinstance(tree, dict):
        return {key: np.asarray(value) for key, value in tree.items()}
    return {None: np.asarray(tree)}
