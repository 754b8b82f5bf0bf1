"""
Choose the best of several actions by the critic.
"""

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_genpolicy.common.policies.critics import CriticEnsemble
from sb3_genpolicy.common.utils import tree_map


def choose_candidates(critic: CriticEnsemble, observations: PyTorchObs, candidates: th.Tensor) -> th.Tensor:
    """
    :param critic: Q
    :param observations: batch first
    :param candidates: several actions for each, (batch_size, n_candidates, action_dim), scaled
    :return: for each observation the candidate with the largest Q, (batch_size, action_dim)
    """
    n_candidates, action_dim = candidates.shape[1:]
    # Row i * n + k holds candidate k of observation i
    repeated = tree_map(lambda array: array.repeat_interleave(n_candidates, dim=0), observations)
    q_values = critic.preferences(repeated, candidates.flatten(0, 1)).reshape(-1, n_candidates, 1)
    best = q_values.argmax(dim=1, keepdim=True)
    return candidates.gather(1, best.expand(-1, 1, action_dim))[:, 0]
