"""
The options of a model, as one would write them to make it again.
"""

import dataclasses
import importlib
import inspect
import json
import keyword
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sb3_genpolicy.common.algorithms.offline_algorithm import OfflineAlgorithm
from sb3_genpolicy.common.algorithms.registry import registered
from sb3_genpolicy.common.datasets.envs import env_id_of
from sb3_genpolicy.common.utils import described, on_one_line
from sb3_genpolicy.generative.checks import options_of

# Said elsewhere, or of no influence on what is learnt
_LEFT_OUT = {"self", "policy", "env", "dataset", "device", "verbose", "stats_window_size", "tensorboard_log", "pretrained"}
# Short for another option, which has it
_SHORT = {"expectile"}


def options_now(model: OfflineAlgorithm) -> dict[str, Any]:
    """
    :param model: a model
    :return: the options of its constructor that decide what is learnt, as they are now
    """
    names = [name for name in options_of(type(model)) if name[0] != "_" and name not in _LEFT_OUT | _SHORT]
    policy_kwargs = {key: value for key, value in model.policy_kwargs.items() if key not in ("critic", "behaviour_model")}
    own = {"policy_kwargs": policy_kwargs, "critic": model.policy_kwargs.get("critic")}
    return {name: own[name] if name in own else getattr(model, name) for name in names if name in own or hasattr(model, name)}


def given_options(model: OfflineAlgorithm) -> dict[str, Any]:
    """
    :param model: a model
    :return: the fewest of these options that make all of them as they are, in the constructor's order: those that are not its
        defaults, with what an option settles for others (a ``beta`` that is given, say, for ``target_kl``) left out
    """
    options = options_now(model)
    wanted = _settled(model, options)
    if wanted is None:
        # A class of somebody's own that is not made like the others
        return options
    given = dict(options)
    if options.get("pretraining_steps") is not None and _is_settled_by_learning(model, options):
        given.pop("pretraining_steps")
        wanted = {**wanted, "pretraining_steps": None}
    for name in options:
        fewer = {other: value for other, value in given.items() if other != name}
        if _same(_settled(model, fewer), wanted):
            given = fewer
    asked = getattr(model, "kl_was_given", False) and not {"beta", "target_kl"} & given.keys()
    if asked and options.get("target_kl") is not None:
        # That it was asked for counts too, though it is the default
        given["target_kl"] = options["target_kl"]
    return {name: given[name] for name in options if name in given}


def _settled(model: OfflineAlgorithm, options: Mapping[str, Any]) -> dict[str, Any] | None:
    """Options of a model that is made with some of them, without networks; None where it cannot be made."""
    made = _made(model, options)
    return None if made is None else options_now(made)


def _made(model: OfflineAlgorithm, options: Mapping[str, Any]) -> Any:
    algorithm: Any = type(model)
    try:
        return algorithm(type(model.policy), None, **options, _init_setup_model=False)
    except (TypeError, ValueError):
        return None


def _is_settled_by_learning(model: Any, options: Mapping[str, Any]) -> bool:
    """Whether the first phase is as long as nobody said."""
    if getattr(model, "critics_go_on", False):
        # Which they do only then
        return True
    made = _made(model, {name: value for name, value in options.items() if name != "pretraining_steps"})
    if made is None or model._n_updates == 0:
        return False
    settled = made._default_pretraining_steps(model._n_updates)
    return settled == model.pretraining_steps and not getattr(made, "critics_go_on", False)


def _same(one: Mapping[str, Any] | None, other: Mapping[str, Any]) -> bool:
    return one is not None and one.keys() == other.keys() and all(_is_equal(one[name], other[name]) for name in one)


def _is_equal(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_is_equal, one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_is_equal(one[key], other[key]) for key in one)
    try:
        return type(one) is type(other) and bool(np.all(one == other))
    except (TypeError, ValueError, RuntimeError):
        return False


def shown_options(options: Mapping[str, Any]) -> dict[str, str]:
    """
    :param options: names and values
    :return: the values as one would write them, in short where they are something of one's own
    """
    return {name: _in_short(value) for name, value in options.items()}


def _in_short(value: Any) -> str:
    if isinstance(value, Callable) and hasattr(value, "__qualname__"):  # type: ignore[arg-type]
        return value.__qualname__
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_in_short(each)}" for key, each in value.items()) + "}"
    text = described(value)
    return f"a {type(value).__name__}" if " at 0x" in text else text


class Snippet:
    """
    Python that makes and trains a model again, as far as it can be written down.

    :param model: a model
    :param options: of its constructor, see :func:`given_options`
    """

    def __init__(self, model: OfflineAlgorithm, options: Mapping[str, Any]):
        self._model = model
        self._imports: dict[str, set[str]] = {}
        #: What cannot be written down, in words
        self.missing: list[str] = []
        name = self._named(type(model))
        arguments = [json.dumps(self._policy_name()), *self._env(), *self._dataset()]
        arguments += [f"{option}={self._written(value, option)}" for option, value in options.items()]
        call = f"model = {name}({', '.join(arguments)})"
        if len(call) > 100:
            call = f"model = {name}(\n" + "".join(f"    {argument},\n" for argument in arguments) + ")"
        steps = int(model._n_updates)
        self._body = f"{call}\nmodel.learn({steps:_})\n"
        if model.online:
            self.missing.append("it went on online: its steps in the environment are not part of this")
        if getattr(model, "pretraining_steps", None) == 0 and getattr(model, "pretraining_finished", False):
            self.missing.append("if it began from pretrained= networks, these have to be given again")

    def __str__(self) -> str:
        lines = [f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(self._imports.items())]
        notes = [f"# {note}" for note in self.missing]
        return "\n".join([*notes, *lines, "", self._body])

    def _policy_name(self) -> str:
        known = type(self._model).policy_aliases
        names = [name for name, policy in known.items() if policy is type(self._model.policy)]
        if not names:
            self.missing.append(f"its policy is a class of its own, {type(self._model.policy).__name__}")
        return names[0] if names else type(self._model.policy).__name__

    def _env(self) -> list[str]:
        env_id = env_id_of(self._model.env)
        if env_id is None:
            return []
        if self._model.get_vec_normalize_env() is not None:
            self.missing.append("its environment was wrapped in VecNormalize")
        return [json.dumps(env_id)]

    def _dataset(self) -> list[str]:
        name = self._model.dataset_name
        if name is None:
            self.missing.append("its dataset has no name: put your data in place of DATA")
        return ["dataset=DATA" if name is None else f"dataset={json.dumps(name)}"]

    def _named(self, cls: Any) -> str:
        package = cls.__module__.partition(".")[0]
        # As whoever writes it would: from the top, if it is there
        is_public = getattr(importlib.import_module(package), cls.__name__, None) is cls
        self._imports.setdefault(package if is_public else cls.__module__, set()).add(cls.__name__)
        return cls.__name__

    def _written(self, value: Any, option: str) -> str:
        if isinstance(value, str):
            return json.dumps(value)
        if isinstance(value, (int, float, bool, type(None))):
            return repr(value)
        if isinstance(value, np.generic):
            return repr(value.item())
        if isinstance(value, tuple) and option != "transforms":
            return "(" + "".join(f"{self._written(each, option)}, " for each in value).strip() + ")"
        if isinstance(value, (list, tuple)):
            return "[" + ", ".join(self._written(each, option) for each in value) + "]"
        if isinstance(value, dict):
            return self._written_dict(value, option)
        if isinstance(value, type) and value.__qualname__ == value.__name__:
            return self._named(value)
        if dataclasses.is_dataclass(value):
            names = [field.name for field in dataclasses.fields(value) if field.init]
            return self._written_object(value, names, option)
        names = [name for name in inspect.signature(type(value)).parameters if hasattr(value, name)]
        if type(value).__module__.startswith("sb3_genpolicy.") and names == list(inspect.signature(type(value)).parameters):
            return self._written_object(value, names, option)
        self.missing.append(f"{option} is something of your own, {_in_short(value)}: put it in place of ...")
        return "..."

    def _written_dict(self, value: dict[Any, Any], option: str) -> str:
        pairs = {key: self._written(each, option) for key, each in value.items()}
        if all(isinstance(key, str) and key.isidentifier() and not keyword.iskeyword(key) for key in pairs):
            return "dict(" + ", ".join(f"{key}={text}" for key, text in pairs.items()) + ")"
        return "{" + ", ".join(f"{key!r}: {text}" for key, text in pairs.items()) + "}"

    def _written_object(self, value: Any, names: list[str], option: str) -> str:
        parameters = inspect.signature(type(value)).parameters
        given = {name: getattr(value, name) for name in names if not _is_equal(getattr(value, name), parameters[name].default)}
        inner = ", ".join(f"{name}={self._written(each, option)}" for name, each in given.items())
        return f"{self._named(type(value))}({inner})"


def command_to_repeat(model: OfflineAlgorithm) -> str:
    """
    :param model: a model
    :return: Python that makes and trains it again
    """
    return str(Snippet(model, given_options(model)))


def what_it_is(model: OfflineAlgorithm) -> dict[str, str]:
    """
    :param model: a model
    :return: what a stranger asks first -> the answer
    """
    n_parameters = sum(parameter.numel() for parameter in model.policy.actor.parameters())
    first = getattr(model, "pretraining_steps", None)
    steps = f"{model._n_updates:,}" + (f", of which {first:,} of the first phase" if first else "")
    name = next((entry.name for entry in registered().values() if entry.algorithm is type(model)), type(model).__name__)
    return {
        "method": f"{type(model).__name__} (--algo {name} of the zoo)",
        "policy": f"{type(model.policy).__name__}, {n_parameters:,} parameters act",
        "dataset": model.dataset_name or "without a name",
        "environment": env_id_of(model.env) or "none given",
        "gradient steps": f"{steps}, {model.batch_size:,} rows each",
        "discount": f"{model.gamma:g}",
        "observations": on_one_line(model.observation_space),
        "actions": on_one_line(model.action_space),
    }
