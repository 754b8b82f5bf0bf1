"""
Offline reinforcement learning with generative policies for Stable-Baselines3.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sb3_genpolicy.common.algorithms.callbacks import OfflineEvalCallback
    from sb3_genpolicy.common.datasets import load_dataset
    from sb3_genpolicy.common.datasets.envs import make_offline_env
    from sb3_genpolicy.common.datasets.info import dataset_info
    from sb3_genpolicy.common.datasets.recording import record_dataset
    from sb3_genpolicy.common.files.whole_files import last_checkpoint
    from sb3_genpolicy.common.side_by_side.learn import learn_side_by_side
    from sb3_genpolicy.common.transitions.rewards import AffineReward, ReturnRange
    from sb3_genpolicy.common.transitions.transforms import (
        BestEpisodes,
        ClipActions,
        HeldOutEpisodes,
        NStepReturns,
        RescaleActions,
    )
    from sb3_genpolicy.common.transitions.transitions import Transitions, normalized_score
    from sb3_genpolicy.common.updates.processes import data_parallel
    from sb3_genpolicy.gmpg import GMPG
    from sb3_genpolicy.gmpo import GMPO

__version__ = "0.1.0"

__all__ = [
    "GMPG",
    "GMPO",
    "AffineReward",
    "BestEpisodes",
    "ClipActions",
    "HeldOutEpisodes",
    "NStepReturns",
    "OfflineEvalCallback",
    "RescaleActions",
    "ReturnRange",
    "Transitions",
    "__version__",
    "data_parallel",
    "dataset_info",
    "last_checkpoint",
    "learn_side_by_side",
    "load_dataset",
    "make_offline_env",
    "normalized_score",
    "record_dataset",
]

# Imported when they are first asked for, so that `sb3_genpolicy.generative` does not bring Stable-Baselines3 along
_MODULES = {
    "GMPG": "gmpg",
    "GMPO": "gmpo",
    "AffineReward": "common.transitions.rewards",
    "BestEpisodes": "common.transitions.transforms",
    "ClipActions": "common.transitions.transforms",
    "HeldOutEpisodes": "common.transitions.transforms",
    "NStepReturns": "common.transitions.transforms",
    "OfflineEvalCallback": "common.algorithms.callbacks",
    "RescaleActions": "common.transitions.transforms",
    "ReturnRange": "common.transitions.rewards",
    "Transitions": "common.transitions.transitions",
    "data_parallel": "common.updates.processes",
    "dataset_info": "common.datasets.info",
    "last_checkpoint": "common.files.whole_files",
    "learn_side_by_side": "common.side_by_side.learn",
    "load_dataset": "common.datasets",
    "make_offline_env": "common.datasets.envs",
    "normalized_score": "common.transitions.transitions",
    "record_dataset": "common.datasets.recording",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    if name in ("common", "generative", "gmpg", "gmpo"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
