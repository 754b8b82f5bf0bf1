from stable_baselines3.common.torch_layers import NatureCNN

from sb3_genpolicy.common.policies.cloning_policy import CloningPolicy
from sb3_genpolicy.common.policies.dict_extractor import DictExtractor


class OneStepPolicy(CloningPolicy):
    """
    One network from observation and noise to action, beside a flow on straight lines, which it is held to.

    The parameters are those of :class:`~sb3_genpolicy.common.policies.cloning_policy.CloningPolicy`; the path is ``linear``.
    """

    paths = ("linear",)
    takes_noise = True


class OneStepCnnPolicy(OneStepPolicy):
    """:class:`OneStepPolicy` for images."""

    default_features_extractor_class = NatureCNN


class OneStepMultiInputPolicy(OneStepPolicy):
    """:class:`OneStepPolicy` for dictionaries of observations."""

    default_features_extractor_class = DictExtractor


# SB3's names
MlpPolicy = OneStepPolicy
CnnPolicy = OneStepCnnPolicy
MultiInputPolicy = OneStepMultiInputPolicy
