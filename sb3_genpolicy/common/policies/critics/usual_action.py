"""
What is usually done in a state, and how far actions are from it.
"""

import torch as th
from torch import nn

from sb3_genpolicy.common.policies.critics.layers import dense_layers
from sb3_genpolicy.generative.networks import in_float32

# What one unit of the parameter is of the logarithm of a deviation: by an optimizer's steps, which are made for weights, it
# would take thousands of updates from 1 to what an agent's noise is
_LOG_UNIT = 10.0
# Deviations of dimensions that hardly vary are not told from this one, in actions scaled to [-1, 1]
_LEAST_DEVIATION = 0.01


class UsualAction(nn.Module):
    """
    Mean of the logged actions in a state, and their standard deviation about it, the same in all states.

    Most of what differs between logged actions is what differs between states: an agent's own noise, which is all that tells
    one action of a state from another, is often a tenth of it and less. A network of Q that is given actions as they are
    learns that tenth a hundred times as slowly. Given how far actions are from the usual one, in standard deviations, it has
    nothing else to learn from.

    :param features_dim: number of features of an observation
    :param action_dim: number of action dimensions
    :param net_arch: widths of the hidden layers
    :param activation_fn: activation function
    :param layer_norm: whether every hidden activation is normalised over its entries
    :param dropout: share of the hidden activations that is left out while training
    """

    def __init__(
        self,
        features_dim: int,
        action_dim: int,
        net_arch: list[int],
        activation_fn: type[nn.Module],
        layer_norm: bool,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.layers = nn.ModuleList(dense_layers(features_dim, action_dim, net_arch, activation_fn, layer_norm, dropout))
        self.log_deviation = nn.Parameter(th.zeros(action_dim))

    def forward(self, features: th.Tensor) -> th.Tensor:
        """
        :param features: (batch_size, features_dim)
        :return: mean action, scaled, (batch_size, action_dim)
        """
        *hidden, head = self.layers
        for layer in hidden:
            features = layer(features)
        return in_float32(head, features)

    @property
    def deviation(self) -> th.Tensor:
        """Standard deviation of scaled actions about their mean, (action_dim,)."""
        return (_LOG_UNIT * self.log_deviation).exp()

    def relative(self, mean: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """
        :param mean: the usual actions, (batch_size, action_dim)
        :param actions: scaled, (batch_size, action_dim)
        :return: how far they are from the usual action, in standard deviations; gradients reach the actions alone
        """
        return (actions - mean.detach()) / self.deviation.detach()

    def losses(self, mean: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """
        Squared error of the mean, and the negative log-likelihood of a normal distribution of that mean for its deviation.

        :param mean: the usual actions, (batch_size, action_dim)
        :param actions: logged, scaled, (batch_size, action_dim)
        :return: one loss for each row, (batch_size,)
        """
        squares = (actions - mean).square()
        variance = squares.detach() + _LEAST_DEVIATION**2
        log_deviation = _LOG_UNIT * self.log_deviation
        likelihood = 0.5 * variance * (-2.0 * log_deviation).exp() + log_deviation
        return (squares + likelihood).sum(dim=1)
