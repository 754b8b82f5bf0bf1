from stable_baselines3.common.policies import BasePolicy

from sb3_genpolicy.common.policies import named as common
from sb3_genpolicy.common.policies.named import FlowCnnPolicy, FlowMultiInputPolicy, FlowPolicy


class DiffusionPolicy(common.DiffusionPolicy):
    """
    Diffusion on the variance-preserving (``vp``, the default) or the ``cosine`` path, with a velocity network on both, as
    published for GMPG: few steps of its field are invertible, those of a noise network often fold.

    The parameters are those of :class:`~sb3_genpolicy.common.policies.generative_policy.GenerativePolicy`.
    """

    default_prediction = "velocity"


class DiffusionCnnPolicy(common.DiffusionCnnPolicy):
    """:class:`DiffusionPolicy` for images."""

    default_prediction = "velocity"


class DiffusionMultiInputPolicy(common.DiffusionMultiInputPolicy):
    """:class:`DiffusionPolicy` for dictionaries of observations."""

    default_prediction = "velocity"


# SB3's names
MlpPolicy = FlowPolicy
CnnPolicy = FlowCnnPolicy
MultiInputPolicy = FlowMultiInputPolicy

POLICY_ALIASES: dict[str, type[BasePolicy]] = {
    **common.POLICY_ALIASES,
    "DiffusionPolicy": DiffusionPolicy,
    "DiffusionCnnPolicy": DiffusionCnnPolicy,
    "DiffusionMultiInputPolicy": DiffusionMultiInputPolicy,
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
