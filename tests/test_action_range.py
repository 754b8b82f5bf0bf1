"""
The range that actions are modelled in, and the space that they have to lie in.
"""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import LinearSchedule

from sb3_genpolicy import BC, GMPG, GMPO
from sb3_genpolicy.common.transitions.action_range import ActionRange
from sb3_genpolicy.generative import Likelihood, Sampler
from tests.helpers.arrays import SMALL, make_arrays
from tests.helpers.tiny_envs import SpacesEnv

OBSERVATIONS = spaces.Box(-5, 5, (1,))
FREE = spaces.Box(-np.inf, np.inf, (2,))


def two_modes(action_space, unit=1.0, n=1500, **columns):
    """Actions near 0.8 s in units, for a sign s that is seen, with a standard deviation of 0.1."""
    rng = np.random.default_rng(0)
    s = rng.choice([-1.0, 1.0], size=(n, 1))
    actions = unit * (0.8 * s + 0.1 * rng.normal(size=(n, *action_space.shape)))
    flat = dict(rewards=np.zeros(n), terminals=np.ones(n), timeouts=np.zeros(n))
    return dict(observations=s, actions=actions, action_space=action_space, **{**flat, **columns})


def cloned(data, steps=400, **kwargs):
    options = {"policy_kwargs": dict(net_arch=[64, 64]), "batch_size": 128, **kwargs}
    options["learning_rate"] = LinearSchedule(1e-2, 0.0, 1.0)
    return BC("FlowPolicy", dataset=data, seed=0, actor_tau=0.02, **options).learn(steps)


@pytest.mark.parametrize(
    ("space", "unit"),
    [
        (spaces.Box(-2, 2, (1,)), 1.0),
        pytest.param(spaces.Box(-2000, 2000, (1,)), 1.0, marks=pytest.mark.slow),
        pytest.param(spaces.Box(-1.0, 9e4, (1,)), 1.0, marks=pytest.mark.slow),
        (spaces.Box(-1, 1, (2,), np.float64), 1e-4),
        (spaces.Box(-np.inf, np.inf, (2,)), 1.0),
        pytest.param(spaces.Box(-np.inf, np.inf, (1,)), 1e5, marks=pytest.mark.slow),
        (spaces.Box(-3.0, np.array([3.0, np.inf], np.float32)), 1.0),
        (spaces.Box(-1e300, 1e300, (1,), np.float64), 1.0),
    ],
    ids=str,
)
def test_actions_come_out_with_their_own_spread(space, unit):
    actions, _ = cloned(two_modes(space, unit)).predict(np.ones((2000, 1)))
    np.testing.assert_allclose(actions.mean(0), 0.8 * unit, rtol=0.05)
    np.testing.assert_allclose(actions.std(0), 0.1 * unit, rtol=0.35)
    assert all(space.contains(action) for action in actions)


def test_the_range_is_the_datas_with_half_as_much_on_either_side():
    space = spaces.Box(np.array([-9, -9, 0, -np.inf], np.float32), np.array([9, 9, 9, np.inf], np.float32))
    least, largest = np.array([-1.0, -8.0, 0.125, 5.0]), np.array([3.0, 8.0, 0.375, 5.0])
    fitted = ActionRange(space)
    fitted.fit(least, largest)
    # Ends of the space where they are nearer; a hundredth of itself around what is constant
    np.testing.assert_allclose(fitted.ends[0], [-3.0, -9.0, 0.0, 4.95], atol=1e-6)
    np.testing.assert_allclose(fitted.ends[1], [5.0, 9.0, 0.5, 5.05], atol=1e-6)
    with pytest.warns(
        UserWarning, match=r"the action space has no bounds, in 3 of 4 dimensions.*\(dimension 0: -3 to 5, 2: 0 to"
    ):
        fitted.say("The dataset")


def test_data_that_fill_their_space_are_scaled_as_sb3_does(arrays):
    model = GMPO("FlowPolicy", dataset=make_arrays(low=-2.0, high=2.0, n_episodes=12), policy_kwargs=SMALL)
    actions = model.action_space.low + (model.action_space.high - model.action_space.low) * np.float32(0.3)
    before = model.policy.scale_action(actions)
    model.read_dataset()
    np.testing.assert_array_equal(model.policy.scale_action(actions), before)
    np.testing.assert_array_equal(before, super(type(model.policy), model.policy).scale_action(actions))
    np.testing.assert_allclose(model.policy.action_range.shares, 1.0)


@pytest.mark.parametrize("likelihood", [None, Likelihood("discrete", Sampler("midpoint", 5))], ids=["flow", "discrete"])
def test_densities_are_of_the_environments_units(likelihood):
    """The integral of the density over the actions is 1."""
    model = cloned(two_modes(spaces.Box(-200, 200, (1,))), steps=150)
    grid = np.linspace(-2.5, 2.5, 501)[:, None].astype(np.float32)
    log_prob = model.policy.log_prob(th.ones(len(grid), 1), th.as_tensor(grid), likelihood).detach()
    inside = (grid[:, 0] > model.policy.action_range.ends[0]) & (grid[:, 0] < model.policy.action_range.ends[1])
    mass = float(log_prob.exp()[th.as_tensor(inside)].sum() * (grid[1, 0] - grid[0, 0]))
    assert mass == pytest.approx(1.0, abs=0.02)
    noise = th.zeros(1, 1)
    with th.no_grad():
        actions, log_probs = model.policy.sample_with_log_prob(th.ones(1, 1), noise)
    assert float(log_probs) == pytest.approx(float(model.policy.log_prob(th.ones(1, 1), actions)), abs=0.01)
    # Up to the solver: eight tenths is what was done
    assert float(actions) == pytest.approx(0.8, abs=0.15)


def test_rounding_does_not_lead_out_of_the_space():
    rng = np.random.default_rng(0)
    for dtype in (np.float16, np.float32, np.float64):
        for low, high in rng.uniform(-1.0, 1.0, (40, 2)):
            space = spaces.Box(min(low, high) - 0.01, max(low, high) + 0.01, (1,), dtype)
            for scaled in (-1.0, 1.0):
                assert space.contains(ActionRange(space).unscale_array(np.array([scaled], np.float32)))


@pytest.mark.parametrize("space", [spaces.Box(-0.9, 0.1, (1,)), spaces.Box(-0.1, 0.3, (1,), np.float64), FREE], ids=str)
def test_every_action_is_in_the_space(space, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    low, high = np.where(np.isfinite(space.low), space.low, 0.2), np.where(np.isfinite(space.high), space.high, 0.3)
    n = 64
    data = dict(
        observations=np.zeros((n, 1)),
        actions=np.where(np.arange(n)[:, None] % 2, high, low),
        rewards=np.zeros(n),
        terminals=np.ones(n),
        timeouts=np.zeros(n),
    )
    env = SpacesEnv(OBSERVATIONS, space)
    options = dict(policy_kwargs=dict(SMALL, sampling_steps=2), batch_size=32)
    model = GMPO("FlowPolicy", env, dataset=data, seed=0, actor_tau=0.05, **options).learn(40)
    for deterministic in (True, False):
        actions, _ = model.predict(np.zeros((200, 1), np.float32), deterministic=deterministic)
        assert all(space.contains(action) for action in actions)
    # The environment looks at what it is given
    model.learn_online(30)
    assert len(env.actions) >= 30
    model.policy.export_onnx(tmp_path / "policy.onnx")
    noise = np.random.default_rng(0).normal(size=(200, *model.policy.noise_shape)).astype(np.float32)
    session = onnxruntime.InferenceSession(tmp_path / "policy.onnx")
    exported = session.run(None, {"observation": np.zeros((200, 1), np.float32), "noise": noise})[0]
    assert all(space.contains(action) for action in exported)
    expected, _ = model.predict(np.zeros(1, np.float32), deterministic=True)
    alone = session.run(
        None, {"observation": np.zeros((1, 1), np.float32), "noise": np.zeros((1, noise.shape[1]), np.float32)}
    )
    np.testing.assert_allclose(alone[0][0], expected, atol=1e-5)


@pytest.mark.parametrize("algorithm", [GMPO, GMPG])
def test_unbounded_actions_from_data_to_the_environment(algorithm, tmp_path):
    data = two_modes(FREE, unit=30.0, rewards=np.random.default_rng(1).normal(size=1500))
    env = SpacesEnv(OBSERVATIONS, FREE, reward=lambda action: -np.square(action - 24.0).sum())
    model = algorithm("FlowPolicy", env, dataset=data, seed=0, policy_kwargs=SMALL, batch_size=32).learn(40)
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=env)
    observations = np.linspace(-1, 1, 5)[:, None].astype(np.float32)
    expected, _ = model.predict(observations, deterministic=True)
    np.testing.assert_array_equal(loaded.predict(observations, deterministic=True)[0], expected)
    assert np.abs(expected).max() > 5.0
    # It goes on where it was, and its rows are scaled as before
    loaded.learn(5, dataset=data, reset_num_timesteps=False)
    loaded.learn_online(20, dataset=data)
    assert np.isfinite(evaluate_policy(loaded, env, n_eval_episodes=2)[0])
    loaded.save_replay_buffer(tmp_path / "buffer")
    rows = loaded.replay_buffer.actions
    loaded.load_replay_buffer(tmp_path / "buffer")
    np.testing.assert_array_equal(loaded.replay_buffer.actions, rows)
    assert loaded.replay_buffer.action_range is loaded.policy.action_range


def test_online_there_is_room_to_move():
    """Data between 0.4 and 0.6; what is best lies beyond them, and is reached."""
    space, rng = spaces.Box(-100, 100, (1,)), np.random.default_rng(0)
    actions = rng.uniform(0.4, 0.6, (800, 1))
    env = SpacesEnv(OBSERVATIONS, space, reward=lambda action: -abs(action[0] - 0.65), steps=1)
    data = two_modes(space, n=800, rewards=-np.abs(actions[:, 0] - 0.65)) | dict(actions=actions)
    model = GMPO(
        "FlowPolicy",
        env,
        dataset=data,
        seed=0,
        beta=0.1,
        actor_tau=0.05,
        learning_rate=3e-3,
        policy_kwargs=dict(SMALL, sampling_steps=2),
        batch_size=64,
    ).learn(150)
    model.learn_online(200, offline_share=0.0)
    assert np.mean(env.actions[-50:]) > 0.6


def test_actions_that_float32_would_merge_are_refused(minari_root):
    space = spaces.Box(-np.inf, np.inf, (1,), np.float64)
    data = two_modes(space)
    far = dict(data, actions=5.4e6 + data["actions"])
    with pytest.raises(ValueError, match=r"actions go from 539999\d\.\d+ to 540000\d\.\d+ in entry 0, numbers that float32"):
        GMPO("FlowPolicy", dataset=far).read_dataset()


def test_a_second_dataset_beyond_the_range_is_named():
    space = spaces.Box(-100, 100, (1,))
    model = cloned(two_modes(space), steps=2, policy_kwargs=SMALL)
    before = model.policy.action_range.ends
    with pytest.warns(UserWarning, match=r"actions go from .* in dimension 0, beyond the range -2\.\d+ to 2\.\d+ that the"):
        model.learn(2, dataset=two_modes(space, unit=10.0))
    np.testing.assert_array_equal(model.policy.action_range.ends, before)
    assert float(model.replay_buffer.actions.abs().max()) == 1.0


def test_normalize_actions_off_is_the_whole_space():
    model = cloned(two_modes(spaces.Box(-100, 100, (1,))), steps=2, policy_kwargs=dict(SMALL, normalize_actions=False))
    np.testing.assert_array_equal(model.policy.action_range.ends, [[-100.0], [100.0]])
    with pytest.raises(ValueError, match="normalize_actions=False needs bounds to scale actions between"):
        GMPO("FlowPolicy", dataset=two_modes(FREE), policy_kwargs=dict(normalize_actions=False))


def test_a_pretrained_model_hands_its_range_over():
    data = two_modes(spaces.Box(-100, 100, (1,)))
    pretrained = GMPO("FlowPolicy", dataset=data, seed=0, beta=0.0, policy_kwargs=SMALL).learn(2)
    model = GMPG("FlowPolicy", dataset=data, pretrained=pretrained, seed=0, policy_kwargs=SMALL)
    np.testing.assert_array_equal(model.policy.action_range.ends, pretrained.policy.action_range.ends)
    model.learn(1)
    np.testing.assert_array_equal(model.policy.action_range.ends, pretrained.policy.action_range.ends)


@pytest.mark.parametrize(
    "space",
    [pytest.param(spaces.Box(-1000, 1000, (1,)), marks=pytest.mark.slow), spaces.Box(-np.inf, np.inf, (1,))],
    ids=str,
)
def test_one_action_out_of_place_does_not_stretch_the_range(space):
    data = two_modes(space)
    data["actions"][5] = 1000.0
    with pytest.warns(
        UserWarning, match=r"actions go from -\S+ to 1000 in dimension 0, but all except a few rows are between"
    ):
        model = cloned(data)
    actions, _ = model.predict(np.ones((1000, 1)))
    np.testing.assert_allclose([np.median(actions), actions.std()], [0.8, 0.1], rtol=0.35)


def test_rare_actions_that_are_meant_stay():
    """One row in fifty brakes hard."""
    data = two_modes(spaces.Box(-1000, 1000, (1,)))
    data["actions"][::50] = -100.0
    model = cloned(data, steps=1)
    assert model.policy.action_range.ends[0] < -100.0


def test_healthy_actions_are_not_refused():
    rng = np.random.default_rng(0)
    for low, high in ((293.0, 294.0), (499.0, 501.0), (90.03, 90.2), (0.69999, 0.7)):
        actions = rng.uniform(low, high, (1500, 1))
        model = cloned(two_modes(spaces.Box(0, 1000, (1,), np.float64)) | dict(actions=actions), steps=1)
        sampled, _ = model.predict(np.ones((50, 1)))
        width = high - low
        assert (sampled > low - width).all() and (sampled < high + width).all()
