"""
What an agent does becomes a Minari dataset: the environment's own physics says whether each row is right.
"""

import gymnasium as gym
import minari
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize, VecTransposeImage

from sb3_genpolicy import GMPO, load_dataset, record_dataset
from sb3_genpolicy.common.datasets import recording
from tests.helpers.arrays import SMALL
from tests.helpers.closed_forms import assert_rows_are_pendulums


def test_an_agent_is_recorded_in_one_call(minari_root):
    agent = SAC("MlpPolicy", "Pendulum-v1", seed=0)
    dataset = record_dataset(agent, None, "test/pendulum-v0", n_steps=250, seed=1, reference_scores=(-1230.0, -150.0))
    assert isinstance(dataset, minari.MinariDataset) and dataset.total_steps == 250
    data = load_dataset("test/pendulum-v0")
    assert_rows_are_pendulums(data, range(data.n_rows))
    # One time limit, and one episode that the recording cut off
    np.testing.assert_array_equal(np.diff(data.episode_starts), [200, 50])
    assert data.terminals.sum() == 0 and data.timeouts.sum() == 2
    assert data.env_id == "Pendulum-v1" and data.reference_scores == (-1230.0, -150.0)
    assert dataset.storage.metadata["algorithm_name"] == "SAC"
    assert dataset.recover_environment().spec.id == "Pendulum-v1"
    # And learnt from
    GMPO("FlowPolicy", "Pendulum-v1", dataset="test/pendulum-v0", policy_kwargs=SMALL).learn(2)
    # The same seed, the same recording
    record_dataset(agent, None, "test/again-v0", n_steps=250, seed=1)
    np.testing.assert_array_equal(load_dataset("test/again-v0").actions, data.actions)


def test_observations_are_the_environments_where_the_agent_sees_normalised_ones(minari_root):
    env = VecNormalize(make_vec_env("Pendulum-v1", n_envs=2, seed=0), norm_reward=True)
    agent = SAC("MlpPolicy", env, seed=0, learning_starts=20).learn(60)
    env.training = False
    seen = []
    predict = agent.predict
    agent.predict = lambda observation, **kwargs: seen.append(observation) or predict(observation, **kwargs)
    record_dataset(agent, env, "test/normalised-v0", n_steps=410, seed=0)
    data = load_dataset("test/normalised-v0")
    assert_rows_are_pendulums(data, range(data.n_rows))
    assert data.n_rows == 410
    # What the agent saw at the first step: the normalised first rows of both copies
    firsts = data.observations[data.episode_starts[:-1]]
    for row in env.unnormalize_obs(seen[0]):
        assert np.abs(firsts - row).max(axis=1).min() < 1e-3


def test_episodes_are_shared_out_over_copies_of_the_environment(minari_root):
    env = make_vec_env("Pendulum-v1", n_envs=2, seed=0)
    record_dataset(lambda observation: observation[:1], env, "test/shared-v0", n_episodes=3)
    data = load_dataset("test/shared-v0")
    np.testing.assert_array_equal(np.diff(data.episode_starts), [200, 200, 200])
    # A function of one observation: its actions are recorded as the environment gets them
    np.testing.assert_allclose(data.actions[:, 0], data.observations[:, 0], atol=1e-6)
    assert_rows_are_pendulums(data, range(data.n_rows))


def test_actions_beyond_the_bounds_are_recorded_as_the_environment_gets_them(minari_root):
    record_dataset(lambda observation: np.array([7.0]), gym.make("Pendulum-v1"), "test/clipped-v0", n_steps=5)
    np.testing.assert_array_equal(load_dataset("test/clipped-v0").actions, 2.0)


class _Ending(gym.Env):
    """Counts steps; ends at 3, in every other episode by its own account, else by a time limit."""

    observation_space = spaces.Dict({"count": spaces.Box(-np.inf, np.inf, (1,), np.float32)})
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    episode = -1

    def reset(self, *, seed=None, options=None):
        self.episode, self.count = self.episode + 1, 0
        return self._observation(), {}

    def step(self, action):
        self.count += 1
        if self.count == 9:
            raise RuntimeError("the simulator is gone")
        end = self.count == 3 and self.episode < 4
        return self._observation(), 1.0, end and self.episode % 2 == 0, end and self.episode % 2 == 1, {}

    def _observation(self):
        return {"count": np.array([10 * self.episode + self.count], dtype=np.float32)}


@pytest.mark.parametrize("options", [dict(n_steps=100), dict(n_episodes=100)], ids=str)
def test_ends_are_told_apart_and_an_error_loses_nothing(options, minari_root, monkeypatch):
    """Four episodes of three steps, then eight steps until the simulator breaks; written four steps at a time."""
    monkeypatch.setattr(recording, "_STEPS_IN_MEMORY", 4)
    with pytest.raises(RuntimeError, match="the simulator is gone"):
        record_dataset(lambda observation: np.zeros(1), _Ending(), "test/ending-v0", **options)
    data = load_dataset("test/ending-v0")
    np.testing.assert_array_equal(np.diff(data.episode_starts), [3, 3, 3, 3, 8])
    np.testing.assert_array_equal(data.terminals[data.episode_starts[1:] - 1], [1, 0, 1, 0, 0])
    np.testing.assert_array_equal(data.next_observations["count"], data.observations["count"] + 1)
    np.testing.assert_array_equal(data.next_observations["count"][data.episode_starts[1:] - 1, 0], [3, 13, 23, 33, 48])


def test_images_are_recorded_without_loss_as_the_environment_gives_them(minari_root):
    env = FakeImageEnv(screen_height=36, screen_width=40, n_channels=3, discrete=False)
    seen = []
    policy = lambda observation: seen.append(observation) or np.zeros(env.action_space.shape)  # noqa: E731
    record_dataset(policy, VecTransposeImage(DummyVecEnv([lambda: env])), "test/images-v0", n_steps=6)
    data = load_dataset("test/images-v0")
    assert data.observations.dtype == np.uint8
    np.testing.assert_array_equal(data.observations, np.stack(seen))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(), "either n_steps or n_episodes"),
        (dict(n_steps=1, n_episodes=1), "either n_steps or n_episodes"),
        (dict(n_steps=0), "n_steps must be a number >= 1"),
    ],
)
def test_what_cannot_be_recorded_is_said(options, message, minari_root):
    with pytest.raises(ValueError, match=message):
        record_dataset(lambda observation: observation, "Pendulum-v1", "test/none-v0", **options)


def test_ids_and_environments_that_do_not_do(minari_root):
    record_dataset(lambda observation: observation[:1], "Pendulum-v1", "test/taken-v0", n_steps=2)
    with pytest.raises(ValueError, match=r"is a dataset 'test/taken-v0' already, in .*: choose another"):
        record_dataset(lambda observation: observation[:1], "Pendulum-v1", "test/taken-v0", n_steps=2)
    with pytest.raises(ValueError, match="'test/other' has no version: end it in '-v0'"):
        record_dataset(lambda observation: observation[:1], "Pendulum-v1", "test/other", n_steps=2)
    with pytest.raises(ValueError, match="only continuous actions"):
        record_dataset(lambda observation: 0, "CartPole-v1", "test/discrete-v0", n_steps=2)
    with pytest.raises(ValueError, match="There is no environment to act in"):
        record_dataset(lambda observation: 0, None, "test/nowhere-v0", n_steps=2)
