"""
The classes that a model's file may name. A file says what it holds by these names, and reading it makes nothing else.
"""

import importlib
import sys
from collections.abc import Collection, Iterator
from typing import Any

import torch as th
from torch import nn

from sb3_genpolicy.common.moved import present_path


def _within(module: str, names: str) -> Iterator[str]:
    return (f"{module}.{name}" for name in names.split())


#: Classes of which objects are stored, by the options of their constructors
OBJECTS = (
    *_within("gymnasium.spaces", "Box Discrete MultiDiscrete MultiBinary Dict Tuple"),
    *_within("sb3_genpolicy.common.transitions.rewards", "AffineReward ReturnRange"),
    *_within(
        "sb3_genpolicy.common.transitions.transforms", "ClipActions RescaleActions BestEpisodes HeldOutEpisodes NStepReturns"
    ),
    *_within("sb3_genpolicy.generative.paths", "LinearPath CosinePath VPPath"),
    *_within("sb3_genpolicy.generative.couplings", "IndependentCoupling OptimalTransportCoupling"),
    *_within("sb3_genpolicy.generative.solvers", "Sampler"),
    *_within("sb3_genpolicy.generative.likelihood", "Likelihood"),
    *_within("sb3_genpolicy.generative.kl", "DiscreteKL PathKL OdeKL"),
    *_within("stable_baselines3.common.type_aliases", "TrainFreq TrainFrequencyUnit"),
    *_within("stable_baselines3.common.utils", "FloatSchedule ConstantSchedule LinearSchedule"),
    *_within("rl_zoo3.utils", "SimpleLinearSchedule"),
)

_POLICIES = "FlowPolicy FlowCnnPolicy FlowMultiInputPolicy DiffusionPolicy DiffusionCnnPolicy DiffusionMultiInputPolicy"
#: Classes that are stored themselves, beside all modules of ``torch.nn`` and all optimizers of ``torch.optim``
CLASSES = (
    *_within("sb3_genpolicy.common.policies.named", _POLICIES),
    *_within("sb3_genpolicy.gmpg.policies", "DiffusionPolicy DiffusionCnnPolicy DiffusionMultiInputPolicy"),
    *_within("sb3_genpolicy.common.replay.buffer", "OfflineReplayBuffer"),
    *_within("sb3_genpolicy.generative.networks", "ConditionalMLP UShapedMLP"),
    *_within("sb3_genpolicy.generative.time_features", "SinusoidalTimeFeatures GaussianFourierTimeFeatures"),
    *_within("stable_baselines3.common.torch_layers", "FlattenExtractor NatureCNN CombinedExtractor"),
)

_TORCH: dict[str, tuple[Any, type]] = {"torch.nn": (nn, nn.Module), "torch.optim": (th.optim, th.optim.Optimizer)}


def name_of(cls: type, known: Collection[str]) -> str | None:
    """
    :param cls: a class
    :param known: names of classes
    :return: the one that it goes by, None if there is none
    """
    for name in known:
        module, _, attribute = name.rpartition(".")
        # Who has an object of a class has its module
        if getattr(sys.modules.get(module), attribute, None) is cls:
            return name
    return None


def class_of(name: str, known: Collection[str]) -> type:
    """
    :param name: name of a class
    :param known: the names that are allowed
    :return: the class
    :raises ValueError: for any other name
    """
    module, _, attribute = name.rpartition(".")
    # Release 0.1 had some of them elsewhere
    module = present_path(module)
    if f"{module}.{attribute}" not in known:
        raise ValueError(f"names {name!r}, which is no class that such a file may ask for")
    return getattr(importlib.import_module(module), attribute)


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
