"""
The wheel that somebody installs has all that the package reads, and nothing else; the demo runs from it alone.
"""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import sb3_genpolicy

ROOT = Path(sb3_genpolicy.__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built without a network, of a copy of what git would hand out."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "sb3_genpolicy", "setup.cfg", "pyproject.toml",
         "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    if files.returncode != 0:
        pytest.skip("not in a clone")
    for name in filter(None, files.stdout.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-build-isolation",
        "--no-deps",
        "--no-index",
        "-w",
        str(folder),
        str(source),
    ]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return next(folder.glob("*.whl")), source


@pytest.mark.slow
def test_it_has_every_file_of_the_package(wheel):
    path, source = wheel
    assert path.name == f"sb3_genpolicy-{sb3_genpolicy.__version__}-py3-none-any.whl"
    inside = {name for name in zipfile.ZipFile(path).namelist() if ".dist-info/" not in name}
    there = {file.relative_to(source).as_posix() for file in (source / "sb3_genpolicy").rglob("*") if file.is_file()}
    assert inside == there
    for name in (
        "data/pendulum_mixed.npz",
        "zoo/published_scores.csv",
        "gmpo/hyperparams/published-vp.yml",
        "py.typed",
        "demo.py",
    ):
        assert f"sb3_genpolicy/{name}" in inside


@pytest.mark.slow
def test_demo_runs_from_it_alone(wheel, tmp_path):
    with zipfile.ZipFile(wheel[0]) as archive:
        archive.extractall(tmp_path / "installed")
    command = [sys.executable, "-m", "sb3_genpolicy.demo", "--steps", "3", "--episodes", "2", "--folder", "out"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed"), "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert "Behaviour (the data)        54.4" in finished.stdout and (tmp_path / "out" / "demo.png").stat().st_size > 10_000
