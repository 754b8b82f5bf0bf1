"""
How a gradient step is made: in which precision, step by step or recorded once and replayed, and what it consists of.
"""

from abc import abstractmethod
from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.optim import Optimizer

from sb3_genpolicy.common.algorithms.begin_together import begin_together, check_together, layer_obstacle
from sb3_genpolicy.common.algorithms.offline_to_online import OfflineToOnlineAlgorithm
from sb3_genpolicy.common.updates.averages import follow
from sb3_genpolicy.common.updates.guards import Keeper, check_finite, check_gradients, size_of_gradients
from sb3_genpolicy.common.updates.objective import Objective
from sb3_genpolicy.common.updates.precision import PRECISIONS, Precision, autocast, matmul_precision
from sb3_genpolicy.common.updates.processes import processes, world_size
from sb3_genpolicy.common.updates.recorded_update import (
    RecordedUpdate,
    clear_gradients,
    make_ordinary,
    make_recordable,
    on_side_stream,
    set_learning_rate,
)
from sb3_genpolicy.generative.checks import check_choice, check_flag

#: Optimizers that treat every entry by itself, so that one step of a stack of models is a step of each
ELEMENTWISE_OPTIMIZERS: tuple[type[Optimizer], ...] = (
    th.optim.Adadelta,
    th.optim.Adagrad,
    th.optim.Adam,
    th.optim.Adamax,
    th.optim.AdamW,
    th.optim.NAdam,
    th.optim.RAdam,
    th.optim.RMSprop,
    th.optim.SGD,
)
# On a GPU a look at every loss would make each step wait
_CHECK_EVERY_ON_GPU = 100
# Optimizers whose fused step can be told to change nothing
_TOLD_TO_WAIT = (th.optim.Adam, th.optim.AdamW)
# Steps of a kind that are made one by one before one is recorded: they create the optimizers' state and the log's sums
_WARM_UP = 3


class GradientSteps(OfflineToOnlineAlgorithm):
    """
    Base of algorithms that say what their :class:`Objective` is.

    :param precision: of matrix products while training: ``float32``, ``tf32`` or ``bfloat16``
    :param capture: whether to record a whole update as one CUDA graph and replay it
    :param kwargs: see :class:`~sb3_genpolicy.common.algorithms.offline_to_online.OfflineToOnlineAlgorithm`
    """

    #: Settings and state that may differ between models that are trained side by side: numbers or scalar tensors
    batched_settings: ClassVar[tuple[str, ...]] = ()

    def __init__(self, policy: Any, env: Any, learning_rate: Any, *, precision: Precision, capture: bool, **kwargs: Any):
        super().__init__(policy, env, learning_rate, **kwargs)
        check_choice("precision", precision, PRECISIONS)
        self.precision: Precision = precision
        check_flag("capture", capture)
        self.capture = capture

    def _setup_model(self) -> None:
        super()._setup_model()
        # The rate at which the averaged actor follows in this update; a tensor where updates are recorded
        self._actor_rate: float | th.Tensor = 1.0
        self._keeper: Keeper | None = None
        self._forget_recording()

    def train(self, gradient_steps: int, batch_size: int = 256) -> None:
        with matmul_precision(self.precision, self.device):
            for _ in range(gradient_steps):
                self._begin_update()
                self._note_step()
                if self._captures:
                    self._update_by_recording(batch_size)
                else:
                    self._update(batch_size)
                self._n_updates += 1
                self._check_kept()

    # An update

    @property
    @abstractmethod
    def phase(self) -> str:
        """What is being trained, for the log and the progress bar."""

    @abstractmethod
    def _begin_update(self) -> None:
        """What of an update the host decides: phase, modes and rates."""

    @abstractmethod
    def _objective(self, rows: th.Tensor, batch: Any) -> Objective:
        """
        :param rows: indices of the batch, (batch_size,)
        :param batch: these rows
        :return: what this update descends on
        """

    def _update(self, batch_size: int) -> None:
        together = processes()
        rows, batch = self.replay_buffer.draw(batch_size, self._vec_normalize_env, together.part(batch_size))
        with autocast(self.precision, self.device), together.sharing(self):
            objective = self._objective(rows, batch)
        self._descend(objective)

    def _descend(self, objective: Objective) -> None:
        """A step of the networks that the objective is of, and of those that follow them."""
        optimizers = self._optimizers(objective.trains_critics)
        for optimizer in optimizers:
            clear_gradients(optimizer)
        # Losses share no parameters, so that one pass gives the gradients of all
        th.autograd.backward(list(objective.losses.values()))
        # Where several processes train, those of the joint batch
        objective = processes().average(objective, optimizers)
        self._guard(objective.losses, objective.means)
        self._guard_gradients(objective.trains_critics)
        means = self._before_step(objective)
        for optimizer in optimizers:
            optimizer.step()
        self._follow(objective.trains_critics)
        self.means.add(**objective.losses, **objective.means, **means)

    def _optimizers(self, trains_critics: bool) -> list[Optimizer]:
        return list(self._named_optimizers(trains_critics).values())

    def _named_optimizers(self, trains_critics: bool) -> dict[str, Optimizer]:
        critics = dict(critic=self.critic.optimizer, value_net=self.value_net.optimizer) if trains_critics else {}
        return {"actor": self.actor.optimizer, **critics}

    def _before_step(self, objective: Objective) -> dict[str, th.Tensor]:
        """
        What is done with the gradients, and what of them is logged.

        :param objective: whose gradients they are
        :return: further scalars for the log
        """
        return {}

    def _follow(self, critics: bool) -> None:
        follow(*self._actor_and_average, self._unless_broken(self._actor_rate))
        follow(self.actor_batch_norm_stats_ema, self.actor_batch_norm_stats, 1.0)
        if critics:
            follow(*self._critic_and_target, self._unless_broken(self.tau))
            follow(self.batch_norm_stats_target, self.batch_norm_stats, 1.0)

    # Numbers that are not finite: on a CPU every step is looked at before it is made. On a GPU they are noted there, and from
    # the first one on nothing changes, where the optimizers can be told so; looks are rare.

    @property
    def _looks_at_every_step(self) -> bool:
        return self.device.type == "cpu"

    @property
    def _looks_at_losses(self) -> bool:
        return self._looks_at_every_step or self._n_updates % _CHECK_EVERY_ON_GPU == 0

    def _guard(self, terms: dict[str, th.Tensor], others: dict[str, th.Tensor]) -> None:
        if self._keeper is not None:
            self._keeper.note(terms, others)
        elif self._recorded is not None and self._recorded.recording:
            # Looked at now and then, after a replay
            self._terms.update({name: term.detach() for name, term in terms.items()})
        elif self._looks_at_losses:
            check_finite(self._n_updates + 1, terms, others, every_step=self._looks_at_every_step)

    def _guard_gradients(self, trains_critics: bool) -> None:
        optimizers = self._named_optimizers(trains_critics)
        if self._keeper is not None:
            sizes = {f"the gradient of {name}": size_of_gradients(optimizer) for name, optimizer in optimizers.items()}
            self._keeper.note(sizes, {})
        elif self._looks_at_losses and (self._recorded is None or not self._recorded.recording):
            check_gradients(self._n_updates + 1, optimizers, every_step=self._looks_at_every_step)

    def _unless_broken(self, change: float | th.Tensor) -> float | th.Tensor:
        return change if self._keeper is None else self._keeper.unless_found(change)

    def _note_step(self) -> None:
        if self._keeper is not None:
            self._keeper.begin(self._n_updates + 1)

    def _check_kept(self, now: bool = False) -> None:
        """
        :param now: whether to look in any case, and not only after so many steps and at the end of ``learn``
        """
        if self._keeper is None:
            return
        # A step in the environment is counted before its updates, a gradient step after
        is_last = self.num_timesteps + (not self._collecting) >= self._total_timesteps
        if now or is_last or self._n_updates % _CHECK_EVERY_ON_GPU == 0:
            self._keeper.check()

    def _keep_parameters(self, wanted: bool) -> None:
        """
        :param wanted: whether to keep them as they were before a number that is not finite, where that can be
        """
        optimizers = self._optimizers(True)
        can_wait = all(
            type(optimizer) in _TOLD_TO_WAIT and bool(group["fused"])
            for optimizer in optimizers
            for group in optimizer.param_groups
        )
        self._keeper = Keeper(self.device) if wanted and can_wait else None
        for optimizer in optimizers:
            optimizer.found_inf = None if self._keeper is None else self._keeper.found  # type: ignore[attr-defined]

    def _set_actor_rate(self, rate: float) -> None:
        if isinstance(self._actor_rate, th.Tensor):
            self._actor_rate.fill_(rate)
        else:
            self._actor_rate = rate

    def _set_learning_rate(self, optimizers: list[Optimizer], rate: float) -> None:
        self.logger.record("train/learning_rate", rate)
        for optimizer in optimizers:
            set_learning_rate(optimizer, rate)

    # Side by side with other models

    def _batching_obstacle(self) -> str | None:
        """
        :return: why models like this one cannot be trained as a batch of networks, and what could be done; None if they may
        """
        if self.online:
            return "it has gone on online, where every model sees rows of its own"
        if self.replay_buffer.streams:
            return "its dataset is streamed from files. Take one that fits into memory"
        if self._vec_normalize_env is not None:
            return (
                "its environment is a VecNormalize. Take normalize_observations=True in policy_kwargs and a reward_transform"
            )
        if not self.actor.model.coupling.independent:
            return (
                f"{type(self.actor.model.coupling).__name__} pairs noise with actions on the host. Take coupling='independent'"
            )
        for name, module in self.policy.named_modules():
            if (isinstance(module, _DropoutNd) and module.p > 0.0) or (
                isinstance(module, _NormBase) and module.track_running_stats
            ):
                return f"its network has a {type(module).__name__} (policy.{name}). Take layers without it, as LayerNorm"
        for optimizer in self._optimizers(True):
            if type(optimizer) not in ELEMENTWISE_OPTIMIZERS:
                names = ", ".join(known.__name__ for known in ELEMENTWISE_OPTIMIZERS)
                return f"its optimizer is {type(optimizer).__name__}. Take one of {names}"
        return None

    # In several processes

    def _data_parallel_obstacle(self) -> str | None:
        """
        :return: why several processes cannot train a model like this one together, and what could be done; None if they may
        """
        if self.online:
            return "it has gone on online, where every process would see rows of its own"
        if not self.actor.model.coupling.independent:
            return (
                f"{type(self.actor.model.coupling).__name__} pairs noise with the actions of a whole batch. "
                "Take coupling='independent'"
            )
        return layer_obstacle(self.policy)

    # Recording

    def _capture_obstacle(self) -> str | None:
        """
        :return: why an update cannot be recorded, None if it may
        """
        if world_size() > 1:
            return f"{world_size()} processes train the model together"
        if self.device.type != "cuda":
            return f"the model is on the device '{self.device}', and CUDA graphs are of CUDA devices"
        if self._collecting:
            return "rows arrive between updates"
        if self.replay_buffer.streams:
            return "the dataset does not fit on the GPU, so that batches come from outside"
        if self._vec_normalize_env is not None:
            return "VecNormalize's statistics are on the host"
        if not self.actor.model.coupling.independent:
            return f"{type(self.actor.model.coupling).__name__} pairs noise with actions on the host"
        for optimizer in self._optimizers(True):
            if "capturable" not in optimizer.param_groups[0]:
                return f"{type(optimizer).__name__} has no option `capturable`"
        return None

    def _forget_recording(self) -> None:
        self._captures = False
        self._recorded: RecordedUpdate | None = None
        # Updates of the same kind that were made since it changed
        self._kind: tuple[Any, ...] = ()
        self._made = 0
        # Of the last replay, to be looked at
        self._terms: dict[str, th.Tensor] = {}

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        """
        cf `BaseAlgorithm`.
        """
        check_together(self)
        prepared = super()._setup_learn(*args, **kwargs)
        self._forget_recording()
        obstacle = self._capture_obstacle() if self.capture else "it was not asked for"
        self._captures = obstacle is None
        if self.capture and obstacle is not None:
            self.logger.warn(f"Updates are made step by step, not recorded (capture=True): {obstacle}.")
        self._actor_rate = th.zeros((), device=self.device) if self._captures else 1.0
        for optimizer in self._optimizers(True):
            if self._captures:
                make_recordable(optimizer, self.device)
            else:
                make_ordinary(optimizer)
        self._keep_parameters(not self._looks_at_every_step)
        begin_together(self)
        return prepared

    def _update_by_recording(self, batch_size: int) -> None:
        """The first updates of a kind are made one by one, then one is recorded, and replayed from then on."""
        kind = (self.phase, batch_size, self.replay_buffer.size(), self.replay_buffer.observations_are_at)
        if kind != self._kind:
            self._recorded, self._kind, self._made = None, kind, 0
        if self._recorded is None and self._made < _WARM_UP:
            self._made += 1
            on_side_stream(lambda: self._update(batch_size))
            return
        if self._recorded is None and not self._record(batch_size):
            self._update(batch_size)
            return
        assert self._recorded is not None
        self._recorded.replay()
        if self._terms and self._n_updates % _CHECK_EVERY_ON_GPU == 0:
            check_finite(self._n_updates + 1, self._terms, every_step=False)

    def _record(self, batch_size: int) -> bool:
        """Whether it worked."""
        assert self.replay_buffer.generator is not None
        generators = [self.generator, self.replay_buffer.generator]
        states = [generator.get_state() for generator in generators]
        self._recorded = RecordedUpdate(generators, self.means)
        try:
            self._recorded.record(lambda: self._update(batch_size))
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            self.logger.warn(f"Updates are made step by step, not recorded (capture=True): {reason}")
            self._forget_recording()
            # A generator may still believe that it is being recorded
            self.generator, self.replay_buffer.generator = (th.Generator(self.device).set_state(state) for state in states)
            return False
        return True

    def _excluded_save_params(self) -> list[str]:
        recording = ["_captures", "_recorded", "_kind", "_made", "_terms", "_actor_rate", "_keeper"]
        return [*super()._excluded_save_params(), *recording, "_actor_and_average", "_critic_and_target"]

    def _create_aliases(self) -> None:
        super()._create_aliases()
        # A walk over a network's modules for its parameters costs as much as their average
        self._actor_and_average = list(self.actor_ema.parameters()), list(self.actor.parameters())
        self._critic_and_target = list(self.critic_target.parameters()), list(self.critic.parameters())
