"""
A policy whose actions keep to limits.
"""

import warnings
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.logger import Logger

from sb3_genpolicy.common.utils import tree_map
from sb3_genpolicy.generative.checks import check_choice, check_number, named_options
from sb3_genpolicy.safety.limits import ActionLimits, check_behaviour

Otherwise = Literal["clip", "hold", "raise"]
OTHERWISE: tuple[Otherwise, ...] = ("clip", "hold", "raise")
#: Why an action was touched
REASONS = ("speed", "jump", "density")
# Of float32, as a share of actions
_ROUNDING = 1e-6
# Where a change is so many times what it may be, `hold` waits
_SPIKE = 2.0
# So many events are kept
_EVENTS = 1000


class UnsafeAction(RuntimeError):
    """A policy wants what its limits forbid."""


class Event(NamedTuple):
    """
    An action that was touched.

    :param step: how many actions that environment had had
    :param env: its index
    :param reasons: which of :data:`REASONS`
    :param wanted: what the policy wanted, (action_dim,)
    :param done: what was done in its place, (action_dim,)
    """

    step: int
    env: int
    reasons: tuple[str, ...]
    wanted: np.ndarray
    done: np.ndarray


@dataclass
class Memory:
    """
    What environments did last.

    :param last: actions, (n_envs, action_dim)
    :param before: those before, (n_envs, action_dim)
    :param known: of these, how many there were since the episode's start, (n_envs,)
    :param held: for how many steps the last action has been held, (n_envs,)
    :param steps: actions altogether, (n_envs,)
    """

    last: np.ndarray
    before: np.ndarray
    known: np.ndarray
    held: np.ndarray
    steps: np.ndarray

    @classmethod
    def of(cls, n_envs: int, dim: int) -> "Memory":
        """
        :param n_envs: number of environments
        :param dim: number of action dimensions
        :return: nothing
        """
        actions, counts = np.zeros((2, n_envs, dim)), np.zeros((3, n_envs), dtype=np.int64)
        return cls(*actions, *counts)

    def begin(self, starts: np.ndarray) -> None:
        """
        :param starts: (n_envs,), where an episode begins
        """
        self.known[starts] = self.held[starts] = 0

    def note(self, done: np.ndarray, is_held: np.ndarray) -> None:
        """
        :param done: actions that were taken, (n_envs, action_dim)
        :param is_held: (n_envs,), where that before was held
        """
        self.before, self.last = self.last, done.copy()
        # What was held begins anew: its speed is none that the policy had
        self.known = np.where(is_held, 1, np.minimum(self.known + 1, 2))
        self.held = np.where(is_held, self.held + 1, 0)
        self.steps += 1


class SafeHands:
    """
    Stands in a model's place where one acts, and lets no action through that changes faster or more suddenly than logged ones
    did, or that the data never did. It has SB3's ``predict``, so that ``evaluate_policy`` takes it.

    What came before is kept for each environment by its index; ``episode_start`` says where an episode begins (as
    ``evaluate_policy`` does), and :meth:`reset` that all do.

    - ``clip``: the nearest action within the limits of speed and jump; where the density is too low, that of ``n_draws``
      actions of the behaviour model which is nearest among the likely ones
    - ``hold``: the action before, for a step, where a change is more than twice what it may be. If the policy still wants
      that, it is approached as by ``clip``, and so are smaller ones. Where the density is too low the action before is held
      for up to ``patience`` steps, then :class:`UnsafeAction` is raised
    - ``raise``: :class:`UnsafeAction`, before anything is done

    Limits of speed and jump are kept even where nothing likely lies within them: machines break by these.

    :param model: a model or a policy
    :param limits: see :func:`~sb3_genpolicy.safety.limits.fit_action_limits`
    :param otherwise: what is done where an action is outside
    :param behaviour: the model of the behaviour whose density is meant, for a limit on it
    :param patience: steps for which ``hold`` waits for a likely action, >= 1
    :param n_draws: actions of the behaviour model among which ``clip`` chooses, >= 1
    :raises ValueError: if an option is out of range, limits do not fit the actions, or there is no behaviour model for the
        density
    """

    @named_options
    def __init__(
        self,
        model: Any,
        limits: ActionLimits,
        otherwise: Otherwise = "clip",
        behaviour: Any = None,
        patience: int = 10,
        n_draws: int = 32,
    ):
        check_choice("otherwise", otherwise, OTHERWISE)
        check_number("patience", patience, low=1, whole=True)
        check_number("n_draws", n_draws, low=1, whole=True)
        self.model, self.limits, self.otherwise = model, limits, otherwise
        self.behaviour = getattr(behaviour, "policy", behaviour)
        self.patience, self.n_draws = patience, n_draws
        space = model.action_space
        if not isinstance(space, spaces.Box):
            raise ValueError(f"Speed and jump are of continuous actions, and this policy's are {space}.")
        self._space, self._dim = space, int(np.prod(space.shape))
        for name in ("speed", "jump"):
            if np.shape(getattr(limits, name)) not in ((), (self._dim,)):
                raise ValueError(
                    f"limits.{name} has shape {np.shape(getattr(limits, name))}, but actions have {self._dim} dimensions."
                )
        if np.isfinite(limits.log_density) and self.behaviour is None:
            raise ValueError("limits.log_density is of a behaviour model: give it as behaviour=, or leave that limit out.")
        check_behaviour(self.behaviour)
        self._low, self._high = (np.asarray(bound, np.float64).reshape(-1) for bound in (space.low, space.high))
        #: Actions altogether, and how many were touched for which reason
        self.n_actions = 0
        self.counts: Counter[str] = Counter()
        #: The last thousand actions that were touched
        self.events: deque[Event] = deque(maxlen=_EVENTS)
        self._memory: Memory | None = None

    def reset(self) -> None:
        """All environments begin an episode."""
        self._memory = None

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        :param observation: (n_envs, \\*observation_shape) or one without n_envs, or a dictionary of such
        :param state: handed on to the model
        :param episode_start: (n_envs,), where an episode begins
        :param deterministic: handed on to the model
        :return: actions within the limits, (n_envs, \\*action_shape) or one, and the model's state
        :raises UnsafeAction: where that is what is to be done
        :raises ValueError: if there are other environments than before
        """
        wanted, state = self.model.predict(observation, state, episode_start, deterministic)
        actions = np.asarray(wanted, dtype=np.float64).reshape(-1, self._dim)
        if np.ndim(wanted) == len(self._space.shape):
            # One alone becomes a batch of one
            observation = tree_map(lambda array: np.asarray(array)[None], observation)
        memory = self._memory_of(len(actions), episode_start)
        if not np.isfinite(actions).all():
            raise UnsafeAction(f"The policy wants {_shown(actions[~np.isfinite(actions).all(axis=1)][0])}. Nothing was done.")
        reasons = {
            "speed": self._too_fast(actions, memory),
            "jump": self._too_sudden(actions, memory),
            "density": self._too_unlikely(observation, actions),
        }
        touched = np.logical_or.reduce(list(reasons.values()))
        done, is_held = actions.copy(), np.zeros(len(actions), dtype=bool)
        if touched.any():
            self._refuse(actions, reasons, memory)
            done, is_held = self._in_its_place(observation, actions, reasons, memory)
        self._count(actions, done, reasons, memory)
        memory.note(done, is_held)
        return done.astype(self._space.dtype).reshape(np.shape(wanted)), state

    def record(self, logger: Logger) -> None:
        """
        :param logger: gets the shares of actions that were touched, ``safety/speed`` and so on
        """
        for reason in REASONS:
            logger.record(f"safety/{reason}", self.counts[reason] / max(self.n_actions, 1))

    def __str__(self) -> str:
        said = ", ".join(f"{self.counts[reason]} by {reason}" for reason in REASONS)
        return f"SafeHands ({self.otherwise}): of {self.n_actions:,} actions {self.counts['any']} were touched, {said}."

    # Which actions are outside

    def _too_fast(self, actions: np.ndarray, memory: Memory, times: float = 1.0) -> np.ndarray:
        sizes = np.abs(actions - memory.last)
        return (memory.known >= 1) & (sizes > times * self.limits.speed + _rounding(actions, memory)).any(axis=1)

    def _too_sudden(self, actions: np.ndarray, memory: Memory) -> np.ndarray:
        sizes = np.abs(actions - 2.0 * memory.last + memory.before)
        return (memory.known >= 2) & (sizes > self.limits.jump + _rounding(actions, memory)).any(axis=1)

    def _too_unlikely(self, observation: Any, actions: np.ndarray) -> np.ndarray:
        if not np.isfinite(self.limits.log_density):
            return np.zeros(len(actions), dtype=bool)
        # What is no number is not likely
        return ~(self._log_density(observation, actions) >= self.limits.log_density)

    def _log_density(self, observation: Any, actions: np.ndarray) -> np.ndarray:
        shaped = th.as_tensor(actions.reshape(-1, *self._space.shape).astype(self._space.dtype))
        with th.no_grad():
            return self.behaviour.log_prob(self.behaviour.obs_to_tensor(observation)[0], shaped).cpu().numpy()

    # What is done about it

    def _refuse(self, actions: np.ndarray, reasons: dict[str, np.ndarray], memory: Memory) -> None:
        waited = (memory.held >= self.patience) & reasons["density"]
        if self.otherwise != "raise" and not (self.otherwise == "hold" and waited.any()):
            return
        flags = np.logical_or.reduce(list(reasons.values())) if self.otherwise == "raise" else waited
        env = int(np.flatnonzero(flags)[0])
        found = ", ".join(reason for reason in REASONS if reasons[reason][env])
        for_long = f", after the one before was held for {self.patience} steps" if self.otherwise == "hold" else ""
        raise UnsafeAction(
            f"In environment {env}, at its action {memory.steps[env] + 1}, the policy wants {_shown(actions[env])} after "
            f"{_shown(memory.last[env]) if memory.known[env] else 'nothing'}, which is outside the limits ({found}){for_long}"
            ". Nothing was done. Look at the observation, or take other limits."
        )

    def _in_its_place(
        self, observation: Any, actions: np.ndarray, reasons: dict[str, np.ndarray], memory: Memory
    ) -> tuple[np.ndarray, np.ndarray]:
        """Actions within the limits, (n_envs, action_dim), and where that before is held, (n_envs,)."""
        unlikely, spikes = reasons["density"], self._too_fast(actions, memory, _SPIKE)
        is_held = np.zeros(len(actions), dtype=bool)
        if self.otherwise == "hold":
            is_held = (memory.known >= 1) & (unlikely | (spikes & (memory.held == 0)))
        replaced = unlikely & ~is_held
        done = actions.copy()
        if replaced.any():
            done[replaced] = self._likely(observation, actions, replaced)
        done = self._within(done, memory)
        return np.where(is_held[:, None], memory.last, done), is_held

    def _likely(self, observation: Any, actions: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Of some draws of the behaviour model the nearest that is likely enough, or the likeliest, (n_rows, action_dim)."""
        n, wanted = self.n_draws, actions[rows]
        observations = tree_map(lambda array: np.repeat(np.asarray(array)[rows], n, axis=0), observation)
        draws = np.asarray(self.behaviour.predict(observations)[0], np.float64).reshape(-1, self._dim)
        densities = self._log_density(observations, draws).reshape(-1, n)
        of_states = draws.reshape(-1, n, self._dim)
        distances = np.linalg.norm(of_states - wanted[:, None], axis=2)
        is_likely = densities >= self.limits.log_density
        nearest = np.where(is_likely, distances, np.inf).argmin(axis=1)
        chosen = np.where(is_likely.any(axis=1), nearest, densities.argmax(axis=1))
        return of_states[np.arange(len(of_states)), chosen]

    def _within(self, actions: np.ndarray, memory: Memory) -> np.ndarray:
        """The nearest actions within the limits of jump, of speed, and of the space, (n_envs, action_dim)."""
        ahead = 2.0 * memory.last - memory.before
        sudden, fast = (np.where(memory.known >= least, 0.0, np.inf)[:, None] for least in (2, 1))
        jump, speed = np.maximum(self.limits.jump, sudden), np.maximum(self.limits.speed, fast)
        # Going on at the speed before is within both; where the space ends, it is not
        least, largest = np.maximum(ahead - jump, memory.last - speed), np.minimum(ahead + jump, memory.last + speed)
        done = np.clip(np.clip(actions, least, largest), memory.last - speed, memory.last + speed)
        return np.clip(done, self._low, self._high)

    # What is kept

    def _memory_of(self, n_envs: int, episode_start: np.ndarray | None) -> Memory:
        if self._memory is None:
            self._memory = Memory.of(n_envs, self._dim)
        if len(self._memory.last) != n_envs:
            raise ValueError(
                f"There were {len(self._memory.last)} environments, and now there are {n_envs}: what each did last is kept by "
                "its index. Call reset() in between, or take an object for each."
            )
        if episode_start is not None:
            self._memory.begin(np.broadcast_to(np.asarray(episode_start, dtype=bool), (n_envs,)))
        return self._memory

    def _count(self, wanted: np.ndarray, done: np.ndarray, reasons: dict[str, np.ndarray], memory: Memory) -> None:
        self.n_actions += len(wanted)
        for env in np.flatnonzero(np.logical_or.reduce(list(reasons.values()))):
            why = tuple(reason for reason in REASONS if reasons[reason][env])
            if not self.counts["any"]:
                warnings.warn(
                    f"An action was outside the limits ({', '.join(why)}) for the first time, in environment {env} at its "
                    f"action {memory.steps[env] + 1}: {_shown(wanted[env])} became {_shown(done[env])}. How many there are "
                    "is in `counts`, the last of them are in `events`.",
                    stacklevel=3,
                )
            self.counts.update(["any", *why])
            self.events.append(Event(int(memory.steps[env]) + 1, int(env), why, wanted[env], done[env]))


def _rounding(actions: np.ndarray, memory: Memory) -> np.ndarray:
    """What rounding changes, (n_envs, action_dim)."""
    return _ROUNDING * np.maximum(np.abs(actions), np.abs(memory.last))


def _shown(action: np.ndarray) -> str:
    numbers = ", ".join(f"{number:.3g}" for number in action[:6])
    return f"[{numbers}{', ...' if len(action) > 6 else ''}]"
