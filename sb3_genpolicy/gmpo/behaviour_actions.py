"""
Several actions of the behaviour model for each state, with their values.
"""

from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.vec_env import VecNormalize

from sb3_genpolicy.common.files.transient import Transient
from sb3_genpolicy.common.policies.actor import GenerativeActor
from sb3_genpolicy.common.policies.critics import CriticEnsemble
from sb3_genpolicy.common.replay.buffer import OfflineReplayBuffer
from sb3_genpolicy.common.updates.batch import Batch
from sb3_genpolicy.common.utils import tree_map
from sb3_genpolicy.generative.draws import Source, draw

# Rows at a time when actions are drawn for a whole dataset
_CHUNK = 4096


class DrawnActions(NamedTuple):
    """
    :param actions: (batch_size, n_actions, action_dim), scaled and clamped to [-1, 1]
    :param q_values: Q at each, (batch_size, n_actions)
    """

    actions: th.Tensor
    q_values: th.Tensor


class BehaviourActions(Transient):
    """
    Draws actions of the behaviour model, anew for every batch or once for every row of the dataset.

    :param behaviour: the behaviour model
    :param critic: the critics, frozen
    :param n_actions: actions for each state
    :param seed: of the noise of actions that are drawn once, so that a resumed run has the same; None: anew for every batch
    """

    def __init__(self, behaviour: GenerativeActor, critic: CriticEnsemble, n_actions: int, seed: int | None):
        self.behaviour = behaviour
        self.critic = critic
        self.n_actions = n_actions
        self.seed = seed
        self._of_all_rows: DrawnActions | None = None

    def draw(self, batch: Batch, buffer: OfflineReplayBuffer, env: VecNormalize | None) -> DrawnActions:
        """
        :param batch: rows of the dataset
        :param buffer: the dataset
        :param env: VecNormalize wrapper whose statistics are applied to observations
        :return: actions of the batch's states
        """
        rows = batch.rows
        if self.seed is None:
            return self._of(batch.observations, len(rows), batch.generator)
        if self._of_all_rows is None:
            own = th.Generator(rows.device).manual_seed(self.seed)
            parts = []
            for indices in th.arange(buffer.size(), device=rows.device).split(_CHUNK):
                parts.append(self._of(buffer.rows(indices, env).observations, len(indices), own))
            self._of_all_rows = DrawnActions(*(th.cat(arrays) for arrays in zip(*parts, strict=True)))
        return DrawnActions(*(array[rows] for array in self._of_all_rows))

    @th.no_grad()
    def _of(self, observations: Any, n_rows: int, generator: Source) -> DrawnActions:
        behaviour, n = self.behaviour, self.n_actions
        features = behaviour.extract_features(observations, behaviour.features_extractor)
        noise = draw("normal", (n_rows * n, behaviour.action_dim), features, generator)
        # Row i * n + k holds action k of state i
        actions = behaviour.sample(features.repeat_interleave(n, dim=0), noise, generator=generator)
        repeated = tree_map(lambda array: array.repeat_interleave(n, dim=0), observations)
        q_values = self.critic.q_values(repeated, actions)
        return DrawnActions(actions.reshape(n_rows, n, -1), q_values.reshape(n_rows, n))
