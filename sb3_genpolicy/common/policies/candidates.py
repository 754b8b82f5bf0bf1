"""
Choose among several actions by the critic: the best, or in proportion to the exponential of the advantage.
"""

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_genpolicy.common.policies.critics import CriticEnsemble, ValueNetwork


def choose_candidates(
    critic: CriticEnsemble,
    observations: PyTorchObs,
    candidates: th.Tensor,
    temperature: th.Tensor | float = 0.0,
    uniform: th.Tensor | None = None,
) -> th.Tensor:
    """
    :param critic: Q
    :param observations: batch first
    :param candidates: several actions for each, (batch_size, n_candidates, action_dim), scaled
    :param temperature: in units of Q; only with ``uniform``
    :param uniform: uniform draws from [0, 1), (batch_size, n_candidates). With them a candidate is taken with a probability in
        proportion to ``exp(Q / temperature)``; where all are equal, and without them, the best is.
    :return: for each observation one candidate, (batch_size, action_dim)
    """
    preferences = _preferences(critic, observations, candidates)
    return _drawn(candidates, preferences if uniform is None else preferences / temperature, uniform)


def draw_by_expectile(
    critic: CriticEnsemble,
    value_net: ValueNetwork,
    observations: PyTorchObs,
    candidates: th.Tensor,
    expectile: float,
    uniform: th.Tensor,
) -> th.Tensor:
    """
    Draw with weights ``|expectile - 1[Q < V]|`` (IDQL, arXiv 2304.10573, section 4.1). V, the expectile of Q over the
    behaviour policy's actions, is the mean of Q over actions so drawn.

    :param critic: Q
    :param value_net: V
    :param observations: batch first
    :param candidates: several actions for each, (batch_size, n_candidates, action_dim), scaled
    :param expectile: of V, in (0, 1)
    :param uniform: uniform draws from [0, 1), (batch_size, n_candidates). Where all are equal, one of those with the largest
        weight is taken.
    :return: for each observation one candidate, (batch_size, action_dim)
    """
    advantages = _preferences(critic, observations, candidates)
    if not critic.options.learns_advantage:
        advantages = advantages - value_net(observations)[:, :, None]
    below = (advantages < 0.0).to(advantages.dtype)
    return _drawn(candidates, (expectile + (1.0 - 2.0 * expectile) * below).log(), uniform)


def _preferences(critic: CriticEnsemble, observations: PyTorchObs, candidates: th.Tensor) -> th.Tensor:
    """Q, or what it is above V where critics learn that, (batch_size, n_candidates, 1)."""
    n_candidates = candidates.shape[1]
    # Row i * n + k holds candidate k of observation i
    features = critic.features_of(observations).repeat_interleave(n_candidates, dim=0)
    outputs = critic.preferences_of_members(features, candidates.flatten(0, 1))
    return critic.aggregated(outputs).reshape(-1, n_candidates, 1)


def _drawn(candidates: th.Tensor, logits: th.Tensor, uniform: th.Tensor | None) -> th.Tensor:
    """One of the candidates for each row, (batch_size, action_dim): without uniform draws the one of the largest logit."""
    if uniform is not None:
        # The largest of logits with Gumbel's noise is a draw from their softmax
        smallest = th.finfo(th.float32).tiny
        logits = logits - (-uniform.clamp(min=smallest).log()).log()[:, :, None]
    best = logits.argmax(dim=1, keepdim=True)
    return candidates.gather(1, best.expand(-1, 1, candidates.shape[2]))[:, 0]
