"""
Mean and variance of a dataset's arrays, some rows at a time.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch as th
from stable_baselines3.common.running_mean_std import RunningMeanStd


def running_moments(chunks: Iterable[Any], shapes: Mapping[str | None, tuple[int, ...]]) -> dict[str | None, RunningMeanStd]:
    """
    :param chunks: some rows at a time, (n_rows, \\*shape) tensors or dictionaries of tensors
    :param shapes: key of an array (None for a flat observation) -> its shape
    :return: mean and variance of each, in float64: a million rows of a large mean lose digits otherwise
    """
    moments = {key: RunningMeanStd(epsilon=0.0, shape=tuple(shape)) for key, shape in shapes.items()}
    for chunk in chunks:
        for key, running in moments.items():
            running.update(part_of(chunk, key).double().cpu().numpy())
    return moments


def part_of(tree: Any, key: str | None) -> th.Tensor:
    """
    :param tree: a tensor, or a dictionary of tensors
    :param key: of one of them, None where there is one alone
    :return: that tensor
    """
    part: th.Tensor = tree if key is None else tree[key]
    return part
