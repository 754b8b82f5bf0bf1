from stable_baselines3.common.policies import BasePolicy

from sb3_genpolicy.common.policies import named
from sb3_genpolicy.common.policies.deterministic_policy import (
    DeterministicCnnPolicy,
    DeterministicMultiInputPolicy,
    DeterministicPolicy,
)
from sb3_genpolicy.common.policies.gaussian_policy import GaussianCnnPolicy, GaussianMultiInputPolicy, GaussianPolicy
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

POLICY_ALIASES: dict[str, type[BasePolicy]] = {
    **named.POLICY_ALIASES,
    "GaussianPolicy": GaussianPolicy,
    "GaussianCnnPolicy": GaussianCnnPolicy,
    "GaussianMultiInputPolicy": GaussianMultiInputPolicy,
    "DeterministicPolicy": DeterministicPolicy,
    "DeterministicCnnPolicy": DeterministicCnnPolicy,
    "DeterministicMultiInputPolicy": DeterministicMultiInputPolicy,
}

__all__ = [
    "POLICY_ALIASES",
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
