"""
Helpers for arrays that may come as dictionaries, and for attributes that last for a while.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces

Leaf = TypeVar("Leaf", np.ndarray, th.Tensor)


def tree_map(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """
    Apply a function to an array, or to each array of a dictionary.

    :param function: takes as many arrays as there are trees
    :param tree: an array or a dictionary of arrays
    :param others: further trees of the same keys
    :return: what the function gave, in the form of ``tree``
    """
    if isinstance(tree, dict):
        return {key: function(value, *(other[key] for other in others)) for key, value in tree.items()}
    return function(tree, *others)


def trees_are_equal(one: Any, other: Any) -> bool:
    """
    :param one: a tensor, a dictionary of tensors or None
    :param other: another
    :return: whether they have the same keys, types and values
    """
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(trees_are_equal(one[key], other[key]) for key in one)
    if isinstance(one, th.Tensor) and isinstance(other, th.Tensor):
        return one is other or (one.dtype == other.dtype and th.equal(one, other))
    return one is other


def tree_items(tree: Any, name: str) -> list[tuple[str, Any]]:
    """
    :param tree: an array or a dictionary of arrays
    :param name: what the tree is called
    :return: pairs of name and array; a dictionary's keys are written ``name[key]``
    """
    if isinstance(tree, dict):
        return [(f"{name}[{key!r}]", value) for key, value in tree.items()]
    return [(name, tree)]


def tree_of(space: spaces.Space, parts: Iterable[Any]) -> Any:
    """
    :param space: a space, possibly a Dict
    :param parts: an array for each of its parts, in the order of :func:`space_items`
    :return: a dictionary of the arrays with the space's keys, or the only array
    """
    if isinstance(space, spaces.Dict):
        return dict(zip(space.spaces, parts, strict=True))
    (only,) = parts
    return only


def described(value: Any) -> str:
    """
    :param value: an option
    :return: the option as one would write it, on one line
    """
    return value.__name__ if isinstance(value, type) else " ".join(repr(value).split())


def on_one_line(space: spaces.Space) -> str:
    """
    :param space: a space, whose bounds may be written as matrices
    :return: the space as a part of a sentence
    """
    return " ".join(str(space).split())


def space_items(space: spaces.Space, name: str) -> list[tuple[str, spaces.Space]]:
    """
    :param space: a space, possibly a Dict
    :param name: what the space is called
    :return: pairs of name and space, named as :func:`tree_items` does
    """
    if isinstance(space, spaces.Dict):
        return tree_items(dict(space.spaces), name)
    return [(name, space)]


@contextmanager
def attributes(thing: Any, **values: Any) -> Iterator[None]:
    """
    Give an object other attributes for as long as the context lasts.

    :param thing: the object
    :param values: attributes that it has, by name
    """
    before = {name: getattr(thing, name) for name in values}
    try:
        for name, value in values.items():
            setattr(thing, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(thing, name, value)
