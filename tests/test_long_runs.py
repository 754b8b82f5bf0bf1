"""
Runs that are killed go on from whole files, to the parameters of a run that was not.
"""

import errno
import os
import random
import resource
import signal
import time
import zipfile
from contextlib import contextmanager

import pytest
import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.save_util import load_from_zip_file

from sb3_genpolicy import GMPG, GMPO, last_checkpoint
from sb3_genpolicy.common.files.whole_files import whole_file
from tests.helpers.arrays import SMALL, make_arrays
from tests.helpers.resumed_run import PLACES, SAVE_FREQ, learn, make
from tests.helpers.warm_processes import WarmProcess

STEPS = 800


def assert_same_run(folder, algorithm, steps=STEPS):
    """Bit for bit what one uninterrupted run gives: networks, optimizers, random states, counts."""
    whole = make(algorithm, steps)
    learn(whole, steps)
    whole.save(folder / "whole")
    (settings, parameters, states), (theirs, expected, their_states) = (
        load_from_zip_file(folder / f"{name}.zip", device="cpu") for name in ("final", "whole")
    )
    for name in ("num_timesteps", "_n_updates", "pretraining_steps", "pretraining_finished", "_updates_before_policy"):
        assert settings[name] == theirs[name], name
    for ours, other in ((parameters, expected), (states, their_states)):
        th.testing.assert_close(ours, other, rtol=0, atol=0)


def start(algorithm, folder, steps=STEPS, *options):
    return WarmProcess("tests.helpers.resumed_run", algorithm.__name__, folder, steps, *options, folder=folder)


def finish(process):
    finished = process.finish()
    assert finished.returncode == 0, finished.stderr


def steps_of(file):
    return int(file.stem.split("_")[-2])


def kill_at_a_random_moment(process, folder, n_files):
    """Some time after it has saved once more."""
    while len(list(folder.glob("rl_model_*.zip"))) <= n_files and process.poll() is None:
        time.sleep(0.005)
    time.sleep(random.uniform(0.0, 0.3))
    process.kill()
    process.finish()


@pytest.mark.parametrize("algorithm", [GMPO, GMPG])
def test_a_run_that_is_killed_again_and_again_gives_the_parameters_of_an_uninterrupted_one(tmp_path, algorithm):
    came_to = []
    for _ in range(2):
        n_files = len(list(tmp_path.glob("rl_model_*.zip")))
        kill_at_a_random_moment(start(algorithm, tmp_path), tmp_path, n_files)
        came_to.append(steps_of(last_checkpoint(tmp_path)))
        for file in tmp_path.glob("*.zip"):
            assert zipfile.ZipFile(file).testzip() is None
    assert came_to == sorted(set(came_to)) and all(step % SAVE_FREQ == 0 for step in came_to)
    finish(start(algorithm, tmp_path))
    assert_same_run(tmp_path, algorithm)


@pytest.mark.parametrize("place", PLACES)
def test_a_process_that_is_killed_while_it_saves_leaves_whole_files(tmp_path, place):
    process = start(GMPG, tmp_path, 100, place)
    assert process.finish().returncode == -signal.SIGKILL
    saved = {steps_of(file) for file in tmp_path.glob("*.zip")}
    assert saved == ({SAVE_FREQ, 2 * SAVE_FREQ} if place == "after replace" else {SAVE_FREQ})
    finish(start(GMPG, tmp_path, 100))
    assert_same_run(tmp_path, GMPG, 100)


# Disks


@pytest.fixture
def model():
    return GMPO("FlowPolicy", dataset=make_arrays(), policy_kwargs=SMALL, seed=0).learn(3)


@contextmanager
def full_disk():
    """No file grows beyond 20,000 bytes, less than a model; for as short as can be: the tests' own output is a file, too."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_a_clear_error_and_leaves_the_last_file(tmp_path, model):
    model.save(tmp_path / "model")
    before = (tmp_path / "model.zip").read_bytes()
    model.learn(2, reset_num_timesteps=False)
    there = "; what was there before is still there"
    for name, rest in (("model", there), ("other", "")):
        with pytest.raises(OSError, match=rf"was not written \(File too large\){rest}: .*{name}\.zip") as error, full_disk():
            model.save(tmp_path / name)
        assert error.value.errno == errno.EFBIG
    assert [file.name for file in tmp_path.iterdir() if file.name != "cache"] == ["model.zip"]
    assert (tmp_path / "model.zip").read_bytes() == before
    assert GMPO.load(tmp_path / "model").num_timesteps == 3


def test_a_folder_that_cannot_be_written_to_is_a_clear_error(tmp_path, model):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "model", "/proc/model"):
        with pytest.raises(OSError, match="The file was not written"):
            model.save(path)
        with pytest.raises(OSError, match="The file was not written"):
            model.save_replay_buffer(path)
    # Training goes on
    assert model.learn(2, reset_num_timesteps=False).num_timesteps == 5


def test_a_replay_buffer_that_breaks_down_on_the_way_leaves_the_last_one(tmp_path, model):
    model.save_replay_buffer(tmp_path / "buffer")
    before = (tmp_path / "buffer.pkl").read_bytes()
    model.replay_buffer.lock = open(tmp_path / "model.lock", "w")  # Nothing that can be pickled
    with pytest.raises(TypeError), model.replay_buffer.lock:
        model.save_replay_buffer(tmp_path / "buffer")
    assert (tmp_path / "buffer.pkl").read_bytes() == before
    assert not list(tmp_path.glob("*.part")) and not list(tmp_path.glob(".*.part"))


# Names


@pytest.mark.parametrize("name", ["model", "model.zip", "model.v2", "new/folder/model", "taken"])
def test_names_are_those_that_sb3_would_give(tmp_path, model, name):
    for folder, save in (("ours", model.save), ("theirs", SAC("MlpPolicy", "Pendulum-v1", policy_kwargs=dict(SMALL)).save)):
        (tmp_path / folder / "taken.zip").mkdir(parents=True)
        (tmp_path / folder / "taken").mkdir()
        save(str(tmp_path / folder / name))
    files = [
        sorted(str(file.relative_to(root)) for file in root.rglob("*")) for root in (tmp_path / "ours", tmp_path / "theirs")
    ]
    assert files[0] == files[1]


def test_a_link_stays_one_and_what_it_points_at_is_replaced(tmp_path):
    (tmp_path / "real.zip").write_text("old")
    os.symlink(tmp_path / "real.zip", tmp_path / "link.zip")
    with whole_file(tmp_path / "link.zip", "zip") as file:
        file.write(b"new")
    assert (tmp_path / "link.zip").is_symlink() and (tmp_path / "real.zip").read_text() == "new"


def test_the_last_checkpoint_is_that_with_most_steps(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no checkpoint rl_model_<steps>_steps\.zip in the folder"):
        last_checkpoint(tmp_path)
    for name in ("rl_model_900", "rl_model_1000", "rl_model_vecnormalize_3000", "other_2000", "my_rl_model_5000"):
        (tmp_path / f"{name}_steps.zip").touch()
    (tmp_path / ".rl_model_8000_steps.zip.7.part").touch()
    assert last_checkpoint(tmp_path).name == "rl_model_1000_steps.zip"
    assert last_checkpoint(str(tmp_path), "other").name == "other_2000_steps.zip"
