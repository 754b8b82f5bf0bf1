"""
Observations in any unit, of any type: what a policy learns does not depend on them.
"""

import json

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_genpolicy import GMPO
from sb3_genpolicy.common.policies.normalization import ObservationNormalizer, Standardizer
from tests.helpers.arrays import SMALL
from tests.helpers.tiny_envs import SpacesEnv

TWO = np.array([-1.0, 1.0])


def bandit(observe, space=None, n=1500, seed=0):
    """The best action is half of s, a sign that ``observe(s, noise)`` shows beside noise."""
    rng = np.random.default_rng(seed)
    s = rng.choice(TWO, size=n)
    actions = rng.uniform(-1, 1, (n, 1)).astype(np.float32)
    data = dict(
        observations=observe(s, rng.normal(size=n)),
        actions=actions,
        rewards=-((actions[:, 0] - 0.5 * s) ** 2),
        terminals=np.ones(n),
        timeouts=np.zeros(n),
        action_space=spaces.Box(-1, 1, (1,)),
    )
    return data if space is None else dict(data, observation_space=space)


def trained(data, policy="FlowPolicy", steps=250, **kwargs):
    options = dict(beta=0.05, actor_tau=0.02, learning_rate=3e-3, batch_size=64, policy_kwargs=dict(SMALL, **kwargs))
    return GMPO(policy, dataset=data, seed=0, **options).learn(steps)


def acts(model, observations):
    return model.predict(observations, deterministic=True)[0][:, 0]


@pytest.fixture(scope="module")
def reference():
    """Of order 1."""
    model = trained(bandit(lambda s, z: np.stack([s, z], 1).astype(np.float32)))
    actions = acts(model, np.stack([TWO, np.zeros(2)], 1).astype(np.float32))
    np.testing.assert_allclose(actions, 0.5 * TWO, atol=0.15)
    return actions


@pytest.mark.parametrize("unit", [1e-6, 1e-3, 1e6])
def test_the_unit_of_observations_does_not_count(reference, unit):
    model = trained(bandit(lambda s, z: (unit * np.stack([s, z], 1)).astype(np.float32)))
    actions = acts(model, (unit * np.stack([TWO, np.zeros(2)], 1)).astype(np.float32))
    np.testing.assert_allclose(actions, reference, atol=0.02)


@pytest.mark.parametrize("dtype", [np.int64, np.int16, np.uint8, np.float64])
def test_boxes_of_every_type_are_standardised(reference, dtype):
    def observe(s, z):
        return np.stack([100 + 50 * s, np.clip(100 + 20 * z, 0, 200)], 1).astype(dtype)

    model = trained(bandit(observe, spaces.Box(0, 200, (2,), dtype)))
    np.testing.assert_allclose(acts(model, observe(TWO, np.zeros(2))), 0.5 * TWO, atol=0.15)


def offset_positions(s, z):
    return 5.4e6 + 0.2 * np.stack([s, z], 1)


def counts(s, z):
    return (2_000_000_000 + 3 * np.stack([s, z], 1)).astype(np.int64)


@pytest.mark.parametrize(
    ("observe", "space"),
    [
        (offset_positions, None),
        (offset_positions, spaces.Box(-np.inf, np.inf, (2,), np.float64)),
        (lambda s, z: 1.7e9 + 60.0 * np.stack([s, z], 1), None),
        (counts, spaces.Box(0, 2**40, (2,), np.int64)),
    ],
    ids=["UTM", "UTM, float64 space", "Unix time", "encoder counts"],
)
def test_numbers_that_float32_would_merge_are_told_apart(observe, space):
    model = trained(bandit(observe, space))
    np.testing.assert_allclose(acts(model, observe(TWO, np.zeros(2))), 0.5 * TWO, atol=0.15)


def test_they_are_told_apart_after_loading_and_in_an_onnx_file(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    model = trained(bandit(offset_positions, space), steps=50)
    observations = offset_positions(TWO, np.zeros(2))
    expected = acts(model, observations)
    assert abs(expected[0] - expected[1]) > 0.01
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(acts(GMPO.load(tmp_path / "model"), observations), expected)
    model.policy.export_onnx(tmp_path / "policy.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "policy.onnx")
    assert session.get_inputs()[0].type == "tensor(double)"
    inputs = {"observation": observations, "noise": np.zeros((2, 1), np.float32)}
    np.testing.assert_allclose(session.run(None, inputs)[0][:, 0], expected, atol=1e-5)


def test_rows_that_arrive_online_are_told_apart_too(tmp_path):
    space = spaces.Box(5.4e6, 5.4e6 + 1.0, (2,), np.float64)
    env = SpacesEnv(space, spaces.Box(-1, 1, (1,)))
    model = GMPO("FlowPolicy", env, dataset=bandit(offset_positions, space), policy_kwargs=SMALL, batch_size=16).learn(2)
    model.save(tmp_path / "model")
    for trained_one, share in ((model, 0.5), (GMPO.load(tmp_path / "model", env=env), 0.0)):
        trained_one.learn_online(20, offline_share=share)
        added = trained_one.replay_buffer.added_rows().observations
        assert added.dtype == th.float64 and len(np.unique(added[:, 0])) == len(added) == 20
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = GMPO.load(tmp_path / "model", env=env)
    loaded.load_replay_buffer(tmp_path / "buffer")
    np.testing.assert_array_equal(loaded.replay_buffer.observations, model.replay_buffer.observations)
    # They are drawn together with the dataset's, and stay apart
    assert len(np.unique(loaded.replay_buffer.draw(64)[1].observations[:, 0])) > 10


def test_without_normalisation_such_numbers_are_refused():
    with pytest.raises(
        ValueError, match=r"observations are numbers that float32 would merge, as large as 5.4e\+06\. Leave out"
    ):
        trained(bandit(offset_positions), steps=1, normalize_observations=False)


def test_vec_normalize_tells_them_apart_too():
    space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    env = VecNormalize(DummyVecEnv([lambda: SpacesEnv(space, spaces.Box(-1, 1, (1,)))]), norm_reward=False)
    data = bandit(offset_positions, space)
    model = GMPO("FlowPolicy", env, dataset=data, seed=0, policy_kwargs=SMALL)
    model.read_dataset()
    rows = model.replay_buffer.rows(th.arange(4), env).observations
    np.testing.assert_allclose(rows, env.normalize_obs(data["observations"][:4]), atol=1e-5)
    assert rows.dtype == th.float32 and len(np.unique(rows[:, 0])) == len(np.unique(data["observations"][:4, 0]))


def test_vec_normalize_that_hides_small_units_is_named():
    env = VecNormalize(DummyVecEnv([lambda: SpacesEnv(spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (1,)))]))
    data = bandit(lambda s, z: (1e-6 * np.stack([s, z], 1)).astype(np.float32))
    with pytest.warns(UserWarning, match=r"a standard deviation of 9.*e-07 only, which VecNormalize hides"):
        GMPO("FlowPolicy", env, dataset=data).read_dataset()


@pytest.mark.parametrize("constant", [0.5, 0.0, 1e-4, 5.4e6, -300.0])
def test_a_constant_entry_neither_explodes_nor_hides_a_change(constant):
    data = bandit(lambda s, z: np.stack([s, np.full(len(s), constant)], 1))
    model = trained(data)

    def with_entry(value):
        return np.stack([TWO, np.full(2, value)], 1)

    usual = acts(model, with_entry(constant))
    np.testing.assert_allclose(usual, 0.5 * TWO, atol=0.15)
    size = abs(constant) or 1.0
    for change in (0.01, -0.1, 1.0, 1e3):
        changed = acts(model, with_entry(constant + change * size))
        # As much as an entry that was learnt makes by its sign alone is too much
        np.testing.assert_allclose(changed, usual, atol=0.25)
        assert (changed != usual).all()


def test_an_entry_that_varies_by_rounding_counts_as_constant():
    part = Standardizer((3,))
    moments = RunningMeanStd(epsilon=0.0, shape=(3,))
    rng = np.random.default_rng(0)
    rows = np.stack([np.full(1000, 0.1), 0.1 + 3e-9 * rng.normal(size=1000), 1e-6 * rng.normal(size=1000)], 1)
    # As they are stored, added up in double precision
    moments.update(rows.astype(np.float32).astype(np.float64))
    part.fit(moments, th.float32)
    np.testing.assert_allclose(part.std, [0.1, 0.1, 1e-6], rtol=0.1)
    np.testing.assert_array_equal(part.clip, [1.0, 1.0, 10.0])


SUITE = spaces.Dict(
    height=spaces.Box(-np.inf, np.inf, (), np.float64),
    orientation=spaces.Box(-1, 1, (2, 3), np.float64),
    contact=spaces.Box(0, 1000, (2,), np.int32),
    image=spaces.Box(0, 255, (3, 36, 36), np.uint8),
    mode=spaces.Discrete(3),
)


def test_scalars_and_matrices_in_dictionaries(tmp_path):
    """As the DeepMind Control suite has them."""
    rng = np.random.default_rng(0)
    n = 60
    rows = dict(
        height=1e-5 * rng.normal(size=n) + 3.0,
        orientation=rng.normal(size=(n, 2, 3)),
        contact=rng.integers(0, 1000, (n, 2)),
        image=rng.integers(0, 255, (n, 3, 36, 36)).astype(np.uint8),
        mode=rng.integers(0, 3, n),
    )
    data = dict(
        observations=rows,
        actions=rng.uniform(-1, 1, (n, 2)),
        rewards=rng.normal(size=n),
        terminals=np.ones(n),
        timeouts=np.zeros(n),
        observation_space=SUITE,
    )
    model = GMPO("FlowMultiInputPolicy", SpacesEnv(SUITE, spaces.Box(-1, 1, (2,))), dataset=data, policy_kwargs=SMALL)
    model.learn(2)
    for key, values in rows.items():
        part = model.policy.normalizer.part(key)
        if key in ("image", "mode"):
            assert part is None
        else:
            scaled = part(th.as_tensor(values[:10]))
            expected = (values[:10] - values.mean(0)) / values.std(0)
            np.testing.assert_allclose(scaled.reshape(expected.shape), expected, atol=2e-3)
    one = {key: np.asarray(values[0]) for key, values in rows.items()}
    action, _ = model.predict(one, deterministic=True)
    np.testing.assert_allclose(action, model.predict(rows, deterministic=True)[0][0], atol=1e-5)
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(GMPO.load(tmp_path / "model").predict(one, deterministic=True)[0], action)


def test_a_scalar_observation_alone():
    space = spaces.Box(-np.inf, np.inf, (), np.float32)
    data = bandit(lambda s, z: s.astype(np.float32), space)
    model = trained(data)
    np.testing.assert_allclose(acts(model, TWO.astype(np.float32)), 0.5 * TWO, atol=0.15)
    assert model.predict(np.float32(1.0), deterministic=True)[0].shape == (1,)


def test_keys_that_vec_normalize_leaves_alone_are_standardised_by_the_policy():
    space = spaces.Dict(a=spaces.Box(-9, 9, (1,)), b=spaces.Box(-9e5, 9e5, (1,)))
    env = VecNormalize(DummyVecEnv([lambda: SpacesEnv(space, spaces.Box(-1, 1, (1,)))]), norm_obs_keys=["a"])
    data = bandit(lambda s, z: dict(a=s[:, None], b=1e4 * z[:, None]), space)
    model = GMPO("FlowMultiInputPolicy", env, dataset=data, policy_kwargs=SMALL)
    model.read_dataset()
    stds = [float(model.policy.normalizer.part(key).std) for key in "ab"]
    np.testing.assert_allclose(stds, [1.0, data["observations"]["b"].std()], rtol=1e-3)


def test_statistics_survive_json_and_a_copy_of_the_parameters():
    normalizer = ObservationNormalizer(spaces.Box(-np.inf, np.inf, (1,), np.float64))
    normalizer.fit([th.tensor([[5.4e6], [5.4e6 + 0.5]], dtype=th.float64)])
    other = ObservationNormalizer(spaces.Box(-np.inf, np.inf, (1,), np.float64))
    told = json.loads(json.dumps({name: value.tolist() for name, value in normalizer.state_dict().items()}))
    other.load_state_dict({name: th.tensor(value) for name, value in told.items()})
    np.testing.assert_allclose(other(th.tensor([[5.4e6 + 0.5]], dtype=th.float64)), [[1.0]], rtol=1e-5)


@pytest.mark.parametrize("unit", [1.0, 1e-5])
def test_a_glitch_of_a_sensor_does_not_blind_the_policy(reference, unit):
    data = bandit(lambda s, z: (unit * np.stack([s, z], 1)).astype(np.float32))
    data["observations"][7, 0] = 1e6 * unit
    with pytest.warns(UserWarning, match=r"a few rows of observations, entry \[0\], lie far from all others"):
        model = trained(data)
    np.testing.assert_allclose(acts(model, unit * np.stack([TWO, np.zeros(2)], 1)), reference, atol=0.1)


@pytest.mark.filterwarnings("ignore:.*a few rows of observations")
def test_numbers_are_told_apart_though_some_fixes_were_not_there():
    data = bandit(offset_positions)
    data["observations"][[3, 400]] = 0.0
    np.testing.assert_allclose(acts(trained(data), offset_positions(TWO, np.zeros(2))), 0.5 * TWO, atol=0.15)


def test_an_environment_that_cannot_say_them_is_named():
    env = SpacesEnv(spaces.Box(-np.inf, np.inf, (2,), np.float32), spaces.Box(-1, 1, (1,)))
    with pytest.warns(UserWarning, match="numbers that float32 would merge, but the environment's space is of that type"):
        GMPO("FlowPolicy", env, dataset=bandit(offset_positions)).read_dataset()


def test_a_second_dataset_in_another_unit_is_named():
    model = trained(bandit(lambda s, z: np.stack([s, z], 1).astype(np.float32)), steps=1)
    with pytest.warns(UserWarning, match="observations, entry 0, lies far outside what the policy's statistics were taken"):
        model.learn(1, dataset=bandit(lambda s, z: (1000.0 * np.stack([s, z], 1)).astype(np.float32)))


def test_rounding_around_zero_is_no_unit():
    rows = th.as_tensor(np.stack([1e-17 * np.random.default_rng(0).normal(size=100), np.arange(100.0)], 1)).float()
    normalizer = ObservationNormalizer(spaces.Box(-np.inf, np.inf, (2,)))
    normalizer.fit([rows])
    assert float(normalizer(th.tensor([[1e-3, 0.0]]))[0, 0]) == pytest.approx(1e-3)
