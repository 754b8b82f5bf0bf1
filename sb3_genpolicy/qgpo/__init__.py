from pathlib import Path

from sb3_genpolicy.common.algorithms.registry import register
from sb3_genpolicy.common.algorithms.support import SupportCritic
from sb3_genpolicy.qgpo.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_genpolicy.qgpo.qgpo import QGPO
from sb3_genpolicy.qgpo.search import convert_qgpo, sample_qgpo

__all__ = ["QGPO", "CnnPolicy", "MlpPolicy", "MultiInputPolicy", "SupportCritic"]

register(
    "qgpo",
    QGPO,
    objects=[SupportCritic],
    hyperparams=Path(__file__).parent / "hyperparams" / "tuned.yml",
    sampler=sample_qgpo,
    converter=convert_qgpo,
)
