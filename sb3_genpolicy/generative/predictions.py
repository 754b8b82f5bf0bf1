"""
What a network predicts of a path, and how one prediction turns into another by linear algebra.
"""

from typing import Literal, NamedTuple

import torch as th

from sb3_genpolicy.generative.checks import check_choice
from sb3_genpolicy.generative.paths import Path, PathCoefficients

Prediction = Literal["velocity", "noise", "score", "data"]
PREDICTIONS: tuple[Prediction, ...] = ("velocity", "noise", "score", "data")

# Smallest alpha and sigma that a prediction is divided by: at the very ends of a path one of them vanishes
_FLOOR = 5e-3


class Parts(NamedTuple):
    """
    Estimates of the noise and the data that a point was mixed from: ``x = alpha data + sigma noise``.
    """

    noise: th.Tensor
    data: th.Tensor


def check_prediction(prediction: str, path: Path) -> None:
    """
    :param prediction: what a network is to predict
    :param path: the path
    :raises ValueError: if there is no such prediction, or not on this path
    """
    check_choice("prediction", prediction, PREDICTIONS)
    if prediction not in path.predictions:
        raise ValueError(
            f"prediction='{prediction}' is undefined on a {type(path).__name__}: at t = 0, where a sampler starts, x is the "
            f"noise itself, from which no velocity follows. There, use {' or '.join(map(repr, path.predictions))}."
        )


def to_parts(
    prediction: Prediction, output: th.Tensor, coefficients: PathCoefficients, x: th.Tensor, data_bound: float | None = None
) -> Parts:
    """
    :param prediction: what ``output`` is
    :param output: a network's output, (batch_size, dim)
    :param coefficients: the path's scalars at the time of ``x``
    :param x: the point, (batch_size, dim)
    :param data_bound: if given, data estimated by way of the noise, (x - sigma noise) / alpha, are clamped to
        [-data_bound, data_bound]: the division blows up errors where alpha is small. The noise stays as predicted; moved such
        that both still add up to x, it would blow up in turn where sigma is small.
    :return: estimates of noise and data, both (batch_size, dim)
    """
    alpha, sigma, d_alpha, d_sigma = coefficients
    if prediction == "velocity":
        wronskian = coefficients.wronskian
        return Parts((d_alpha * x - alpha * output) / wronskian, (sigma * output - d_sigma * x) / wronskian)
    if prediction == "data":
        return Parts((x - alpha * output) / sigma.clamp(min=_FLOOR), output)
    noise = output if prediction == "noise" else -sigma * output
    data = (x - sigma * noise) / alpha.clamp(min=_FLOOR)
    return Parts(noise, data if data_bound is None else data.clamp(-data_bound, data_bound))


def from_parts(prediction: Prediction, parts: Parts, coefficients: PathCoefficients) -> th.Tensor:
    """
    :param prediction: what is asked for
    :param parts: noise and data
    :param coefficients: the path's scalars
    :return: the prediction, (batch_size, dim)
    """
    if prediction == "velocity":
        return coefficients.d_alpha * parts.data + coefficients.d_sigma * parts.noise
    if prediction == "score":
        return -parts.noise / coefficients.sigma.clamp(min=_FLOOR)
    return parts.noise if prediction == "noise" else parts.data


def convert(
    source: Prediction,
    target: Prediction,
    output: th.Tensor,
    coefficients: PathCoefficients,
    x: th.Tensor,
    data_bound: float | None = None,
) -> th.Tensor:
    """
    Turn one prediction into another.

    :param source: what ``output`` is
    :param target: what is asked for
    :param output: (batch_size, dim)
    :param coefficients: the path's scalars at the time of ``x``
    :param x: the point, (batch_size, dim)
    :param data_bound: see :func:`to_parts`
    :return: (batch_size, dim)
    """
    if source == target:
        return output
    return from_parts(target, to_parts(source, output, coefficients, x, data_bound), coefficients)


def error_scale(source: Prediction, target: Prediction, coefficients: PathCoefficients) -> th.Tensor:
    """
    By how much an error of one prediction counts as an error of another, at the same point of the path: errors of velocity,
    noise, data and score are as wronskian, alpha, sigma and alpha / sigma.

    :param source: what is predicted
    :param target: what it is judged by
    :param coefficients: the path's scalars
    :return: a factor of the shape of the scalars; large, not infinite, where what is predicted says nothing of the target
    """
    alpha, sigma, _, _ = coefficients
    sizes = {"velocity": coefficients.wronskian, "noise": alpha, "data": sigma, "score": alpha / sigma.clamp(min=_FLOOR)}
    return sizes[target] / sizes[source].clamp(min=_FLOOR)
