"""
Actions of the behaviour model, which stand for all that the data support in a state, and critics that look at these alone.
"""

from dataclasses import dataclass
from typing import Any

import torch as th
from stable_baselines3.common.vec_env import VecNormalize

from sb3_genpolicy.common.files.transient import Transient
from sb3_genpolicy.common.policies.actor import GenerativeActor
from sb3_genpolicy.common.policies.critics import CriticEnsemble, Critics, PolicyCritic
from sb3_genpolicy.common.policies.critics.aggregation import agreed
from sb3_genpolicy.common.replay.buffer import OfflineReplayBuffer
from sb3_genpolicy.common.updates.batch import Batch
from sb3_genpolicy.common.utils import tree_map
from sb3_genpolicy.generative.checks import with_named_options
from sb3_genpolicy.generative.draws import Source, draw

# Rows at a time when actions are drawn for a whole dataset
_CHUNK = 4096


@with_named_options
@dataclass(frozen=True, repr=False)
class SupportCritic(PolicyCritic):
    """
    In-support softmax Q-learning (QGPO, section 4.2): Q is trained towards ``r + gamma sum_k w_k Q(s', a_k)`` with actions
    a_k of the behaviour model and ``w = softmax_k(beta Q(s', a_k))``. V is the mean of Q over the dataset's actions.

    The other options are those of :class:`~sb3_genpolicy.common.policies.critics.base_options.CriticOptions`, without
    quantiles and windows.

    :raises ValueError: for an option that says nothing of actions of the behaviour model
    """

    aggregation: Any = "minimum"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("n_quantiles", "penalty", "density_penalty"):
            if getattr(self, name):
                raise ValueError(f"SupportCritic: {name} says nothing of actions of the behaviour model: leave it out.")


class SupportActions(Transient):
    """
    :param actor: the behaviour model
    :param n_actions: K, for each state
    :param seed: of the noise of actions that are drawn once for all rows; None: anew for every batch
    """

    def __init__(self, actor: GenerativeActor, n_actions: int, seed: int | None):
        self.actor, self.n_actions, self.seed = actor, n_actions, seed
        self._kept: dict[str, th.Tensor] = {}

    def draw(self, part: str, batch: Batch, buffer: OfflineReplayBuffer, env: VecNormalize | None) -> th.Tensor:
        """
        :param part: ``observations`` or ``next_observations``
        :param batch: rows of the dataset
        :param buffer: the dataset
        :param env: VecNormalize wrapper whose statistics are applied
        :return: actions there, (batch_size, n_actions, action_dim), scaled
        """
        if self.seed is None:
            return self._of(getattr(batch, part), len(batch.rows), batch.generator)
        if part not in self._kept:
            own = th.Generator(batch.rows.device).manual_seed(self.seed)
            chunks = th.arange(buffer.size(), device=batch.rows.device).split(_CHUNK)
            drawn = [self._of(getattr(buffer.rows(rows, env), part), len(rows), own) for rows in chunks]
            self._kept[part] = th.cat(drawn)
        return self._kept[part][batch.rows]

    @th.no_grad()
    def _of(self, observations: Any, n_rows: int, generator: Source) -> th.Tensor:
        features = self.actor.extract_features(observations, self.actor.features_extractor)
        noise = draw("normal", (n_rows, self.n_actions * self.actor.action_dim), features, generator)
        # Row i * n_actions + k holds action k of state i
        features = features.repeat_interleave(self.n_actions, dim=0)
        actions = self.actor.sample(features, noise.reshape(-1, self.actor.action_dim), generator=generator)
        return actions.unflatten(0, (n_rows, self.n_actions))


@th.no_grad()
def values_of(critic: CriticEnsemble, observations: Any, actions: th.Tensor) -> th.Tensor:
    """
    :param critic: Q
    :param observations: batch first
    :param actions: (batch_size, n_actions, action_dim), scaled
    :return: Q at each, (batch_size, n_actions), without gradient
    """
    repeated = tree_map(lambda array: array.repeat_interleave(actions.shape[1], dim=0), observations)
    return critic.q_values(repeated, actions.flatten(0, 1)).reshape(actions.shape[:2])


@th.no_grad()
def agreed_values_of(critic: CriticEnsemble, observations: Any, actions: th.Tensor) -> th.Tensor:
    """
    :param critic: Q
    :param observations: batch first
    :param actions: (batch_size, n_actions, action_dim), scaled
    :return: Q at each above its mean in the state, shrunk as far as the networks do not agree on the order of actions, see
        :func:`~sb3_genpolicy.common.policies.critics.aggregation.agreed`, (batch_size, n_actions), without gradient
    """
    repeated = tree_map(lambda array: array.repeat_interleave(actions.shape[1], dim=0), observations)
    outputs = critic.preferences_of_members(critic.features_of(repeated), actions.flatten(0, 1))
    return agreed(outputs.mean(dim=2).unflatten(1, actions.shape[:2]))


class SupportCritics(Critics):
    """Critics whose targets are of the algorithm's ``supported_actions``, weighted by its ``beta``."""

    algorithm: Any

    def _policy_values(self, batch: Batch) -> th.Tensor:
        actions = self.algorithm.supported_actions("next_observations", batch)
        values = values_of(self.critic_target, batch.next_observations, actions)
        return ((self.algorithm.beta * values).softmax(dim=1) * values).sum(dim=1, keepdim=True)
