"""
What a file has to say of a model so that its networks can be built, and that they are no larger than the tensors beside it.
"""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from numbers import Integral
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy

_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary, spaces.Dict)
# Options of a policy by which its networks grow
_WIDTHS = ("net_arch", "n_critics", "features_extractor_kwargs")
_CRITIC_WIDTHS = ("n_critics", "net_arch", "n_quantiles")
# Of a weight
_BYTES = 4


def check_essentials(settings: Mapping[str, Any], n_bytes: int) -> None:
    """
    :param settings: of a model's file
    :param n_bytes: size of its networks' tensors
    :raises ValueError: if they describe no policy, or one that is far larger, with a text that goes on from "it"
    """
    policy_class, policy_kwargs = settings.get("policy_class"), settings.get("policy_kwargs")
    if not (isinstance(policy_class, type) and issubclass(policy_class, BasePolicy)):
        raise ValueError("names no policy ('policy_class')")
    if not isinstance(policy_kwargs, dict):
        raise ValueError("has no options of the policy ('policy_kwargs')")
    widths = [policy_kwargs.get(name) for name in _WIDTHS]
    widths += [getattr(policy_kwargs.get("critic"), name, None) for name in _CRITIC_WIDTHS]
    numbers = [*_whole_numbers(widths)]
    for name, times in (("observation_space", "history"), ("action_space", "chunk_length")):
        if not isinstance(settings.get(name), _SPACES):
            raise ValueError(f"has no '{name}'")
        numbers.append(spaces.utils.flatdim(settings[name]) * next(_whole_numbers(policy_kwargs.get(times)), 1))
    numbers += [_weights(layers) for layers in _lists(widths)]
    numbers.append(_weights_of_critics(policy_kwargs))
    largest = max(numbers, default=0)
    if largest * _BYTES > n_bytes:
        raise ValueError(f"describes networks of an absurd size ({largest} numbers at least, with {n_bytes} bytes of tensors)")


def _weights(layers: list[int]) -> int:
    return sum(n_in * n_out for n_in, n_out in pairwise(layers))


def _weights_of_critics(policy_kwargs: Mapping[str, Any]) -> int:
    """Of all Q networks, those between layers whose widths are given."""
    critic, net_arch = policy_kwargs.get("critic"), policy_kwargs.get("net_arch")
    of_all = net_arch.get("qf") if isinstance(net_arch, dict) else net_arch
    own = getattr(critic, "net_arch", None)
    layers = [*next(_lists(of_all if own is None else own), []), getattr(critic, "n_quantiles", None)]
    given = policy_kwargs.get("n_critics")
    n_critics = getattr(critic, "n_critics", None) if given is None else given
    return next(_whole_numbers(n_critics), 1) * _weights([*_whole_numbers(layers)])


def _whole_numbers(value: Any) -> Iterator[int]:
    # NumPy's too
    if isinstance(value, Integral):
        yield int(value)
    for item in _items(value):
        yield from _whole_numbers(item)


def _lists(value: Any) -> Iterator[list[int]]:
    if isinstance(value, (list, tuple)) and all(isinstance(item, Integral) for item in value):
        yield [int(item) for item in value]
    for item in _items(value):
        yield from _lists(item)


def _items(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else list(value) if isinstance(value, (list, tuple)) else []
