"""
What a source does not say of its columns, as it is asked for in :func:`~sb3_genpolicy.common.datasets.load_dataset`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple, Union

from sb3_genpolicy.common.datasets.files import Relabel
from sb3_genpolicy.common.datasets.names import Known
from sb3_genpolicy.generative.checks import check_choice, check_flag, did_you_mean, shown

#: One column or several: a name, names, or of actions names with the lowest and the highest value of each
Names = Union[str, Sequence[str], Mapping[str, tuple[float, float] | None]]  # noqa: UP007


@dataclass(frozen=True)
class ColumnOptions:
    """
    Each is described at :func:`~sb3_genpolicy.common.datasets.load_dataset`; what is None or False was not asked for.
    """

    episode: str | None = None
    order: str | None = None
    observations: Names | None = None
    actions: Names | None = None
    rewards: str | None = None
    terminals: str | bool | None = None
    timeouts: str | None = None
    subset: str | None = None
    success_at_end: bool = False

    def __post_init__(self) -> None:
        check_flag("success_at_end", self.success_at_end)
        for name in ("episode", "order", "rewards", "timeouts", "subset"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise ValueError(f"{name}= must be the name of one column, not {shown(value)}.")
        if self.terminals is not None and not isinstance(self.terminals, (str, bool)):
            raise ValueError(f"terminals= must be the name of a column, True or False, not {shown(self.terminals)}.")
        for name in ("observations", "actions"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bytes) or not all(isinstance(key, str) for key in value)):
                raise ValueError(f"{name}= must be names of columns, not {shown(value)}.")
            if value is not None and not value:
                raise ValueError(f"{name}= names no column: name at least one, or leave it out.")

    @property
    def given(self) -> list[str]:
        """
        :return: names of the options that were asked for
        """
        return [field.name for field in fields(self) if getattr(self, field.name) not in (None, False)] + (
            ["terminals"] if self.terminals is False else []
        )

    def check_used(self, label: str, used: Collection[str]) -> None:
        """
        :param label: what the source is called
        :param used: names of the options that its reader knows
        :raises ValueError: if another was asked for, naming the nearest one
        """
        for name in self.given:
            if name not in used:
                way_on = (
                    f"There are: {', '.join(f'{each}=' for each in sorted(used))}."
                    if used
                    else ("Such sources say themselves what their columns are.")
                )
                raise ValueError(f"{label} has no use for {name}=. {way_on}")


def names_of(option: Names | None) -> list[str] | None:
    """
    :param option: a name, names, or names with bounds
    :return: the names
    """
    if option is None:
        return None
    return [option] if isinstance(option, str) else list(option)


def check_names(option: str, names: Collection[str], known: Collection[str], label: str) -> None:
    """
    :param option: the option's name
    :param names: what was asked for
    :param known: what there is
    :param label: what the source is called
    :raises ValueError: if there is no such column, naming the nearest one; if one is named twice
    """
    seen = set[str]()
    for name in names:
        if name not in known:
            raise ValueError(f"{label} has no '{name}', asked for by {option}=. {did_you_mean(name, known)}")
        if name in seen:
            raise ValueError(f"{option}= names '{name}' twice.")
        seen.add(name)


def check_subset(subset: str, known: Collection[str], label: str) -> None:
    """
    :param subset: what was asked for
    :param known: names of the subsets that there are
    :param label: what the source is called
    :raises ValueError: if it is not among them
    """
    if not known:
        raise ValueError(f"{label} has no subsets, so that there is no subset={subset!r}.")
    check_choice(f"{label}: subset", subset, known)


class Asked(NamedTuple):
    """
    What :func:`~sb3_genpolicy.common.datasets.load_dataset` was told beside the source.

    :param options: what its columns mean
    :param known: what it does not say of itself
    :param relabel: changes its arrays
    """

    options: ColumnOptions
    known: Known
    relabel: Relabel | None
