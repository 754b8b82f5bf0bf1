"""
Models that several tests look at.
"""

import numpy as np
import torch as th
from gymnasium import spaces
from torch import nn

from sb3_genpolicy import GMPO
from sb3_genpolicy.generative import (
    ConditionalMLP,
    GenerativeModel,
)


def non_linear_model(path, prediction, dim=2, network=ConditionalMLP):
    """Untrained, its weights enlarged, so that the field is far from linear and mixes its coordinates."""
    th.manual_seed(0)
    model = GenerativeModel(network(dim, 3, [8, 8], nn.Tanh), path, prediction, dim, data_bound=None).double()
    for parameter in model.parameters():
        parameter.data.mul_(1.5)
    return model


def bimodal_arrays(low, high, n=2000):
    """Actions at a quarter and three quarters of their range, one observation."""
    rng = np.random.default_rng(0)
    shares = rng.choice([0.25, 0.75], n, p=[0.3, 0.7]) + 0.04 * rng.normal(size=n)
    zeros = np.zeros((n, 1), np.float32)
    return dict(
        observations=zeros,
        next_observations=zeros,
        actions=(low + (high - low) * np.clip(shares, 0, 1))[:, None].astype(np.float32),
        rewards=zeros[:, 0],
        terminals=np.ones(n),
        action_space=spaces.Box(low, high, (1,), np.float32),
    )


BIMODAL = {"linear": "FlowPolicy", "cosine": "DiffusionPolicy", "vp": "DiffusionPolicy"}


def train_bimodal(name, steps=1000):
    """Long enough to tell the modes apart."""
    model = GMPO(
        BIMODAL[name],
        dataset=bimodal_arrays(-2.0, 6.0),
        beta=0.0,
        learning_rate=lambda left: 1e-2 * left,
        batch_size=128,
        policy_kwargs=dict(net_arch=[64, 64], path=name),
        seed=0,
        actor_tau=0.02,
    )
    return model.learn(steps, log_interval=None).policy
