"""
What a policy does in chosen states, beside what was logged there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from sb3_genpolicy.common.datasets.picture import panel
from sb3_genpolicy.common.utils import tree_map
from sb3_genpolicy.evaluation.acting import Acting, policy_actions
from sb3_genpolicy.evaluation.support import log_density, why_no_density
from sb3_genpolicy.reporting.behaviour import Behaviour, Neighbours
from sb3_genpolicy.reporting.looked_at import LookedAt

# Actions that are drawn in a state
_DRAWN = 500
# Rows among which those are looked for where a policy differs most, and actions of each
_COMPARED, _OF_EACH = 64, 8
# Points along an axis at which a density is computed, with one and with two dimensions
_POINTS, _GRID = 160, 33
_BINS = 40
POLICY, BEHAVIOUR, LOGGED = "#3b6fb6", "#d1782f", "#9a9a9a"


class State(NamedTuple):
    """
    :param name: which it is, in words
    :param observation: a batch of one
    """

    name: str
    observation: Any


@dataclass(frozen=True, eq=False)
class Actions:
    """
    What is done in a state.

    :param state: the state
    :param policy: actions of the policy, (n, action_dim), in the environment's units
    :param deterministic: its deterministic action, (action_dim,)
    :param behaviour: actions of the behaviour model; None where there is none
    :param logged: logged actions of the nearest rows
    """

    state: State
    policy: np.ndarray
    deterministic: np.ndarray
    behaviour: np.ndarray | None
    logged: np.ndarray


def choose_states(looked: LookedAt, behaviour: Behaviour | None, given: Any) -> list[State]:
    """
    :param looked: the model and its data
    :param behaviour: a model of the behaviour policy; None where there is none
    :param given: observations that somebody wants to see, batch first; None: some of the data
    :return: these; or where the best episode began and was halfway, and where the policy's actions are farthest from the
        behaviour's, and in the middle of these distances
    """
    if given is not None:
        given = tree_map(np.asarray, given)
        n = len(next(iter(given.values())) if isinstance(given, dict) else given)
        return [State(f"given state {at}", tree_map(lambda array, at=at: array[at : at + 1], given)) for at in range(n)]
    data = looked.data
    best = int(data.episode_returns().argmax())
    first, end = (int(row) for row in data.episode_starts[best : best + 2])
    rows = looked.rows[np.linspace(0, len(looked.rows) - 1, min(len(looked.rows), _COMPARED)).astype(int)]
    order = rows[np.argsort(_distances(looked, behaviour, rows), kind="stable")]
    named = {
        f"the best episode ({best}) begins": first,
        "the best episode, halfway": (first + end) // 2,
        "a usual distance from the behaviour": int(order[len(order) // 2]),
        "farthest from the behaviour": int(order[-1]),
    }
    return [State(name, looked.states(np.array([row]))) for name, row in named.items()]


def _distances(looked: LookedAt, behaviour: Behaviour | None, rows: np.ndarray) -> np.ndarray:
    """Of the mean actions of policy and behaviour, in standard deviations of the logged ones, (n_rows,)."""
    observations, logged = looked.states(rows), looked.flat_actions(rows)
    own = policy_actions(looked.acting, observations, _OF_EACH, looked.seed).mean(axis=1)
    other = logged if behaviour is None else behaviour.sample(observations, _OF_EACH, looked.seed).mean(axis=1)
    deviation = looked.logged.std(axis=0)
    return np.square((own - other) / np.where(deviation > 0.0, deviation, 1.0)).sum(axis=1)


def act_in(looked: LookedAt, behaviour: Behaviour | None, states: list[State]) -> list[Actions]:
    """
    :param looked: the model and its data
    :param behaviour: a model of the behaviour policy; None where there is none
    :param states: the states
    :return: what is done in each
    """
    neighbours = Neighbours(looked)
    found = []
    for state in states:
        own = policy_actions(looked.acting, state.observation, _DRAWN, looked.seed)[0]
        deterministic = Acting(looked.model, deterministic=True).predict(state.observation).reshape(-1)
        others = None if behaviour is None else behaviour.sample(state.observation, _DRAWN, looked.seed)[0]
        found.append(Actions(state, own, deterministic, others, neighbours.actions(state.observation)))
    return found


def drawn_dimensions(looked: LookedAt) -> list[int]:
    """
    :param looked: the model and its data
    :return: the one or two dimensions in which logged actions vary most, by the space's width where it is bounded
    """
    low, high = (bound.reshape(-1).astype(float) for bound in (looked.data.action_space.low, looked.data.action_space.high))
    width = np.where(np.isfinite(high - low), high - low, 1.0)
    deviation = looked.logged.std(axis=0) / np.where(width > 0.0, width, 1.0)
    return sorted(int(k) for k in np.argsort(-deviation, kind="stable")[:2])


def densities_figure(looked: LookedAt, behaviour: Behaviour | None, actions: Actions) -> Figure:
    """
    :param looked: the model and its data
    :param behaviour: a model of the behaviour policy; None where there is none
    :param actions: what is done in a state
    :return: with one dimension densities, where they are known, else histograms; with more a point for each action, in the two
        dimensions that vary most, and around them, of two dimensions, where nine tenths of the actions are
    """
    figure, axis = panel()
    exact: dict[str, Callable[[Any, np.ndarray], np.ndarray]] = {}
    if why_no_density(looked.acting) is None:
        exact["policy"] = _density_of(looked)
    if behaviour is not None and behaviour.log_prob is not None:
        exact["behaviour"] = behaviour.log_prob
    samples = {"logged nearby": actions.logged, "behaviour": actions.behaviour, "policy": actions.policy}
    named = {name: values for name, values in samples.items() if values is not None}
    if actions.policy.shape[1] == 1:
        _draw_line(axis, actions, named, exact)
    else:
        _draw_plane(axis, actions, named, exact, drawn_dimensions(looked))
    axis.legend(frameon=False, fontsize=8)
    return figure


def _density_of(looked: LookedAt) -> Callable[[Any, np.ndarray], np.ndarray]:
    wrapper = looked.model.get_vec_normalize_env()

    def log_prob(observations: Any, actions: np.ndarray) -> np.ndarray:
        seen = observations if wrapper is None else wrapper.normalize_obs(observations)
        return log_density(looked.model.policy, seen, actions)

    return log_prob


_COLORS = {"policy": POLICY, "behaviour": BEHAVIOUR, "logged nearby": LOGGED}


def _draw_line(axis: Any, actions: Actions, samples: dict[str, np.ndarray], exact: dict[str, Any]) -> None:
    values = np.concatenate([*samples.values(), actions.deterministic[None]])
    low, high = _extent(values[:, 0])
    grid = np.linspace(low, high, _POINTS)[:, None]
    repeated = tree_map(lambda array: np.repeat(array, _POINTS, axis=0), actions.state.observation)
    for name, drawn in samples.items():
        if name in exact:
            density = np.exp(exact[name](repeated, grid.astype(np.float32)))
            axis.plot(grid[:, 0], density, color=_COLORS[name], linewidth=1.5, label=name)
        elif np.ptp(drawn[:, 0]) == 0.0:
            axis.axvline(drawn[0, 0], color=_COLORS[name], linewidth=2, label=name)
        else:
            is_logged = name == "logged nearby"
            options = dict(alpha=0.45) if is_logged else dict(histtype="step", linewidth=1.5)
            axis.hist(drawn[:, 0], bins=_BINS, range=(low, high), density=True, color=_COLORS[name], label=name, **options)
    axis.axvline(actions.deterministic[0], color="black", linestyle="--", linewidth=1, label="deterministic")
    axis.set(xlabel="action", ylabel="density")


def _draw_plane(
    axis: Any, actions: Actions, samples: dict[str, np.ndarray], exact: dict[str, Any], dimensions: list[int]
) -> None:
    one, other = dimensions
    for name, drawn in samples.items():
        size = 12 if name == "logged nearby" else 5
        axis.plot(drawn[:, one], drawn[:, other], ".", markersize=0.5 * size, alpha=0.5, color=_COLORS[name], label=name)
    if actions.policy.shape[1] == 2:
        for name, log_prob in exact.items():
            _draw_contour(axis, actions.state, samples[name], log_prob, _COLORS[name])
    axis.plot(*actions.deterministic[dimensions], "x", color="black", label="deterministic")
    axis.set(xlabel=f"action {one}", ylabel=f"action {other}")


def _draw_contour(axis: Any, state: State, drawn: np.ndarray, log_prob: Any, color: str) -> None:
    """Around where nine tenths of the actions are: where the density is above its tenth percentile at these."""
    some = drawn[:: max(1, len(drawn) // 100)]
    (left, right), (bottom, top) = _extent(drawn[:, 0]), _extent(drawn[:, 1])
    xs, ys = np.meshgrid(np.linspace(left, right, _GRID), np.linspace(bottom, top, _GRID))
    points = np.concatenate([some, np.stack([xs.ravel(), ys.ravel()], axis=1)]).astype(np.float32)
    values = log_prob(tree_map(lambda array: np.repeat(array, len(points), axis=0), state.observation), points)
    level, grid = np.quantile(values[: len(some)], 0.1), values[len(some) :].reshape(_GRID, _GRID)
    if np.isfinite(level) and np.isfinite(grid).any() and np.nanmin(grid) < level < np.nanmax(grid):
        axis.contour(xs, ys, np.where(np.isfinite(grid), grid, grid[np.isfinite(grid)].min()), [level], colors=[color])


def _extent(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    margin = 0.05 * (high - low) or max(0.05 * abs(low), 0.05)
    return low - margin, high + margin
