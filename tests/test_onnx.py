"""
Policies as ONNX files: run by onnxruntime, they act as `predict` does, and as the actor does from the same noise.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_genpolicy import GMPO
from sb3_genpolicy.generative import ConditionalMLP, CosinePath, LinearPath
from tests.helpers.arrays import BEST, SMALL
from tests.helpers.observation_spaces import SPACES, BatchNormDropout, dataset_of, policy_for, rows_of
from tests.helpers.slow import slow_but

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

pytestmark = pytest.mark.filterwarnings("ignore:.*lead to another observation than the next row")

BOUNDS = spaces.Box(np.array([[-2.0], [0.5]]), np.array([[3.3], [0.75]]), (2, 1), np.float32)


def trained(arrays, policy="FlowPolicy", **policy_kwargs):
    """On actions of shape (2, 1), whose bounds are not -1 and 1."""
    actions = np.random.default_rng(0).uniform(BOUNDS.low, BOUNDS.high, (len(arrays["rewards"]), 2, 1))
    arrays = {**arrays, "actions": actions.astype(np.float32), "action_space": BOUNDS}
    kwargs = dict(learning_rate=1e-2, actor_tau=0.5, seed=0, batch_size=16, beta=1.0)
    return GMPO(policy, dataset=arrays, policy_kwargs={**SMALL, **BEST, **policy_kwargs}, **kwargs).learn(20)


def run(path, inputs):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (action,) = session.run(["action"], inputs)
    assert action.dtype == np.float32
    return action


def deterministic_inputs(path, n_rows):
    """What the file says that predict(deterministic=True) starts from with `zero_noise`."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    noise = np.array(json.loads(metadata["deterministic_noise"]), np.float32)
    inputs = dict(noise=np.repeat(noise[None], n_rows, axis=0))
    if "increments" in {one.name for one in session.get_inputs()}:
        increments = np.array(json.loads(metadata["deterministic_increments"]), np.float32)
        inputs["increments"] = np.repeat(increments[:, None], n_rows, axis=1)
    return inputs


def rows(n_rows):
    # Far from the mean too, where the normaliser clips
    return np.random.default_rng(n_rows).normal(scale=200.0, size=(n_rows, 3)).astype(np.float32)


SETTINGS = {
    "default": ("FlowPolicy", {}),
    "euler": ("FlowPolicy", dict(solver="euler", sampling_steps=7, time_grid="uniform")),
    "heun": ("FlowPolicy", dict(solver="heun", path=LinearPath(extra_noise=0.2), prediction="data")),
    "unet": ("FlowPolicy", dict(network="unet", net_arch=[32, 16], solver="rk4", sampling_steps=1)),
    "vp": ("DiffusionPolicy", {}),
    "vp rk4": ("DiffusionPolicy", dict(solver="rk4", sampling_steps=3, time_grid="angle")),
    "vp dpm++": ("DiffusionPolicy", dict(solver="dpm++", sampling_steps=6, prediction="score")),
    "cosine dpm++": ("DiffusionPolicy", dict(solver="dpm++", path=CosinePath(), time_features="gaussian_fourier")),
    "unet vp": ("DiffusionPolicy", dict(network="unet", net_arch=[32, 16], solver="euler")),
}


# An export takes seconds; the default is in other tests
@pytest.mark.parametrize("name", slow_but("euler", "heun", "unet", "cosine dpm++", among=SETTINGS))
def test_a_file_acts_as_the_policy_does(arrays, tmp_path, name):
    policy, kwargs = SETTINGS[name]
    model, path = trained(arrays, policy, **kwargs), tmp_path / "policy.onnx"
    model.policy.export_onnx(path)
    for n_rows in (1, 2, 9):
        observation = rows(n_rows)
        expected, _ = model.predict(observation, deterministic=True)
        action = run(path, dict(observation=observation, noise=np.zeros((n_rows, 2), np.float32)))
        assert action.shape == (n_rows, 2, 1)
        # What two libraries round in float32, over steps that a network multiplies
        np.testing.assert_allclose(action, expected, atol=5e-5)
    assert expected.std(axis=0).min() > 1e-3
    # From other noise, as the actor from the same
    noise = np.random.default_rng(1).normal(size=(9, 2)).astype(np.float32)
    with th.no_grad():
        actor = model.policy.actor_ema
        scaled = actor.sample(actor.extract_features(th.as_tensor(observation), actor.features_extractor), th.as_tensor(noise))
    action = run(path, dict(observation=observation, noise=noise))
    np.testing.assert_allclose(action, model.policy.unscale_action(scaled.numpy().reshape(9, 2, 1)), atol=5e-5)
    assert np.abs(action - expected).max() > 1e-2


@pytest.mark.parametrize("name", slow_but("dict", "multi_discrete", among=SPACES))
def test_observations_of_every_kind_are_inputs(tmp_path, name):
    space, path = SPACES[name], tmp_path / "policy.onnx"
    model = GMPO(
        policy_for(name, "Flow"), dataset=dataset_of(space), batch_size=8, policy_kwargs={**SMALL, **BEST}, seed=0
    ).learn(3)
    model.policy.export_onnx(path)
    for n_rows in (1, 5):
        observation = rows_of(model.observation_space, n_rows, seed=2)
        parts = observation if isinstance(space, spaces.Dict) else dict(observation=observation)
        parts = {key: part.astype(np.float32) if part.dtype == np.float64 else part for key, part in parts.items()}
        action = run(path, {**parts, "noise": np.zeros((n_rows, 2), np.float32)})
        np.testing.assert_allclose(action, model.predict(observation, deterministic=True)[0], atol=1e-5)
    inputs = {one.name: one for one in onnxruntime.InferenceSession(str(path)).get_inputs()}
    assert list(inputs) == [*parts, "noise"] and all(one.shape[0] == "batch" for one in inputs.values())
    if name == "dict":
        assert inputs["image"].type == "tensor(uint8)" and inputs["image"].shape[1:] == [3, 36, 36]


@pytest.mark.parametrize("steps", slow_but(4, among=[1, 4]))
def test_noise_on_the_way_is_an_input_of_the_sde_solver(arrays, tmp_path, steps):
    model, path = trained(arrays, solver="sde", sampling_steps=steps), tmp_path / "policy.onnx"
    model.policy.export_onnx(path)
    observation = rows(5)
    inputs = deterministic_inputs(path, 5)
    expected, _ = model.predict(observation, deterministic=True)
    np.testing.assert_allclose(run(path, dict(observation=observation, **inputs)), expected, atol=1e-5)
    assert ("increments" in inputs) == (steps > 1)
    if steps > 1:
        inputs["increments"] = inputs["increments"][:, ::-1] + 1.0
        assert np.abs(run(path, dict(observation=observation, **inputs)) - expected).max() > 1e-2


@pytest.mark.parametrize(
    ("name", "solver"),
    slow_but(
        ("box", "midpoint"),
        ("dict", "sde"),
        among=[("box", "midpoint"), ("box", "sde"), ("dict", "midpoint"), ("dict", "sde")],
    ),
)
def test_the_critic_chooses_among_candidates_in_the_file_too(tmp_path, name, solver):
    space, path = SPACES[name], tmp_path / "policy.onnx"
    # Of a Q that is V plus an advantage, and of a plain one
    critic, kwargs = "onestep" if name == "box" else "iql", dict(n_candidates=6, solver=solver, **SMALL, **BEST)
    options = dict(critic=critic, batch_size=8, policy_kwargs=kwargs, seed=0)
    model = GMPO(policy_for(name, "Flow"), dataset=dataset_of(space), **options).learn(20)
    assert model.critic_options.learns_advantage == (name == "box")
    model.policy.export_onnx(path)
    observation = rows_of(model.observation_space, 7, seed=2)
    parts = observation if isinstance(space, spaces.Dict) else dict(observation=observation.astype(np.float32))
    expected, _ = model.predict(observation, deterministic=True)
    action = run(path, {**parts, **deterministic_inputs(path, 7)})
    np.testing.assert_allclose(action, expected, atol=1e-5)
    model.policy.n_candidates = 1
    assert np.abs(model.predict(observation, deterministic=True)[0] - expected).max() > 1e-3


def test_a_file_leaves_the_policy_alone_and_keeps_what_was_exported(arrays, tmp_path):
    # An extractor that draws in training mode
    model, path = trained(arrays, features_extractor_class=BatchNormDropout), tmp_path / "policy.onnx"
    observation, noise = rows(3), np.zeros((3, 2), np.float32)
    acted, _ = model.predict(observation, deterministic=True)
    model.policy.train()
    before = {key: value.clone() for key, value in model.policy.state_dict().items()}
    model.policy.double().export_onnx(path)
    assert model.policy.actor_ema.training and next(model.policy.parameters()).dtype == th.float64
    model.policy.float()
    assert all(th.equal(value, before[key]) for key, value in model.policy.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.policy.actor_ema.parameters())
    np.testing.assert_allclose(run(path, dict(observation=observation, noise=noise)), acted, atol=1e-5)
    model.learn(20)
    np.testing.assert_allclose(run(path, dict(observation=observation, noise=noise)), acted, atol=1e-5)
    assert np.abs(model.predict(observation, deterministic=True)[0] - acted).max() > 1e-3


def test_actions_stay_in_their_bounds(arrays, tmp_path):
    model, path = trained(arrays), tmp_path / "policy.onnx"
    model.policy.actor_ema.model.network.head.bias.data += th.tensor([50.0, -50.0])
    model.policy.export_onnx(path)
    action = run(path, dict(observation=rows(9), noise=np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)))
    np.testing.assert_array_equal(action, np.repeat(np.float32([[[3.3], [0.5]]]), 9, axis=0))


def test_a_file_says_what_it_takes(arrays, tmp_path):
    path = tmp_path / "policy.onnx"
    trained(arrays, solver="euler", sampling_steps=3).policy.export_onnx(str(path))
    about = onnxruntime.InferenceSession(str(path)).get_modelmeta()
    assert about.producer_name == "sb3_genpolicy"
    assert "3 euler steps" in about.description and "observation (batch, 3), float32; noise (batch, 2)" in about.description
    metadata = {key: json.loads(value) for key, value in about.custom_metadata_map.items()}
    assert metadata["action_low"] == [[-2.0], [0.5]] and metadata["action_high"] == BOUNDS.high.tolist()
    assert (metadata["solver"], metadata["sampling_steps"], metadata["deterministic_noise"]) == ("euler", 3, [0.0, 0.0])


ALONE = """
import sys
sys.modules.update({name: None for name in ("torch", "stable_baselines3", "sb3_genpolicy", "onnx")})
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
inputs = dict(observation=np.zeros((1, 3), np.float32), noise=np.zeros((1, 2), np.float32))
print(session.run(["action"], inputs)[0].ravel().tolist())
"""


def test_onnxruntime_is_all_that_a_robot_needs(arrays, tmp_path):
    model, path = trained(arrays), tmp_path / "policy.onnx"
    model.policy.export_onnx(path)
    assert [file.name for file in Path(tmp_path).glob("*.onnx*")] == ["policy.onnx"]
    path = path.rename(tmp_path / "moved.onnx")
    finished = subprocess.run([sys.executable, "-c", ALONE, str(path)], capture_output=True, text=True, check=True)
    expected, _ = model.predict(np.zeros(3, np.float32), deterministic=True)
    np.testing.assert_allclose(json.loads(finished.stdout), expected.ravel(), atol=1e-5)


class Undecided(ConditionalMLP):
    """A network whose operations depend on values."""

    def forward(self, t, x, condition):
        velocity = super().forward(t, x, condition)
        return velocity if condition.sum() > 0.0 else 0.5 * velocity


def test_what_cannot_be_a_file_is_told(arrays, tmp_path, monkeypatch):
    model = trained(arrays, solver="dopri5")
    with pytest.raises(
        ValueError, match=r"'dopri5' chooses its steps as it goes.*euler, midpoint, heun, rk4, dpm\+\+, sde: policy.set"
    ):
        model.policy.export_onnx(tmp_path / "policy.onnx")
    parts = {"noise": arrays["observations"], "b": arrays["observations"][:, :1]}
    following = {"noise": arrays["next_observations"], "b": arrays["next_observations"][:, :1]}
    noisy = trained({**arrays, "observations": parts, "next_observations": following}, "FlowMultiInputPolicy")
    with pytest.raises(ValueError, match="One key of the observations is called 'noise'"):
        noisy.policy.export_onnx(tmp_path / "policy.onnx")
    with pytest.raises(ValueError, match="something in Undecided, FlattenExtractor, LinearPath looks at the values"):
        trained(arrays, network=Undecided).policy.export_onnx(tmp_path / "policy.onnx")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"torch needs onnxscript: `pip install 'sb3_genpolicy\[onnx\]'`"):
        model.policy.export_onnx(tmp_path / "policy.onnx")
    assert not list(tmp_path.glob("*.onnx"))
