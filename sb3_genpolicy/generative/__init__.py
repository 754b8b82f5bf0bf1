"""
Paths, networks, solvers and models of p(x | condition). Imports torch alone.
"""

from sb3_genpolicy.generative.models import GenerativeModel
from sb3_genpolicy.generative.networks import ConditionalMLP, FourierTimeEmbedding
from sb3_genpolicy.generative.paths import PATHS, CosinePath, LinearPath, Path, VPPath
from sb3_genpolicy.generative.solvers import SOLVERS, odeint

__all__ = [
    "PATHS",
    "SOLVERS",
    "ConditionalMLP",
    "CosinePath",
    "FourierTimeEmbedding",
    "GenerativeModel",
    "LinearPath",
    "Path",
    "VPPath",
    "odeint",
]
