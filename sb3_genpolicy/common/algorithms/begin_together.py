"""
Training of one model by several processes: check that the model allows it, and start all processes from the same state.
"""

import re
from typing import Any

from stable_baselines3.common.save_util import recursive_getattr, recursive_setattr
from stable_baselines3.common.vec_env import VecNormalize

from sb3_genpolicy.common.algorithms.obstacles import processes_obstacle
from sb3_genpolicy.common.algorithms.saving import saved_tensors
from sb3_genpolicy.common.updates.processes import SeveralProcesses
from sb3_genpolicy.common.utils import described
from sb3_genpolicy.generative.checks import options_of

# Arguments of the constructor that may differ between processes; critics are among the options of the policy
_NOT_COMPARED = (
    "self",
    "env",
    "dataset",
    "pretrained",
    "critic",
    "expectile",
    "device",
    "verbose",
    "tensorboard_log",
    "_init_setup_model",
)


def check_together(model: Any) -> None:
    """
    :param model: a model that is about to learn, whose dataset need not be there yet
    :raises ValueError: if several processes cannot train it together, with what is in the way and what to do
    """
    together = model.processes
    together.part(model.batch_size)
    obstacle = processes_obstacle(model) if together.size > 1 else None
    if obstacle is not None:
        raise ValueError(
            f"{together.size} processes cannot train this model together (data_parallel): {obstacle}. Or train it in one "
            "process."
        )


def begin_together(model: Any) -> None:
    """
    Let all processes have the first one's networks, optimizers and random states.

    :param model: a model that is about to learn, with its dataset
    :raises ValueError: in all processes, if they have models or datasets that differ in anything else
    """
    together = model.processes
    if not isinstance(together, SeveralProcesses):
        return
    _compare(together.of_all(_traits(model)))
    state = together.of_first(lambda: _state_of(model), model.device)
    if not together.is_first:
        _take_state(model, state)


def _traits(model: Any) -> dict[str, str]:
    names = [name for name in options_of(type(model)) if name not in _NOT_COMPARED]
    settings = vars(model)
    traits = {"the class": type(model).__name__, "the kind of device": model.device.type}
    traits["the policy"] = type(model.policy).__name__
    traits |= {f"the policy's {name}": _written(value) for name, value in model.policy.settings_that_change().items()}
    traits |= {
        name: _written(settings.get(name)) for name in [*names, "_total_timesteps", *model.progress] if name != "policy"
    }
    traits["the number of parameters"] = str(sum(parameter.numel() for parameter in model.policy.parameters()))
    rows = model.replay_buffer
    traits["the number of rows"] = f"{rows.size()} ({rows.n_drawn_from} drawn from)"
    # Over all rows; datasets that differ in other arrays only go unnoticed
    traits["the sum of all rewards"] = f"{rows.rewards.double().sum().item():g}"
    traits["the statistics of VecNormalize"] = _statistics(model._vec_normalize_env)
    return traits


def _statistics(env: VecNormalize | None) -> str:
    if env is None:
        return "not there"
    of_observations = env.obs_rms.values() if isinstance(env.obs_rms, dict) else [env.obs_rms] if env.norm_obs else []
    return ", ".join(f"mean {moments.mean}, variance {moments.var}" for moments in [*of_observations, env.ret_rms])


def _written(value: Any) -> str:
    # The memory address in a function's repr differs between processes
    return re.sub(r" at 0x[0-9a-f]+", "", described(value))


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


def _state_of(model: Any) -> dict[str, Any]:
    """The parameters and tensors that a model's file would hold."""
    model.random.note(model.replay_buffer)
    tensors = {name: recursive_getattr(model, name) for name in saved_tensors(model)}
    return dict(parameters=model.get_parameters(), tensors=tensors)


def _take_state(model: Any, state: dict[str, Any]) -> None:
    model.set_parameters(state["parameters"], device=model.device)
    for name, value in state["tensors"].items():
        recursive_setattr(model, f"{name}.data", value)
    model.random.is_loaded = True
    model.random.prepare(model.replay_buffer, model.seed, model.num_timesteps)
