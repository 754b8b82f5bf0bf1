"""
Several seeds, or several betas, of one run at once: their networks are trained as a batch, in one process.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import MaybeCallback

from sb3_genpolicy.common.datasets import DatasetSource
from sb3_genpolicy.common.device_means import DeviceMeans
from sb3_genpolicy.common.gradient_steps import GradientSteps, Objective
from sb3_genpolicy.common.model_stack import ModelStack
from sb3_genpolicy.common.precision import matmul_precision
from sb3_genpolicy.common.side_by_side_checks import check_models, check_obstacles, name_of
from sb3_genpolicy.common.utils import tree_map
from sb3_genpolicy.generative.checks import named_arguments
from sb3_genpolicy.generative.draws import Draw, Tape

SelfGradientSteps = TypeVar("SelfGradientSteps", bound=GradientSteps)


@named_arguments
def learn_side_by_side(
    models: Sequence[SelfGradientSteps],
    total_timesteps: int = 100_000,
    callbacks: Sequence[MaybeCallback] | None = None,
    log_interval: int | None = 1000,
    tb_log_name: str = "side_by_side",
    reset_num_timesteps: bool = True,
    progress_bar: bool = False,
    dataset: DatasetSource | None = None,
) -> list[SelfGradientSteps]:
    """
    Let several models learn as each would alone with ``learn``, and in less time than one after the other: every layer of all
    of them is one product. They are built as ever and may differ in ``seed`` and ``beta``. Each draws the rows and the noise
    that it would draw alone, so that it gives the same curve, up to the rounding of products in another order.

    Afterwards, and in callbacks, they are ordinary models: ``save``, ``predict`` and ``learn`` do what they always do.
    The dataset is in memory once. Updates are not recorded (``capture``).

    :param models: GMPO or GMPG models, one or more, new ones or such as have come equally far
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
        raise ValueError(f"There are {len(given)} callbacks for {len(models)} models: give one for each, or None in its place.")
    running = []
    for index, (model, callback) in enumerate(zip(models, given, strict=True)):
        shown = progress_bar and index == 0
        prepared = _prepare(model, (total_timesteps, callback, reset_num_timesteps, f"{tb_log_name}_{index}", shown, dataset))
        running.append(_Run(model, *prepared, log_interval, name_of(models, index)))
        model.replay_buffer.share_rows(models[0].replay_buffer)
    check_obstacles(models)
    for run in running:
        run.callback.on_training_start(run.locals, globals())
    while running := _train(running, log_interval):
        pass
    return models


def _prepare(model: GradientSteps, arguments: tuple[Any, ...]) -> tuple[int, BaseCallback]:
    """As every ``learn`` begins, but that updates are not recorded."""
    with _attributes(model, capture=False):
        prepared = model._setup_learn(*arguments)
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
        self, model: GradientSteps, total_timesteps: int, callback: BaseCallback, log_interval: int | None, name: str
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
        :return: whether it goes on
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


class ModelBatch:
    """
    Makes updates of several models at once.

    :param models: models at the same step, with equal rows
    :param names: what they are called in messages
    """

    def __init__(self, models: Sequence[GradientSteps], names: Sequence[str]):
        self.models = models
        self.names = names
        self._stack = ModelStack(models)
        self._means = DeviceMeans()
        self.take_means()
        # What an update of a phase draws
        self._draws: dict[str, list[Draw]] = {}

    def release(self) -> None:
        """Leave ordinary models behind."""
        self.hand_out_means()
        self._stack.release()

    def take_means(self) -> None:
        """Go on adding to the models' means for the log, which are one for all from now on."""
        self._means = DeviceMeans.joined([model.means for model in self.models])

    def hand_out_means(self) -> None:
        """Give every model its means for the log."""
        for model, means in zip(self.models, self._means.split(len(self.models)), strict=True):
            model.means = means

    def update(self) -> None:
        """One gradient step of every model."""
        first = self.models[0]
        for model in self.models:
            model._update_current_progress_remaining(model.num_timesteps, model._total_timesteps)
            model._begin_update()
        self._stack.heed_phase()
        with matmul_precision(first.precision, first.device):
            rows = th.stack([model.replay_buffer.draw_rows(model.batch_size) for model in self.models])
            flat = first.replay_buffer.rows(rows.flatten())
            self._descend(self._objective(rows, _unflatten(flat, rows.shape)))
        for model in self.models:
            model._n_updates += 1

    # The objective

    def _objective(self, rows: th.Tensor, batch: Any) -> Objective:
        """
        :param rows: indices of the batches, (n_models, batch_size)
        :param batch: these rows
        :return: what all models descend on; every scalar is (n_models,)
        """
        first = self.models[0]
        draws = self._draws_of(rows, batch)
        made = [[draw.make(model.generator) for draw in draws] for model in self.models]
        ahead = [th.stack(numbers) for numbers in zip(*made, strict=True)]
        settings = {name: self._setting(name) for name in first.batched_settings}
        trains_critics = False

        def of_one(
            tensors: list[th.Tensor], rows: th.Tensor, arrays: dict[str, Any], ahead: list[th.Tensor], settings: dict[str, Any]
        ) -> tuple[dict[str, th.Tensor], ...]:
            nonlocal trains_critics
            with self._stack.standing_for_all(tensors), _attributes(first, generator=Tape(ahead=ahead), **settings):
                objective = first._objective(rows, batch._replace(**arrays))
            trains_critics = objective.trains_critics
            return objective.losses, objective.means, {} if objective.kl is None else dict(kl=objective.kl)

        arrays = {name: value for name, value in batch._asdict().items() if value is not None}
        losses, means, kl = th.vmap(of_one)(self._stack.tensors, rows, arrays, ahead, settings)
        return Objective(losses, means, trains_critics, kl.get("kl"))

    def _setting(self, name: str) -> th.Tensor:
        values = [getattr(model, name) for model in self.models]
        return th.stack([th.as_tensor(value, dtype=th.float32, device=self.models[0].device) for value in values])

    def _draws_of(self, rows: th.Tensor, batch: Any) -> list[Draw]:
        """What an update of this phase draws, in this order; seen once, in an update of the first model that is not made."""
        first = self.models[0]
        if first.phase not in self._draws:
            tape = Tape(th.Generator(first.device).manual_seed(0))
            with th.no_grad(), _attributes(first, generator=tape):
                first._objective(rows[0], _of_model(batch, 0))
            self._draws[first.phase] = tape.draws
        return self._draws[first.phase]

    # The step

    def _descend(self, objective: Objective) -> None:
        """As :meth:`~sb3_genpolicy.common.gradient_steps.GradientSteps._descend`, of all models."""
        self._guard(objective)
        optimizers = self._stack.optimizers(objective.trains_critics)
        for optimizer in optimizers:
            optimizer.clear_gradients()
        # No parameter is in the losses of two models
        th.autograd.backward([loss.sum() for loss in objective.losses.values()])
        means = self._before_step(objective)
        for optimizer in optimizers:
            optimizer.step()
        self._stack.follow(objective.trains_critics)
        self._means.add(**objective.losses, **objective.means, **means)

    def _before_step(self, objective: Objective) -> dict[str, th.Tensor]:
        if type(self.models[0])._before_step is GradientSteps._before_step:
            return {}
        for optimizer in self._stack.optimizers(objective.trains_critics):
            optimizer.hand_out_gradients()
        means = []
        for k, model in enumerate(self.models):
            with _naming(self.names[k]):
                means.append(model._before_step(_objective_of(objective, k)))
        return {name: th.stack([of_model[name] for of_model in means]) for name in means[0]}

    def _guard(self, objective: Objective) -> None:
        """One look at all models, and where it shows something, one at each."""
        first = self.models[0]
        if not first._looks_at_losses or th.stack([loss.detach() for loss in objective.losses.values()]).isfinite().all():
            return
        for k, model in enumerate(self.models):
            with _naming(self.names[k]):
                of_model = _objective_of(objective, k)
                model._guard(of_model.losses, of_model.means)


def _objective_of(objective: Objective, k: int) -> Objective:
    losses, means = ({name: value.detach()[k] for name, value in terms.items()} for terms in objective[:2])
    return Objective(losses, means, objective.trains_critics, None if objective.kl is None else objective.kl.detach()[k])


def _unflatten(batch: Any, shape: th.Size) -> Any:
    return type(batch)(*(None if part is None else tree_map(lambda x: x.unflatten(0, shape), part) for part in batch))


def _of_model(batch: Any, k: int) -> Any:
    return type(batch)(*(None if part is None else tree_map(lambda x: x[k], part) for part in batch))


@contextmanager
def _attributes(model: GradientSteps, **values: Any) -> Iterator[None]:
    """Give a model other attributes for as long as the context lasts."""
    before = {name: getattr(model, name) for name in values}
    try:
        for name, value in values.items():
            setattr(model, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(model, name, value)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except FloatingPointError as error:
        raise FloatingPointError(f"Of the models that are trained side by side, {name}: {error}") from error
