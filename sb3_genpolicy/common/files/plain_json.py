"""
Settings as plain JSON and back: numbers, texts, arrays, spaces, and the small objects that
:mod:`~sb3_genpolicy.common.files.labels` lists or that were registered, by the options of their constructors. Reading makes
these and nothing else, whatever the file says.

What JSON has no word for is a dictionary with a key that begins with a colon:
``{":object:": "LinearPath", "extra_noise": 0.1}``.
"""

import base64
import inspect
import math
import pathlib
from collections import OrderedDict, deque
from collections.abc import Callable
from enum import Enum
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_genpolicy.common.files.labels import CLASSES, OBJECTS, torch_class_of, torch_name_of

# Booleans, integers, floats
_KINDS = "biuf"
# What the constructors of these are called with; of all other objects, all of their options
_OPTIONS: dict[type, tuple[str, ...]] = {
    spaces.Box: ("low", "high", "dtype"),
    spaces.Discrete: ("n", "start"),
    spaces.MultiDiscrete: ("nvec", "dtype", "start"),
    spaces.MultiBinary: ("n",),
    spaces.Dict: ("spaces",),
    spaces.Tuple: ("spaces",),
}


class NotPlainError(ValueError):
    """
    A value that plain JSON cannot hold. Its text says where it is and what.

    :param reason: the text
    :param of_a_class: whether it would be plain if its class were registered
    """

    def __init__(self, reason: str, of_a_class: bool = False):
        super().__init__(reason)
        self.of_a_class = of_a_class


# Writing


def encode(value: Any, where: str) -> Any:
    """
    :param value: a setting
    :param where: what it is called, for the message
    :return: the same, for JSON
    :raises NotPlainError: if it is, or holds, something else than is listed above
    """
    if value is None or (isinstance(value, (bool, int, float, str)) and not isinstance(value, Enum)):
        return _encode_scalar(value)
    if type(value) is list:
        return _encode_items(value, where)
    if type(value) is tuple:
        return {":tuple:": _encode_items(value, where)}
    if type(value) is deque:
        return {":deque:": _encode_items(value, where), "maxlen": value.maxlen}
    if type(value) in (dict, OrderedDict):
        return _encode_dict(value, where)
    if isinstance(value, np.dtype):
        return {":dtype:": _plain_dtype(value, where).name}
    if type(value) is np.ndarray:
        return _encode_array(value, where)
    if isinstance(value, np.generic):
        _plain_dtype(value.dtype, where)
        return {":number:": value.dtype.name, "value": _encode_scalar(value.item())}
    if isinstance(value, pathlib.Path):
        return {":path:": str(value)}
    if isinstance(value, type):
        label = CLASSES.label_of(value) or torch_name_of(value)
        if label is not None:
            return {":class:": label}
        raise NotPlainError(f"{where} is the class {value.__name__}", of_a_class=True)
    return _encode_object(value, where)


def _encode_scalar(value: Any) -> Any:
    if isinstance(value, float):
        value = float(value)
        return value if math.isfinite(value) else {":float:": str(value)}
    return str(value) if isinstance(value, str) else value


def _encode_items(items: Any, where: str) -> list[Any]:
    return [encode(item, f"{where}[{index}]") for index, item in enumerate(items)]


def _encode_dict(value: dict[Any, Any], where: str) -> dict[str, Any]:
    if all(type(key) is str and not key.startswith(":") for key in value):
        return {key: encode(item, f"{where}[{key!r}]") for key, item in value.items()}
    return {":dict:": [[encode(key, where), encode(item, f"{where}[{key!r}]")] for key, item in value.items()]}


def _plain_dtype(dtype: np.dtype, where: str) -> np.dtype:
    if dtype.kind not in _KINDS or dtype.itemsize > 8:
        raise NotPlainError(f"{where} is of dtype {dtype}")
    return dtype


def _encode_array(array: np.ndarray, where: str) -> dict[str, Any]:
    dtype = _plain_dtype(array.dtype, where)
    rows = np.ascontiguousarray(array, dtype=dtype.newbyteorder("<"))
    return {":array:": dtype.name, "shape": list(array.shape), "base64": base64.b64encode(rows.tobytes()).decode()}


def _encode_object(value: Any, where: str) -> dict[str, Any]:
    cls = type(value)
    label = OBJECTS.label_of(cls)
    if label is None:
        if inspect.isroutine(value):
            raise NotPlainError(f"{where} is a function")
        raise NotPlainError(f"{where} is of the class {cls.__name__}", of_a_class=True)
    record = {":object:": label}
    for option in _options_of(cls):
        try:
            given = getattr(value, option)
        except AttributeError:
            raise NotPlainError(f"{where} is a {cls.__name__}, which has no attribute for its option '{option}'") from None
        # Pairs, whose order gymnasium keeps
        given = [list(pair) for pair in given.items()] if isinstance(value, spaces.Dict) else given
        record[option] = encode(given, f"{where}.{option}")
    if not _same(decode(record), value, where):
        raise NotPlainError(f"{where} is a {cls.__name__} that was changed after it was made")
    return record


def _options_of(cls: type) -> tuple[str, ...]:
    if issubclass(cls, Enum):
        return ("value",)
    return _OPTIONS.get(cls) or tuple(inspect.signature(cls).parameters)


def _same(first: Any, second: Any, where: str) -> bool:
    if isinstance(second, spaces.Dict):
        return list(first.spaces.items()) == list(second.spaces.items())
    if isinstance(second, (spaces.Space, Enum, tuple)):
        return bool(first == second and getattr(first, "dtype", None) == getattr(second, "dtype", None))
    return bool(encode(vars(first), where) == encode(vars(second), where))


# Reading


def decode(value: Any) -> Any:
    """
    :param value: what :func:`encode` gave, after JSON
    :return: what it was
    :raises ValueError: if it is something else, with a text that goes on from the setting's name
    """
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    markers = [key for key in value if key.startswith(":")]
    if not markers:
        return {key: decode(item) for key, item in value.items()}
    if len(markers) > 1 or markers[0] not in _READERS:
        raise ValueError(f"is of an unknown kind ({', '.join(markers)})")
    options = {key: item for key, item in value.items() if key != markers[0]}
    return _READERS[markers[0]](value[markers[0]], **options)


def _decode_object(label: str, **options: Any) -> Any:
    return OBJECTS.class_of(label)(**{key: decode(item) for key, item in options.items()})


def _decode_class(label: str) -> type:
    return torch_class_of(label) or CLASSES.class_of(label)


def _decode_dtype(name: str) -> np.dtype:
    return _plain_dtype(np.dtype(str(name)), "it")


def _decode_array(dtype: str, shape: list[int], base64: str) -> np.ndarray:
    content, kind = _from_base64(base64), _decode_dtype(dtype)
    # Before numpy makes room for it
    if min(shape, default=0) < 0 or math.prod(shape) * kind.itemsize != len(content):
        raise ValueError(f"is an array of shape {shape}, {kind}, in {len(content)} bytes")
    return np.frombuffer(content, kind.newbyteorder("<")).astype(kind).reshape(shape)


def _from_base64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _decode_float(text: str) -> float:
    return {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}[text]


_READERS: dict[str, Callable[..., Any]] = {
    ":tuple:": lambda items: tuple(decode(items)),
    ":deque:": lambda items, maxlen: deque(decode(items), maxlen=maxlen),
    ":dict:": lambda pairs: {decode(key): decode(item) for key, item in pairs},
    ":float:": _decode_float,
    ":number:": lambda dtype, value: _decode_dtype(dtype).type(decode(value)),
    ":dtype:": _decode_dtype,
    ":array:": _decode_array,
    ":path:": pathlib.Path,
    ":class:": _decode_class,
    ":object:": _decode_object,
}
