"""
How far the policy that acts has come from the behaviour policy, for the log.
"""

from typing import Any

import torch as th

from sb3_genpolicy.common.algorithms.spreads import spaced_observations
from sb3_genpolicy.generative import DiscreteKL, Sampler
from sb3_genpolicy.generative.kl import Conditioned, Draws
from sb3_genpolicy.generative.schedules import TABLEAUS

# Rows that are looked at, evenly spaced: a policy half a nat away is told to about 0.06
_ROWS = 256


@th.no_grad()
def realised_kl(model: Any) -> th.Tensor:
    """
    KL divergence of the averaged actor from the behaviour model, by the exact densities of both samplers, over states of the
    dataset. The same states and noise every time; the model's random numbers are left alone. Actions are the actor's own:
    not chosen among, not guided.

    :param model: a model with a behaviour model and rows
    :return: in nats, a scalar
    """
    model.policy.set_training_mode(False)
    actor = model.policy.actor_ema
    observations = spaced_observations(model, _ROWS)
    policy, reference = (
        Conditioned(part.model, part.extract_features(observations, part.features_extractor))
        for part in (actor, model.behaviour)
    )
    noise = th.randn((len(policy.condition), actor.action_dim), generator=th.Generator().manual_seed(0)).to(policy.condition)
    sampler = actor.sampler if actor.sampler.solver in TABLEAUS else Sampler()
    sample = DiscreteKL().of_samples(policy, reference, Draws(noise, sampler))
    return sample.log_ratio.sum() / sample.found.sum().clamp(min=1)
