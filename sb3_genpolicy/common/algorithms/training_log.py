"""
What the log says of a training.
"""

import sys
import time
from typing import Any

import torch as th


def watch_values(model: Any) -> None:
    """
    Warn if the critics' values are beyond any return that the rewards allow.

    :param model: a model that learns
    """
    if not model.value_watch.has_spoken:
        was_training = model.policy.training
        model.policy.set_training_mode(False)
        model.value_watch.look(
            model.policy, model.replay_buffer, model.get_vec_normalize_env(), model.critic_gamma, model.logger
        )
        if was_training:
            model.set_training_mode()


def validation_losses(model: Any) -> dict[str, th.Tensor]:
    """
    :param model: a model with held-out rows
    :return: its losses of these, with the same noise every time, and the correlation of its advantage with what followed
    """
    model.policy.set_training_mode(False)
    with th.no_grad():
        losses = model.held_out_losses(model.held_out.batch(model.device))
    if not model.policy.has_critics:
        return losses
    return {**losses, "advantage_correlation": model.held_out.advantage_correlation(model.policy)}


def write_log(model: Any) -> None:
    """
    :param model: a model that learns; its logger gets a line
    """
    for name, mean in model.descent.means.pop().items():
        model.logger.record(f"train/{name}", float(mean))
    if model.held_out is not None:
        for name, loss in validation_losses(model).items():
            model.logger.record(f"validation/{name}", float(loss))
    watch_values(model)
    model.logger.record("train/phase", model.phase, exclude="tensorboard")
    model.logger.record("train/n_updates", model._n_updates, exclude="tensorboard")
    elapsed = max((time.time_ns() - model.start_time) / 1e9, sys.float_info.epsilon)
    model.logger.record("time/seconds_per_step", elapsed / max(model.num_timesteps - model._num_timesteps_at_start, 1))
