"""
A generative model is a path, a network and what the network predicts. To a solver every one is a velocity field.
"""

import warnings
from collections.abc import Callable
from typing import Literal

import torch as th
from torch import nn

from sb3_genpolicy.generative.checks import check_choice
from sb3_genpolicy.generative.couplings import Coupling, IndependentCoupling
from sb3_genpolicy.generative.draws import Source, draw
from sb3_genpolicy.generative.likelihood import (
    Likelihood,
    flow_with_log_density,
    standard_normal_log_prob,
    steps_log_prob,
    steps_with_log_density,
)
from sb3_genpolicy.generative.paths import Path, PathCoefficients
from sb3_genpolicy.generative.predictions import Prediction, check_prediction, convert, error_scale
from sb3_genpolicy.generative.schedules import TimePoint
from sb3_genpolicy.generative.solvers import Sampler, integrate, sdeint
from sb3_genpolicy.generative.time_grids import log_ratio_range
from sb3_genpolicy.generative.tracing import values_are_known

#: ``guide(point, x, velocity)``: the velocity (batch_size, dim) that a sampler takes in place of the model's
Guide = Callable[[TimePoint, th.Tensor, th.Tensor], th.Tensor]
MatchingLoss = Literal["flow", "score", "data", "likelihood"]
MATCHING_LOSSES: tuple[MatchingLoss, ...] = ("flow", "score", "data", "likelihood")

# By what a prediction is judged
_COMPARED: dict[str, Prediction] = {"flow": "velocity", "score": "noise", "data": "data", "likelihood": "noise"}
_DEFAULT_LOSS: dict[str, MatchingLoss] = {"velocity": "flow", "noise": "score", "score": "score", "data": "data"}


class GenerativeModel(nn.Module):
    """
    A model of p(x | condition).

    :param network: module of (t, x, condition), see :class:`~sb3_genpolicy.generative.networks.ConditionalMLP`
    :param path: the path between noise and data
    :param prediction: what the network predicts: the ``velocity`` d_alpha x_1 + d_sigma x_0, the ``noise`` x_0,
        the ``score`` -x_0 / sigma, or the ``data`` x_1
    :param dim: dimension of the points
    :param data_bound: the data lie in [-data_bound, data_bound]. A noise or score prediction implies an estimate of the data,
        (x - sigma noise) / alpha, that blows up where alpha vanishes; it is clamped to this box, which an exact model never
        leaves. None: no clamp.
    :param matching_loss: ``flow``, ``score``, ``data`` or ``likelihood``, see :meth:`matching_loss`.
        Default: the one in what the network predicts (a score's in units of noise).
    :param coupling: how noise is paired with data in training. Default: independently.
    :raises ValueError: for a prediction that the path or the coupling has not, or an unknown loss
    """

    def __init__(
        self,
        network: nn.Module,
        path: Path,
        prediction: Prediction,
        dim: int,
        data_bound: float | None = 1.0,
        matching_loss: MatchingLoss | None = None,
        coupling: Coupling | None = None,
    ):
        super().__init__()
        check_prediction(prediction, path)
        self.network = network
        self.path = path
        self.prediction = prediction
        self.dim = dim
        self.data_bound = data_bound
        self.loss = _DEFAULT_LOSS[prediction] if matching_loss is None else matching_loss
        check_choice("matching_loss", self.loss, MATCHING_LOSSES)
        self.coupling = IndependentCoupling() if coupling is None else coupling
        if not self.coupling.independent and (prediction == "score" or self.loss == "likelihood"):
            raise ValueError(
                f"{type(self.coupling).__name__} makes noise depend on data, and then no score follows from it: take "
                "prediction='velocity' with matching_loss='flow', or the independent coupling."
            )

    def predict(
        self,
        prediction: Prediction,
        t: th.Tensor,
        x: th.Tensor,
        condition: th.Tensor,
        coefficients: PathCoefficients | None = None,
    ) -> th.Tensor:
        """
        What the network says, turned into any prediction.

        :param prediction: what is asked for
        :param t: times in [0, 1], (batch_size, 1), or (1, 1) for one that all share
        :param x: points, (batch_size, dim)
        :param condition: (batch_size, condition_dim)
        :param coefficients: the path's scalars at ``t``, where they are known; computed by default
        :return: the prediction, (batch_size, dim)
        """
        output: th.Tensor = self.network(t, x, condition)
        if prediction == self.prediction:
            return output
        coefficients = self.path(t) if coefficients is None else coefficients
        return convert(self.prediction, prediction, output, coefficients, x, self.data_bound)

    def velocity(
        self, t: th.Tensor, x: th.Tensor, condition: th.Tensor, coefficients: PathCoefficients | None = None
    ) -> th.Tensor:
        """
        The velocity field of the probability flow.

        :param t: times in [0, 1], (batch_size, 1), or (1, 1) for one that all share
        :param x: points, (batch_size, dim)
        :param condition: (batch_size, condition_dim)
        :param coefficients: the path's scalars at ``t``, where they are known; computed by default
        :return: velocity, (batch_size, dim)
        """
        return self.predict("velocity", t, x, condition, coefficients)

    def matching_loss(self, x1: th.Tensor, condition: th.Tensor, generator: Source = None) -> th.Tensor:
        """
        Squared error of the prediction at a random point of the path.

        - ``flow``: flow matching, in the velocity; t uniform
        - ``score``: score matching, in the noise (lambda = sigma^2); t uniform
        - ``data``: in the data; t uniform
        - ``likelihood``: score matching weighted such that its mean bounds -log p from above up to a constant, in nats
          (Song et al., 2021, arXiv 2101.09258): the log-SNR drawn uniformly in place of t, times half its range

        :param x1: data, (batch_size, dim)
        :param condition: (batch_size, condition_dim)
        :param generator: source of the times and the noise; torch's global one by default
        :return: one loss per sample, (batch_size,)
        """
        t, weight = self._draw_times(x1, generator)
        x0 = draw("normal", x1.shape, x1, generator)
        x0 = self.coupling(x0, x1, condition)
        x, velocity = self.path.interpolate(t, x0, x1)
        prediction, output = self.prediction, self.network(t, x, condition)
        if prediction == "score":
            # In units of noise, which do not grow without bound near the data
            prediction, output = "noise", -self.path(t).sigma * output
        target = {"velocity": velocity, "noise": x0, "data": x1}[prediction]
        losses: th.Tensor = weight * (output - target).square().sum(dim=1)
        compared = _COMPARED[self.loss]
        if compared == prediction:
            return losses
        scale: th.Tensor = error_scale(prediction, compared, self.path(t))
        return losses * scale.square()[:, 0]

    def is_frozen(self, condition: th.Tensor) -> bool:
        """
        :param condition: what the field depends on
        :return: whether no gradient is asked for in the condition or the parameters
        """
        return not condition.requires_grad and not any(parameter.requires_grad for parameter in self.parameters())

    def _draw_times(self, x1: th.Tensor, generator: Source) -> tuple[th.Tensor, float]:
        uniform = draw("uniform", (x1.shape[0], 1), x1, generator)
        if self.loss != "likelihood":
            return uniform * self.path.t_max, 1.0
        # The log-SNR is twice this log, and the weight half its range
        first, last = log_ratio_range(self.path)
        angle = th.atan(th.exp(first + (last - first) * uniform))
        return self.path.time_of_angle(angle).clamp(0.0, self.path.t_max), last - first

    def sample(
        self,
        condition: th.Tensor,
        noise: th.Tensor,
        sampler: Sampler | None = None,
        increments: th.Tensor | None = None,
        generator: Source = None,
        guide: Guide | None = None,
    ) -> th.Tensor:
        """
        Carry noise to data; not clamped to the box.

        :param condition: (batch_size, condition_dim)
        :param noise: standard normal draws, (batch_size, dim)
        :param sampler: solver, steps and time grid; five midpoint steps by default
        :param increments: standard normal draws for the steps of ``sde``, (steps - 1, batch_size or 1, dim); drawn by default
        :param generator: where they are drawn from; torch's global one by default
        :param guide: what changes the velocity on the way
        :return: samples, (batch_size, dim)
        :raises ValueError: if the samples are not finite, with the step at which the network's output ceased to be
        """
        sampler = Sampler() if sampler is None else sampler
        if sampler.solver == "sde" and increments is None:
            increments = draw("normal", (sampler.steps - 1, *noise.shape), noise, generator, rows_axis=1)
        # An adaptive solver never ends where nothing is finite
        x = self.solve(condition, noise, sampler, increments, check=sampler.solver == "dopri5", guide=guide)
        if values_are_known(x) and not th.isfinite(x).all():
            self._explain_non_finite(condition, noise, sampler, increments, guide)
        return x

    def solve(
        self,
        condition: th.Tensor,
        noise: th.Tensor,
        sampler: Sampler,
        increments: th.Tensor | None,
        check: bool = False,
        guide: Guide | None = None,
    ) -> th.Tensor:
        """
        As :meth:`sample`, whose answer need not be finite.

        :param condition: (batch_size, condition_dim)
        :param noise: standard normal draws, (batch_size, dim)
        :param sampler: solver, steps and time grid
        :param increments: standard normal draws for the steps of ``sde``, (steps - 1, batch_size or 1, dim)
        :param check: whether to look at the network's every output
        :param guide: what changes the velocity on the way
        :return: samples, (batch_size, dim)
        :raises ValueError: with ``check``, if an output is not finite
        """
        calls = 0

        def field(point: TimePoint, x: th.Tensor) -> th.Tensor:
            nonlocal calls
            output = self.velocity(point.t, x, condition, point.coefficients)
            if check and not th.isfinite(output).all():
                raise ValueError(_non_finite_message(self, condition, sampler, calls // sampler.evaluations, float(point.t)))
            calls += 1
            return output if guide is None else guide(point, x, output)

        x = self.path.prior_std * noise
        if sampler.solver == "sde":
            assert increments is not None
            return sdeint(field, x, sampler, self.path, increments)
        return integrate(field, x, sampler, self.path)

    def _explain_non_finite(
        self,
        condition: th.Tensor,
        noise: th.Tensor,
        sampler: Sampler,
        increments: th.Tensor | None,
        guide: Guide | None = None,
    ) -> None:
        # The solve once more, with a look at every step, which would cost too much where all is well
        with th.no_grad():
            self.solve(condition, noise, sampler, increments, check=True, guide=guide)
        raise ValueError(f"Samples grew beyond what {noise.dtype} holds, in the last step of {sampler}. Take more steps.")

    def sample_with_log_prob(
        self,
        condition: th.Tensor,
        noise: th.Tensor,
        likelihood: Likelihood | None = None,
        sampler: Sampler | None = None,
        generator: Source = None,
    ) -> tuple[th.Tensor, th.Tensor]:
        """
        Samples and their log-density from one solve. Gradients reach both.

        :param condition: (batch_size, condition_dim)
        :param noise: standard normal draws, (batch_size, dim)
        :param likelihood: method, solver and gradient
        :param sampler: the sampler that acts, which ``discrete`` refers to by default
        :param generator: source of ``hutchinson``'s probes; torch's global one by default
        :return: samples, (batch_size, dim), and log p(sample | condition) in nats, (batch_size,)
        """
        likelihood = Likelihood() if likelihood is None else likelihood
        sampler = likelihood.resolve_sampler(Sampler() if sampler is None else sampler)
        x0 = self.path.prior_std * noise
        if likelihood.method == "discrete":
            x1, gained, _ = steps_with_log_density(lambda t, x: self.velocity(t, x, condition), x0, self.path, sampler)
        else:
            x1, gained = flow_with_log_density(
                self.velocity, x0, condition, list(self.parameters()), self.path, sampler, likelihood, False, generator
            )
        if values_are_known(x1) and not th.isfinite(x1).all():
            self._explain_non_finite(condition, noise, sampler, None)
        return x1, standard_normal_log_prob(x0, self.path.prior_std) + gained

    def log_prob(
        self,
        x1: th.Tensor,
        condition: th.Tensor,
        likelihood: Likelihood | None = None,
        sampler: Sampler | None = None,
        generator: Source = None,
    ) -> th.Tensor:
        """
        Log-density of given points. Gradients reach the points, the condition and the parameters.

        :param x1: (batch_size, dim)
        :param condition: (batch_size, condition_dim)
        :param likelihood: method, solver and gradient
        :param sampler: the sampler that acts, which ``discrete`` refers to by default
        :param generator: source of ``hutchinson``'s probes; torch's global one by default
        :return: log p(x1 | condition) in nats, (batch_size,)
        """
        likelihood = Likelihood() if likelihood is None else likelihood
        sampler = likelihood.resolve_sampler(Sampler() if sampler is None else sampler)
        if likelihood.method == "discrete":
            frozen = self.is_frozen(condition)
            log_prob, found = steps_log_prob(
                lambda t, x: self.velocity(t, x, condition), x1, self.path, sampler, frozen=frozen
            )
            if not found.all():
                warnings.warn(
                    f"For {int((~found).sum())} of {len(found)} points no noise was found that {sampler.steps} "
                    f"{sampler.solver} steps carry to them: their log-probability is given as -inf. "
                    "More steps make every step invertible."
                )
            return log_prob
        x0, lost = flow_with_log_density(
            self.velocity, x1, condition, list(self.parameters()), self.path, sampler, likelihood, True, generator
        )
        return standard_normal_log_prob(x0, self.path.prior_std) - lost


def _non_finite_message(model: GenerativeModel, condition: th.Tensor, sampler: Sampler, step: int, t: float) -> str:
    where = f"step {step + 1}" + ("" if sampler.solver == "dopri5" else f" of {sampler.steps}") + f" (t = {t:.3g})"
    if not th.isfinite(condition).all():
        remedy = "The condition (the observations' features) is not finite to begin with: look for NaN in the observations."
    elif not all(th.isfinite(parameter).all() for parameter in model.parameters()):
        remedy = "Its parameters are not finite: training diverged. Load an earlier checkpoint, or lower the learning rate."
    else:
        remedy = "The points ran away: take more steps, or a tamer solver than " + repr(sampler.solver) + "."
    return f"The network's output is not finite in {sampler.solver} {where}. {remedy}"
