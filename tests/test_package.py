"""
What the package promises of itself: a core without SB3, data that ship with it, one version.
"""

from importlib import metadata, resources
from pathlib import Path

import sb3_genpolicy

PACKAGE = Path(sb3_genpolicy.__file__).parent


def imports_of(file):
    return [line for line in file.read_text().splitlines() if line.startswith(("import ", "from "))]


def test_imports_point_down_only():
    for file in (PACKAGE / "generative").glob("*.py"):
        for line in imports_of(file):
            assert "stable_baselines3" not in line and ".common" not in line and ".gmpo" not in line, (file.name, line)
    for file in (PACKAGE / "common").glob("*.py"):
        assert not any(".gmpo" in line for line in imports_of(file)), file.name


def test_embedded_data_is_small_and_ships():
    assert (resources.files("sb3_genpolicy") / "py.typed").is_file()
    with resources.as_file(resources.files("sb3_genpolicy") / "data" / "pendulum_mixed.npz") as path:
        assert path.stat().st_size < 2_000_000


def test_version_is_the_installed_one():
    assert metadata.version("sb3_genpolicy") == sb3_genpolicy.__version__
