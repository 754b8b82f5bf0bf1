"""
The labels by which a model's file names classes. Reading a file makes these classes and nothing else.

A class of this package goes by its own name, wherever its module is (``FlowPolicy``); one of another library by its public
path (``gymnasium.spaces.Box``); one that was given to ``sb3_genpolicy.register`` by the algorithm's name and its own
(``mine.Network``).
"""

import importlib
import re
import sys
from collections.abc import Collection, Mapping
from typing import Any

import torch as th
from torch import nn

#: What an algorithm may be called, as the first part of labels and in the zoo
NAME = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)

# Imports every algorithm of the package, each of which calls `register`
_EVERYTHING = "sb3_genpolicy.public"

# Module -> the classes there of which objects are stored, by the options of their constructors
_OUR_OBJECTS = {
    "sb3_genpolicy.common.transitions.rewards": "AffineReward ReturnRange",
    "sb3_genpolicy.common.transitions.transforms": "ClipActions RescaleActions BestEpisodes HeldOutEpisodes NStepReturns "
    "WeightedEpisodes",
    "sb3_genpolicy.common.policies.critics.options": "IQLCritic OneStepCritic PolicyCritic NoCritic",
    "sb3_genpolicy.generative.paths": "LinearPath CosinePath VPPath",
    "sb3_genpolicy.generative.couplings": "IndependentCoupling OptimalTransportCoupling",
    "sb3_genpolicy.generative.solvers": "Sampler",
    "sb3_genpolicy.generative.likelihood": "Likelihood",
    "sb3_genpolicy.generative.kl": "DiscreteKL PathKL OdeKL",
}
_OTHER_OBJECTS = {
    "gymnasium.spaces": "Box Discrete MultiDiscrete MultiBinary Dict Tuple",
    "stable_baselines3.common.type_aliases": "TrainFreq TrainFrequencyUnit",
    "stable_baselines3.common.utils": "FloatSchedule ConstantSchedule LinearSchedule",
    "rl_zoo3.utils": "SimpleLinearSchedule",
}
# Module -> the classes there that are stored themselves
_POLICIES = "FlowPolicy FlowCnnPolicy FlowMultiInputPolicy DiffusionPolicy DiffusionCnnPolicy DiffusionMultiInputPolicy"
_OUR_CLASSES = {
    "sb3_genpolicy.common.policies.named": _POLICIES,
    "sb3_genpolicy.common.policies.deterministic_policy": (
        "DeterministicPolicy DeterministicCnnPolicy DeterministicMultiInputPolicy"
    ),
    "sb3_genpolicy.common.policies.gaussian_policy": "GaussianPolicy GaussianCnnPolicy GaussianMultiInputPolicy",
    "sb3_genpolicy.common.policies.dict_extractor": "DictExtractor",
    "sb3_genpolicy.common.replay.buffer": "OfflineReplayBuffer",
    "sb3_genpolicy.generative.networks": "ConditionalMLP UShapedMLP",
    "sb3_genpolicy.generative.time_features": "SinusoidalTimeFeatures GaussianFourierTimeFeatures",
}
_OTHER_CLASSES = {"stable_baselines3.common.torch_layers": "FlattenExtractor NatureCNN CombinedExtractor"}


def _paths(modules: Mapping[str, str]) -> list[str]:
    return [f"{module}.{name}" for module, names in modules.items() for name in names.split()]


def _labels_of_release_0_1() -> dict[str, str]:
    """The paths that its files have -> labels."""
    moved = {
        "sb3_genpolicy.common.rewards": "AffineReward ReturnRange",
        "sb3_genpolicy.common.transforms": "ClipActions RescaleActions BestEpisodes HeldOutEpisodes NStepReturns",
        "sb3_genpolicy.common.policies": _POLICIES,
        "sb3_genpolicy.common.buffers": "OfflineReplayBuffer",
    }
    stayed = [path for path in _paths({**_OUR_OBJECTS, **_OUR_CLASSES}) if path.startswith("sb3_genpolicy.generative.")]
    of_gmpg = _paths({"sb3_genpolicy.gmpg.policies": "DiffusionPolicy DiffusionCnnPolicy DiffusionMultiInputPolicy"})
    ours = {path: path.rpartition(".")[2] for path in [*_paths(moved), *stayed]}
    return {**ours, **{path: f"gmpg.{path.rpartition('.')[2]}" for path in of_gmpg}}


_RELEASE_0_1 = _labels_of_release_0_1()


class NotRegisteredError(ValueError):
    """
    A file has a label of the form that ``sb3_genpolicy.register`` gives, and nobody has registered it.

    :param label: the label
    """

    def __init__(self, label: str):
        name, _, cls = label.partition(".")
        known = name in _registered_names
        #: What the file does, as the end of a sentence
        self.reason = f"names {label!r}, which is no class that such a file may ask for unless it is registered"
        #: What to do about it
        self.remedy = (
            f"give {cls} to sb3_genpolicy.register({name!r}, ...), which does not have it"
            if known
            else f"import the module that calls sb3_genpolicy.register({name!r}, ...) before you load it"
        )
        super().__init__(f"{self.reason}: {self.remedy}")


class Labels:
    """
    Classes by their labels: those listed here, which are imported when they are asked for, and those registered.

    :param ours: module of this package -> its classes, which go by their names
    :param others: module of another library -> its classes, which go by their paths
    """

    def __init__(self, ours: Mapping[str, str], others: Mapping[str, str]):
        self._paths = {path.rpartition(".")[2]: path for path in _paths(ours)} | {path: path for path in _paths(others)}
        self._registered: dict[str, type] = {}

    def label_of(self, cls: type) -> str | None:
        """
        :param cls: a class
        :return: its label, None if it has none
        """
        for label, path in self._paths.items():
            module, _, name = path.rpartition(".")
            # Who has an object of a class has its module
            if getattr(sys.modules.get(module), name, None) is cls:
                return label
        return next((label for label, registered in self._registered.items() if registered is cls), None)

    def class_of(self, label: str) -> type:
        """
        :param label: a label, or a path that a file of release 0.1 has
        :return: the class
        :raises ValueError: if no class goes by it, with a text that goes on from what has it
        """
        label = _RELEASE_0_1.get(label, label)
        if label in self._paths:
            module, _, name = self._paths[label].rpartition(".")
            found: type = getattr(importlib.import_module(module), name)
            return found
        if label not in self._registered:
            import_everything()
        if label not in self._registered:
            name, _, cls_name = label.partition(".")
            if NAME.fullmatch(name) and cls_name.isidentifier():
                raise NotRegisteredError(label)
            raise ValueError(f"names {label!r}, which is no class that such a file may ask for")
        return self._registered[label]

    def found_at(self, module: str, name: str) -> type | None:
        """
        :param module: path of a module
        :param name: name of a class in it
        :return: the class, if it was registered
        """
        for cls in self._registered.values():
            if (cls.__module__, cls.__qualname__) == (module, name):
                return cls
        return None

    def add(self, labels: Mapping[str, type]) -> None:
        """
        :param labels: label -> class
        """
        self._registered.update(labels)


#: Classes of which objects are stored, by the options of their constructors
OBJECTS = Labels(_OUR_OBJECTS, _OTHER_OBJECTS)
#: Classes that are stored themselves, beside all modules of ``torch.nn`` and all optimizers of ``torch.optim``
CLASSES = Labels(_OUR_CLASSES, _OTHER_CLASSES)

_registered_names: set[str] = set()


def add_labels(name: str, classes: Collection[type], objects: Collection[type]) -> None:
    """
    Give labels to classes that have none yet.

    :param name: what the algorithm that they belong to is called
    :param classes: classes that are stored themselves
    :param objects: classes of which objects are stored
    :raises ValueError: if two different ones would have the same label
    """
    new_classes = _new_labels(name, [cls for cls in classes if torch_name_of(cls) is None], CLASSES)
    new_objects = _new_labels(name, objects, OBJECTS)
    CLASSES.add(new_classes)
    OBJECTS.add(new_objects)
    _registered_names.add(name)


def _new_labels(name: str, classes: Collection[type], table: Labels) -> dict[str, type]:
    labels: dict[str, type] = {}
    for cls in classes:
        if table.label_of(cls) is None:
            label = f"{name}.{cls.__name__}"
            if labels.setdefault(label, cls) is not cls:
                raise ValueError(f"register({name!r}, ...): two classes are called {cls.__name__}. Give one another name.")
    return labels


def import_everything() -> None:
    """Import all algorithms of the package, so that they are registered."""
    importlib.import_module(_EVERYTHING)


_TORCH: dict[str, tuple[Any, type]] = {"torch.nn": (nn, nn.Module), "torch.optim": (th.optim, th.optim.Optimizer)}


def torch_name_of(cls: type) -> str | None:
    """
    :param cls: a class
    :return: the name of a module of ``torch.nn`` or an optimizer of ``torch.optim``, None of any other class
    """
    for prefix, (namespace, base) in _TORCH.items():
        if issubclass(cls, base) and getattr(namespace, cls.__name__, None) is cls:
            return f"{prefix}.{cls.__name__}"
    return None


def torch_class_of(name: str) -> type | None:
    """
    :param name: any name
    :return: the module of ``torch.nn`` or the optimizer of ``torch.optim`` that goes by it, None if there is none
    """
    prefix, _, attribute = name.rpartition(".")
    if prefix not in _TORCH:
        return None
    namespace, base = _TORCH[prefix]
    found = getattr(namespace, attribute, None)
    return found if isinstance(found, type) and issubclass(found, base) else None
