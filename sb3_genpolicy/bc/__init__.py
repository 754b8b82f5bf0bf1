from pathlib import Path

from sb3_genpolicy.bc.bc import BC
from sb3_genpolicy.bc.policies import (
    CnnPolicy,
    DeterministicCnnPolicy,
    DeterministicMultiInputPolicy,
    DeterministicPolicy,
    DiffusionCnnPolicy,
    DiffusionMultiInputPolicy,
    DiffusionPolicy,
    FlowCnnPolicy,
    FlowMultiInputPolicy,
    FlowPolicy,
    GaussianCnnPolicy,
    GaussianMultiInputPolicy,
    GaussianPolicy,
    MlpPolicy,
    MultiInputPolicy,
)
from sb3_genpolicy.bc.search import convert_bc, sample_bc
from sb3_genpolicy.common.algorithms.registry import register

__all__ = [
    "BC",
    "CnnPolicy",
    "DeterministicCnnPolicy",
    "DeterministicMultiInputPolicy",
    "DeterministicPolicy",
    "DiffusionCnnPolicy",
    "DiffusionMultiInputPolicy",
    "DiffusionPolicy",
    "FlowCnnPolicy",
    "FlowMultiInputPolicy",
    "FlowPolicy",
    "GaussianCnnPolicy",
    "GaussianMultiInputPolicy",
    "GaussianPolicy",
    "MlpPolicy",
    "MultiInputPolicy",
]

register("bc", BC, hyperparams=Path(__file__).parent / "hyperparams" / "default.yml", sampler=sample_bc, converter=convert_bc)
