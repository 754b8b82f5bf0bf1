from pathlib import Path

from sb3_genpolicy.common.algorithms.registry import register
from sb3_genpolicy.iql.iql import IQL
from sb3_genpolicy.iql.policies import (
    CnnPolicy,
    GaussianCnnPolicy,
    GaussianMultiInputPolicy,
    GaussianPolicy,
    MlpPolicy,
    MultiInputPolicy,
)

__all__ = [
    "IQL",
    "CnnPolicy",
    "GaussianCnnPolicy",
    "GaussianMultiInputPolicy",
    "GaussianPolicy",
    "MlpPolicy",
    "MultiInputPolicy",
]

register("iql", IQL, hyperparams=Path(__file__).parent / "hyperparams" / "default.yml")
