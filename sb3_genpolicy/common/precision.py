"""
In which precision, and by which library, matrix products are computed while training.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch as th

Precision = Literal["float32", "tf32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "tf32", "bfloat16")

# The setting that hands float32 products on a CPU to oneDNN. It may then round to bfloat16 where a processor has units for
# that (AMX), and keeps float32 where it has not
_ONEDNN = "bf16"
# A product of matrices of this size is off by some 1e-5 in float32 and by 0.1 in bfloat16
_PROBE_SIZE, _PROBE_ERROR = 64, 1e-3


@contextmanager
def matmul_precision(precision: Precision, device: th.device) -> Iterator[None]:
    """
    Compute products of float32 matrices in a way, for as long as the context lasts.

    :param precision: ``tf32``, on a GPU products of numbers rounded to 10 bits; else, and elsewhere, exact ones
    :param device: where the products are computed
    """
    if precision == "tf32" and device.type == "cuda":
        with _setting(th.backends.cuda.matmul, "tf32"):
            yield
    elif device.type == "cpu" and onednn_keeps_float32():
        with _setting(th.backends.mkldnn.matmul, _ONEDNN):  # type: ignore[attr-defined]
            yield
    else:
        yield


def autocast(precision: Precision, device: th.device) -> th.autocast:
    """
    Evaluate layers in a precision. Parameters, losses and optimizers stay float32. To be left before the parameters change,
    whose rounded copies it keeps.

    :param precision: ``bfloat16``, layers in numbers of 8 bits, but for the last ones of critics and actors; else, as they are
    :param device: where they are evaluated
    :return: the context
    """
    return th.autocast(device.type, th.bfloat16, enabled=precision == "bfloat16")


@functools.cache
def onednn_keeps_float32() -> bool:
    """
    PyTorch's wheels give float32 products to MKL, which on AMD processors leaves half of their vector units unused. oneDNN
    uses them, and its products are as exact, but on processors with AMX.

    :return: whether oneDNN can be had here, and keeps float32
    """
    if not th.backends.mkldnn.is_available():
        return False
    generator = th.Generator().manual_seed(0)
    left, right = (th.randn((_PROBE_SIZE, _PROBE_SIZE), generator=generator) for _ in range(2))
    try:
        with _setting(th.backends.mkldnn.matmul, _ONEDNN):  # type: ignore[attr-defined]
            product = left @ right
    except RuntimeError:
        return False
    return bool((product.double() - left.double() @ right.double()).abs().max() < _PROBE_ERROR)


@contextmanager
def _setting(backend: Any, precision: str) -> Iterator[None]:
    before = backend.fp32_precision
    backend.fp32_precision = precision
    try:
        yield
    finally:
        backend.fp32_precision = before
