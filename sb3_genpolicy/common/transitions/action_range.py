"""
The range of actions that a policy models: that of the data, with some room around it, where they fill only a part of the
action space.
"""

import warnings
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from torch import nn

# Room on either side of the data, as a share of what they span: the policy may go somewhat further, also online
_ROOM = 0.5
# The same where a dimension is constant in the data: of the space's width, or of the constant's size
_ROOM_OF_CONSTANTS = 0.01
# A span below this share of the largest action is rounding
_ROUNDING = 1e-6
# A range that is a smaller share of its space than this causes a warning
_NARROW = 0.5
# A larger bound counts as infinite, since float32 ends at 3.4e38
_FAR = 1e37


class ActionRange(nn.Module):
    """
    Ends of the actions that a policy models as -1 and 1, dimension by dimension; those of the space until fitted.

    In data that fill only a thousandth of [-1, 1] a network learns no structure: it would act all over the box.
    Half of what the data span is added on either side, so that a policy may go somewhat further, also online.

    :param action_space: a Box, each of whose bounds may be infinite
    """

    low: th.Tensor
    high: th.Tensor

    def __init__(self, action_space: spaces.Box):
        super().__init__()
        self.action_space = action_space
        self._bounds = [
            np.where(np.abs(bound.astype(np.float64)) < _FAR, bound, sign * np.inf).reshape(-1)
            for bound, sign in ((action_space.low, -1.0), (action_space.high, 1.0))
        ]
        # Kept as float32. Where an end is a bound of the space, `_note` puts the exact bound in its place
        low, high = (bound.astype(np.float64) for bound in self._bounds)
        # A side that is open ends two units from the other one, or at -1 and 1
        ends = np.where(np.isfinite(low), low, np.where(np.isfinite(high), high - 2.0, -1.0))
        self.register_buffer("low", th.as_tensor(ends).float())
        self.register_buffer("high", th.as_tensor(np.where(np.isfinite(high), high, ends + 2.0)).float())
        self._note()

    def fit(self, least: np.ndarray, largest: np.ndarray) -> None:
        """
        Take the range of the data, half as much again on either side, as far as the space goes.

        :param least: (action_dim,), the least action of each dimension, in the environment's units
        :param largest: (action_dim,), the largest
        """
        least, largest = least.astype(np.float64), largest.astype(np.float64)
        low, high = (bound.astype(np.float64) for bound in self._bounds)
        size = np.maximum(np.abs(least), np.abs(largest))
        with np.errstate(over="ignore", invalid="ignore"):
            width = high - low
        of_constants = np.where(np.isfinite(width), width, np.where(size > 0.0, size, 1.0))
        is_constant = largest - least <= _ROUNDING * size
        room = np.where(is_constant, _ROOM_OF_CONSTANTS * of_constants, _ROOM * (largest - least))
        # Outwards, where float32 has to round
        ends = np.nextafter((least - room).astype(np.float32), np.float32(-np.inf)), np.nextafter(
            (largest + room).astype(np.float32), np.float32(np.inf)
        )
        self.low.copy_(th.as_tensor(np.maximum(ends[0], low.astype(np.float32))))
        self.high.copy_(th.as_tensor(np.minimum(ends[1], high.astype(np.float32))))
        self._note()

    def _note(self) -> None:
        """Copy the ends to numpy, in the space's precision, since `predict` needs them at every step."""
        given = [end.double().cpu().numpy() for end in (self.low, self.high)]
        dtype = self.action_space.dtype
        ends = [
            np.where(end == bound.astype(np.float32), bound, end).astype(dtype)
            for end, bound in zip(given, self._bounds, strict=True)
        ]
        self.ends = ends[0], ends[1]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Release 0.1 modelled actions in the whole box
        for name in ("low", "high"):
            state_dict.setdefault(prefix + name, getattr(self, name).clone())
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._note()

    @property
    def shares(self) -> np.ndarray:
        """
        :return: (action_dim,), which share of the space's width the range is; 0 where that is infinite
        """
        low, high = (bound.astype(np.float64) for bound in self._bounds)
        with np.errstate(over="ignore", invalid="ignore"):
            return (self.ends[1].astype(np.float64) - self.ends[0]) / (high - low)

    def say(self, label: str) -> None:
        """
        Warn once where the range is far narrower than the space.

        :param label: what the data are called
        """
        narrow = np.flatnonzero(self.shares < _NARROW)
        if len(narrow):
            shown = ", ".join(f"{k}: {self.ends[0][k]:.4g} to {self.ends[1][k]:.4g}" for k in narrow[:5])
            more = f", and {len(narrow) - 5} more" if len(narrow) > 5 else ""
            bounded = self.action_space.is_bounded()
            reason = "the actions fill a small part of their space" if bounded else "the action space has no bounds"
            remedy = "; policy_kwargs=dict(normalize_actions=False) gives it the whole space" if bounded else ""
            warnings.warn(
                f"{label}: {reason}, in {len(narrow)} of {len(self.shares)} dimensions. The policy models and takes actions "
                f"in the data's own range with room around it (dimension {shown}{more}){remedy}.",
                stacklevel=2,
            )

    def say_beyond(self, least: np.ndarray, largest: np.ndarray, label: str) -> None:
        """
        Warn where data go beyond the range that was fitted to earlier ones.

        :param least: (action_dim,), the least action of each dimension
        :param largest: (action_dim,), the largest
        :param label: what the data are called
        """
        low, high = (end.astype(np.float64) for end in self.ends)
        margin = 1e-4 * (high - low)
        beyond = np.flatnonzero((least < low - margin) | (largest > high + margin))
        if len(beyond):
            k = int(beyond[0])
            warnings.warn(
                f"{label}: actions go from {least[k]:.4g} to {largest[k]:.4g} in dimension {k}, beyond the range {low[k]:.4g} "
                f"to {high[k]:.4g} that the policy was fitted to with its first dataset; they count as its ends. Train a new "
                "model on both datasets to learn them.",
                stacklevel=2,
            )

    # Scaling

    def scale(self, actions: th.Tensor) -> th.Tensor:
        """
        :param actions: (n, action_dim), in the environment's units, or (n, n_steps * action_dim) of several steps
        :return: the same, -1 and 1 at the ends of the range, not clamped
        """
        dtype = th.promote_types(actions.dtype, th.as_tensor(self.ends[0]).dtype)
        low, high = self._tensors(dtype, actions)
        return 2.0 * (actions - low) / (high - low) - 1.0

    def unscale(self, scaled: th.Tensor) -> th.Tensor:
        """
        :param scaled: (n, action_dim), or (n, n_steps * action_dim) of several steps, -1 and 1 at the ends of the range
        :return: in the environment's units, not clipped
        """
        low, high = self._tensors(scaled.dtype, scaled)
        return low + 0.5 * (scaled + 1.0) * (high - low)

    def _tensors(self, dtype: th.dtype, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        low, high = (th.as_tensor(end).to(dtype).to(actions.device) for end in self.ends)
        n_steps = actions.shape[-1] // len(low)
        return (low, high) if n_steps == 1 else (low.repeat(n_steps), high.repeat(n_steps))

    def log_scale(self) -> float:
        """
        :return: log of the volume of the range, in the environment's units, over that of [-1, 1]^d
        """
        low, high = self.ends
        return float(np.log((high - low) / 2.0).sum())

    def scale_array(self, actions: np.ndarray) -> np.ndarray:
        """
        :param actions: (..., \\*shape), in the environment's units
        :return: the same, -1 and 1 at the ends of the range
        """
        low, high = (end.reshape(self.action_space.shape) for end in self.ends)
        return 2.0 * ((actions - low) / (high - low)) - 1.0

    def unscale_array(self, scaled: np.ndarray) -> np.ndarray:
        """
        :param scaled: (..., \\*shape), -1 and 1 at the ends of the range
        :return: in the environment's units and its dtype, each in the space by ``space.contains``
        """
        low, high = (end.reshape(self.action_space.shape) for end in self.ends)
        actions = low + (0.5 * (scaled + 1.0) * (high - low))
        # Rounding may lead past a bound
        return np.clip(actions.astype(self.action_space.dtype), self.action_space.low, self.action_space.high)
