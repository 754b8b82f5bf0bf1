"""
Offline reinforcement learning with generative (flow and diffusion) policies, for Stable-Baselines3.
"""

from sb3_genpolicy.common.callbacks import OfflineEvalCallback
from sb3_genpolicy.common.datasets import load_dataset
from sb3_genpolicy.common.envs import make_offline_env
from sb3_genpolicy.common.transitions import Transitions, normalized_score
from sb3_genpolicy.gmpo import GMPO

__version__ = "0.1.0"

__all__ = ["GMPO", "OfflineEvalCallback", "Transitions", "load_dataset", "make_offline_env", "normalized_score"]
