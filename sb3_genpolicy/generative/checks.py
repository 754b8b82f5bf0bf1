"""
Checks of options, whose messages name what was probably meant.
"""

import difflib
import functools
import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from numbers import Integral, Real
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


def shown(value: Any) -> str:
    """
    :param value: anything
    :return: what to call it in a sentence: as it is written if that is short, else by its type
    """
    if isinstance(value, type):
        return value.__name__
    text = repr(value)
    return f"a {type(value).__name__}" if " at 0x" in text or "\n" in text or len(text) > 80 else text


def check_choice(option: str, value: Any, known: Iterable[str]) -> None:
    """
    :param option: the option's name, for the message
    :param value: what was asked for
    :param known: what can be asked for
    :raises ValueError: if ``value`` is not among ``known``
    """
    if not isinstance(value, str):
        raise ValueError(f"{option} must be one of {', '.join(map(repr, sorted(known)))}, not {shown(value)}.")
    if value not in known:
        raise ValueError(f"{option}={value!r} is unknown. {did_you_mean(value, known)}")


def check_number(
    option: str,
    value: Any,
    low: float,
    high: float = math.inf,
    low_open: bool = False,
    high_open: bool = False,
    whole: bool = False,
    infinite: bool = False,
) -> None:
    """
    :param option: the option's name, for the message
    :param value: what was asked for
    :param low: smallest number allowed (not itself with ``low_open``)
    :param high: largest number allowed (not itself with ``high_open``)
    :param low_open: whether ``low`` itself is excluded
    :param high_open: whether ``high`` itself is excluded
    :param whole: whether it has to be an integer
    :param infinite: whether it may be infinite
    :raises ValueError: if ``value`` is not a number of the interval
    """
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not (low <= value <= high) or (low_open and value == low) or (high_open and value == high):
        interval = f"{'>' if low_open else '>='} {low}" + (
            "" if high == math.inf else f" and {'<' if high_open else '<='} {high}"
        )
        raise ValueError(f"{option} must be a number {interval}, not {shown(value)}.")
    if whole and not isinstance(value, Integral):
        raise ValueError(f"{option} must be whole, not {shown(value)}.")
    if not infinite and not math.isfinite(value):
        raise ValueError(f"{option} must be finite, not {shown(value)}.")


def check_flag(option: str, value: Any) -> None:
    """
    :param option: the option's name, for the message
    :param value: what was asked for
    :raises ValueError: if it is neither True nor False
    """
    # NumPy's truth values are called so too
    if type(value).__name__ not in ("bool", "bool_"):
        raise ValueError(f"{option} must be True or False, not {shown(value)}.")


def check_class(option: str, value: Any, base: type, example: str) -> None:
    """
    :param option: the option's name, for the message
    :param value: what was asked for
    :param base: what it has to derive from
    :param example: what could be given
    :raises ValueError: if it is no such class
    """
    if not (isinstance(value, type) and issubclass(value, base)):
        raise ValueError(f"{option} must be a class that derives from {base.__name__}, as {example}, not {shown(value)}.")


@contextmanager
def blaming(option: str, *kinds: type[Exception]) -> Iterator[None]:
    """
    What fails in the context, fails for an option: torch and others do not know by what name their argument was given here.

    :param option: the option, as the beginning of a sentence
    :param kinds: kinds of errors that are the option's fault
    :raises ValueError: in place of errors of these kinds
    """
    try:
        yield
    except kinds as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{option}: {reason.rstrip('.:')}.") from error


def options_of(cls: type) -> list[str]:
    """
    :param cls: a class
    :return: names of its constructor's arguments, with those of its base's constructor where it hands ``**kwargs`` on
    """
    names: list[str] = []
    for base in cls.__mro__:
        if "__init__" in vars(base):
            parameters = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
            kinds = {parameter.kind for parameter in parameters}
            variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
            names += [parameter.name for parameter in parameters if parameter.kind not in variable]
            if inspect.Parameter.VAR_KEYWORD not in kinds:
                break
    return list(dict.fromkeys(names))


def handed_on(cls: type, given: dict[str, Any]) -> dict[str, Any]:
    """
    :param cls: a class that another one derives from
    :param given: arguments of the derived class's constructor by their names, as ``locals()`` has them there
    :return: those that the constructor of ``cls`` takes
    """
    return {name: given[name] for name in options_of(cls) if name in given and name != "self"}


def check_option_names(cls: Callable[..., Any], init: Callable[..., Any], given: Iterable[str]) -> None:
    """
    :param cls: the class or function whose options they are, for the message
    :param init: its constructor or itself
    :param given: names of keyword arguments
    :raises TypeError: if the constructor has no such argument, with the one that was probably meant
    """
    is_its_own = isinstance(cls, type) and init is cls.__init__  # type: ignore[misc]
    parameters = options_of(cls) if is_its_own else list(inspect.signature(init).parameters)  # type: ignore[arg-type]
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
