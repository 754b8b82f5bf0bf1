"""
The policies that a user names: which paths they offer, and for which observations.
"""

from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import NatureCNN

from sb3_genpolicy.common.policies.dict_extractor import DictExtractor
from sb3_genpolicy.common.policies.generative_policy import GenerativePolicy


class FlowPolicy(GenerativePolicy):
    """
    Flow matching on straight lines from noise to action.

    The parameters are those of :class:`GenerativePolicy`; the path is ``linear``.
    """

    paths = ("linear",)


class DiffusionPolicy(GenerativePolicy):
    """
    Diffusion on the variance-preserving (``vp``, the default) or the ``cosine`` path.

    The parameters are those of :class:`GenerativePolicy`.
    """

    paths = ("vp", "cosine")


class FlowCnnPolicy(FlowPolicy):
    """:class:`FlowPolicy` for images."""

    default_features_extractor_class = NatureCNN


class FlowMultiInputPolicy(FlowPolicy):
    """:class:`FlowPolicy` for dictionaries of observations."""

    default_features_extractor_class = DictExtractor


class DiffusionCnnPolicy(DiffusionPolicy):
    """:class:`DiffusionPolicy` for images."""

    default_features_extractor_class = NatureCNN


class DiffusionMultiInputPolicy(DiffusionPolicy):
    """:class:`DiffusionPolicy` for dictionaries of observations."""

    default_features_extractor_class = DictExtractor


POLICY_ALIASES: dict[str, type[BasePolicy]] = {
    "FlowPolicy": FlowPolicy,
    "FlowCnnPolicy": FlowCnnPolicy,
    "FlowMultiInputPolicy": FlowMultiInputPolicy,
    "DiffusionPolicy": DiffusionPolicy,
    "DiffusionCnnPolicy": DiffusionCnnPolicy,
    "DiffusionMultiInputPolicy": DiffusionMultiInputPolicy,
    "MlpPolicy": FlowPolicy,
    "CnnPolicy": FlowCnnPolicy,
    "MultiInputPolicy": FlowMultiInputPolicy,
}
