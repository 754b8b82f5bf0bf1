from sb3_genpolicy.common.policies.deterministic_policy import (
    DeterministicCnnPolicy,
    DeterministicMultiInputPolicy,
    DeterministicPolicy,
)

# SB3's names
MlpPolicy = DeterministicPolicy
CnnPolicy = DeterministicCnnPolicy
MultiInputPolicy = DeterministicMultiInputPolicy
