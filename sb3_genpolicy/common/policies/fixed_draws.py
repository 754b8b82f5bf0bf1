"""
Several actions for every observation, from noise that is the same in every call and for every row.
"""

import torch as th

from sb3_genpolicy.common.policies.actor import GenerativeActor
from sb3_genpolicy.generative import Sampler
from sb3_genpolicy.generative.draws import fixed_normals
from sb3_genpolicy.generative.models import Guide

# The same for every policy
_SEED = 0


def fixed_noise(n_draws: int, *shape: int) -> th.Tensor:
    """
    :param n_draws: how many
    :param shape: of one draw
    :return: standard normal draws in pairs of opposite sign, (n_draws, \\*shape), so that what is linear in the noise has its
        mean as that of the actions; the last of an odd number is zero
    """
    half = fixed_normals(_SEED, (n_draws // 2, *shape))
    return th.cat([half, -half, th.zeros((n_draws % 2, *shape))])


def fixed_draws(
    actor: GenerativeActor,
    features: th.Tensor,
    n_draws: int,
    sampler: Sampler | None = None,
    guide: Guide | None = None,
) -> th.Tensor:
    """
    :param actor: the actor
    :param features: extracted features, (batch_size, features_dim)
    :param n_draws: number of actions for each row
    :param sampler: solver, steps and time grid; the actor's own by default
    :param guide: what changes the velocity on the way, of each row repeated ``n_draws`` times
    :return: actions, (batch_size, n_draws, action_dim), clamped to [-1, 1]
    """
    sampler = sampler or actor.sampler
    n_increments = sampler.steps - 1 if sampler.solver == "sde" else 0
    drawn = fixed_noise(n_draws, n_increments + 1, actor.action_dim).to(features).transpose(0, 1)
    noise, *increments = drawn.repeat(1, features.shape[0], 1)
    actions = actor.sample(
        features.repeat_interleave(n_draws, dim=0),
        noise,
        sampler=sampler,
        increments=th.stack(increments) if increments else None,
        guide=guide,
    )
    return actions.unflatten(0, (-1, n_draws))
