from pathlib import Path

from sb3_genpolicy.common.algorithms.registry import register
from sb3_genpolicy.common.algorithms.search_space import convert
from sb3_genpolicy.idql.idql import IDQL
from sb3_genpolicy.idql.policies import (
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
from sb3_genpolicy.idql.search import sample_idql

__all__ = [
    "IDQL",
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
    "idql",
    IDQL,
    hyperparams=Path(__file__).parent / "hyperparams" / "default.yml",
    sampler=sample_idql,
    converter=convert,
)
