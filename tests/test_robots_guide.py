"""
The guide from a robot's data to a file that acts, block by block.
"""

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from sb3_genpolicy import export_lerobot, load_dataset
from tests.helpers.arrays import make_arrays

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs" / "guide" / "robots.md"


def test_the_guide_runs_from_a_lerobot_folder_to_a_file_that_acts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    shutil.copy(ROOT / "examples" / "run_onnx.py", tmp_path)
    # Of our own making here; files of LeRobot's own are read in tests/test_lerobot_folders.py
    export_lerobot(load_dataset(make_arrays(n_episodes=6)), "demonstrations", fps=20)
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert len(blocks) == 5
    names = {}
    for block in blocks:
        exec(block.replace("20_000", "30"), names)
    sys.modules.pop("run_onnx")
    assert names["data"].rewards.sum() == names["data"].n_episodes == 6
    assert names["plan"].shape == (8, 2)
    # The last action of the file is that of the model in the same place
    state = None
    for step, observation in enumerate(names["data"].observations[:10]):
        expected, state = names["model"].predict(observation, state, np.array([step == 0]), deterministic=True)
    np.testing.assert_allclose(names["action"], expected, rtol=1e-5, atol=1e-5)
