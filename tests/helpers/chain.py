"""
A finite chain whose values are known: five states in a row, left or right, and policies of which every density is known.
"""

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy

N_STATES, SLIP = 5, 0.1
REWARDS = np.array([0.0, 0.3, -0.2, 0.5, 1.0])
OBSERVATION_SPACE = spaces.Box(0.0, 1.0, (N_STATES,), np.float32)
ACTION_SPACE = spaces.Box(-1.0, 1.0, (1,), np.float32)


class ChainPolicy(BasePolicy):
    """
    Goes right with a probability of its own in every state; how far right or left is uniform.

    :param rights: the probabilities, (N_STATES,)
    """

    def __init__(self, rights):
        super().__init__(OBSERVATION_SPACE, ACTION_SPACE)
        self.rights = th.as_tensor(rights, dtype=th.float64)

    def _predict(self, observation, deterministic=False):
        rights = self.rights[observation.argmax(dim=1)]
        sign = th.where(th.rand(rights.shape) < rights, 1.0, -1.0)
        return (sign * th.rand(rights.shape).clamp(min=1e-6)).float()[:, None]

    def log_prob(self, observations, actions):
        rights = self.rights[observations.argmax(dim=1)]
        return th.where(actions[:, 0] > 0.0, rights, 1.0 - rights).log()


def moves(rights):
    """(N_STATES, N_STATES), probabilities of the next state of a policy."""
    matrix = np.zeros((N_STATES, N_STATES))
    for state, right in enumerate(rights):
        goes_right = right * (1 - SLIP) + (1 - right) * SLIP
        matrix[state, min(state + 1, N_STATES - 1)] += goes_right
        matrix[state, max(state - 1, 0)] += 1.0 - goes_right
    return matrix


def discounted_value(rights, start, gamma, terminal=False):
    """Exact, without a time limit; with ``terminal`` an episode ends when the last state is reached."""
    goes_on = moves(rights)
    if terminal:
        goes_on[:, -1] = 0.0
    rewards = moves(rights) @ REWARDS
    return start @ np.linalg.solve(np.eye(N_STATES) - gamma * goes_on, rewards)


def total_value(rights, start, n_steps, gamma=1.0, terminal=False):
    """Exact, of so many steps."""
    goes_on = moves(rights)
    if terminal:
        goes_on[:, -1] = 0.0
    value = np.zeros(N_STATES)
    for _ in range(n_steps):
        value = moves(rights) @ REWARDS + gamma * goes_on @ value
    return start @ value


def log_chain(rights, start, n_episodes, n_steps, seed, terminal=False):
    """
    :return: arrays of episodes of a policy, and the log-density of each action. A reward is of the state that is reached.
    """
    random = np.random.default_rng(seed)
    rows = {name: [] for name in ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")}
    log_probs = []
    for _ in range(n_episodes):
        state = random.choice(N_STATES, p=start)
        for step in range(n_steps):
            is_right = random.random() < rights[state]
            size = random.uniform(1e-6, 1.0)
            goes_right = is_right if random.random() >= SLIP else not is_right
            following = min(state + 1, N_STATES - 1) if goes_right else max(state - 1, 0)
            ended = terminal and following == N_STATES - 1
            for name, value in zip(
                rows,
                (
                    np.eye(N_STATES)[state],
                    [size if is_right else -size],
                    REWARDS[following],
                    np.eye(N_STATES)[following],
                    float(ended),
                    float(step == n_steps - 1 and not ended),
                ),
                strict=True,
            ):
                rows[name].append(value)
            log_probs.append(np.log(rights[state] if is_right else 1.0 - rights[state]))
            state = following
            if ended:
                break
    arrays = {name: np.array(values, dtype=np.float32) for name, values in rows.items()}
    return {**arrays, "observation_space": OBSERVATION_SPACE, "action_space": ACTION_SPACE}, np.array(log_probs)
