"""
Which models several processes can train together, and that all of them begin with the same one.
"""

import inspect
import re
from typing import TYPE_CHECKING, Any

from stable_baselines3.common.save_util import recursive_getattr, recursive_setattr
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.dropout import _DropoutNd

from sb3_genpolicy.common.algorithms.pretrained import describe
from sb3_genpolicy.common.updates.processes import SeveralProcesses, processes

if TYPE_CHECKING:
    from sb3_genpolicy.common.algorithms.gradient_steps import GradientSteps

# Arguments of the constructor that may be written otherwise in each process
_NOT_COMPARED = ("self", "env", "dataset", "pretrained", "device", "verbose", "tensorboard_log", "_init_setup_model")
# How far a run has come, and goes
_PROGRESS = ("num_timesteps", "_total_timesteps", "_n_updates", "pretraining_finished", "_updates_before_policy")


def layer_obstacle(policy: nn.Module) -> str | None:
    """
    :param policy: networks
    :return: which of their layers see other rows than their own, or draw what nobody else does; None if none does
    """
    for name, module in policy.named_modules():
        kind = f"{type(module).__name__} (policy.{name})"
        if isinstance(module, _BatchNorm) or (isinstance(module, _NormBase) and module.track_running_stats):
            return f"its network has a {kind}, whose statistics would be of a share of the batch. Take LayerNorm"
        if isinstance(module, _DropoutNd) and module.p > 0.0:
            return f"its network has a {kind}, whose masks every process would draw for itself. Leave it out"
    return None


def check_together(model: "GradientSteps") -> None:
    """
    :param model: a model that is about to learn, whose dataset need not be there yet
    :raises ValueError: if several processes cannot train it together, with what is in the way and what to do
    """
    together = processes()
    together.part(model.batch_size)
    obstacle = model._data_parallel_obstacle() if together.size > 1 else None
    if obstacle is not None:
        raise ValueError(
            f"{together.size} processes cannot train this model together (data_parallel): {obstacle}. Or train it in one "
            "process."
        )


def begin_together(model: "GradientSteps") -> None:
    """
    Let all processes have the first one's networks, optimizers and random states.

    :param model: a model that is about to learn, with its dataset
    :raises ValueError: in all processes, if they have models or datasets that differ in anything else
    """
    together = processes()
    if not isinstance(together, SeveralProcesses):
        return
    _compare(together.of_all(_traits(model)))
    state = together.of_first(lambda: _state_of(model), model.device)
    if not together.is_first:
        _take_state(model, state)


def _traits(model: "GradientSteps") -> dict[str, str]:
    names = [name for name in inspect.signature(type(model).__init__).parameters if name not in _NOT_COMPARED]
    settings = vars(model)
    traits = {"the class": type(model).__name__, "the kind of device": model.device.type}
    traits["the policy"] = type(model.policy).__name__
    traits["the policy's sampler"] = _written(model.policy.sampler)
    traits |= {name: _written(settings.get(name)) for name in [*names, *_PROGRESS] if name != "policy"}
    traits["the number of parameters"] = str(sum(parameter.numel() for parameter in model.policy.parameters()))
    rows = model.replay_buffer
    traits["the number of rows"] = f"{rows.size()} ({rows.n_drawn_from} drawn from)"
    # Of all rows: of datasets that differ elsewhere alone nobody hears
    traits["the sum of all rewards"] = f"{rows.rewards.double().sum().item():g}"
    traits["the statistics of VecNormalize"] = _statistics(model._vec_normalize_env)
    return traits


def _statistics(env: VecNormalize | None) -> str:
    if env is None:
        return "not there"
    of_observations = env.obs_rms.values() if isinstance(env.obs_rms, dict) else [env.obs_rms] if env.norm_obs else []
    return ", ".join(f"mean {moments.mean}, variance {moments.var}" for moments in [*of_observations, env.ret_rms])


def _written(value: Any) -> str:
    # Where a function lies in memory is each process's own
    return re.sub(r" at 0x[0-9a-f]+", "", describe(value))


def _compare(traits: list[dict[str, str]]) -> None:
    first = traits[0]
    for rank, others in enumerate(traits):
        for name in {**first, **others}:
            ours, theirs = first.get(name, "not there"), others.get(name, "not there")
            if ours != theirs:
                raise ValueError(
                    f"Processes that train one model differ in {name.strip('_')}: it is {ours} in process 0 and {theirs} in "
                    f"process {rank}. Let all of them make the same model, and read the same dataset."
                )


def _state_of(model: "GradientSteps") -> dict[str, Any]:
    """As in a model's file."""
    model._note_random_state()
    _, tensors = model._get_torch_save_params()
    return dict(parameters=model.get_parameters(), tensors={name: recursive_getattr(model, name) for name in tensors})


def _take_state(model: "GradientSteps", state: dict[str, Any]) -> None:
    model.set_parameters(state["parameters"], device=model.device)
    for name, value in state["tensors"].items():
        recursive_setattr(model, name, value)
    model._resume_random_state = True
    model._prepare_random_state()
