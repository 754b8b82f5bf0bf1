"""
Policies of one network evaluation, and algorithms that use them: files, resuming, ONNX, online, side by side.
"""

import warnings

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_genpolicy import FQL, SRPO, ReBRAC, learn_side_by_side
from tests.helpers.arrays import SMALL, make_arrays

ALGORITHMS = [FQL, ReBRAC, SRPO]
STOCHASTIC = [FQL]


def options_of(algorithm):
    return dict(SMALL, sampling_steps=2) if algorithm is FQL else SMALL


def make_model(algorithm, policy="MlpPolicy", **options):
    given = dict(dataset=make_arrays(), policy_kwargs=options_of(algorithm), seed=0, batch_size=16)
    return algorithm(policy, **{**given, **options})


def dictionary(arrays):
    space = spaces.Dict(place=spaces.Box(-np.inf, np.inf, (2,)), speed=spaces.Box(-np.inf, np.inf, (1,)))
    parts = {
        name: dict(place=arrays[name][:, :2], speed=arrays[name][:, 2:]) for name in ("observations", "next_observations")
    }
    return {**arrays, **parts, "observation_space": space}


def images(n=12, seed=0):
    rng = np.random.default_rng(seed)
    pictures = rng.integers(0, 255, (n + 1, 3, 36, 36), dtype=np.uint8)
    ends = np.arange(n) % 6 == 5
    return dict(
        observations=pictures[:-1],
        next_observations=pictures[1:],
        actions=rng.uniform(-1, 1, (n, 2)),
        rewards=rng.normal(size=n),
        terminals=ends,
        timeouts=np.zeros(n),
        observation_space=spaces.Box(0, 255, (3, 36, 36), np.uint8),
        action_space=spaces.Box(-1, 1, (2,), np.float32),
    )


def first_rows(data, n):
    observations = data["observations"]
    if isinstance(observations, dict):
        return {key: value[:n].astype(np.float32) for key, value in observations.items()}
    return observations[:n]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("policy", ["MlpPolicy", "MultiInputPolicy"])
def test_it_saves_loads_and_goes_on_bit_for_bit_without_a_pickle(algorithm, policy, tmp_path):
    data = make_arrays() if policy == "MlpPolicy" else dictionary(make_arrays())
    model = make_model(algorithm, policy, dataset=data).learn(6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.save(tmp_path / "model")
        model.policy.save(tmp_path / "policy.pt")
    loaded = algorithm.load(tmp_path / "model")
    rows = first_rows(data, 5)
    expected = model.predict(rows, deterministic=True)[0]
    assert all(model.action_space.contains(action) for action in expected)
    np.testing.assert_array_equal(loaded.predict(rows, deterministic=True)[0], expected)
    alone = type(model.policy).load(tmp_path / "policy.pt")
    np.testing.assert_array_equal(alone.predict(rows, deterministic=True)[0], expected)
    for goes_on in (model, loaded):
        goes_on.learn(4, reset_num_timesteps=False, dataset=data)
    for mine, other in zip(loaded.policy.parameters(), model.policy.parameters(), strict=True):
        assert th.equal(mine, other)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_images_are_seen(algorithm):
    model = make_model(algorithm, "CnnPolicy", dataset=images(), batch_size=4).learn(1)
    assert model.predict(images()["observations"][:2], deterministic=True)[0].shape == (2, 2)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_side_by_side_it_is_what_it_is_alone(algorithm):
    def models():
        return [make_model(algorithm, seed=seed) for seed in (0, 1)]

    together, alone = learn_side_by_side(models(), 6), [model.learn(6) for model in models()]
    for mine, expected in zip(together, alone, strict=True):
        for parameter, other in zip(mine.policy.parameters(), expected.policy.parameters(), strict=True):
            th.testing.assert_close(parameter, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_it_goes_on_online(algorithm, tmp_path):
    options = dict(policy_kwargs=options_of(algorithm), seed=0, batch_size=16)
    model = algorithm("MlpPolicy", "Pendulum-v1", dataset="pendulum-mixed", **options).learn(3).learn_online(20)
    rows = model.replay_buffer.rows(th.arange(model.replay_buffer.size() - 20, model.replay_buffer.size()))
    taken = model.policy.actor_ema
    assert model.replay_buffer.n_added == 20 and model.num_timesteps == 23 and taken is model.actor_ema
    # Something is explored: in one state, actions differ
    drawn = [model._sample_action(0, model.action_noise, 1)[1] for _ in range(3)]
    assert not np.allclose(drawn[0], drawn[1]) and (np.abs(drawn) <= 1.0).all()
    assert rows.actions.abs().max() <= 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.save(tmp_path / "model")
    again = algorithm.load(tmp_path / "model", env="Pendulum-v1").learn_online(3, dataset="pendulum-mixed")
    assert again.num_timesteps == 26


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("policy", ["MlpPolicy", "MultiInputPolicy"])
@pytest.mark.parametrize("deterministic", [True, False])
def test_a_file_acts_as_the_policy_does(algorithm, policy, deterministic, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    data = make_arrays(low=-3.0, high=2.0)
    data = data if policy == "MlpPolicy" else dictionary(data)
    model = make_model(algorithm, policy, dataset=data).learn(3)
    model.policy.export_onnx(tmp_path / "policy.onnx", deterministic=deterministic)
    session = onnxruntime.InferenceSession(str(tmp_path / "policy.onnx"))
    rows = first_rows(data, 4)
    given = dict(rows) if isinstance(rows, dict) else {"observation": rows}
    takes_noise = algorithm in STOCHASTIC and not deterministic
    assert {each.name for each in session.get_inputs()} == {*given, *(["noise"] if takes_noise else [])}
    if takes_noise:
        th.manual_seed(5)
        given["noise"] = th.randn(4, 2).numpy()
        th.manual_seed(5)
    (acted,) = session.run(["action"], given)
    np.testing.assert_allclose(acted, model.predict(rows, deterministic=deterministic)[0], atol=1e-5)
    # Not all alike, so that the comparison says something
    assert np.ptp(acted, axis=0).min() > 1e-4


def test_a_misspelt_option_is_named():
    with pytest.raises(TypeError, match="OneStepPolicy has no option 'layer_norms'. Did you mean 'layer_norm'"):
        make_model(FQL, policy_kwargs=dict(layer_norms=True))
    with pytest.raises(TypeError, match="FQL has no option 'alpa'. Did you mean 'alpha'"):
        make_model(FQL, alpa=1.0)
    with pytest.raises(ValueError, match="alpha must be a number >= 0"):
        make_model(FQL, alpha=-1.0)
