"""
What the package promises of itself: a core without SB3, data that ship with it, one version.
"""

import importlib
import json
import pickle
import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

import pytest

import sb3_genpolicy
from sb3_genpolicy.common import moved


def test_generative_core_needs_no_reinforcement_learning_library():
    absent = "import sys; sys.modules.update({name: None for name in ('stable_baselines3', 'gymnasium', 'minari')}); "
    use = "from sb3_genpolicy.generative import LinearPath; import sb3_genpolicy; sb3_genpolicy.generative.LinearPath"
    subprocess.run([sys.executable, "-c", absent + use], check=True)


def test_every_public_name_is_there():
    for name in sb3_genpolicy.__all__:
        assert getattr(sb3_genpolicy, name) is not None and name in dir(sb3_genpolicy)
    assert sb3_genpolicy.gmpo.GMPO is sb3_genpolicy.GMPO
    with pytest.raises(AttributeError, match="has no attribute 'GMPOO'"):
        sb3_genpolicy.GMPOO  # noqa: B018


def test_embedded_data_is_small_and_ships():
    assert (resources.files("sb3_genpolicy") / "py.typed").is_file()
    with resources.as_file(resources.files("sb3_genpolicy") / "data" / "pendulum_mixed.npz") as path:
        assert path.stat().st_size < 2_000_000


def test_version_is_the_installed_one():
    from_folder = json.loads(metadata.distribution("sb3_genpolicy").read_text("direct_url.json") or "{}").get("url", "")
    if from_folder and not Path(sb3_genpolicy.__file__).is_relative_to(url2pathname(urlparse(from_folder).path)):
        pytest.skip("installed from another folder than the one that is tested")
    assert metadata.version("sb3_genpolicy") == sb3_genpolicy.__version__


def test_changelog_begins_with_the_version():
    changelog = (Path(__file__).parent.parent / "CHANGELOG.md").read_text()
    first = next(line for line in changelog.splitlines() if line.startswith("## "))
    assert first.split()[1] == sb3_genpolicy.__version__


def test_paths_of_release_0_1_lead_to_the_modules():
    """In imports, with a warning, and in pickles, which name classes by them."""
    for old, new in moved._PATHS.items():
        sys.modules.pop(old, None)
        with pytest.warns(DeprecationWarning, match=f"{old} is {new} since"):
            module = importlib.import_module(old)
        assert module is importlib.import_module(new) and module.__spec__.name == new
    from sb3_genpolicy.common.policies import FlowPolicy
    from sb3_genpolicy.common.transitions import Transitions

    assert FlowPolicy is sb3_genpolicy.gmpo.FlowPolicy and Transitions is sb3_genpolicy.Transitions
    named = b"csb3_genpolicy.common.policies\nFlowPolicy\n."
    assert pickle.loads(named) is FlowPolicy
    assert pickle.loads(b"csb3_genpolicy.common.rewards\nAffineReward\n.") is sb3_genpolicy.AffineReward
    with pytest.raises(AttributeError, match="has no attribute 'FlowPolice'"):
        importlib.import_module("sb3_genpolicy.common.policies").FlowPolice  # noqa: B018


#: What an import of every public name does not need, each of them a good part of a second
HEAVY = ("scipy", "pandas", "matplotlib.pyplot", "pyarrow", "h5py", "torchdiffeq", "torch.export", "torch.onnx.ops")
HEAVY += ("optuna", "rl_zoo3", "onnx", "mujoco", "huggingface_hub", "tensorflow", "sb3_genpolicy.zoo")


def test_an_import_brings_nothing_heavy_along():
    """What is loaded beyond Stable-Baselines3, which may itself load some (benchmarks/import_time.py measures it)."""
    program = f"""
import sys
import stable_baselines3
before = set(sys.modules)
import sb3_genpolicy.public
print([name for name in {HEAVY} if name in sys.modules and name not in before])
"""
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
