from pathlib import Path

from sb3_genpolicy.common.algorithms.registry import register
from sb3_genpolicy.common.algorithms.search_space import convert
from sb3_genpolicy.iql.iql import IQL
from sb3_genpolicy.iql.policies import (
    CnnPolicy,
    GaussianCnnPolicy,
    GaussianMultiInputPolicy,
    GaussianPolicy,
    MlpPolicy,
    MultiInputPolicy,
)
from sb3_genpolicy.iql.search import sample_iql

__all__ = [
    "IQL",
    "CnnPolicy",
    "GaussianCnnPolicy",
    "GaussianMultiInputPolicy",
    "GaussianPolicy",
    "MlpPolicy",
    "MultiInputPolicy",
]

register(
    "iql",
    IQL,
    hyperparams=Path(__file__).parent / "hyperparams" / "default.yml",
    sampler=sample_iql,
    converter=convert,
)
