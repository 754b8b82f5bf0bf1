from pathlib import Path

from sb3_genpolicy.common.algorithms.registry import register
from sb3_genpolicy.common.algorithms.search_space import convert
from sb3_genpolicy.srpo.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_genpolicy.srpo.search import sample_srpo
from sb3_genpolicy.srpo.srpo import SRPO

__all__ = ["SRPO", "CnnPolicy", "MlpPolicy", "MultiInputPolicy"]

register(
    "srpo",
    SRPO,
    hyperparams=Path(__file__).parent / "hyperparams" / "tuned.yml",
    sampler=sample_srpo,
    converter=convert,
)
