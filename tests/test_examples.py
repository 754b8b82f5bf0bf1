"""
The examples run as a reader would run them, in a short mode.
"""

import os
from pathlib import Path

import pytest

from sb3_genpolicy import BC
from tests.helpers.arrays import make_arrays
from tests.helpers.warm_processes import WarmProcess

EXAMPLES = Path(__file__).parent.parent / "examples"
SHORT = {
    "bandit_2d.py": ["--pretraining-steps", "20", "--gmpo-steps", "5", "--gmpg-steps", "2"],
    "densities_2d.py": ["--steps", "20", "--resolution", "20"],
    "gmpo_in_one_file.py": ["--steps", "3", "--hidden", "16"],
    "gmpg_in_one_file.py": ["--pretraining-steps", "3", "--steps", "1"],
    "demo.py": ["--steps", "3", "--episodes", "2", "--folder", "out"],
    "own_arrays.py": ["--steps", "20"],
    "go_on_online.py": ["--offline-steps", "20", "--online-steps", "20", "--episodes", "1"],
    "minari_dataset.py": ["--dataset", "pendulum-mixed", "--steps", "20", "--episodes", "1"],
    "record_dataset.py": ["--online-steps", "210", "--steps", "850", "--gradient-steps", "5", "--folder", "out"],
    "sb3_replay_buffer.py": ["--online-steps", "210", "--steps", "20"],
    "several_processes.py": ["--steps", "20"],
    "run_onnx.py": ["policy.onnx"],
    "two_ways.py": ["--steps", "20", "--path", "two_ways.svg"],
    "callbacks_and_tensorboard.py": ["--steps", "20", "--folder", "out"],
}


def run(name, folder):
    # As for a user: no progress bars of this terminal, one thread for networks this small
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(EXAMPLES.parent)}
    return WarmProcess(EXAMPLES / name, *SHORT[name], folder=folder, environment=environment).finish()


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_example_runs(name, tmp_path):
    if name == "run_onnx.py":
        # It acts by a file, and needs what writes and reads such files
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
        model = BC("FlowPolicy", None, dataset=make_arrays(), policy_kwargs=dict(net_arch=[8], chunk_length=3), device="cpu")
        model.policy.export_onnx(tmp_path / "policy.onnx", deterministic=True)
    finished = run(name, tmp_path)
    assert finished.returncode == 0, finished.stderr
    if name == "demo.py":
        assert "Behaviour (the data)        54.4" in finished.stdout
        # Shown on the way, before the second training
        assert finished.stdout.index(" 1 steps, ") < finished.stdout.index("Behaviour cloning: ")
        assert (tmp_path / "out" / "demo.png").stat().st_size > 10_000 and (tmp_path / "out" / "gmpo_pendulum.zip").exists()
    if name == "callbacks_and_tensorboard.py":
        assert "went on from step 4 to step 20" in finished.stdout
        assert list((tmp_path / "out" / "GMPO_1").glob("events.*"))
    if name == "record_dataset.py":
        # Four copies at a time: the last episode of two of them is cut off
        assert "850 (" in finished.stdout and "validation/" in finished.stdout
        assert (tmp_path / "out" / "sac.png").stat().st_size > 10_000
    if name.endswith("in_one_file.py"):
        assert "48000 rows, 240 episodes, returns -642.7" in finished.stdout and "sampled -" in finished.stdout
    if name == "own_arrays.py":
        assert finished.stdout.count("heat with") == 3
    if name == "two_ways.py":
        # The data are as announced, whatever the policies have learnt in so few steps
        assert "the data: two ways: 50 % left, 50 % right" in finished.stdout
        assert "GMPO: which is better" in (tmp_path / "two_ways.svg").read_text()
    if name == "run_onnx.py":
        assert "'chunk_length': 3" in finished.stdout
    if name == "several_processes.py":
        assert (tmp_path / "gmpo_several_processes.zip").exists()
    if name == "minari_dataset.py":
        assert "normalised score" in finished.stdout
