"""
From the options of a policy, names or objects, to the parts of its generative model.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from sb3_genpolicy.generative import (
    COUPLINGS,
    NETWORKS,
    PATHS,
    TIME_FEATURES,
    Coupling,
    Path,
    Prediction,
    Sampler,
    VPPath,
)
from sb3_genpolicy.generative.checks import check_choice, check_class, check_number, did_you_mean, shown
from sb3_genpolicy.generative.predictions import check_prediction


def make_path(path: str | Path | None, names: tuple[str, ...], owner: str) -> Path:
    """
    :param path: a name, a path, or None for the first of ``names``
    :param names: the paths of the policy class
    :param owner: the policy class's name, for the message
    :return: the path
    :raises ValueError: if the policy class has no such path
    """
    if path is None:
        path = names[0]
    if not isinstance(path, Path):
        check_choice(f"path of {owner}", path, names)
        return PATHS[path]()
    if not isinstance(path, tuple(PATHS[name] for name in names)):
        raise ValueError(f"{owner} has no path {type(path).__name__}. There are: {', '.join(names)}.")
    return path


def make_prediction(prediction: Prediction | None, path: Path) -> Prediction:
    """
    :param prediction: what the network is to predict; None for what is published for the path
    :param path: the path
    :return: the prediction
    :raises ValueError: if it is unknown or undefined on the path
    """
    if prediction is None:
        return "noise" if isinstance(path, VPPath) else "velocity"
    check_prediction(prediction, path)
    return prediction


def make_coupling(coupling: str | Coupling) -> Coupling:
    """
    :param coupling: a name or a coupling
    :return: the coupling
    :raises ValueError: for an unknown name
    """
    if isinstance(coupling, Coupling):
        return coupling
    check_choice("coupling", coupling, COUPLINGS)
    return COUPLINGS[coupling]()


def make_sampler(solver: str | Sampler, steps: int | None = None, time_grid: str | None = None) -> Sampler:
    """
    :param solver: a name, or a sampler that the other options change
    :param steps: number of steps; None for the sampler's, or the default
    :param time_grid: name of a time grid; None for the sampler's, or the default
    :return: the sampler
    :raises ValueError: for an unknown name or a number out of range
    """
    sampler = solver if isinstance(solver, Sampler) else Sampler(solver)
    if steps is not None:
        check_number("sampling_steps", steps, low=1, whole=True)
        sampler = replace(sampler, steps=steps)
    return sampler if time_grid is None else replace(sampler, time_grid=time_grid)


def network_class(network: str | type[nn.Module]) -> type[nn.Module]:
    """
    :param network: a name or a class
    :return: the class
    :raises ValueError: for an unknown name
    """
    return _class_of("network", network, NETWORKS)


def time_features_class(time_features: str | type[nn.Module] | None) -> type[nn.Module] | None:
    """
    :param time_features: a name, a class, or None for the network's own
    :return: the class, or None
    :raises ValueError: for an unknown name
    """
    return None if time_features is None else _class_of("time_features", time_features, TIME_FEATURES)


def _class_of(option: str, value: str | type[nn.Module], known: Mapping[str, type[nn.Module]]) -> type[nn.Module]:
    if isinstance(value, str):
        check_choice(option, value, known)
        return known[value]
    check_class(option, value, nn.Module, f"'{next(iter(known))}'")
    return value


def split_net_arch(
    net_arch: list[int] | dict[str, list[int]] | None, of_actor: Sequence[int] = (256, 256)
) -> dict[str, list[int]]:
    """
    :param net_arch: widths for all networks, for some, or None for the defaults
    :param of_actor: default of the actor's widths
    :return: widths of actor (``pi``) and critics (``qf``, ``vf``)
    :raises ValueError: for an unknown key
    """
    default = {"pi": list(of_actor), "qf": [256, 256], "vf": [256, 256]}
    if net_arch is None:
        return default
    if not isinstance(net_arch, dict):
        widths = _checked_widths("net_arch", net_arch)
        return {key: list(widths) for key in default}
    _check_keys(net_arch, default)
    return {**default, **{key: _checked_widths(f"net_arch[{key!r}]", widths) for key, widths in net_arch.items()}}


def _check_keys(net_arch: dict[str, list[int]], known: Iterable[str]) -> None:
    for key in net_arch:
        if key not in known:
            raise ValueError(f"net_arch has no key {key!r}. {did_you_mean(str(key), known)}")


def _checked_widths(option: str, widths: Any) -> list[int]:
    if not isinstance(widths, (list, tuple)):
        raise ValueError(f"{option} must be a list of widths, as [256, 256], not {shown(widths)}.")
    for width in widths:
        check_number(f"each width in {option}", width, low=1, whole=True)
    return [int(width) for width in widths]
