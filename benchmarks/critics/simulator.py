"""
Simulators set to states of a dataset, many at once.
"""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np

from sb3_genpolicy.common.transitions.transitions import Transitions

# Number of numbers in qpos; an observation is qpos without the first, x, then qvel
_N_POSITIONS = {"Hopper-v5": 6, "HalfCheetah-v5": 9, "Walker2d-v5": 9}
# Observations of these have velocities clipped to +-10, so that the state is not known where one is at a bound
_CLIPPED, _BOUND = ("Hopper-v5", "Walker2d-v5"), 10.0


class Mujoco:
    """
    Many states of one MuJoCo environment. Each has MuJoCo's data of its own, which the environment is given before it steps.

    :param env_id: an environment whose observation is its state but for x, on which nothing depends
    :param n_states: how many
    """

    def __init__(self, env_id: str, n_states: int):
        env: Any = gym.make(env_id).unwrapped
        self.env = env
        self.n_positions = _N_POSITIONS[env_id]
        self.data = [mujoco.MjData(env.model) for _ in range(n_states)]

    def restore(self, index: int, observation: np.ndarray) -> None:
        """
        :param index: which state to set
        :param observation: to which
        """
        self.env.data = self.data[index]
        mujoco.mj_resetData(self.env.model, self.env.data)
        positions = np.concatenate([[0.0], observation[: self.n_positions - 1]])
        self.env.set_state(positions, np.asarray(observation[self.n_positions - 1 :], dtype=np.float64))

    def step(self, index: int, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        """
        :param index: which state
        :param action: in the environment's units
        :return: next observation, reward, and whether the episode terminated
        """
        self.env.data = self.data[index]
        observation, reward, terminated, _, _ = self.env.step(action)
        return observation, float(reward), bool(terminated)


class Pendulum:
    """
    Many states of one Pendulum.

    :param env_id: the environment
    :param n_states: how many
    """

    def __init__(self, env_id: str, n_states: int):
        self.env: Any = gym.make(env_id).unwrapped
        self.states = np.zeros((n_states, 2))

    def restore(self, index: int, observation: np.ndarray) -> None:
        """
        :param index: which state to set
        :param observation: to which
        """
        cosine, sine, speed = observation
        self.states[index] = np.arctan2(sine, cosine), speed

    def step(self, index: int, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        """
        :param index: which state
        :param action: in the environment's units
        :return: next observation, reward, and whether the episode terminated
        """
        self.env.state, self.env.last_u = self.states[index], None
        observation, reward, terminated, _, _ = self.env.step(action)
        self.states[index] = self.env.state
        return observation, float(reward), bool(terminated)


_SIMULATORS: dict[str, Callable[[str, int], Mujoco | Pendulum]] = {
    **dict.fromkeys(_N_POSITIONS, Mujoco),
    "Pendulum-v1": Pendulum,
}


def make_simulator(env_id: str, n_states: int) -> Mujoco | Pendulum:
    """
    :param env_id: an environment whose observation says its whole state
    :param n_states: how many states it holds at once
    :return: its simulator, without a time limit
    :raises ValueError: for another environment
    """
    if env_id not in _SIMULATORS:
        known = ", ".join(sorted(_SIMULATORS))
        raise ValueError(f"The simulator of {env_id} cannot be set to an observation here; there are {known}.")
    return _SIMULATORS[env_id](env_id, n_states)


def exact_rows(data: Transitions, n_rows: int, seed: int) -> np.ndarray:
    """
    :param data: a dataset
    :param n_rows: how many rows
    :param seed: of the draw
    :return: rows drawn at random from those whose observation says the whole state, (n_rows,)
    """
    rows = np.random.default_rng(seed).permutation(data.n_rows)
    if data.env_id in _CLIPPED:
        candidates = rows[: 4 * n_rows]
        velocities = np.asarray(data.observations[candidates])[:, _N_POSITIONS[data.env_id] - 1 :]
        rows = candidates[(np.abs(velocities) < _BOUND).all(axis=1)]
    return rows[:n_rows]


def restoration_errors(data: Transitions, n_rows: int = 1000) -> np.ndarray:
    """
    Set the simulator to logged states, play the logged actions and compare with what was logged.

    :param data: a dataset
    :param n_rows: how many rows, drawn at random
    :return: for each row the largest error over the next observation's numbers, and that of the reward, (n_rows, 2)
    """
    simulator = make_simulator(str(data.env_id), 1)
    rows = exact_rows(data, n_rows, seed=1)
    observations, following = np.asarray(data.observations[rows]), np.asarray(data.next_observations[rows])
    errors = np.empty((len(rows), 2))
    for i, row in enumerate(rows):
        simulator.restore(0, observations[i])
        reached, reward, _ = simulator.step(0, np.asarray(data.actions[row]))
        errors[i] = np.abs(reached - following[i]).max(), abs(reward - data.rewards[row])
    return errors
