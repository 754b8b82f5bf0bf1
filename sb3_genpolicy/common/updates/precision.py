"""
In which precision, and by which library, matrix products are computed while training.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch as th
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Precision = Literal["float32", "tf32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "tf32", "bfloat16")

# The setting that hands float32 products on a CPU to oneDNN. It may then round to bfloat16 where a processor has units for
# that (AMX), and keeps float32 where it has not
_ONEDNN = "bf16"
# A product of matrices of this size is off by some 1e-5 in float32 and by 0.1 in bfloat16
_PROBE_SIZE, _PROBE_ERROR = 64, 1e-3
# Functions used in layers that autocast computes in half precision
_PRODUCTS = {
    *(functional.linear, functional.bilinear, functional.conv1d, functional.conv2d, functional.conv3d),
    *(functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d),
    *(th.addmm, th.addmv, th.baddbmm, th.bmm, th.einsum, th.matmul, th.mm, th.mv),
    *(th.Tensor.bmm, th.Tensor.matmul, th.Tensor.mm, th.Tensor.__matmul__, th.Tensor.__rmatmul__),
}


@contextmanager
def matmul_precision(precision: Precision, device: th.device) -> Iterator[None]:
    """
    Set how products of float32 matrices are computed, for as long as the context lasts.

    :param precision: ``tf32``: on a GPU, factors are rounded to 10 bits. With any other, and on a CPU, they are not rounded.
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
    Evaluate layers in a precision. Parameters, losses and optimizers stay float32. Leave the context before the parameters
    change: it keeps rounded copies of them.

    :param precision: ``bfloat16``: all layers but the last ones of critics and actors compute with 8 bits; any other changes
        nothing
    :param device: where they are evaluated
    :return: the context
    """
    return th.autocast(device.type, th.bfloat16, enabled=precision == "bfloat16")


class AutocastOfBatches(TorchFunctionMode):
    """
    What autocast does to layers, inside of ``th.vmap``, where autocast itself has no effect: while it is enabled, products are
    computed in bfloat16. The context belongs around the call of ``th.vmap``.

    :param device: where the products are computed
    """

    def __init__(self, device: th.device):
        super().__init__()
        self._device_type = device.type

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _PRODUCTS and th.is_autocast_enabled(self._device_type):
            args = tuple(map(_in_bfloat16, args))
            kwargs = {name: _in_bfloat16(value) for name, value in (kwargs or {}).items()}
        return func(*args, **(kwargs or {}))


def _in_bfloat16(value: Any) -> Any:
    return value.bfloat16() if isinstance(value, th.Tensor) and value.dtype == th.float32 else value


@functools.cache
def onednn_keeps_float32() -> bool:
    """
    PyTorch's wheels compute float32 products by MKL, which leaves half of the vector units of AMD processors unused. oneDNN
    uses them, and its products are as exact, except on processors with AMX.

    :return: whether oneDNN is available here and computes in full float32
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
