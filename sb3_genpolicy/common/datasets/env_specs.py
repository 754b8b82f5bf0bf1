"""
What a dataset says of the environment that it was recorded in, also where an older gymnasium wrote it down, where it names
wrappers that cannot be made again, or what is not installed.
"""

import importlib.metadata
import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, WrapperSpec, load_env_creator
from minari import MinariDataset
from minari.dataset.minari_storage import MinariStorage
from packaging.requirements import InvalidRequirement, Requirement

from sb3_genpolicy.common.datasets.suites import register_suite

#: Where a dataset's metadata have the environment that it was recorded in, and the one that it is for
SPEC_KEYS = ("env_spec", "eval_env_spec")
_FIELDS = {field.name for field in fields(EnvSpec) if field.init}
_WRAPPER_FIELDS = {field.name for field in fields(WrapperSpec)}
# SB3 wraps every environment in one of its own
_MONITOR = "stable_baselines3.common.monitor:Monitor"


def readable_spec(written: Any) -> str | None:
    """
    :param written: an environment's specification as it stands in a dataset's metadata
    :return: the same as JSON that today's gymnasium reads: without the fields of another version. None if it cannot be read.
    """
    told = _told(written)
    kept = {name: value for name, value in told.items() if name in _FIELDS}
    wrappers = kept.get("additional_wrappers")
    kept["additional_wrappers"] = [
        {name: wrapper.get(name) for name in _WRAPPER_FIELDS} for wrapper in wrappers or () if isinstance(wrapper, Mapping)
    ]
    kept["kwargs"] = kept.get("kwargs") or {}
    try:
        text = json.dumps(kept)
        EnvSpec.from_json(text)
    except (TypeError, ValueError):
        return None
    return text


def written_metadata(dataset: MinariDataset) -> dict[str, Any]:
    """
    :param dataset: a dataset
    :return: its metadata as they are in its file
    """
    return MinariStorage.read_raw_metadata(dataset.storage.data_path)


def recorded_env_id(metadata: Mapping[str, Any]) -> str | None:
    """
    :param metadata: of a Minari dataset
    :return: id of the environment that it was recorded in, also where that is not on this machine; None if it does not say
    """
    env_id = _told(metadata.get(SPEC_KEYS[0])).get("id")
    return env_id if isinstance(env_id, str) else None


def _told(written: Any) -> dict[str, Any]:
    if isinstance(written, str):
        try:
            written = json.loads(written)
        except ValueError:
            return {}
    return dict(written) if isinstance(written, Mapping) else {}


def recorded_spec(dataset: MinariDataset, evaluation: bool, way_on: str) -> EnvSpec:
    """
    :param dataset: a dataset
    :param evaluation: whether the environment that it names for evaluation comes first, where it names one
    :param way_on: what to do without one, the end of a sentence
    :return: the specification of its environment, which can be made if the environment is installed: with a warning, without
        the wrappers that cannot be made again
    :raises ValueError: if it names none, it cannot be read, or is not installed
    """
    metadata = written_metadata(dataset)
    keys = [key for key in (reversed(SPEC_KEYS) if evaluation else SPEC_KEYS[:1]) if metadata.get(key) is not None]
    if not keys:
        raise ValueError(f"Dataset '{dataset.id}' does not say what environment it was recorded in: {way_on}.")
    text = readable_spec(metadata[keys[0]])
    if text is None:
        name = _told(metadata[keys[0]]).get("id")
        named = f", '{name}'," if isinstance(name, str) else ""
        raise ValueError(f"What dataset '{dataset.id}' says of its environment{named} cannot be read by gymnasium: {way_on}.")
    spec = EnvSpec.from_json(text)
    register_suite(spec.id)
    fault = _fault_of(spec.entry_point)
    if fault is not None and spec.id in gym.registry:
        # It has moved since, or is made by a function, which no text can name
        spec = replace(spec, entry_point=gym.registry[spec.id].entry_point)
        fault = _fault_of(spec.entry_point)
    if fault is not None:
        raise ValueError(not_made(dataset, spec, fault, way_on))
    return recoverable(spec, f"Dataset '{dataset.id}'")


def make_recorded_env(dataset: MinariDataset, evaluation: bool, way_on: str, render_mode: str | None) -> gym.Env:
    """
    :param dataset: a dataset
    :param evaluation: as for :func:`recorded_spec`
    :param way_on: as for :func:`recorded_spec`
    :param render_mode: gymnasium's render mode
    :return: its environment
    :raises ValueError: as for :func:`recorded_spec`, or if the environment cannot be made
    """
    spec = recorded_spec(dataset, evaluation, way_on)
    unmet = [requirement for requirement in _requirements(dataset) if not _is_met(requirement)]
    if unmet:
        warnings.warn(
            f"Dataset '{dataset.id}' was recorded with {', '.join(unmet)}, and here is another version or none: its "
            f"environment {spec.id} may behave differently.",
            stacklevel=3,
        )
    try:
        return gym.make(spec, render_mode=render_mode)
    except Exception as error:
        raise ValueError(not_made(dataset, spec, error, way_on)) from error


def not_made(dataset: MinariDataset, spec: EnvSpec, error: Exception, way_on: str) -> str:
    """
    :param dataset: a dataset
    :param spec: of its environment
    :param error: what came of making it
    :param way_on: what to do without it, the end of a sentence
    :return: that in a sentence
    """
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".: ")
    needed = ", ".join(_requirements(dataset)) or "the package that has it"
    return (
        f"The environment {spec.id} of dataset '{dataset.id}' cannot be made on this machine ({reason}), though its data "
        f"can be read: install {needed}, or {way_on}."
    )


def recoverable(spec: EnvSpec, label: str) -> EnvSpec:
    """
    :param spec: of an environment
    :param label: what the environment is of, for the warning
    :return: the same without the wrappers that cannot be made again: SB3's ``Monitor``, and with a warning those that kept no
        record of how they were made, or whose class cannot be found
    """
    kept = tuple(wrapper for wrapper in spec.additional_wrappers if _can_be_made(wrapper))
    lost = [wrapper.name for wrapper in spec.additional_wrappers if wrapper not in kept and wrapper.entry_point != _MONITOR]
    if lost:
        warnings.warn(
            f"{label}: its environment {spec.id} is recovered without {', '.join(lost)}, which cannot be made again from what "
            "was written down: wrap it yourself where that matters.",
            stacklevel=4,
        )
    return replace(spec, additional_wrappers=kept)


def writable(spec: EnvSpec | None, label: str) -> EnvSpec | None:
    """
    :param spec: of an environment, if it has one
    :param label: what is recorded in it, for the warning
    :return: as much of it as can be written down and made again; with a warning None where that is nothing
    """
    if spec is None:
        return None
    spec = _named(recoverable(spec, label))
    try:
        spec.to_json()
    except (TypeError, ValueError):
        warnings.warn(
            f"{label}: how its environment {spec.id} was made cannot be written down (an argument is no plain value), so that "
            "the dataset will not say what it was recorded in.",
            stacklevel=3,
        )
        return None
    return spec


def _named(spec: EnvSpec) -> EnvSpec:
    """Without the function that makes it, where its id is enough to find that again (as with all of shimmy's)."""
    registered = gym.registry.get(spec.id)
    if callable(spec.entry_point) and registered is not None and callable(registered.entry_point):
        return replace(spec, entry_point=None)
    return spec


def _can_be_made(wrapper: WrapperSpec) -> bool:
    if not isinstance(wrapper.kwargs, Mapping) or _fault_of(wrapper.entry_point) is not None:
        return False
    try:
        json.dumps(wrapper.kwargs)
    except (TypeError, ValueError):
        return False
    return True


def _fault_of(entry_point: Any) -> Exception | None:
    """What comes of looking for a class, None if it is there."""
    if callable(entry_point):
        return None
    try:
        load_env_creator(entry_point)
    except Exception as error:
        return error if entry_point is not None else ValueError("nothing says where its class is")
    return None


def _requirements(dataset: MinariDataset) -> list[str]:
    told = written_metadata(dataset).get("requirements") or ()
    return [requirement for requirement in told if isinstance(requirement, str)] if _is_list(told) else []


def _is_list(told: Any) -> bool:
    return isinstance(told, Iterable) and not isinstance(told, (str, Mapping))


def _is_met(written: str) -> bool:
    try:
        requirement = Requirement(written)
        return requirement.specifier.contains(importlib.metadata.version(requirement.name), prereleases=True)
    except InvalidRequirement:
        return True
    except importlib.metadata.PackageNotFoundError:
        return False
