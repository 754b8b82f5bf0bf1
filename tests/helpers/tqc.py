"""
One update of sb3-contrib's TQC, with what went into it.
"""

from copy import deepcopy
from typing import NamedTuple

import sb3_contrib.tqc.tqc as module
import torch as th
from sb3_contrib import TQC
from stable_baselines3.common.logger import configure
from stable_baselines3.common.type_aliases import ReplayBufferSamples

import tests.helpers.tiny_envs  # noqa: F401

OBS_DIM, ACTION_DIM = 3, 2


class TQCUpdate(NamedTuple):
    """
    :param networks: the critics before the update
    :param target_networks: the same of their slow copies
    :param samples: the rows
    :param next_actions: what TQC's actor did next
    :param targets: samples of the return's distribution, (batch_size, n_samples)
    :param critic_loss: mean over quantiles, networks, rows and samples
    """

    networks: list
    target_networks: list
    samples: ReplayBufferSamples
    next_actions: th.Tensor
    targets: th.Tensor
    critic_loss: th.Tensor


def update_tqc(monkeypatch, rewards, dones, gamma, n_critics=3, n_quantiles=5, dropped=2, net_arch=(16, 8)):
    """
    :param rewards: of the batch's rows, (batch_size,)
    """
    model = TQC(
        "MlpPolicy",
        "Tiny-v0",
        learning_rate=1e-3,
        gamma=gamma,
        ent_coef=0.0,
        top_quantiles_to_drop_per_net=dropped,
        policy_kwargs=dict(n_critics=n_critics, n_quantiles=n_quantiles, net_arch=list(net_arch)),
        seed=0,
        device="cpu",
    )
    model.set_logger(configure(None, []))
    # Initialised alike, critics and their slow copies could be mistaken for each other
    with th.no_grad():
        for parameter in model.critic_target.parameters():
            parameter.add_(0.3 * th.randn_like(parameter))
    networks, target_networks = (deepcopy(critic.q_networks) for critic in (model.critic, model.critic_target))
    n_rows = len(rewards)
    observations, next_observations = th.randn(2, n_rows, OBS_DIM)
    actions = 2.0 * th.rand(n_rows, ACTION_DIM) - 1.0
    samples = ReplayBufferSamples(observations, actions, next_observations, dones[:, None], rewards[:, None])
    drawn, losses = [], []
    act, loss_of = model.actor.action_log_prob, module.quantile_huber_loss

    def act_and_note(observations):
        drawn.append(act(observations))
        return drawn[-1]

    def lose_and_note(quantiles, targets, **kwargs):
        losses.append((targets.clone(), loss_of(quantiles, targets, **kwargs)))
        return losses[-1][1]

    monkeypatch.setattr(model.replay_buffer, "sample", lambda *args, **kwargs: samples)
    monkeypatch.setattr(model.actor, "action_log_prob", act_and_note)
    monkeypatch.setattr(module, "quantile_huber_loss", lose_and_note)
    model.train(1, n_rows)
    # Actions at the observations, then at the next ones
    next_actions, (targets, loss) = drawn[1][0].detach(), losses[0]
    return TQCUpdate(networks, target_networks, samples, next_actions, targets[:, 0], loss.detach())
