from stable_baselines3.common.torch_layers import NatureCNN

from sb3_genpolicy.common.policies.cloning_policy import CloningPolicy
from sb3_genpolicy.common.policies.dict_extractor import DictExtractor


class ScoreRegularizedPolicy(CloningPolicy):
    """
    One action for each observation, beside a diffusion model of the behaviour policy, whose score the policy is held by.

    The parameters are those of :class:`~sb3_genpolicy.common.policies.cloning_policy.CloningPolicy`; the path is ``vp`` (the
    default) or ``cosine``.
    """

    paths = ("vp", "cosine")


class ScoreRegularizedCnnPolicy(ScoreRegularizedPolicy):
    """:class:`ScoreRegularizedPolicy` for images."""

    default_features_extractor_class = NatureCNN


class ScoreRegularizedMultiInputPolicy(ScoreRegularizedPolicy):
    """:class:`ScoreRegularizedPolicy` for dictionaries of observations."""

    default_features_extractor_class = DictExtractor


# SB3's names
MlpPolicy = ScoreRegularizedPolicy
CnnPolicy = ScoreRegularizedCnnPolicy
MultiInputPolicy = ScoreRegularizedMultiInputPolicy
