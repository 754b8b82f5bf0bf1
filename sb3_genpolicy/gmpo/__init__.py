from pathlib import Path

from sb3_genpolicy.common.algorithms.registry import register
from sb3_genpolicy.common.algorithms.search_space import convert
from sb3_genpolicy.gmpo.gmpo import GMPO
from sb3_genpolicy.gmpo.policies import (
    CnnPolicy,
    DiffusionCnnPolicy,
    DiffusionMultiInputPolicy,
    DiffusionPolicy,
    FlowCnnPolicy,
    FlowMultiInputPolicy,
    FlowPolicy,
    MlpPolicy,
    MultiInputPolicy,
)
from sb3_genpolicy.gmpo.search import sample_gmpo

__all__ = [
    "GMPO",
    "CnnPolicy",
    "DiffusionCnnPolicy",
    "DiffusionMultiInputPolicy",
    "DiffusionPolicy",
    "FlowCnnPolicy",
    "FlowMultiInputPolicy",
    "FlowPolicy",
    "MlpPolicy",
    "MultiInputPolicy",
]

register(
    "gmpo",
    GMPO,
    hyperparams=Path(__file__).parent / "hyperparams" / "tuned.yml",
    sampler=sample_gmpo,
    converter=convert,
)
