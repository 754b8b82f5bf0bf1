"""
Observation normalisation that lives inside the policy: fitted once from the dataset, saved and loaded with the weights.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.preprocessing import is_image_space, preprocess_obs
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_genpolicy.common.transitions.moments import part_of, running_moments
from sb3_genpolicy.common.transitions.outliers import typical_bounds
from sb3_genpolicy.common.utils import tree_items

# Normalised observations are clamped here, as VecNormalize does
_CLIP = 10.0
# An entry that is constant in the data is clamped here: the networks never saw it change, so that a change must not dominate
# their other inputs
_CLIP_OF_CONSTANTS = 1.0
# Outliers are searched for in so many rows, and numbers, of a chunk at most. They are left out if the standard deviation is
# more than so many times as large with them as without
_SAMPLED, _SAMPLED_NUMBERS, _THEIRS = 5000, 2**20, 3.0
# An entry whose standard deviation is below this share of its size is constant, up to rounding (of float32, and of float64)
_NOTHING = 1e-13  # as sin(pi)
_ROUNDING = {th.float32: 2.5e-7, th.float64: 1e-9}


class Standardizer(nn.Module):
    """
    Mean and standard deviation of one array; the identity until fitted.

    :param shape: of one row of the array
    """

    mean: th.Tensor
    std: th.Tensor
    clip: th.Tensor
    offset: th.Tensor

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.register_buffer("mean", th.zeros(shape))
        self.register_buffer("std", th.ones(shape))
        self.register_buffer("clip", th.full(shape, th.finfo(th.float32).max))
        # Subtracted in the precision that observations come in, before they become float32
        self.register_buffer("offset", th.zeros(shape))
        #: Whether there is an offset: numbers that float32 would merge
        self.has_offset = False
        self._note()

    def fit(self, moments: RunningMeanStd, dtype: th.dtype) -> None:
        """
        Set mean and standard deviation. An entry that is constant in the data is divided by its absolute value, or by 1 if it
        is 0, in place of its standard deviation.

        :param moments: of the array
        :param dtype: that the array is stored in; float64 means that float32 would merge some of its numbers
        """
        mean, std = np.asarray(moments.mean), np.sqrt(moments.var)
        is_constant = std <= np.maximum(_ROUNDING[dtype] * np.abs(mean), _NOTHING)
        std = np.where(is_constant, np.where(np.abs(mean) <= _NOTHING, 1.0, np.abs(mean)), std)
        self.offset.copy_(th.as_tensor(mean if dtype == th.float64 else np.zeros_like(mean)))
        # The offset is itself float32: what its rounding leaves of the mean is subtracted later
        self.mean.copy_(th.as_tensor(mean - self.offset.double().cpu().numpy()))
        self.std.copy_(th.as_tensor(std).clamp(min=float(np.finfo(np.float32).tiny)))
        self.clip.copy_(th.as_tensor(np.where(is_constant, _CLIP_OF_CONSTANTS, _CLIP)))
        self._note()

    def _note(self) -> None:
        # Read from the device once, not at every step
        self.has_offset = bool(self.offset.any())
        least, largest = (float(clip) for clip in self.clip.aminmax()) if self.clip.numel() else (_CLIP, _CLIP)
        # Clamping by a single number takes a fraction of the time
        self._one_clip = largest if least == largest else None

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._note()

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        :param x: (batch_size, \\*shape), of any type
        :return: standardised, in float32; if ``shape`` is (), an axis is added: (batch_size, 1)
        """
        if self.has_offset:
            x = (x if x.is_floating_point() else x.double()) - self.offset
        scaled = (x.float() - self.mean) / self.std
        scaled = (
            th.clamp(scaled, -self.clip, self.clip)
            if self._one_clip is None
            else scaled.clamp(-self._one_clip, self._one_clip)
        )
        return scaled if self.mean.dim() else scaled[:, None]


class ObservationNormalizer(nn.Module):
    """
    Standardises every Box that is no image, of any type; images and discrete observations are preprocessed as SB3 does.

    :param observation_space: the observation space, a Dict allowed
    """

    # What :meth:`once` keeps: key and id of an array -> the array, what came of it, and how often either was written to
    _kept: dict[tuple[str | None, int], tuple[th.Tensor, th.Tensor, tuple[int, int]]] | None = None

    def __init__(self, observation_space: spaces.Space):
        super().__init__()
        self.observation_space = observation_space
        #: key of the observation (None for a flat one) -> its position in ``parts``
        self.positions: dict[str | None, int] = {}
        self.parts = nn.ModuleList()
        for key, space in _spaces_by_key(observation_space).items():
            if isinstance(space, spaces.Box) and not is_image_space(space):
                self.positions[key] = len(self.parts)
                self.parts.append(Standardizer(space.shape))

    def part(self, key: str | None) -> Standardizer | None:
        """
        :param key: of a part of the observation, None for a flat one
        :return: what standardises it, if anything does
        """
        return self.parts[self.positions[key]] if key in self.positions else None  # type: ignore[return-value]

    def keys_with_offset(self) -> list[str | None]:
        """
        :return: keys of observations that are centred before they become float32
        """
        return [key for key in self.positions if self.parts[self.positions[key]].has_offset]

    def fit(self, chunks: Iterable[Any], left_alone: Iterable[str | None] = ()) -> dict[str | None, np.ndarray]:
        """
        Take mean and standard deviation over rows. A few rows that lie far from all others, and would dominate the standard
        deviation, are left out.

        :param chunks: some rows at a time, (n_rows, \\*shape) tensors or dictionaries of tensors
        :param left_alone: keys that are not standardised here (None is a flat observation's)
        :return: key -> (\\*shape,), for which entries rows were left out; only keys with such entries
        """
        keys = [key for key in self.positions if key not in set(left_alone)]
        seen: dict[str | None, list[th.Tensor]] = {key: [] for key in keys}

        def noted() -> Iterable[Any]:
            for chunk in chunks:
                for key in keys:
                    rows = part_of(chunk, key)
                    n_wanted = max(1, min(_SAMPLED, _SAMPLED_NUMBERS // max(1, rows[0].numel())))
                    seen[key].append(rows[:: max(1, len(rows) // n_wanted)].cpu())
                yield chunk

        spaces_by_key = _spaces_by_key(self.observation_space)
        shapes = {key: tuple(spaces_by_key[key].shape or ()) for key in keys}
        glitches = {}
        for key, moments in running_moments(noted(), shapes).items():
            part = self.part(key)
            assert part is not None
            sample = th.cat(seen[key])
            few = _leave_glitches_out(moments, sample.double().numpy())
            if few.any():
                glitches[key] = few
            part.fit(moments, sample.dtype)
        return glitches

    def forward(self, observations: PyTorchObs, normalize_images: bool = True) -> Any:
        """
        :param observations: a tensor or a dictionary of tensors, batch first, as the environment gives them
        :param normalize_images: whether to divide images by 255
        :return: the same for a features extractor, in float32
        """
        if isinstance(observations, dict):
            assert isinstance(self.observation_space, spaces.Dict)
            named = self.observation_space.spaces
            return {key: self._prepared(key, named[key], value, normalize_images) for key, value in observations.items()}
        return self._prepared(None, self.observation_space, observations, normalize_images)

    @contextmanager
    def once(self) -> Iterator[None]:
        """
        Within it, an array that several networks are given is prepared once. Its numbers must not depend on anything that
        gets a gradient.
        """
        self._kept = {}
        try:
            yield
        finally:
            self._kept = None

    def _prepared(self, key: str | None, space: spaces.Space, value: th.Tensor, normalize_images: bool) -> Any:
        if self._kept is None or value.requires_grad:
            return self._prepare(key, space, value, normalize_images)
        kept = self._kept.get((key, id(value)))
        if kept is not None and kept[2] == (kept[0]._version, kept[1]._version):
            return kept[1]
        prepared = self._prepare(key, space, value, normalize_images)
        # The array is kept as well, so that no other one gets its id
        self._kept[key, id(value)] = (value, prepared, (value._version, prepared._version))
        return prepared

    def _prepare(self, key: str | None, space: spaces.Space, value: th.Tensor, normalize_images: bool) -> Any:
        if key in self.positions:
            return self.parts[self.positions[key]](value)
        return preprocess_obs(value, space, normalize_images=normalize_images)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        _complete(state_dict, prefix, self)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _leave_glitches_out(moments: RunningMeanStd, sample: np.ndarray) -> np.ndarray:
    """Replace moments that outliers dominate by those of the sample without its outliers; returns for which entries."""
    low, high = typical_bounds(sample)
    if not np.isfinite(high).any():
        return np.zeros(high.shape, dtype=bool)
    typical = np.where((sample >= low) & (sample <= high), sample, np.nan)
    var = np.nanvar(typical, axis=0)
    few = np.isfinite(high) & (moments.var > _THEIRS**2 * var) & (var > 0.0)
    moments.mean = np.where(few, np.nanmean(typical, axis=0), moments.mean)
    moments.var = np.where(few, var, moments.var)
    return few


def check_float32_suffices(states: Any, label: str) -> None:
    """
    :param states: observations as they are stored, a tensor or a dictionary of tensors
    :param label: what the data are called
    :raises ValueError: if float32, which networks compute in, would merge some of their numbers
    """
    for name, array in tree_items(states, "observations"):
        if array.dtype == th.float64:
            raise ValueError(
                f"{label}: {name} are numbers that float32 would merge, as large as {float(array.abs().max()):.6g}. Leave out "
                "normalize_observations=False, so that the policy centres them first, or subtract an offset from them in "
                "the environment and the dataset."
            )


def _spaces_by_key(space: spaces.Space) -> dict[str | None, spaces.Space]:
    if not isinstance(space, spaces.Dict):
        return {None: space}
    return dict(space.spaces.items())


def _complete(state_dict: dict[str, Any], prefix: str, normalizer: ObservationNormalizer) -> None:
    """Complete a state dict of release 0.1, which had only mean and std, and only of floating-point boxes."""
    names = [f"{prefix}parts.{number}." for number in range(len(normalizer.parts))]
    if any(f"{name}offset" in state_dict for name in names):
        return
    before = [{key: state_dict.pop(f"{name}{key}", None) for key in ("mean", "std")} for name in names]
    for key, space in _spaces_by_key(normalizer.observation_space).items():
        if key in normalizer.positions:
            number = normalizer.positions[key]
            identity = Standardizer(tuple(space.shape or ())).state_dict()
            if np.issubdtype(space.dtype, np.floating):
                identity.update(before.pop(0), clip=th.full_like(identity["clip"], _CLIP))
            # Torch reports what is missing in a damaged file
            found = {f"{names[number]}{name}": value for name, value in identity.items() if value is not None}
            state_dict.update(found)


class NormalizedModel(BaseModel):
    """
    A network whose features extractor gets observations normalised by the policy's normaliser.
    """

    #: Shared by every network of a policy; None: observations as SB3 preprocesses them
    normalizer: ObservationNormalizer | None

    def extract_features(self, obs: PyTorchObs, features_extractor: BaseFeaturesExtractor) -> th.Tensor:
        """
        :param obs: observations, batch first, as the environment gives them
        :param features_extractor: the features extractor to use
        :return: the features, (batch_size, features_dim)
        """
        if self.normalizer is None:
            return super().extract_features(obs, features_extractor)
        return features_extractor(self.normalizer(obs, self.normalize_images))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """In files of release 0.1 the normaliser was a part of the features extractor."""
        place = f"{prefix}features_extractor."
        given = [name.removeprefix(place) for name in state_dict if name.startswith(place)]
        own = [] if self.features_extractor is None else list(self.features_extractor.state_dict())
        if set(given) != set(own):
            for name in given:
                if name.startswith("extractor."):
                    state_dict[place + name.removeprefix("extractor.")] = state_dict.pop(place + name)
                elif name.startswith("normalizer."):
                    state_dict[prefix + name] = state_dict.pop(place + name)
        super()._load_from_state_dict(state_dict, prefix, *args)


# Files of a single actor from release 0.1 are pickles that look for their classes under these names

_Standardizer = Standardizer


class NormalizedExtractor(BaseFeaturesExtractor):
    """
    A features extractor with a normaliser before it, in files of release 0.1.
    """

    normalizer: nn.Module
    extractor: BaseFeaturesExtractor

    def taken_apart(self, observation_space: spaces.Space) -> tuple[ObservationNormalizer, BaseFeaturesExtractor]:
        """
        :param observation_space: observation space
        :return: the normaliser, and the features extractor that it stood before
        """
        normalizer = ObservationNormalizer(observation_space)
        normalizer.load_state_dict(self.normalizer.state_dict())
        return normalizer, self.extractor
