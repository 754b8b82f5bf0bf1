"""
Layers whose output for one row depends on more than that row: on other rows, earlier batches or random masks.
"""

from collections.abc import Callable

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.dropout import _DropoutNd


def has_running_statistics(module: nn.Module) -> bool:
    """
    :param module: a layer
    :return: whether it keeps statistics of what it sees while training
    """
    return isinstance(module, _NormBase) and module.track_running_stats


def sees_whole_batch(module: nn.Module) -> bool:
    """
    :param module: a layer
    :return: whether it computes with statistics of the batch
    """
    return isinstance(module, _BatchNorm) or has_running_statistics(module)


def draws_masks(module: nn.Module) -> bool:
    """
    :param module: a layer
    :return: whether it draws random numbers, from torch's global generator
    """
    return isinstance(module, _DropoutNd) and module.p > 0.0


def layer_like(networks: nn.Module, trait: Callable[[nn.Module], bool]) -> str | None:
    """
    :param networks: networks
    :param trait: a test of one layer
    :return: the first layer that passes it, in words (``a Dropout (policy.actor...)``); None if there is none
    """
    for name, module in networks.named_modules():
        if trait(module):
            return f"a {type(module).__name__} (policy.{name})"
    return None
