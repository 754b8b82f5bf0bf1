"""
Critics on their own, and a decision process whose values numpy knows.
"""

from itertools import product
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.utils import polyak_update

from sb3_genpolicy.common.policies.critics import CriticEnsemble, Critics, ValueNetwork
from sb3_genpolicy.common.updates.batch import Batch


def make_q(options, obs_dim, action_dim=1, net_arch=(16, 8)):
    """Q of flat observations."""
    observations, actions = spaces.Box(-1, 1, (obs_dim,)), spaces.Box(-1, 1, (action_dim,))
    extractor = FlattenExtractor(observations)
    return CriticEnsemble(
        observations, actions, list(net_arch), extractor, obs_dim, options=options, share_features_extractor=False
    )


def make_v(options, obs_dim, net_arch=(16, 8)):
    """V of flat observations."""
    observations, actions = spaces.Box(-1, 1, (obs_dim,)), spaces.Box(-1, 1, (1,))
    extractor = FlattenExtractor(observations)
    kinds = dict(layer_norm=options.layer_norm, scaled=options.learns_advantage)
    return ValueNetwork(observations, actions, list(net_arch), extractor, obs_dim, **kinds)


def copy_into(critic, networks):
    """Parameters of torch's own layers, one network for each, into those of an ensemble."""
    kinds = (th.nn.Linear, critic.layers), (th.nn.LayerNorm, critic.norms)
    for member, network in enumerate(networks):
        for kind, ours in kinds:
            theirs = [layer for layer in network if isinstance(layer, kind)]
            for batched, layer in zip(ours, theirs, strict=True):
                batched.weight.data[member] = layer.weight.data.t()
                batched.bias.data[member] = layer.bias.data
    return critic


def make_critics(options, obs_dim, action_dim=1, net_arch=(16, 8), window_dim=None):
    """Q, its slow copy and V, as a policy has them."""
    critic, target = (make_q(options, obs_dim, action_dim, net_arch) for _ in range(2))
    if window_dim is not None:
        for network in (critic, target):
            network.learn_from(make_q(options, obs_dim, window_dim, net_arch))
    target.load_state_dict(critic.state_dict())
    value_net = make_v(options, obs_dim, net_arch)
    for network in (critic, target):
        network.stand_on(value_net)
    return SimpleNamespace(critic=critic, critic_target=target, value_net=value_net, critic_options=options)


def train_critics(options, batch, gamma, acts=None, steps=300, learning_rate=0.03, tau=0.1, net_arch=(24,)):
    """
    Critics after training on one batch that holds every row.

    :param acts: function from observations to the policy's actions
    """
    th.manual_seed(0)
    window_dim = None if batch.logged_windows is None else batch.logged_windows.shape[1]
    policy = make_critics(options, batch.observations.shape[1], batch.actions.shape[1], net_arch, window_dim)
    critics = Critics(policy, SimpleNamespace(policy_actions=lambda observations, generator: acts(observations)))
    parameters = [*policy.critic.parameters(), *policy.value_net.parameters()]
    optimizer = th.optim.Adam(parameters, learning_rate, fused=True)
    schedule = th.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        losses = critics.losses(batch, gamma)
        optimizer.zero_grad()
        (losses.critic_loss + losses.value_loss).backward()
        optimizer.step()
        schedule.step()
        polyak_update(policy.critic.parameters(), policy.critic_target.parameters(), tau)
    return policy


class Step(NamedTuple):
    """What may happen in a state: the action, its reward, and the state it leads to, None where it ends the episode."""

    action: int
    reward: float
    to: int | None


#: Three states, in each of which a die of four faces says what is done and what comes of it. The action that pays at once
#: is not the one that pays in the end, and the behaviour is different in each state
DICE = (
    (Step(1, 1.0, 1), Step(1, 1.0, 2), Step(-1, 0.0, 0), Step(-1, -1.0, 1)),
    (Step(1, 2.0, 0), Step(1, 0.0, 2), Step(1, -2.0, None), Step(-1, 3.0, 2)),
    (Step(1, 5.0, None), Step(-1, 0.0, 0), Step(-1, 1.0, 1), Step(-1, -1.0, 2)),
)
STATES, ACTIONS = np.eye(len(DICE), dtype=np.float32), (-1, 1)


class Rows(NamedTuple):
    """
    Transitions, (n_rows,) each.

    :param next_actions: what was done next, not a number where nothing was
    """

    states: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    next_states: np.ndarray
    dones: np.ndarray
    next_actions: np.ndarray

    def batch(self):
        tensors = [th.as_tensor(column, dtype=th.float32)[:, None] for column in self]
        _, actions, rewards, _, dones, next_actions = tensors
        observations, next_observations = (th.as_tensor(STATES[which]) for which in (self.states, self.next_states))
        rows = th.arange(len(rewards))
        return Batch(observations, actions, next_observations, dones, rewards, None, rows, next_actions=next_actions)


def every_throw():
    """Every state and face of its die, with every face of the next one."""
    rows = []
    for state, faces in enumerate(DICE):
        for step in faces:
            ended = step.to is None
            nexts = [np.nan] * 4 if ended else [following.action for following in DICE[step.to]]
            rows += [(state, step.action, step.reward, 0 if ended else step.to, ended, following) for following in nexts]
    return Rows(*(np.array(column) for column in zip(*rows, strict=True)))


def every_episode(length):
    """Every start and sequence of throws, cut off after some steps, as columns of a dataset."""
    columns = {key: [] for key in ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")}
    for start, throws in product(range(len(DICE)), product(range(4), repeat=length)):
        state = start
        for index, face in enumerate(throws):
            step = DICE[state][face]
            ended = step.to is None
            led_to = np.zeros(len(DICE)) if ended else STATES[step.to]
            row = STATES[state], [step.action], step.reward, led_to, ended, not ended and index == length - 1
            for column, entry in zip(columns.values(), row, strict=True):
                column.append(entry)
            if ended:
                break
            state = step.to
    arrays = {key: np.array(column, dtype=np.float32) for key, column in columns.items()}
    return {**arrays, "action_space": spaces.Box(-1, 1, (1,), np.float32)}


def dynamic_programming(rows, gamma, value_of_next, sweeps=200):
    """
    Q of every state and action, (3, 2).

    :param value_of_next: function from Q and rows to the value of what each row led to, (n_rows,)
    """
    q = np.zeros((len(DICE), 2))
    for _ in range(sweeps):
        targets = rows.rewards + gamma * np.where(rows.dones, 0.0, value_of_next(q, rows))
        q = np.array([[targets[(rows.states == s) & (rows.actions == a)].mean() for a in ACTIONS] for s in range(len(DICE))])
    return q


def index_of(actions):
    """Column of Q."""
    return (np.asarray(actions) > 0).astype(int)


def q_over_faces(q):
    """Q of what each face of a state's die does, (3, 4)."""
    return np.array([[q[state, index_of(step.action)] for step in faces] for state, faces in enumerate(DICE)])


def learnt_q(network):
    """What a Q network says of every state and action, (n_critics, 3, 2)."""
    observations = th.as_tensor(STATES).repeat_interleave(2, dim=0)
    actions = th.tensor(ACTIONS, dtype=th.float32).repeat(len(STATES))[:, None]
    with th.no_grad():
        return network.values(observations, actions).reshape(-1, len(STATES), 2).numpy()
