"""
Gradient steps of several models at once.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch as th

from sb3_genpolicy.common.algorithms.critic_hooks import rows_for_critics, rows_for_policy, windows_for_critics
from sb3_genpolicy.common.algorithms.offline_algorithm import OfflineAlgorithm
from sb3_genpolicy.common.side_by_side.model_stack import ModelStack
from sb3_genpolicy.common.updates.batch import Batch
from sb3_genpolicy.common.updates.device_means import DeviceMeans
from sb3_genpolicy.common.updates.guards import gradients_are_finite
from sb3_genpolicy.common.updates.objective import Objective
from sb3_genpolicy.common.updates.precision import AutocastOfBatches, autocast, matmul_precision
from sb3_genpolicy.common.utils import attributes, tree_map
from sb3_genpolicy.generative.draws import Draw, Tape


class ModelBatch:
    """
    Makes updates of several models at once.

    :param models: models at the same step, with equal rows
    :param names: what they are called in messages
    """

    def __init__(self, models: Sequence[OfflineAlgorithm], names: Sequence[str]):
        self.models = models
        self.names = names
        self._stack = ModelStack(models)
        self._means = DeviceMeans()
        self.take_means()
        # Settings that are numbers, as they were and as a tensor
        self._numbers: dict[str, tuple[list[float], th.Tensor]] = {}
        # Phase -> the random numbers that an update draws in it
        self._draws: dict[tuple[Any, ...], list[Draw]] = {}

    def release(self) -> None:
        """Turn the models back into ordinary ones, with tensors and optimizers of their own."""
        self.hand_out_means()
        self._stack.release()

    def take_means(self) -> None:
        """Join the models' means for the log into one object, to which updates add from now on."""
        self._means = DeviceMeans.joined([model.descent.means for model in self.models])

    def hand_out_means(self) -> None:
        """Give every model its means for the log."""
        for model, means in zip(self.models, self._means.split(len(self.models)), strict=True):
            model.descent.means = means

    def update(self) -> None:
        """One gradient step of every model."""
        first = self.models[0]
        for model in self.models:
            model._update_current_progress_remaining(model.num_timesteps, model._total_timesteps)
            model.begin_update()
        self._stack.heed_phase()
        with matmul_precision(first.precision, first.device):
            rows = th.stack([model.replay_buffer.draw_rows(model.batch_size) for model in self.models])
            flat = first.replay_buffer.rows(rows.flatten())
            sources = [model.generator for model in self.models]
            flat, logged = rows_for_critics(first, rows.flatten(), flat, sources)
            windows = windows_for_critics(first, rows.flatten())
            found = dict(next_actions=logged, logged_windows=windows)
            beside: dict[str, Any] = {name: array for name, array in found.items() if array is not None}
            matched = rows_for_policy(first, rows.flatten(), sources)
            if matched is not None:
                columns = {name: value for name, value in matched[0]._asdict().items() if value is not None}
                beside["matched"] = dict(columns, rows=matched[1])
            beside = _mapped(lambda array: array.unflatten(0, rows.shape), beside)
            with autocast(first.precision, first.device):
                objective = self._objective(rows, _unflatten(flat, rows.shape), beside)
            self._descend(objective)
        for model in self.models:
            model.end_update()

    # The objective

    def _objective(self, rows: th.Tensor, samples: Any, beside: dict[str, Any]) -> Objective:
        """
        :param rows: indices of the batches, (n_models, batch_size)
        :param samples: these rows
        :param beside: what else batches have of their rows, by its name there, (n_models, batch_size, ...)
        :return: the objective of all models, in which every scalar has the shape (n_models,)
        """
        first = self.models[0]
        draws = self._draws_of(rows, samples, beside)
        made = [[draw.make(model.generator) for draw in draws] for model in self.models]
        ahead = [th.stack(numbers) for numbers in zip(*made, strict=True)]
        settings = {name: self._setting(name) for name in first.batched_settings}
        trains: tuple[str, ...] = ()

        def of_one(
            tensors: list[th.Tensor], rows: th.Tensor, arrays: dict[str, Any], ahead: list[th.Tensor], settings: dict[str, Any]
        ) -> tuple[dict[str, th.Tensor], ...]:
            nonlocal trains
            with self._stack.standing_for_all(tensors), attributes(first, **settings):
                own = {name: arrays.pop(name) for name in beside}
                batch = _batch_of(samples._replace(**arrays), rows, Tape(ahead=ahead), own)
                objective = first.objective(batch)
            trains = objective.trains
            return objective.losses, objective.means, objective.extras

        arrays = {name: value for name, value in {**samples._asdict(), **beside}.items() if value is not None}
        mode = AutocastOfBatches(first.device) if first.precision == "bfloat16" else nullcontext()
        with mode, _as_sentence():
            losses, means, extras = th.vmap(of_one)(self._stack.tensors, rows, arrays, ahead, settings)
        return Objective(losses, trains, means, extras)

    def _setting(self, name: str) -> th.Tensor:
        values = [getattr(model, name) for model in self.models]
        if isinstance(values[0], th.Tensor):
            return th.stack(values)
        # Only if they have changed: writing them to a GPU at every step would make it wait
        if name not in self._numbers or self._numbers[name][0] != values:
            self._numbers[name] = values, th.tensor(values, dtype=th.float32, device=self.models[0].device)
        return self._numbers[name][1]

    def _draws_of(self, rows: th.Tensor, samples: Any, beside: dict[str, Any]) -> list[Draw]:
        """The random numbers that an update of this phase draws, in order: noted once, in a dry run with the first model."""
        first = self.models[0]
        kind = first.phase, *first.policy.settings_that_change().values()
        if kind not in self._draws:
            tape = Tape(th.Generator(first.device).manual_seed(0))
            own = _mapped(lambda array: array[0], beside)
            first.objective(_batch_of(_of_model(samples, 0), rows[0], tape, own))
            self._draws[kind] = tape.draws
        return self._draws[kind]

    # The step

    def _descend(self, objective: Objective) -> None:
        """As :meth:`~sb3_genpolicy.common.updates.descent.GradientDescent.descend`, of all models."""
        self._check_losses(objective)
        optimizers = self._stack.optimizers(objective.trains)
        for optimizer in optimizers:
            optimizer.clear_gradients()
        # No parameter is in the losses of two models
        th.autograd.backward([loss.sum() for loss in objective.losses.values()])
        self._check_gradients(objective.trains)
        means = self._before_step(objective)
        for optimizer in optimizers:
            optimizer.step()
        self._stack.follow(objective.trains)
        self._means.add(**objective.losses, **objective.means, **means)

    def _before_step(self, objective: Objective) -> dict[str, th.Tensor]:
        if type(self.models[0]).before_step is OfflineAlgorithm.before_step:
            return {}
        for optimizer in self._stack.optimizers(objective.trains):
            optimizer.hand_out_gradients()
        means = []
        for k, model in enumerate(self.models):
            with _naming(self.names[k]):
                means.append(model.before_step(_objective_of(objective, k)))
        return {name: th.stack([of_model[name] for of_model in means]) for name in means[0]}

    @property
    def _looks_now(self) -> bool:
        return self.models[0].descent.guard.looks_now

    def _check_losses(self, objective: Objective) -> None:
        """Check all models at once, and one by one if a number is not finite."""
        if not self._looks_now or th.stack([loss.detach() for loss in objective.losses.values()]).isfinite().all():
            return
        for k, model in enumerate(self.models):
            with _naming(self.names[k]):
                of_model = _objective_of(objective, k)
                model.descent.guard.check_losses(of_model.losses, of_model.means)

    def _check_gradients(self, trains: Sequence[str]) -> None:
        optimizers = self._stack.optimizers(trains)
        if not self._looks_now or gradients_are_finite(stacked.optimizer for stacked in optimizers):
            return
        for stacked in optimizers:
            stacked.hand_out_gradients()
        for k, model in enumerate(self.models):
            with _naming(self.names[k]):
                model.descent.guard.check_gradients(model.descent.optimizers(trains))


def _objective_of(objective: Objective, k: int) -> Objective:
    losses, means, extras = (
        {name: value.detach()[k] for name, value in terms.items()}
        for terms in (objective.losses, objective.means, objective.extras)
    )
    return Objective(losses, objective.trains, means, extras)


def _unflatten(batch: Any, shape: th.Size) -> Any:
    return type(batch)(*(None if part is None else tree_map(lambda x: x.unflatten(0, shape), part) for part in batch))


def _of_model(batch: Any, k: int) -> Any:
    return type(batch)(*(None if part is None else tree_map(lambda x: x[k], part) for part in batch))


@contextmanager
def _as_sentence() -> Iterator[None]:
    """Turn errors of ``th.vmap`` into clear ones: whether a user's own network can be batched is not known beforehand."""
    try:
        yield
    except th.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ValueError(
            f"The update of these models cannot be batched (th.vmap): {str(error).splitlines()[0]} The models are as before "
            "this step. Train them one after the other, with `learn`."
        ) from error


@contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except FloatingPointError as error:
        raise FloatingPointError(f"Of the models that are trained side by side, {name}: {error}") from error


def _mapped(function: Callable[[th.Tensor], th.Tensor], tree: Any) -> Any:
    """To each array of dictionaries of dictionaries."""
    if isinstance(tree, dict):
        return {name: _mapped(function, value) for name, value in tree.items()}
    return function(tree)


def _batch_of(samples: Any, rows: th.Tensor, tape: Tape, beside: dict[str, Any]) -> Batch:
    """Of one model, with what else there is of its rows."""
    matched = beside.get("matched")
    if matched is not None:
        columns = {name: value for name, value in matched.items() if name != "rows"}
        matched = Batch.of(samples._replace(**columns), matched["rows"], tape)
    return Batch.of(
        samples, rows, tape, matched=matched, **{name: array for name, array in beside.items() if name != "matched"}
    )
