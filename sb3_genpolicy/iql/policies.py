from stable_baselines3.common.policies import BasePolicy

from sb3_genpolicy.common.policies.gaussian_policy import GaussianCnnPolicy, GaussianMultiInputPolicy, GaussianPolicy

# SB3's names
MlpPolicy = GaussianPolicy
CnnPolicy = GaussianCnnPolicy
MultiInputPolicy = GaussianMultiInputPolicy

POLICY_ALIASES: dict[str, type[BasePolicy]] = {
    "GaussianPolicy": GaussianPolicy,
    "GaussianCnnPolicy": GaussianCnnPolicy,
    "GaussianMultiInputPolicy": GaussianMultiInputPolicy,
    "MlpPolicy": MlpPolicy,
    "CnnPolicy": CnnPolicy,
    "MultiInputPolicy": MultiInputPolicy,
}

__all__ = [
    "POLICY_ALIASES",
    "CnnPolicy",
    "GaussianCnnPolicy",
    "GaussianMultiInputPolicy",
    "GaussianPolicy",
    "MlpPolicy",
    "MultiInputPolicy",
]
