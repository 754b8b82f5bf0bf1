"""
Paths, networks, solvers, models of p(x | condition) and their likelihood. Needs torch, torchdiffeq and scipy alone.
"""

from sb3_genpolicy.generative.couplings import COUPLINGS, Coupling, IndependentCoupling, OptimalTransportCoupling
from sb3_genpolicy.generative.kl import KL_ESTIMATORS, DiscreteKL, KLEstimator, OdeKL, PathKL
from sb3_genpolicy.generative.likelihood import METHODS, Likelihood
from sb3_genpolicy.generative.models import MATCHING_LOSSES, GenerativeModel, MatchingLoss
from sb3_genpolicy.generative.networks import NETWORKS, ConditionalMLP, UShapedMLP
from sb3_genpolicy.generative.paths import PATHS, CosinePath, LinearPath, Path, PathCoefficients, VPPath
from sb3_genpolicy.generative.predictions import PREDICTIONS, Prediction, convert
from sb3_genpolicy.generative.solvers import SOLVERS, Sampler, odeint
from sb3_genpolicy.generative.time_features import TIME_FEATURES, GaussianFourierTimeFeatures, SinusoidalTimeFeatures
from sb3_genpolicy.generative.time_grids import TIME_GRIDS

__all__ = [
    "COUPLINGS",
    "KL_ESTIMATORS",
    "MATCHING_LOSSES",
    "METHODS",
    "NETWORKS",
    "PATHS",
    "PREDICTIONS",
    "SOLVERS",
    "TIME_FEATURES",
    "TIME_GRIDS",
    "ConditionalMLP",
    "CosinePath",
    "Coupling",
    "DiscreteKL",
    "GaussianFourierTimeFeatures",
    "GenerativeModel",
    "IndependentCoupling",
    "KLEstimator",
    "Likelihood",
    "LinearPath",
    "MatchingLoss",
    "OdeKL",
    "OptimalTransportCoupling",
    "Path",
    "PathCoefficients",
    "PathKL",
    "Prediction",
    "Sampler",
    "SinusoidalTimeFeatures",
    "UShapedMLP",
    "VPPath",
    "convert",
    "odeint",
]
