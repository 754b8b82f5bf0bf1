"""
Action spaces that a dataset says, and those of the environment that it is learnt for.
"""

import warnings

import minari
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_genpolicy import GMPO, ClipActions, RescaleActions, load_dataset
from tests.helpers.data_formats import episode_buffer, fill_sb3_buffer, make_episodes
from tests.helpers.tiny_envs import SpacesEnv

STATES = spaces.Box(-np.inf, np.inf, (3,), np.float32)
ONE, TWO, FREE = (spaces.Box(-bound, bound, (2,)) for bound in (1.0, 2.0, np.inf))


def as_mapping(episodes, space):
    rows = dict(
        observations=np.concatenate([e.observations[:-1] for e in episodes]),
        next_observations=np.concatenate([e.observations[1:] for e in episodes]),
        actions=np.concatenate([e.actions for e in episodes]),
        rewards=np.concatenate([e.rewards for e in episodes]),
        terminals=np.concatenate([e.terminals for e in episodes]),
        timeouts=np.concatenate([e.timeouts for e in episodes]),
    )
    return dict(rows, action_space=space)


def as_minari(episodes, space):
    buffers = [episode_buffer(episode) for episode in episodes]
    return minari.create_dataset_from_buffers("test/boxes-v0", buffers, observation_space=STATES, action_space=space)


def as_buffer(episodes, space):
    return fill_sb3_buffer(episodes, ReplayBuffer(100, STATES, space, device="cpu"))


@pytest.mark.parametrize("make", [as_mapping, as_minari, as_buffer])
def test_another_box_than_the_environments_is_named(make, minari_root):
    source = make(make_episodes(), ONE)
    with pytest.warns(UserWarning, match=r"its actions are in Box\(-1\.0, 1\.0.*in Box\(-2\.0, 2\.0.*RescaleActions"):
        model = GMPO("FlowPolicy", SpacesEnv(STATES, TWO), dataset=source)
        model.read_dataset()
    # As they are: half of the environment's range
    taken = np.abs(model.policy.unscale_action(model.replay_buffer.actions.numpy())).max()
    assert 0.5 < taken <= 1.0 + 1e-5


@pytest.mark.parametrize("make", [as_mapping, as_minari, as_buffer])
def test_the_remedy_of_that_message_works(make, minari_root):
    episodes = make_episodes()
    source = make(episodes, ONE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = GMPO("FlowPolicy", SpacesEnv(STATES, TWO), dataset=source, transforms=[RescaleActions(-1.0, 1.0)])
        model.read_dataset()
    logged = np.concatenate([episode.actions for episode in episodes])
    np.testing.assert_allclose(model.policy.unscale_action(model.replay_buffer.actions.numpy()), 2.0 * logged, atol=1e-5)


@pytest.mark.parametrize("make", [as_mapping, as_minari])
def test_a_dataset_without_bounds_takes_those_that_are_asked_for(make, minari_root):
    source = make(make_episodes(), FREE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_dataset(source).action_space == FREE
        assert load_dataset(source, action_space=TWO).action_space == TWO
    with pytest.raises(ValueError, match="actions has values outside the bounds"):
        load_dataset(source, action_space=spaces.Box(-0.1, 0.1, (2,)))
    clipped = load_dataset(source, action_space=spaces.Box(-0.1, 0.1, (2,)), action_transforms=[ClipActions()])
    assert np.abs(clipped.actions).max() == np.float32(0.1)


def test_bounds_that_differ_by_rounding_are_the_same(minari_root):
    source = as_mapping(make_episodes(), spaces.Box(-1.00001, 1.00001, (2,)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_dataset(source, action_space=ONE).action_space == ONE


def test_another_shape_is_an_error():
    with pytest.raises(ValueError, match=r"The actions of the dataset have shape \(2,\), but the environment's have \(3,\)"):
        load_dataset(as_mapping(make_episodes(), ONE), action_space=spaces.Box(-1, 1, (3,)))


def test_rescaling_needs_bounds():
    with pytest.raises(ValueError, match="RescaleActions needs bounds to bring actions to"):
        load_dataset(as_mapping(make_episodes(), FREE), action_transforms=[RescaleActions()])
