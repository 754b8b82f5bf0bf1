from pathlib import Path

from sb3_genpolicy.common.algorithms.registry import register
from sb3_genpolicy.common.algorithms.search_space import convert
from sb3_genpolicy.gmpg.gmpg import GMPG
from sb3_genpolicy.gmpg.policies import (
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
from sb3_genpolicy.gmpg.search import sample_gmpg

__all__ = [
    "GMPG",
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
    "gmpg",
    GMPG,
    hyperparams=Path(__file__).parent / "hyperparams" / "tuned.yml",
    sampler=sample_gmpg,
    converter=convert,
)
