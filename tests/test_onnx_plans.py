"""
Policies that plan and remember, as ONNX files: by the runner that imports nothing of ours, step by step as the model acts.
"""

import ast
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces

from sb3_genpolicy import BC, GMPO
from tests.helpers.arrays import make_arrays

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

RUNNER = Path(__file__).parents[1] / "examples" / "run_onnx.py"


@pytest.fixture(scope="module")
def runner_class():
    spec = importlib.util.spec_from_file_location("run_onnx", RUNNER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Runner


def test_the_runner_needs_numpy_and_onnxruntime_alone():
    tree = ast.parse(RUNNER.read_text())
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert set(names) == {"json", "sys", "typing", "numpy", "onnxruntime"}


def compare(model, runner, shown, starts):
    state = None
    for step, start in enumerate(starts):
        observation = {key: array[step] for key, array in shown.items()} if isinstance(shown, dict) else shown[step]
        if start:
            runner.reset()
        own, state = model.predict(observation, state, np.array([start]), deterministic=True)
        np.testing.assert_allclose(runner.act(observation), own, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "horizon",
    [
        dict(),
        dict(chunk_length=4),
        dict(chunk_length=5, execute_length=2, history=3),
        dict(chunk_length=5, execute_length=2, plan_blending=0.4),
        dict(history=2),
    ],
)
@pytest.mark.parametrize(("algorithm", "policy"), [(BC, "FlowPolicy"), (BC, "GaussianPolicy")])
def test_it_acts_as_the_model_does(algorithm, policy, horizon, tmp_path, runner_class):
    data = make_arrays()
    model = algorithm(policy, None, dataset=data, policy_kwargs=dict(net_arch=[16], **horizon), seed=0, device="cpu").learn(10)
    model.policy.export_onnx(tmp_path / "policy.onnx", deterministic=True)
    shown = np.random.default_rng(0).uniform(-1.0, 1.0, (9, 3)).astype(np.float32)
    compare(model, runner_class(str(tmp_path / "policy.onnx")), shown, [True, *[False] * 4, True, *[False] * 3])


def test_guidance_and_candidates_reach_into_the_executed_part_alone(tmp_path, runner_class):
    horizon = dict(chunk_length=4, execute_length=2, history=2)
    options = dict(
        policy_kwargs=dict(net_arch=[16], guidance=1.0, n_candidates=3, sampling_steps=2, **horizon), seed=0, device="cpu"
    )
    model = GMPO("FlowPolicy", None, dataset=make_arrays(), **options).learn(20)
    model.policy.export_onnx(tmp_path / "policy.onnx", deterministic=True)
    shown = np.random.default_rng(0).uniform(-1.0, 1.0, (5, 3)).astype(np.float32)
    compare(model, runner_class(str(tmp_path / "policy.onnx")), shown, [True, *[False] * 4])


def test_noise_is_drawn_by_the_runner(tmp_path, runner_class):
    options = dict(policy_kwargs=dict(net_arch=[16], chunk_length=3), seed=0, device="cpu")
    model = BC("FlowPolicy", None, dataset=make_arrays(), **options).learn(10)
    model.policy.export_onnx(tmp_path / "policy.onnx")
    about = json.loads(json.dumps(runner_class(str(tmp_path / "policy.onnx")).about))
    assert (about["chunk_length"], about["execute_length"], about["history"], about["plan_blending"]) == (3, 3, 1, None)
    plans = [runner_class(str(tmp_path / "policy.onnx"), seed) for seed in (0, 1)]
    actions = np.array([[runner.act(np.zeros(3, np.float32)) for _ in range(3)] for runner in plans])
    assert actions.shape == (2, 3, 2)
    assert np.abs(actions[0] - actions[1]).min() > 1e-4
    low, high = model.action_space.low, model.action_space.high
    assert np.all((actions >= low) & (actions <= high))


def test_dictionaries_are_stacked_part_by_part(tmp_path, runner_class):
    data = make_arrays()
    split = lambda array: dict(arm=array[:, :2], tool=array[:, 2:])  # noqa: E731
    data = {**data, "observations": split(data["observations"]), "next_observations": split(data["next_observations"])}
    options = dict(policy_kwargs=dict(net_arch=[16], chunk_length=3, execute_length=2, history=2), seed=0, device="cpu")
    model = BC("MultiInputPolicy", None, dataset=data, **options).learn(10)
    assert isinstance(model.policy.observation_space, spaces.Dict)
    model.policy.export_onnx(tmp_path / "policy.onnx", deterministic=True)
    shown = split(np.random.default_rng(0).uniform(-1.0, 1.0, (6, 3)).astype(np.float32))
    compare(model, runner_class(str(tmp_path / "policy.onnx")), shown, [True, False, False, True, False, False])
