"""
Learning from a dataset: the loop, a method of
:class:`~sb3_genpolicy.common.algorithms.offline_algorithm.OfflineAlgorithm`, and what it repeats.
"""

from typing import Any, TypeVar

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import MaybeCallback

from sb3_genpolicy.common.algorithms import critic_hooks
from sb3_genpolicy.common.algorithms.doubt import watch_advantage
from sb3_genpolicy.common.algorithms.spreads import forget_spreads
from sb3_genpolicy.common.algorithms.training_log import watch_values
from sb3_genpolicy.common.datasets import DatasetSource
from sb3_genpolicy.common.updates.batch import Batch
from sb3_genpolicy.common.updates.precision import autocast
from sb3_genpolicy.common.updates.processes import OneProcess
from sb3_genpolicy.generative.checks import check_number

Model = TypeVar("Model", bound=Any)


def learn(
    self: Model,
    total_timesteps: int = 100_000,
    callback: MaybeCallback = None,
    log_interval: int | None = 1000,
    tb_log_name: str | None = None,
    reset_num_timesteps: bool = True,
    progress_bar: bool = False,
    dataset: DatasetSource | None = None,
) -> Model:
    """
    Learn from the dataset; the environment is not stepped.

    :param total_timesteps: number of gradient steps
    :param callback: callback(s) called after every gradient step
    :param log_interval: number of gradient steps between two lines of the log (None for no log)
    :param tb_log_name: the name of the run for TensorBoard logging. Default: the algorithm's
    :param reset_num_timesteps: whether to start counting (and the schedules) anew
    :param progress_bar: display a progress bar using tqdm and rich
    :param dataset: the logged data, in place of those given to the constructor
    :return: the trained model
    """
    check_number("total_timesteps", total_timesteps, low=0, infinite=True)
    if log_interval is not None:
        check_number("log_interval", log_interval, low=1)
    tb_log_name = tb_log_name or type(self).__name__
    total_timesteps, callback = self._setup_learn(
        total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar, dataset
    )
    assert isinstance(callback, BaseCallback) and self.env is not None
    callback.on_training_start(locals(), globals())
    # Nothing happens in the environment; callbacks look into these locals for what SB3's online loop would have there
    new_obs = self._last_obs
    infos: list[dict[str, Any]] = [{} for _ in range(self.env.num_envs)]
    rewards, dones = np.zeros(self.env.num_envs), np.zeros(self.env.num_envs, dtype=bool)

    while self.num_timesteps < total_timesteps:
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        self.train(gradient_steps=1, batch_size=self.batch_size)
        self.num_timesteps += 1
        callback.update_locals(locals())
        if not callback.on_step():
            break
        if log_interval is not None and self.num_timesteps % log_interval == 0:
            self.dump_logs()
    watch_values(self)
    watch_advantage(self)
    forget_spreads(self)
    callback.on_training_end()
    return self


def update(model: Any, batch_size: int) -> None:
    """
    Draw rows, and descend on the objective.

    :param model: the model, whose ``begin_update`` was called
    :param batch_size: rows of the batch
    """
    if not model.processes.is_open:
        # The context that it learnt in is left
        model.processes = OneProcess()
    together = model.processes
    rows, samples = model.replay_buffer.draw(batch_size, model._vec_normalize_env, together.part(batch_size))
    source = together.source(model.generator)
    samples, next_actions = critic_hooks.rows_for_critics(model, rows, samples, [source])
    windows = critic_hooks.windows_for_critics(model, rows)
    others = critic_hooks.rows_for_policy(model, rows, [source])
    matched = None if others is None else Batch.of(*others, source, together.mean)
    batch = Batch.of(samples, rows, source, together.mean, next_actions, matched, windows)
    with autocast(model.precision, model.device), together.sharing(), model.policy.normalizer.once():
        objective = model.objective(batch)
    model.descent.descend(objective, together, model.before_step)
