"""
What is to go says so for two releases first: a warning names what to write in its place, and the release that is without it.
"""

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import NamedTuple, ParamSpec, TypeVar

#: Releases in which what is to go still works and warns: the one that says it first, and the next
RELEASES_OF_WARNING = 2

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")


class Deprecation(NamedTuple):
    """
    Something that is to go.

    :param what: its name, as somebody writes it
    :param instead: what to write in its place
    :param since: the release that warned first, as ``0.3``
    """

    what: str
    instead: str
    since: str

    @property
    def gone(self) -> str:
        """The first release that is without it: ``0.5``, where 0.3 and 0.4 warn."""
        major, minor = self.since.split(".")[:2]
        return f"{major}.{int(minor) + RELEASES_OF_WARNING}"

    def warn(self, stacklevel: int = 2) -> None:
        """
        :param stacklevel: number of calls between the warning and the line that it is about, counted from who calls this
        """
        warnings.warn(
            f"{self.what} is to go: write {self.instead}. It warns since release {self.since}, and {self.gone} will be "
            "without it.",
            DeprecationWarning,
            stacklevel=stacklevel + 1,
        )

    def is_overdue(self, version: str) -> bool:
        """
        :param version: of a release, as ``0.5.0``
        :return: whether it should be gone by then
        """
        return _numbers(version) >= _numbers(self.gone)


#: All that is to go, found by importing the package; a test says when it is overdue
KNOWN: list[Deprecation] = []


def deprecated(instead: str, since: str) -> Callable[[Callable[Arguments, Answer]], Callable[Arguments, Answer]]:
    """
    A function or method that is to go: ``@deprecated("load_dataset", since="0.3")``.

    :param instead: what to write in its place
    :param since: the release that warns first
    :return: a decorator; what it decorates works as before, and warns at every line that calls it
    """

    def decorate(function: Callable[Arguments, Answer]) -> Callable[Arguments, Answer]:
        known = Deprecation(f"{function.__qualname__}(...)", instead, since)
        KNOWN.append(known)

        @functools.wraps(function)
        def warning(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Answer:
            known.warn()
            return function(*args, **kwargs)

        return warning

    return decorate


def renamed_argument(old: str, new: str, since: str) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
    """
    A keyword argument that has another name now: ``@renamed_argument("lr", "learning_rate", since="0.3")``, above all other
    decorators.

    :param old: its name in earlier releases
    :param new: its name, one of the function's parameters
    :param since: the release that warns first
    :return: a decorator; what it decorates takes both names, and warns of the old one
    :raises ValueError: if the function has no parameter ``new``, or still has ``old``
    """

    def decorate(function: Callable[..., Answer]) -> Callable[..., Answer]:
        there = inspect.signature(function).parameters
        if new not in there or old in there:
            raise ValueError(f"{function.__qualname__} has the parameters {', '.join(there)}: {new!r} has to be, {old!r} not.")
        known = Deprecation(f"{function.__qualname__}({old}=...)", f"{new}=...", since)
        KNOWN.append(known)

        @functools.wraps(function)
        def renaming(*args: object, **kwargs: object) -> Answer:
            if old in kwargs:
                if new in kwargs:
                    raise TypeError(f"{function.__qualname__}: {old}= is the old name of {new}=: give one of them.")
                known.warn()
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return renaming

    return decorate


def _numbers(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)
