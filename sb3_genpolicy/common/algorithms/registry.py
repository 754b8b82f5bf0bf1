"""
The algorithms there are: of this package, and of whoever calls :func:`register`.
"""

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stable_baselines3.common.policies import BasePolicy

from sb3_genpolicy.common.algorithms.offline_algorithm import OfflineAlgorithm
from sb3_genpolicy.common.files.labels import NAME, add_labels, import_everything
from sb3_genpolicy.generative.checks import check_class, shown

if TYPE_CHECKING:
    import optuna

#: What rl_zoo3 calls for a trial: with the trial, the action dimensions, the number of environments, and more of its own
TrialSampler = Callable[["optuna.Trial", int, int, dict[str, Any]], dict[str, Any]]
#: Parameters of a trial, as a study keeps them -> options
TrialConverter = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class RegisteredAlgorithm:
    """
    An algorithm, and what the zoo and files know of it.

    :param name: what the zoo and files call it
    :param algorithm: its class
    :param classes: classes of its own that its options may be, beside its policies
    :param objects: classes of its own of which objects may be its options
    :param hyperparams: file of its hyper-parameters, None where it has none
    :param sampler: options for a trial of Optuna, None where nothing is searched
    :param converter: what turns a trial's parameters into options
    """

    name: str
    algorithm: type[OfflineAlgorithm]
    classes: tuple[type, ...] = ()
    objects: tuple[type, ...] = ()
    hyperparams: Path | None = None
    sampler: TrialSampler | None = None
    converter: TrialConverter = dict

    @property
    def policies(self) -> Mapping[str, type[BasePolicy]]:
        """Its policies, by the names that it takes."""
        return self.algorithm.policy_aliases


_entries: dict[str, RegisteredAlgorithm] = {}


def registered() -> dict[str, RegisteredAlgorithm]:
    """
    :return: name -> algorithm, of the package and of the modules that were imported
    """
    import_everything()
    return dict(_entries)


def register(
    name: str,
    algorithm: type[OfflineAlgorithm],
    policies: Mapping[str, type[BasePolicy]] | None = None,
    *,
    classes: Iterable[type] = (),
    objects: Iterable[type] = (),
    hyperparams: str | Path | None = None,
    sampler: TrialSampler | None = None,
    converter: TrialConverter | None = None,
) -> None:
    """
    Make an algorithm known: to files, which then hold no pickle for its policies and for the classes that are listed, and to
    the zoo, in ``python -m sb3_genpolicy.zoo train --algo <name> --gym-packages <your module>``.

    Call it in the module that defines the algorithm: whoever loads its models imports that module first.

    :param name: what the zoo calls it, and the first part of what files call its classes (``mine.Network``): lower-case
        letters, digits and underscores
    :param algorithm: the algorithm
    :param policies: its policies, by the names that its constructor takes; they become its ``policy_aliases``. Default: those
        that it has.
    :param classes: further classes that are given to it as options: networks, features extractors, replay buffers
    :param objects: classes of which objects are given to it as options: transforms, rewards, paths. A file has the options of
        an object's constructor, which the object must keep as attributes of the same names, as dataclasses do.
    :param hyperparams: a YAML file for the zoo, with an entry for each dataset and a ``default``. Others beside it are found
        by their names (``-conf other``). Default: the zoo trains with the constructor's own defaults.
    :param sampler: what ``-optimize`` tries: a function as those of ``rl_zoo3.hyperparams_opt``
    :param converter: from what a study keeps of a trial to options. Default: they are the same.
    :raises ValueError: if the name is another algorithm's, the algorithm has another name, or something is not as it should be
    """
    _check_name(name, algorithm)
    for policy_name, policy in (policies or {}).items():
        check_class(f"policies[{policy_name!r}]", policy, BasePolicy, "FlowPolicy")
    classes, objects = _checked_classes("classes", classes), _checked_classes("objects", objects)
    if hyperparams is not None and not Path(hyperparams).is_file():
        raise ValueError(f"register({name!r}, ...): there is no file hyperparams={str(hyperparams)!r}.")
    for option, function in (("sampler", sampler), ("converter", converter)):
        if function is not None and not callable(function):
            raise ValueError(f"{option} must be a function, not {shown(function)}.")
    named = algorithm.policy_aliases if policies is None else policies
    add_labels(name, list(dict.fromkeys([*named.values(), *classes])), objects)
    if policies is not None:
        algorithm.policy_aliases = dict(policies)
    path = None if hyperparams is None else Path(hyperparams).absolute()
    _entries[name] = RegisteredAlgorithm(name, algorithm, classes, objects, path, sampler, converter or dict)


def _check_name(name: Any, algorithm: Any) -> None:
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        raise ValueError(f"name must be of lower-case letters, digits and underscores, as 'gmpo', not {shown(name)}.")
    check_class("algorithm", algorithm, OfflineAlgorithm, "GMPO")
    if inspect.isabstract(algorithm):
        raise ValueError(f"{algorithm.__name__} cannot be registered: it has no {', '.join(algorithm.__abstractmethods__)}.")
    taken = _entries.get(name)
    # A cell of a notebook that is run again makes the class anew
    if taken is not None and _place(taken.algorithm) != _place(algorithm):
        raise ValueError(
            f"register({name!r}, ...): '{name}' is {'.'.join(_place(taken.algorithm))} already. Take another name."
        )
    for entry in _entries.values():
        if entry.algorithm is algorithm and entry.name != name:
            raise ValueError(
                f"register({name!r}, ...): {algorithm.__name__} is registered as '{entry.name}'. Derive a class from it."
            )


def _place(cls: type) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__


def _checked_classes(option: str, classes: Iterable[type]) -> tuple[type, ...]:
    if isinstance(classes, type) or not isinstance(classes, Collection):
        raise ValueError(f"{option} must be a list of classes, not {shown(classes)}.")
    for cls in classes:
        check_class(option, cls, object, "Network")
    return tuple(classes)
