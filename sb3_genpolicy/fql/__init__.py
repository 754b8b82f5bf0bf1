from pathlib import Path

from sb3_genpolicy.common.algorithms.registry import register
from sb3_genpolicy.common.algorithms.search_space import convert
from sb3_genpolicy.fql.fql import FQL
from sb3_genpolicy.fql.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_genpolicy.fql.search import sample_fql

__all__ = ["FQL", "CnnPolicy", "MlpPolicy", "MultiInputPolicy"]

register("fql", FQL, hyperparams=Path(__file__).parent / "hyperparams" / "tuned.yml", sampler=sample_fql, converter=convert)
