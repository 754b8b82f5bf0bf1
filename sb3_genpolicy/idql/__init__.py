from pathlib import Path

from sb3_genpolicy.common.algorithms.registry import register
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

register("idql", IDQL, hyperparams=Path(__file__).parent / "hyperparams" / "default.yml")
