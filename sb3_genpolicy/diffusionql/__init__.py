from pathlib import Path

from sb3_genpolicy.common.algorithms.registry import register
from sb3_genpolicy.common.algorithms.search_space import convert
from sb3_genpolicy.diffusionql.diffusionql import DiffusionQL
from sb3_genpolicy.diffusionql.policies import (
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
from sb3_genpolicy.diffusionql.search import sample_diffusionql

__all__ = [
    "CnnPolicy",
    "DiffusionCnnPolicy",
    "DiffusionMultiInputPolicy",
    "DiffusionPolicy",
    "DiffusionQL",
    "FlowCnnPolicy",
    "FlowMultiInputPolicy",
    "FlowPolicy",
    "MlpPolicy",
    "MultiInputPolicy",
]

register(
    "diffusionql",
    DiffusionQL,
    hyperparams=Path(__file__).parent / "hyperparams" / "default.yml",
    sampler=sample_diffusionql,
    converter=convert,
)
