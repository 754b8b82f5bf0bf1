from sb3_genpolicy.common.policies.named import (
    DiffusionCnnPolicy,
    DiffusionMultiInputPolicy,
    DiffusionPolicy,
    FlowCnnPolicy,
    FlowMultiInputPolicy,
    FlowPolicy,
)

# SB3's names
MlpPolicy = FlowPolicy
CnnPolicy = FlowCnnPolicy
MultiInputPolicy = FlowMultiInputPolicy

__all__ = [
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
