from stable_baselines3.common.policies import BasePolicy

from sb3_genpolicy.common.policies import named
from sb3_genpolicy.common.policies.named import (
    DiffusionCnnPolicy,
    DiffusionMultiInputPolicy,
    DiffusionPolicy,
    FlowCnnPolicy,
    FlowMultiInputPolicy,
    FlowPolicy,
)

# SB3's names
MlpPolicy = DiffusionPolicy
CnnPolicy = DiffusionCnnPolicy
MultiInputPolicy = DiffusionMultiInputPolicy

POLICY_ALIASES: dict[str, type[BasePolicy]] = {
    **named.POLICY_ALIASES,
    "MlpPolicy": MlpPolicy,
    "CnnPolicy": CnnPolicy,
    "MultiInputPolicy": MultiInputPolicy,
}

__all__ = [
    "POLICY_ALIASES",
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
