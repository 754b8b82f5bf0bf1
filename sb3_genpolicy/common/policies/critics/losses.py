"""
Losses of Q and V.
"""

import torch as th


def expectile_loss(difference: th.Tensor, expectile: float) -> th.Tensor:
    """
    Asymmetric squared error ``|expectile - 1[u < 0]| u^2``: its minimiser over a constant is the expectile of the targets.

    :param difference: target minus prediction, any shape
    :param expectile: in (0, 1); 0.5 gives half the squared error, towards 1 the maximum of the targets is sought
    :return: one loss per entry
    """
    return th.where(difference < 0, 1.0 - expectile, expectile) * difference.square()


def squared_loss(values: th.Tensor, targets: th.Tensor) -> th.Tensor:
    """
    :param values: of every network, (n_critics, batch_size, 1)
    :param targets: (batch_size, 1)
    :return: mean squared error over the rows, summed over the networks, a scalar
    """
    return (values - targets).square().mean(dim=(1, 2)).sum()


def quantile_loss(quantiles: th.Tensor, targets: th.Tensor) -> th.Tensor:
    """
    Quantile Huber loss of sb3-contrib (QR-DQN, arXiv 1710.10044, equation 10; errors above 1 count by their size).

    :param quantiles: of every network, (n_critics, batch_size, n_quantiles)
    :param targets: samples of the return's distribution, (batch_size, n_samples)
    :return: mean over rows and samples, summed over quantiles and networks, a scalar
    """
    # Imports every algorithm of sb3-contrib
    from sb3_contrib.common.utils import quantile_huber_loss

    return len(quantiles) * quantile_huber_loss(quantiles.transpose(0, 1), targets[:, None])
