from pathlib import Path

from sb3_genpolicy.common.algorithms.registry import register
from sb3_genpolicy.rebrac.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_genpolicy.rebrac.rebrac import ReBRAC
from sb3_genpolicy.rebrac.search import convert_rebrac, sample_rebrac

__all__ = ["CnnPolicy", "MlpPolicy", "MultiInputPolicy", "ReBRAC"]

register(
    "rebrac",
    ReBRAC,
    hyperparams=Path(__file__).parent / "hyperparams" / "tuned.yml",
    sampler=sample_rebrac,
    converter=convert_rebrac,
)
