"""
What a report looks at: a model, rows of its data, and what it does there.
"""

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_genpolicy.common.algorithms.offline_algorithm import OfflineAlgorithm
from sb3_genpolicy.common.datasets import DatasetSource
from sb3_genpolicy.common.datasets.envs import find_dataset
from sb3_genpolicy.common.transitions.transitions import Transitions
from sb3_genpolicy.common.utils import tree_map
from sb3_genpolicy.evaluation.acting import Acting, policy_actions
from sb3_genpolicy.evaluation.judges import judging_episodes, read_for

# Rows at which numbers are taken
_ROWS = 1024


@dataclass(frozen=True, eq=False)
class LookedAt:
    """
    :param model: the model
    :param data: logged data
    :param rows: of these, at which numbers are taken, ascending
    :param are_held_out: whether these trained nothing
    :param seed: of everything that is drawn
    """

    model: OfflineAlgorithm
    data: Transitions
    rows: np.ndarray
    are_held_out: bool
    seed: int

    @property
    def acting(self) -> Acting:
        """The policy, as it samples."""
        return Acting(self.model)

    @cached_property
    def observations(self) -> Any:
        """Of the rows, as the environment gives them, batch first."""
        return self.states(self.rows)

    @cached_property
    def tensors(self) -> Any:
        """The same, as networks take them."""
        return self.as_tensors(self.observations)

    @cached_property
    def logged(self) -> np.ndarray:
        """Logged actions of the rows, (n, action_dim), in the environment's units."""
        return self.flat_actions(self.rows)

    @cached_property
    def acted(self) -> np.ndarray:
        """An action of the policy in each, (n, action_dim)."""
        return policy_actions(self.acting, self.observations, 1, self.seed)[:, 0]

    def states(self, states: np.ndarray) -> Any:
        """
        :param states: numbers of observations; those of rows come first
        :return: observations, batch first
        """
        space = self.data.observation_space

        def part(array: np.ndarray, of: spaces.Space) -> np.ndarray:
            # A record has a column for a number alone, an environment has none
            return np.asarray(array[states]).reshape(-1, *(of.shape or ()))

        return tree_map(part, self.data.states, space.spaces if isinstance(space, spaces.Dict) else space)

    def flat_actions(self, rows: np.ndarray) -> np.ndarray:
        """
        :param rows: numbers of rows
        :return: their logged actions, (n, action_dim)
        """
        return np.asarray(self.data.actions[rows], dtype=np.float64).reshape(len(rows), -1)

    def as_tensors(self, observations: Any) -> Any:
        """
        :param observations: batch first, as the environment gives them
        :return: as networks take them
        """
        wrapper = self.model.get_vec_normalize_env()
        if wrapper is not None:
            observations = wrapper.normalize_obs(observations)
        return self.model.policy.obs_to_tensor(observations)[0]

    def scaled(self, actions: np.ndarray) -> th.Tensor:
        """
        :param actions: (n, action_dim), in the environment's units
        :return: as networks take them, (n, action_dim)
        """
        scaled = self.model.policy.action_range.scale(th.as_tensor(actions, device=self.model.device))
        return scaled.to(next(self.model.policy.actor.parameters()).dtype).clamp(-1.0, 1.0)


def look_at(model: OfflineAlgorithm, dataset: DatasetSource | None, seed: int) -> LookedAt | str:
    """
    :param model: the model
    :param dataset: logged data; None: what it was trained on
    :param seed: of everything that is drawn
    :return: what there is to look at, or why there is no data, in a sentence
    :raises ValueError: if a dataset is given that cannot be read
    """
    if dataset is None:
        try:
            dataset = find_dataset([model.dataset], model.env, model.dataset_name, type(model).__name__)
            data = _read(model, dataset)
        except (ValueError, OSError) as error:
            return f"The data cannot be looked at. {error} Give report(model, dataset=...)."
    else:
        data = _read(model, dataset)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        episodes = judging_episodes([model], data)
    rows = data.rows_of(episodes)
    chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), _ROWS)).astype(int)]
    return LookedAt(model, data, chosen, not said, seed)


def _read(model: OfflineAlgorithm, dataset: DatasetSource | None) -> Transitions:
    n_planned = model.policy.horizon.chunk_length
    if n_planned > 1:
        raise ValueError(
            f"A policy that plans {n_planned} actions is not drawn beside single logged ones; evaluate_offline says what it "
            "is worth."
        )
    return read_for([model], dataset)
