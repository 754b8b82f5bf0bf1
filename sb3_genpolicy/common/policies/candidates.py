"""
Choose among several actions by the critic: the best, or in proportion to the exponential of the advantage.
"""

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_genpolicy.common.policies.critics import CriticEnsemble


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
    n_candidates, action_dim = candidates.shape[1:]
    # Row i * n + k holds candidate k of observation i
    features = critic.features_of(observations).repeat_interleave(n_candidates, dim=0)
    outputs = critic.preferences_of_members(features, candidates.flatten(0, 1))
    preferences = critic.aggregated(outputs).reshape(-1, n_candidates, 1)
    if uniform is not None:
        # The largest of logits with Gumbel's noise is a draw from their softmax
        smallest = th.finfo(th.float32).tiny
        preferences = preferences / temperature - (-uniform.clamp(min=smallest).log()).log()[:, :, None]
    best = preferences.argmax(dim=1, keepdim=True)
    return candidates.gather(1, best.expand(-1, 1, action_dim))[:, 0]
