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
