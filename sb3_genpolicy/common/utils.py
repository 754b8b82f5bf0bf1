"""
Helpers for arrays that may come as dictionaries, and for error messages that name what was probably meant.
"""

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces

InitFunction = TypeVar("InitFunction", bound=Callable[..., Any])
Leaf = TypeVar("Leaf", np.ndarray, th.Tensor)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """
    :param name: a name that was not found
    :param known: the names there are
    :return: a clause naming the nearest known name, else all of them
    """
    known = sorted(known)
    nearest = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean '{nearest[0]}'?" if nearest else f"There are: {', '.join(known)}."


def check_choice(option: str, value: str, known: Iterable[str]) -> None:
    """
    :param option: the option's name, for the message
    :param value: what was asked for
    :param known: what can be asked for
    :raises ValueError: if ``value`` is not among ``known``
    """
    if value not in known:
        raise ValueError(f"{option}={value!r} is unknown. {did_you_mean(str(value), known)}")


def check_number(option: str, value: Any, low: float, high: float = float("inf"), low_open: bool = False) -> None:
    """
    :param option: the option's name, for the message
    :param value: what was asked for
    :param low: smallest number allowed (not itself with ``low_open``)
    :param high: largest number allowed
    :param low_open: whether ``low`` itself is excluded
    :raises ValueError: if ``value`` is not a number of the interval
    """
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not is_number or not (low <= value <= high) or (low_open and value == low):
        interval = f"{'>' if low_open else '>='} {low}" + ("" if high == float("inf") else f" and <= {high}")
        raise ValueError(f"{option} must be a number {interval}, not {value!r}.")


def named_options(init: InitFunction) -> InitFunction:
    """
    Let a constructor answer a misspelt keyword with the name that was probably meant.

    :param init: an ``__init__`` without ``**kwargs``
    :return: the same, with a clearer TypeError
    """
    parameters = inspect.signature(init).parameters

    @functools.wraps(init)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        for name in kwargs:
            if name not in parameters:
                known = [known for known in parameters if known != "self" and not known.startswith("_")]
                raise TypeError(f"{type(self).__name__} has no option '{name}'. {did_you_mean(name, known)}")
        init(self, *args, **kwargs)

    return checked  # type: ignore[return-value]


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


def tree_items(tree: Any, name: str) -> list[tuple[str, Any]]:
    """
    :param tree: an array or a dictionary of arrays
    :param name: what the tree is called
    :return: pairs of name and array; a dictionary's keys are written ``name[key]``
    """
    if isinstance(tree, dict):
        return [(f"{name}[{key!r}]", value) for key, value in tree.items()]
    return [(name, tree)]


def space_items(space: spaces.Space, name: str) -> list[tuple[str, spaces.Space]]:
    """
    :param space: a space, possibly a Dict
    :param name: what the space is called
    :return: pairs of name and space, named as :func:`tree_items` does
    """
    if isinstance(space, spaces.Dict):
        return tree_items(dict(space.spaces), name)
    return [(name, space)]
