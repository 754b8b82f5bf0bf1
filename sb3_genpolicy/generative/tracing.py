"""
Whether tensors have values at the moment. They have none inside transforms (``th.vmap``), and while an update is recorded or
a network is exported.
"""

import torch as th


def is_transformed() -> bool:
    """
    :return: whether this is the inside of a transform (``th.vmap``, ``th.func.jvp``), whose tensors do not live longer than it
    """
    return th._C._are_functorch_transforms_active()


def values_are_known(x: th.Tensor) -> bool:
    """
    :param x: a tensor
    :return: whether its values can be looked at: not where several models are trained by one vectorised pass, nor while an
        update is recorded or a network is exported
    """
    return not is_transformed() and sizes_are_known() and not (x.is_cuda and th.cuda.is_current_stream_capturing())


def sizes_are_known() -> bool:
    """
    :return: whether the number of rows is known: not while a network is exported to ONNX for any number of rows
    """
    return not th.compiler.is_compiling()
