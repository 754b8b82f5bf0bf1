"""
Policies of one network evaluation as ONNX files, see
:class:`~sb3_genpolicy.common.policies.deterministic_policy.DirectPolicy`.
"""

import os
from typing import Any

import torch as th
from torch import nn

from sb3_genpolicy.common.policies.onnx_acting import copied, within_float32
from sb3_genpolicy.common.policies.onnx_export import (
    bounds,
    horizon_in_words,
    horizon_metadata,
    noise_input,
    observation_inputs,
    require_packages,
    write_program,
)
from sb3_genpolicy.common.utils import space_items, tree_of


class TracedDirect(nn.Module):
    """
    From the inputs of the file to an action.

    :param policy: a :class:`~sb3_genpolicy.common.policies.deterministic_policy.DirectPolicy`
    """

    low: th.Tensor
    high: th.Tensor

    def __init__(self, policy: Any):
        super().__init__()
        self.observation_space, self.action_shape = policy.observation_space, policy.action_space.shape
        self.actor, self.action_range, self.takes_noise = copied(policy.actor_ema), policy.action_range, policy.takes_noise
        least, largest = within_float32(policy.action_space)
        self.register_buffer("low", th.as_tensor(least))
        self.register_buffer("high", th.as_tensor(largest))

    def forward(self, *inputs: th.Tensor) -> th.Tensor:
        """
        :param inputs: the parts of the observation, then noise if the actor takes it and the file is not deterministic
        :return: actions, (batch_size, \\*action_shape)
        """
        n_parts = len(space_items(self.observation_space, ""))
        observation, noise = tree_of(self.observation_space, inputs[:n_parts]), None
        if self.takes_noise:
            zeros = th.zeros((inputs[0].shape[0], self.actor.action_dim))
            noise = inputs[n_parts] if len(inputs) > n_parts else zeros
        scaled = self.actor(observation, noise).clamp(-1.0, 1.0)
        # Rounding may lead beyond a bound
        return self.action_range.unscale(scaled).reshape(-1, *self.action_shape).clamp(self.low, self.high)


def export_direct(policy: Any, path: str | os.PathLike[str], deterministic: bool) -> None:
    """
    :param policy: a :class:`~sb3_genpolicy.common.policies.deterministic_policy.DirectPolicy`
    :param path: the file
    :param deterministic: whether the file takes no noise
    :raises ImportError: if onnx or onnxscript is not installed
    :raises ValueError: if the policy cannot be written
    """
    require_packages()
    inputs = observation_inputs(policy.observation_space, policy.normalizer)
    if policy.takes_noise and not deterministic:
        inputs.append(noise_input(policy.actor_ema.action_dim))
    acting, shape = TracedDirect(policy).eval(), ", ".join(map(str, ("batch", *policy.action_space.shape)))
    description = (
        f"{type(policy).__name__} of sb3_genpolicy, one evaluation of a network. Inputs: {'; '.join(map(str, inputs))}. "
        "Observations are as predict() takes them, images with their channels first; noise is standard normal, and zero in "
        f"predict(deterministic=True). {horizon_in_words(policy)}Output: action ({shape}), float32, in the environment's "
        "units, within action_low and action_high."
    )
    parts = acting.actor, acting.actor.features_extractor
    about = {**horizon_metadata(policy), **bounds(policy.action_space)}
    write_program(path, acting, inputs, parts, description, about)
