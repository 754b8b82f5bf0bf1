"""
Policies whose distribution is known: an actor that says the exact conditional mean of a Gaussian mixture, and a linear Q.
"""

import numpy as np
import torch as th
from gymnasium import spaces
from torch import nn

from sb3_genpolicy import GMPO, OneStepCritic
from tests.helpers.arrays import make_arrays


class MixtureMean(nn.Module):
    """
    Says the mean of the data at a point of the path, or of the noise, whatever the observation.

    :param path: the path
    :param prediction: ``data`` or ``noise``
    :param means: of the components, (n, dim)
    :param std: of all, (dim,)
    :param weights: of the components, (n,)
    """

    def __init__(self, path, prediction, means, std, weights):
        super().__init__()
        self.path, self.prediction = path, prediction
        for name, value in dict(means=means, std=std, weights=weights).items():
            setattr(self, name, nn.Parameter(th.tensor(value, dtype=th.float32), requires_grad=False))

    def forward(self, t, x, condition):
        alpha, sigma, _, _ = self.path(t)
        variance = alpha.square() * self.std.square() + sigma.square()
        off = x[:, None] - alpha[:, None] * self.means
        logits = self.weights.log() - 0.5 * (off.square() / variance[:, None]).sum(dim=2)
        conditional = self.means + (alpha * self.std.square() / variance)[:, None] * off
        data = (logits.softmax(dim=1)[:, :, None] * conditional).sum(dim=1)
        return data if self.prediction == "data" else (x - alpha * data) / sigma


def exact_policy(means, std, weights=(1.0,), path="linear", slopes=((1.0, 0.0), (1.0, 0.0)), **policy_kwargs):
    """
    :param slopes: of each critic in the two actions
    :return: a policy on observations of three numbers, whose actions need no scaling
    """
    arrays = {**make_arrays(), "action_space": spaces.Box(-1.0, 1.0, (2,), np.float32)}
    critic = OneStepCritic(net_arch=[], layer_norm=False, aggregation="mean", n_critics=len(slopes))
    kwargs = dict(net_arch=[8], path=path, prediction="data", solver="rk4", sampling_steps=12, normalize_actions=False)
    policy = "FlowPolicy" if path == "linear" else "DiffusionPolicy"
    model = GMPO(policy, dataset=arrays, critic=critic, policy_kwargs={**kwargs, **policy_kwargs}, seed=0, device="cpu")
    policy = model.policy
    policy.actor_ema.model.network = MixtureMean(policy.path, policy.prediction, means, std, weights)
    (layer,) = policy.critic.layers
    with th.no_grad():
        layer.weight.zero_()
        # Behind three observations
        layer.weight[:, 3:, 0] = th.tensor(slopes)
    policy.fit_spreads(th.zeros(1, 3))
    return policy
