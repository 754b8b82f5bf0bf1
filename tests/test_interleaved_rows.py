"""
Rows of several environments that were stepped together.
"""

import warnings

import gymnasium as gym
import numpy as np
import pytest

from sb3_genpolicy import load_dataset
from tests.helpers.data_formats import flat_columns, make_episodes


def recorded(env_id, n_envs, steps, mode, seed=0, **kwargs):
    """As gymnasium's vector environments give them, a row of each at every step."""
    env = gym.make_vec(env_id, num_envs=n_envs, vectorization_mode="sync", vector_kwargs=dict(autoreset_mode=mode), **kwargs)
    rng = np.random.default_rng(seed)
    observations, _ = env.reset(seed=seed)
    names = ("observations", "next_observations", "actions", "rewards", "terminated", "truncated")
    columns = {name: [] for name in names}
    for _ in range(steps):
        actions = rng.uniform(env.single_action_space.low, env.single_action_space.high, env.action_space.shape)
        actions = actions.astype(np.float32)
        following, rewards, terminated, truncated, _ = env.step(actions)
        for name, value in zip(names, (observations, following, actions, rewards, terminated, truncated), strict=True):
            columns[name].append(np.array(value))
        observations = following
    return {name: np.stack(column) for name, column in columns.items()}, env.single_action_space


@pytest.mark.parametrize("n_envs", [2, 4, 7])
def test_resets_among_interleaved_rows_are_left_out(n_envs):
    stacked, space = recorded("Pendulum-v1", n_envs, 65, gym.vector.AutoresetMode.NEXT_STEP, max_episode_steps=20)
    flat = {name: column.reshape(-1, *column.shape[2:]) for name, column in stacked.items()}
    with pytest.warns(UserWarning, match=f"the rows of {n_envs} environments that were stepped together are interleaved"):
        data = load_dataset(dict(flat, action_space=space))
    # Twenty steps and a reset, three times, and two steps more
    assert np.diff(data.episode_starts).tolist() == [20, 20, 20, 2] * n_envs
    in_turn = np.concatenate([np.delete(stacked["rewards"][:, k], [20, 41, 62]) for k in range(n_envs)])
    np.testing.assert_allclose(data.rewards, in_turn, rtol=1e-6)
    assert data.inferred_cuts == 0


@pytest.mark.parametrize("remainder", [0, 1])
def test_interleaved_rows_are_those_of_their_episodes(remainder):
    """Two recordings of one length, or one a step longer, shuffled like two halves of a pack of cards."""
    one, other = make_episodes((12 + remainder, 12), seed=3)
    apart = flat_columns([one, other])
    n_one = one.steps
    order = np.argsort(np.r_[2 * np.arange(n_one), 2 * np.arange(other.steps) + 1])
    with pytest.warns(UserWarning, match="the rows of 2 environments"):
        data = load_dataset({name: column[order] for name, column in apart.items()})
    for name in ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts"):
        np.testing.assert_array_equal(data[name], apart[name])


def test_rows_in_their_order_are_left_alone():
    sources = [
        flat_columns(make_episodes((30, 30))),
        dict(flat_columns(make_episodes((30, 30))), observations=np.zeros((60, 1)), next_observations=np.zeros((60, 1))),
    ]
    for columns in sources:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert load_dataset(columns).n_episodes == 2


@pytest.mark.filterwarnings("ignore:.*lead to another observation")
def test_shuffled_rows_are_not_interleaved():
    columns = flat_columns(make_episodes((40, 50)))
    order = np.random.default_rng(0).permutation(90)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_dataset({name: column[order] for name, column in columns.items()})
    assert not any("interleaved" in str(warning.message) for warning in caught)
