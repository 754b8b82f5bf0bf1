"""
How a policy acts: options that can be changed at any time, and are checked when they are.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar

from sb3_genpolicy.common.policies.deterministic import DETERMINISTIC_ACTIONS
from sb3_genpolicy.generative.checks import check_choice, check_number

Value = TypeVar("Value")


class Option(Generic[Value]):
    """
    An attribute that is checked when it is set.

    :param check: of its name and value; raises ValueError
    """

    def __init__(self, check: Callable[[str, Any], None]):
        self.check = check

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, owner: Any, kind: type | None = None) -> Value:
        return vars(owner)[f"_{self.name}"]

    def __set__(self, owner: Any, value: Value) -> None:
        self.check(self.name, value)
        vars(owner)[f"_{self.name}"] = value


check_strength = partial(check_number, low=0.0)


def check_expectile(option: str, value: Any) -> None:
    """
    :param option: the option's name, for the message
    :param value: what was asked for
    :raises ValueError: if it is neither None nor a number in (0, 1)
    """
    if value is not None:
        check_number(option, value, low=0.0, high=1.0, low_open=True, high_open=True)


class ActingOptions:
    """
    What a policy has of these options.
    """

    #: How policies of release 0.1 chose among candidates, whose files do not say it
    former_options: ClassVar[dict[str, Any]] = {"candidate_temperature": 0.0}

    #: By how many of its standard deviations Q pulls the policy, see :mod:`~sb3_genpolicy.common.policies.guidance`; 0: not
    guidance: Option[float] = Option(check_strength)
    #: Temperature at which candidates are drawn, in units of the spread of Q in a state; 0: the best is taken
    candidate_temperature: Option[float] = Option(partial(check_number, low=0.0))
    #: Expectile by whose weights candidates are drawn, as IDQL does, whatever the temperature; None: by the temperature
    candidate_expectile: Option[float | None] = Option(check_expectile)
    #: Name of what is done without random numbers, see :mod:`~sb3_genpolicy.common.policies.deterministic`
    deterministic_action: Option[str] = Option(partial(check_choice, known=DETERMINISTIC_ACTIONS))
    #: Number of fixed draws that it looks at
    deterministic_draws: Option[int] = Option(partial(check_number, low=2, whole=True))

    def acting_options(self) -> dict[str, Any]:
        """
        :return: the options by name
        """
        names = ("guidance", "candidate_temperature", "candidate_expectile", "deterministic_action", "deterministic_draws")
        return {name: getattr(self, name) for name in names}
