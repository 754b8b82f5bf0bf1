"""
Files that were cut off or whose bytes were changed are refused, and left as they are.
"""

import io
import pickle
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.helpers.data_formats import flat_columns, make_episodes, without, write_hdf5, write_npz, write_pickle
from tests.helpers.dataset_faults import EPISODES, assert_refused


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.98])
@pytest.mark.parametrize("kind", ["npz", "compressed npz", "hdf5", "pkl"])
def test_files_that_were_cut_off(kind, share, tmp_path):
    if kind == "hdf5":
        path = write_hdf5(tmp_path / "cut.hdf5", flat_columns(EPISODES))
    elif kind == "pkl":
        path = write_pickle(tmp_path / "cut.pkl", EPISODES)
    else:
        path = write_npz(tmp_path / "cut.npz", flat_columns(EPISODES), compressed=kind.startswith("compressed"))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert_refused(path, rf"File {path} (is damaged or cut off|is no replay buffer of SB3, or damaged)", path=path)


@pytest.mark.parametrize("compressed", [True, False])
def test_flipped_bytes_inside_an_npz(compressed, tmp_path):
    """The archive opens; a member's checksum, or its compression, does not hold."""
    path = write_npz(tmp_path / "flipped.npz", flat_columns(make_episodes((50, 60))), compressed)
    data = bytearray(path.read_bytes())
    data[600:640] = bytes(40)
    path.write_bytes(data)
    assert_refused(path, rf"File {path}.*(damaged|cut off)", path=path)


@pytest.mark.parametrize("compressed", [True, False])
def test_an_npz_whose_checksum_does_not_hold(compressed, tmp_path):
    """Every byte can be read and decompressed; only the archive's own sum of `rewards` says that they are others."""
    path = write_npz(tmp_path / "sum.npz", flat_columns(make_episodes((50, 60))), compressed)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        crc = archive.getinfo("rewards.npy").CRC.to_bytes(4, "little")
    for place in (data.find(crc), data.rfind(crc)):
        data[place : place + 4] = bytes(4)
    path.write_bytes(data)
    assert_refused(path, rf"File {path}.*\(Bad CRC-32 for file 'rewards.npy'\)", path=path)


def test_a_member_of_an_npz_that_is_shorter_than_it_says(tmp_path):
    path = write_npz(tmp_path / "short.npz", without(flat_columns(EPISODES), "rewards"))
    buffer = io.BytesIO()
    np.save(buffer, flat_columns(EPISODES)["rewards"])
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("rewards.npy", buffer.getvalue()[:-40])
    assert_refused(path, r"rewards cannot be read from row 0 on \(its data stop at row 16 of 26\)", path=path)


def test_a_compressed_chunk_of_an_hdf5_file_is_damaged(tmp_path):
    path = write_hdf5(tmp_path / "flipped.hdf5", flat_columns(make_episodes((500, 600))))
    with h5py.File(path) as file:
        chunk = file["observations"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset : chunk.byte_offset + 100] = bytes(100)
    path.write_bytes(data)
    assert_refused(path, rf"File {path}: observations cannot be read from row 0 on", path=path)


def test_what_is_no_file_of_its_kind(tmp_path):
    for name in ("text.npz", "text.hdf5", "text.pkl"):
        path = tmp_path / name
        path.write_text("not what its name says")
        assert_refused(path, rf"File {path}", path=path)
    assert_refused(tmp_path / "absent.npz", rf"There is no file {tmp_path}/absent.npz \(looked for in ")
    assert_refused([tmp_path / "absent.npz"], rf"There is no file {tmp_path}/absent.npz")
    (tmp_path / "table.csv").write_text("1,2")
    assert_refused(tmp_path / "table.csv", r"table.csv \(a CSV table\) has the columns 1, 2, and nothing says which are what")
    path = tmp_path / "other.pkl"
    path.write_bytes(pickle.dumps({"a": 1}))
    assert_refused(path, r"other.pkl .* has no key 'observations'; it has a\.", path=path)


def test_a_pickle_that_runs_a_command_runs_nothing(tmp_path):
    class Malicious:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    path = tmp_path / "malicious.pkl"
    path.write_bytes(pickle.dumps(Malicious()))
    assert_refused(
        path,
        r"malicious.pkl \(a pickle of trajectories\) asks for 'pathlib.*no list of arrays needs, and was not read further",
    )
    assert not (tmp_path / "ran").exists()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "ran").exists()  # it would have
