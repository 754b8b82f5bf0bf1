"""
Several seeds, or several betas, of one run at once: their networks are trained as a batch, in one process.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import MaybeCallback

from sb3_genpolicy.common.algorithms.offline_algorithm import OfflineAlgorithm
from sb3_genpolicy.common.datasets import DatasetSource
from sb3_genpolicy.common.side_by_side.checks import check_models, name_of, share_dataset
from sb3_genpolicy.common.side_by_side.model_batch import ModelBatch
from sb3_genpolicy.common.utils import attributes
from sb3_genpolicy.generative.checks import named_arguments

Algorithm = TypeVar("Algorithm", bound=OfflineAlgorithm)


@named_arguments
def learn_side_by_side(
    models: Sequence[Algorithm],
    total_timesteps: int = 100_000,
    callbacks: Sequence[MaybeCallback] | None = None,
    log_interval: int | None = 1000,
    tb_log_name: str = "side_by_side",
    reset_num_timesteps: bool = True,
    progress_bar: bool = False,
    dataset: DatasetSource | None = None,
) -> list[Algorithm]:
    """
    Let several models learn at once, each as it would alone with ``learn``: a layer of all of them is one product. They are
    built as ever and may differ in ``seed`` and ``beta``. Each draws the rows and the noise that it would draw alone, so that
    it gives the same curve, up to rounding.

    Afterwards they are ordinary models. So they are to callbacks, which may evaluate and save them. The dataset is in memory
    once. Updates are not recorded (``capture``).

    :param models: models of one offline algorithm, one or more, new ones or such as have come equally far
    :param total_timesteps: number of gradient steps of each
    :param callbacks: for each model its callback(s), called after every gradient step. A model whose callback returns False
        stops there, and the others go on.
    :param log_interval: number of gradient steps between two lines of each model's log (None for no log)
    :param tb_log_name: the name of the runs for TensorBoard logging; the model's index is added to it
    :param reset_num_timesteps: whether to start counting (and the schedules) anew
    :param progress_bar: display one progress bar for all using tqdm and rich
    :param dataset: the logged data, in place of those given to the constructors
    :return: the trained models
    :raises ValueError: before training, if models differ in anything else, or if their updates cannot be batched: streamed
        datasets, couplings other than the independent one, ``VecNormalize``, dropout, batch normalisation, optimizers that
        mix entries, GMPO's ``redraw_actions=False``, GMPG's ``discrete`` KL, the adjoint, and training through ``dopri5``
    :raises FloatingPointError: if a model diverges, with its index, seed and beta
    """
    models = list(models)
    check_models(models, reset_num_timesteps)
    given: Sequence[MaybeCallback] = [None] * len(models) if callbacks is None else callbacks
    if len(given) != len(models):
        raise ValueError(
            f"There are {len(given)} callbacks for {len(models)} models: give one for each, or None in its place."
        )
    running = []
    for index, (model, callback) in enumerate(zip(models, given, strict=True)):
        shown = progress_bar and index == 0
        prepared = _prepare(model, (total_timesteps, callback, reset_num_timesteps, f"{tb_log_name}_{index}", shown, dataset))
        running.append(_Run(model, *prepared, log_interval, name_of(models, index)))
        share_dataset(models, index)
    for run in running:
        run.callback.on_training_start(run.locals, globals())
    while running := _train(running, log_interval):
        pass
    return models


def _prepare(model: OfflineAlgorithm, arguments: tuple[Any, ...]) -> tuple[int, BaseCallback]:
    """Begin as ``learn`` does, but without recording updates."""
    with attributes(model, capture=False):
        prepared = model._setup_learn(*arguments)
    # Their optimizers are replaced by stacked ones
    model.descent.guard.keep_parameters(model.descent.optimizers().values(), wanted=False)
    if model.capture:
        model.logger.warn("Updates are made step by step, not recorded (capture=True): models are trained side by side.")
    return prepared


class _Run:
    """
    A model that learns.

    :param model: the model
    :param total_timesteps: the step at which it ends
    :param callback: its callback
    :param log_interval: steps between two lines of its log
    :param name: what it is called in messages
    """

    def __init__(
        self, model: OfflineAlgorithm, total_timesteps: int, callback: BaseCallback, log_interval: int | None, name: str
    ):
        assert model.env is not None
        self.model = model
        self.total_timesteps = total_timesteps
        self.callback = callback
        self.name = name
        # What callbacks find in `learn` of one model
        self.locals: dict[str, Any] = dict(
            self=model,
            total_timesteps=total_timesteps,
            callback=callback,
            log_interval=log_interval,
            new_obs=model._last_obs,
            infos=[{} for _ in range(model.env.num_envs)],
            rewards=np.zeros(model.env.num_envs),
            dones=np.zeros(model.env.num_envs, dtype=bool),
        )

    def step(self) -> bool:
        """
        :return: whether its training goes on
        """
        self.model.num_timesteps += 1
        self.callback.update_locals(self.locals)
        return self.callback.on_step()


def _train(running: list[_Run], log_interval: int | None) -> list[_Run]:
    """
    Train until one or more of them stop.

    :param running: models at the same step
    :param log_interval: steps between two lines of the logs
    :return: those that go on
    """
    batch = ModelBatch([run.model for run in running], [run.name for run in running])
    try:
        while running[0].model.num_timesteps < running[0].total_timesteps:
            batch.update()
            going_on = [run for run in running if run.step()]
            if log_interval is not None and running[0].model.num_timesteps % log_interval == 0:
                batch.hand_out_means()
                for run in going_on:
                    run.model.dump_logs()
                batch.take_means()
            if len(going_on) < len(running):
                break
        else:
            going_on = []
    finally:
        batch.release()
    for run in running:
        if run not in going_on:
            run.callback.on_training_end()
    return going_on
