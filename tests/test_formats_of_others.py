"""
Files that other libraries wrote, read as these libraries read them (`tests/data_of_others/make.py` made both).
"""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from sb3_genpolicy import load_dataset

FOLDER = Path(__file__).parent / "data_of_others"
LOST = "ignore:.* cut off is left out"
#: Name of what the peer read -> file, and what is asked for beside
FILES = {
    "d3rlpy": ("d3rlpy.h5", {}),
    "tianshou_ring": ("tianshou_ring.hdf5", {}),
    "tianshou_vector": ("tianshou_vector.hdf5", {}),
    "torchrl": ("torchrl.h5", {}),
    "torchrl_full": ("torchrl_full.h5", {}),
    "imitation": ("imitation", {}),
    "imitation.npz": ("imitation.npz", {}),
    "robomimic": ("robomimic.hdf5", dict(observations=["eef", "gripper"])),
    "robomimic_train": ("robomimic.hdf5", dict(observations=["eef", "gripper"], subset="train")),
    "lerobot": ("lerobot", dict(observations="observation.state")),
}
KEYS = ("observations", "actions", "rewards", "next_observations", "terminals")


def flat(rows):
    """Dictionaries side by side."""
    return np.concatenate(list(rows.values()), axis=1) if isinstance(rows, dict) else rows


def sorted_rows(arrays):
    """Rows in an order of their own: a peer may keep episodes in another one."""
    order = np.lexsort(np.asarray(arrays["observations"]).T)
    return {key: np.asarray(arrays[key])[order] for key in KEYS}


@pytest.mark.filterwarnings(LOST, "ignore:.*only say that a demonstration ended")
@pytest.mark.parametrize("name", FILES)
def test_every_format_is_read_as_its_own_library_reads_it(name):
    if name in ("imitation", "lerobot"):
        pytest.importorskip("pyarrow")
    file, options = FILES[name]
    data = load_dataset(FOLDER / file, **options)
    with np.load(FOLDER / f"{name}.expected.npz") as archive:
        expected = sorted_rows(archive)
    read = sorted_rows({key: flat(data[key]) for key in KEYS})
    counts = expected["terminals"] == 0
    for key in KEYS:
        rows = counts if key == "next_observations" else slice(None)
        np.testing.assert_array_equal(read[key][rows], expected[key][rows], err_msg=key)
        if "tianshou" in name:
            # In time's order, where the ring has gone round too
            with np.load(FOLDER / f"{name}.expected.npz") as archive:
                np.testing.assert_array_equal(data[key], archive[key].astype(np.float32), err_msg=key)
    # No end had to be guessed
    assert data.inferred_cuts == 0
    # Whatever ended an episode but a terminal step, the value of the next observation counts
    np.testing.assert_array_equal(data.timeouts[data.ends], 1 - data.terminals[data.ends])
    if not options.get("subset") and "tianshou" not in name:
        assert data.n_episodes == 3
    # Its own name loads it again
    assert data.name == (None if options else str(FOLDER / file))


@pytest.mark.filterwarnings(LOST, "ignore:.*only say that a demonstration ended")
@pytest.mark.parametrize("name", FILES)
def test_rows_of_others_may_stay_on_disk(name, tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    monkeypatch.setenv("SB3_GENPOLICY_CACHE", str(tmp_path))
    file, options = FILES[name]
    mapped, read = load_dataset(FOLDER / file, memory_map=True, **options), load_dataset(FOLDER / file, **options)
    assert mapped.memory_mapped
    for key in KEYS:
        np.testing.assert_array_equal(flat(mapped[key]), flat(read[key]))


@pytest.mark.filterwarnings(LOST)
def test_demonstrations_are_in_the_order_of_their_numbers(tmp_path):
    """demo_10 after demo_2: their actions come by h5py."""
    with h5py.File(FOLDER / "robomimic.hdf5") as file:
        expected = np.concatenate([file[f"data/demo_{number}/actions"][()] for number in (1, 2, 10)])
    with pytest.warns(UserWarning, match=r"1 `dones` earn nothing.*they are cuts"):
        with pytest.warns(UserWarning, match=r"observations camera \(images\) are left out"):
            data = load_dataset(FOLDER / "robomimic.hdf5")
    np.testing.assert_array_equal(data.actions, expected)
    assert data.env_id == "Lift"


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.filterwarnings(LOST)
def test_dones_of_either_mode_and_no_next_obs(tmp_path, mode):
    """Success lasts two states in demo_1. Mode 0 flags them, mode 1 the end: the time is up in demo_2 either way."""
    path = tmp_path / "demos.hdf5"
    with h5py.File(path, "w") as file:
        for name, success in (("demo_1", [0, 0, 1, 1]), ("demo_2", [0, 0, 0, 0])):
            group = file.create_group(f"data/{name}")
            group["obs/state"], group["actions"] = np.arange(4.0)[:, None], np.zeros((4, 1), np.float32)
            group["rewards"], group["dones"] = np.float64(success), np.int64(success if mode == 0 else [0, 0, 0, 1])
    data = load_dataset(path)
    # The last step of the second has no successor
    np.testing.assert_array_equal(data.terminals, [0, 0, mode == 0, 1, 0, 0, 0])
    np.testing.assert_array_equal(data.timeouts, [0, 0, 0, 0, 0, 0, 1])
    np.testing.assert_array_equal(data.next_observations[:3, 0], [1, 2, 3])


WRONG = {
    "observation key": ("robomimic.hdf5", dict(observations=["eeff"]), r"has no 'eeff', asked for .* Did you mean 'eef'"),
    "filter": ("robomimic.hdf5", dict(subset="trian"), r"subset='trian' is unknown. Did you mean 'train'"),
    "option": ("robomimic.hdf5", dict(episode="demo"), r"demonstrations\) has no use for episode=. There are: obs"),
    "none": ("d3rlpy.h5", dict(observations="x"), r"d3rlpy's episodes\) has no use for observations=. Such sources say"),
    "feature": ("lerobot", dict(observations="observation.stat"), r"Did you mean 'observation.state'"),
    "rewards": ("lerobot", dict(observations="observation.state", rewards="next.rewards"), r"Did you mean 'next.reward'"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_option_names_the_nearest_right_one(name):
    file, options, pattern = WRONG[name]
    with pytest.raises(ValueError, match=pattern):
        load_dataset(FOLDER / file, **options)


@pytest.mark.parametrize("name", ["d3rlpy.h5", "tianshou_ring.hdf5", "torchrl.h5", "imitation.npz", "robomimic.hdf5"])
def test_files_of_others_that_are_cut_off_are_refused(name, tmp_path):
    content = (FOLDER / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="damaged or cut off"):
        load_dataset(path)


def test_folders_that_are_not_whole_are_refused(tmp_path):
    pytest.importorskip("pyarrow")
    for name, file in (("lerobot", "data/chunk-000/file-000.parquet"), ("imitation", "data-00000-of-00001.arrow")):
        folder = shutil.copytree(FOLDER / name, tmp_path / name)
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match="damaged or cut off"):
            load_dataset(folder)
