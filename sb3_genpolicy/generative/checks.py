"""
Checks of options, whose messages name what was probably meant.
"""

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])
InitFunction = TypeVar("InitFunction", bound=Callable[..., Any])
Class = TypeVar("Class", bound=type)


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
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not (low <= value <= high) or (low_open and value == low):
        interval = f"{'>' if low_open else '>='} {low}" + ("" if high == float("inf") else f" and <= {high}")
        raise ValueError(f"{option} must be a number {interval}, not {value!r}.")


def check_option_names(cls: Callable[..., Any], init: Callable[..., Any], given: Iterable[str]) -> None:
    """
    :param cls: the class or function whose options they are, for the message
    :param init: its constructor or itself, without ``**kwargs``
    :param given: names of keyword arguments
    :raises TypeError: if the constructor has no such argument, with the one that was probably meant
    """
    parameters = inspect.signature(init).parameters
    for name in given:
        if name not in parameters:
            known = [known for known in parameters if known != "self" and not known.startswith("_")]
            raise TypeError(f"{cls.__name__} has no option '{name}'. {did_you_mean(name, known)}")


def named_options(init: InitFunction) -> InitFunction:
    """
    Let a constructor answer a misspelt keyword with the name that was probably meant.

    :param init: an ``__init__`` without ``**kwargs``
    :return: the same, with a clearer TypeError
    """

    @functools.wraps(init)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        check_option_names(type(self), init, kwargs)
        init(self, *args, **kwargs)

    return checked  # type: ignore[return-value]


def named_arguments(function: Function) -> Function:
    """
    Let a function answer a misspelt keyword with the name that was probably meant.

    :param function: a function without ``**kwargs``
    :return: the same, with a clearer TypeError
    """

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        check_option_names(function, function, kwargs)
        return function(*args, **kwargs)

    return checked  # type: ignore[return-value]


def with_named_options(cls: Class) -> Class:
    """
    :param cls: a dataclass
    :return: the same, whose constructor answers a misspelt field with the nearest one
    """
    cls.__init__ = named_options(cls.__init__)  # type: ignore[misc]
    return cls
