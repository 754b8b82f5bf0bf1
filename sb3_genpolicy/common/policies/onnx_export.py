"""
A policy with its sampler as one ONNX file, which acts where there is no Python: from observation and noise to action, or from
the observation alone.
"""

import importlib
import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch as th
from gymnasium import spaces
from torch import nn

from sb3_genpolicy.common.policies.actor import GenerativeActor
from sb3_genpolicy.common.policies.critics import CriticEnsemble
from sb3_genpolicy.common.policies.guidance import Spreads
from sb3_genpolicy.common.policies.normalization import ObservationNormalizer, Standardizer
from sb3_genpolicy.common.policies.onnx_acting import TracedActing
from sb3_genpolicy.common.policies.planning import Horizon
from sb3_genpolicy.common.transitions.action_range import ActionRange
from sb3_genpolicy.generative import SOLVERS, Sampler

# Rows of the inputs that a file is traced with; it takes any number
_TRACED_ROWS = 2


class ExportedPolicy(Protocol):
    """What the export uses of a policy, see :class:`~sb3_genpolicy.common.policies.sampling_policy.SamplingPolicy`."""

    observation_space: spaces.Space
    action_space: spaces.Box
    action_range: ActionRange
    normalizer: ObservationNormalizer
    horizon: Horizon
    plan_blending: float | None
    actor_ema: GenerativeActor
    critic: CriticEnsemble
    n_candidates: int
    candidate_temperature: float
    guidance: float
    deterministic_action: str
    deterministic_draws: int

    @property
    def sampler(self) -> Sampler: ...
    @property
    def draws_candidates(self) -> bool: ...
    @property
    def takes_best(self) -> bool: ...
    @property
    def noise_shape(self) -> tuple[int, ...]: ...
    def candidate_noise(self, n_candidates: int) -> th.Tensor: ...
    def known_spreads(self) -> Spreads: ...


def export_onnx(policy: ExportedPolicy, path: str | os.PathLike[str], deterministic: bool = False) -> None:
    """
    See :meth:`~sb3_genpolicy.common.policies.sampling_policy.SamplingPolicy.export_onnx`.

    :param policy: the policy
    :param path: the file
    :param deterministic: whether the file acts as ``predict(deterministic=True)``, without inputs of random numbers
    :raises ImportError: if onnx or onnxscript is not installed
    :raises ValueError: for a sampler that chooses its own steps, an observation that is named as another input, or a network
        that is not traceable
    """
    require_packages()
    _check_sampler(policy.sampler)
    if deterministic and policy.deterministic_action == "densest":
        raise ValueError(
            "deterministic_action='densest' cannot be written: densities take derivatives of the network, which torch does "
            "not write as operations. Take another one, as 'mode_mean'."
        )
    inputs = _inputs_of(policy, deterministic)
    acting = TracedActing(policy, deterministic).eval()
    parts = (acting.actor.model.network, acting.actor.features_extractor, acting.actor.model.path)
    about = _metadata(policy, deterministic)
    write_program(path, acting, inputs, parts, _description(policy, inputs, deterministic), about)


def write_program(
    path: str | os.PathLike[str],
    acting: nn.Module,
    inputs: "list[_Input]",
    parts: Sequence[object],
    description: str,
    about: dict[str, Any],
) -> None:
    """
    :param path: the file
    :param acting: module from the inputs to actions, in evaluation mode
    :param inputs: of the file
    :param parts: of the module that may be a user's own, for the message
    :param description: of the file, in words
    :param about: its metadata
    :raises ValueError: if the module is not traceable
    """
    example = tuple(part.example() for part in inputs)
    with th.no_grad(), _quiet_exporter():
        # Let the sampler compute and keep its schedule now: while the exporter traces, tensors have no values
        acting(*example)
        program = _trace(acting, example, inputs, parts)
    program.model.producer_name, program.model.producer_version = "sb3_genpolicy", metadata.version("sb3_genpolicy")
    program.model.doc_string = description
    program.model.metadata_props.update({key: json.dumps(value) for key, value in about.items()})
    program.save(os.fspath(path))


def _trace(
    acting: nn.Module, example: tuple[th.Tensor, ...], inputs: "list[_Input]", parts: Sequence[object]
) -> "th.onnx.ONNXProgram":
    batch = th.export.Dim("batch")
    try:
        program = th.onnx.export(
            acting,
            example,
            dynamo=True,
            verbose=False,
            input_names=[part.name for part in inputs],
            output_names=["action"],
            dynamic_shapes=(tuple({part.shape.index("batch"): batch} for part in inputs),),
        )
    except th.onnx.OnnxExporterError as error:
        raise ValueError(
            "torch cannot write this policy as operations (why is said above): something in "
            f"{', '.join(type(part).__name__ for part in parts)} looks at the values of tensors, as an `if` of one does."
        ) from error
    assert program is not None
    return program


def require_packages() -> None:
    missing = []
    for name in ("onnx", "onnxscript"):
        try:
            importlib.import_module(name)
        except ImportError:
            missing.append(name)
    if missing:
        raise ImportError(f"To write an ONNX file, torch needs {' and '.join(missing)}: `pip install 'sb3_genpolicy[onnx]'`.")


def _check_sampler(sampler: Sampler) -> None:
    if sampler.solver == "dopri5":
        others = ", ".join(solver for solver in SOLVERS if solver != "dopri5")
        raise ValueError(
            "The solver 'dopri5' chooses its steps as it goes, which the fixed operations of an ONNX file cannot. Before the "
            f"export, take one of {others}: policy.set_sampler('rk4', 8)."
        )


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Suppress the exporter's deprecation warnings, and those about packages that are not needed here."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for category in (DeprecationWarning, FutureWarning):
                warnings.simplefilter("ignore", category)
            warnings.filterwarnings("ignore", "# The axis name")
            yield
    finally:
        logger.setLevel(before)


class _Input(NamedTuple):
    """An input of the file; its shape has the word batch where the number of rows is."""

    name: str
    shape: tuple[int | str, ...]
    dtype: th.dtype

    def example(self) -> th.Tensor:
        return th.zeros([_TRACED_ROWS if size == "batch" else int(size) for size in self.shape], dtype=self.dtype)

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(map(str, self.shape))}), {str(self.dtype).removeprefix('torch.')}"


def _inputs_of(policy: ExportedPolicy, deterministic: bool) -> list[_Input]:
    inputs = observation_inputs(policy.observation_space, policy.normalizer)
    if not deterministic:
        noise = noise_input(*policy.noise_shape)
        inputs.append(noise)
        n_increments = len(policy.actor_ema.fixed_increments())
        if n_increments > 0:
            inputs.append(_Input("increments", (n_increments, *noise.shape), th.float32))
        if policy.draws_candidates:
            inputs.append(_Input("uniform", ("batch", policy.n_candidates), th.float32))
    return inputs


def observation_inputs(space: spaces.Space, normalizer: ObservationNormalizer) -> list[_Input]:
    """
    :param space: observation space
    :param normalizer: of observations
    :return: an input for an observation, or for each part of it
    :raises ValueError: if a part is named as another input or an output is
    """
    parts = space.spaces if isinstance(space, spaces.Dict) else {"observation": space}
    for name in ("noise", "increments", "uniform", "action"):
        if name in parts:
            raise ValueError(
                f"One key of the observations is called '{name}', as an input or output of the file is. Rename it in the "
                "environment and the dataset."
            )
    keys = {name: name if isinstance(space, spaces.Dict) else None for name in parts}
    return [
        _Input(name, ("batch", *(part.shape or ())), _dtype(part, normalizer.part(keys[name]))) for name, part in parts.items()
    ]


def noise_input(*shape: int) -> _Input:
    """
    :param shape: of the noise of one action
    :return: an input for it
    """
    return _Input("noise", ("batch", *shape), th.float32)


def bounds(space: spaces.Box) -> dict[str, Any]:
    """
    :param space: action space
    :return: its bounds for a file's metadata
    """
    return {"action_low": _finite_or_none(space.low), "action_high": _finite_or_none(space.high)}


def horizon_metadata(policy: Any) -> dict[str, Any]:
    """
    :param policy: a policy
    :return: how often and from what a file plans, for its metadata
    """
    horizon = policy.horizon
    return {
        "chunk_length": horizon.chunk_length,
        "execute_length": horizon.execute_length,
        "history": horizon.history,
        "plan_blending": policy.plan_blending,
    }


def horizon_in_words(policy: Any) -> str:
    """
    :param policy: a policy
    :return: what an observation and an action of a file are, where they are several
    """
    horizon, words = policy.horizon, ""
    if horizon.history > 1:
        words += (
            f"An observation is a stack of the last {horizon.history} of an episode along the first axis, the newest last; at "
            "its start the first one is repeated. "
        )
    if horizon.chunk_length > 1:
        words += (
            f"An action is a plan of {horizon.chunk_length} steps, of which {horizon.execute_length} are executed before the "
            "next one is made. "
        )
    return words


def _dtype(space: spaces.Space, standardizer: Standardizer | None) -> th.dtype:
    """Type of an input: the space's, but float32 for floats of any precision, or float64 where float32 would merge some."""
    if standardizer is not None and standardizer.has_offset and np.issubdtype(space.dtype, np.floating):
        return th.float64
    return th.float32 if np.issubdtype(space.dtype, np.floating) else th.as_tensor(np.zeros(1, space.dtype)).dtype


def _finite_or_none(ends: np.ndarray) -> Any:
    """Bounds for JSON, which has no infinity: None in its place."""
    listed = ends.astype(object)
    listed[~np.isfinite(ends)] = None
    return listed.tolist()


def _description(policy: ExportedPolicy, inputs: list[_Input], deterministic: bool) -> str:
    sampler, shape = policy.sampler, ", ".join(map(str, ("batch", *policy.action_space.shape)))
    noise = (
        f"It acts as predict(deterministic=True), whose way is {policy.deterministic_action}."
        if deterministic
        else "Noise and increments are standard normal; those of predict(deterministic=True) are in the metadata."
    )
    return (
        f"{type(policy).__name__} of sb3_genpolicy, {sampler.steps} {sampler.solver} steps from noise to action. "
        f"Inputs: {'; '.join(map(str, inputs))}. Observations are as predict() takes them, images with their channels first. "
        f"{horizon_in_words(policy)}{noise} "
        f"Output: action ({shape}), float32, in the environment's units, within action_low and action_high."
    )


def _metadata(policy: ExportedPolicy, deterministic: bool) -> dict[str, Any]:
    sampler = policy.sampler
    about = {
        "solver": sampler.solver,
        "sampling_steps": sampler.steps,
        "time_grid": sampler.time_grid,
        "n_candidates": policy.n_candidates,
        "guidance": policy.guidance,
        "deterministic_action": policy.deterministic_action,
        **horizon_metadata(policy),
        **bounds(policy.action_space),
    }
    if deterministic or policy.deterministic_action != "zero_noise":
        return about
    # Of one row
    noise = policy.candidate_noise(policy.n_candidates).reshape(policy.noise_shape)
    increments = policy.actor_ema.fixed_increments()
    if policy.n_candidates > 1:
        increments = increments.expand(-1, *policy.noise_shape)
    return {
        **about,
        "deterministic_noise": noise.tolist(),
        "deterministic_increments": increments.reshape(-1, *policy.noise_shape).tolist(),
    }
