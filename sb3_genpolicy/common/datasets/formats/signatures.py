"""
What a file or folder is, by what is in it and not by its name, before it is read.
"""

import pickletools
import re
import zipfile
from pathlib import Path
from typing import NamedTuple

from sb3_genpolicy.common.datasets.paths import PICKLE_SUFFIXES, ending
from sb3_genpolicy.common.datasets.row_reader import READ_ERRORS


class Kind(NamedTuple):
    """
    :param key: of the reader, empty for what is not read
    :param phrase: what a source of this kind is, for messages
    :param way_on: of what is not read, what to do
    """

    key: str
    phrase: str
    way_on: str = ""


D4RL = Kind("columns", "HDF5 of arrays, D4RL's layout")
NPZ = Kind("columns", "npz of arrays")
MINARI = Kind("minari", "a Minari dataset")
BUFFER = Kind("buffer", "the pickle of an SB3 replay buffer")
ROBOMIMIC = Kind("robomimic", "robomimic's demonstrations")
D3RLPY = Kind("d3rlpy", "d3rlpy's episodes")
D3RLPY_V1 = Kind("d3rlpy_v1", "an MDPDataset of d3rlpy 1")
TIANSHOU = Kind("tianshou", "Tianshou's replay buffer")
TORCHRL = Kind("torchrl", "TorchRL's trajectories")
SB2 = Kind("sb2", "Stable-Baselines2's expert trajectories")
IMITATION_NPZ = Kind("imitation_npz", "imitation's trajectories")
IMITATION = Kind("imitation", "imitation's saved trajectories")
PICKLE = Kind("pickle", "a pickle of trajectories")
PARQUET = Kind("parquet", "a Parquet table")
FEATHER = Kind("feather", "a Feather table")
CSV = Kind("csv", "a CSV table")
LEROBOT = Kind("lerobot", "a LeRobot dataset")
STEP_FILES = Kind("step_files", "a folder of episodes as dm_env's time steps")
DREAMER_CHUNKS = Kind("dreamer_chunks", "a DreamerV3 replay of chunks")
TORCH = Kind("", "what torch saves", "load it with `torch.load(path, weights_only=True)` and pass a mapping of its arrays")
ZARR = Kind("", "a zarr store, as of Diffusion Policy", "open it with zarr and pass a mapping of its arrays")
RLDS = Kind("", "a TFDS dataset of RLDS episodes", "read it with tensorflow_datasets and pass a list of trajectories")
GZIP = Kind("", "packed by gzip", "unpack it first, by gunzip")
EXCEL = Kind("", "an Excel workbook", "read it with pandas.read_excel and pass the table")
JSON = Kind("", "a text of JSON", "read it with pandas.read_json (lines=True of a row a line) and pass the table")
NPY = Kind("", "a single numpy array", "load it with numpy.load, and pass a mapping of arrays or a list of trajectories")
ROSBAG = Kind("", "a ROS bag or MCAP recording", "convert it to a LeRobot dataset or a table first")
TORCHRL_FOLDER = Kind(
    "",
    "a memory-mapped TensorDict of TorchRL",
    "save its buffer with `H5StorageCheckpointer`, or pass its arrays as a mapping",
)

#: First bytes of a file, and what they say it is
_MAGIC = (
    (b"PAR1", PARQUET),
    (b"ARROW1", FEATHER),
    (b"FEA1", FEATHER),
    (b"\x89MCAP0", ROSBAG),
    (b"#ROSBAG", ROSBAG),
    (b"\x93NUMPY", NPY),
)
# TorchRL's names of trajectories: with as many digits as the last one needs
_TRAJECTORY = re.compile(r"traj_\d+")
_GZIP = b"\x1f\x8b"
_HDF5, _ZIP = b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".pq", ".feather", ".arrow")
# Steps of a pickle that are looked at for the first class in it
_OPCODES = 200


def recognise(path: Path) -> Kind | None:
    """
    :param path: a file or folder that is there
    :return: what it is; None where nothing tells, or it is damaged
    """
    try:
        if path.is_dir():
            return _folder(path)
        with path.open("rb") as file:
            head = file.read(16)
        for magic, kind in _MAGIC:
            if head.startswith(magic):
                return kind
        if head.startswith(_HDF5):
            return _hdf5(path)
        if head.startswith(_ZIP):
            return _zip(path)
        if head[:1] == b"\x80" and len(head) > 1 and head[1] <= 5:
            return _pickle(path)
        # Python 2's pickles begin with no mark
        if ending(path) in PICKLE_SUFFIXES and head[:1] in (b"(", b"]", b"}"):
            return _pickle(path)
        if head.startswith(_GZIP):
            return CSV if path.name.lower().endswith((".csv.gz", ".tsv.gz")) else GZIP
    except (*READ_ERRORS, ValueError, KeyError):
        return None
    if path.suffix.lower() in (".jsonl", ".ndjson", ".json"):
        return JSON
    return CSV if path.suffix.lower() in (".csv", ".tsv") else None


def _hdf5(path: Path) -> Kind:
    import h5py

    with h5py.File(path, "r") as file:
        keys = set(file)
        if "episode_0" in keys:
            return MINARI
        if isinstance(file.get("data"), h5py.Group) and any(
            isinstance(group, h5py.Group) and "actions" in group for group in file["data"].values()
        ):
            return ROBOMIMIC
        if {"columns", "num_episodes", "version"} <= keys:
            return D3RLPY
        if {"discrete_action", "observations", "terminals"} <= keys:
            return D3RLPY_V1
        if "maxsize" in file.attrs and "_meta" in keys:
            return TIANSHOU
        if "_len" in keys and any(_TRAJECTORY.fullmatch(key) for key in keys):
            return TORCHRL
    return D4RL


def _zip(path: Path) -> Kind:
    with zipfile.ZipFile(path) as archive:
        names = {name.removesuffix(".npy") for name in archive.namelist()}
    if any(name.endswith("data.pkl") for name in names):
        return TORCH
    if "xl/workbook.xml" in names:
        return EXCEL
    if {"episode_starts", "obs", "actions", "rewards"} <= names:
        return SB2
    if {"obs", "acts", "indices", "terminal"} <= names:
        return IMITATION_NPZ
    return NPZ


def _pickle(path: Path) -> Kind:
    """By the first class that it names: a pickle of SB3 begins with the buffer's."""
    with path.open("rb") as file:
        texts: list[str] = []
        for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if opcode.name == "GLOBAL":
                return _by_module(str(argument))
            if opcode.name == "STACK_GLOBAL":
                return _by_module(" ".join(texts[-2:]))
            if isinstance(argument, str):
                texts.append(argument)
            if number == _OPCODES:
                break
    return PICKLE


def _by_module(name: str) -> Kind:
    return BUFFER if name.startswith(("stable_baselines3.", "sb3_genpolicy.")) else PICKLE


def _folder(path: Path) -> Kind | None:
    for name, kind in ((".zgroup", ZARR), ("zarr.json", ZARR), ("features.json", RLDS)):
        if (path / name).is_file():
            return kind
    if (path / "meta" / "info.json").is_file():
        return LEROBOT
    if (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
        return IMITATION
    if (path / "meta.json").is_file() and any(path.glob("*.memmap")):
        return TORCHRL_FOLDER
    if ((path / "data").is_dir() and (path / "data" / "metadata.json").is_file()) or any(
        (path / "data").glob("main_data.hdf5")
    ):
        return MINARI
    first = next(iter(sorted(path.glob("*.npz"))), None)
    if first is None:
        tables = [file for file in path.rglob("*") if file.is_file() and not file.name.startswith((".", "_"))]
        return PARQUET if tables and all(file.suffix.lower() in (".parquet", ".pq") for file in tables) else None
    if not _is_step_file(first):
        return None
    return DREAMER_CHUNKS if is_chunk(first) else STEP_FILES


def _is_step_file(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        keys = {name.removesuffix(".npy") for name in archive.namelist()}
    return {"action", "reward"} <= keys and bool(keys & {"discount", "is_first", "is_terminal"})


def is_chunk(path: Path) -> bool:
    """
    :param path: an npz file
    :return: whether DreamerV3 names its chunks so: time, own id, id of the next, length
    """
    return len(path.stem.split("-")) == 4 and "F" in path.stem.partition("-")[0]


def describe(path: Path) -> str:
    """
    :param path: a file or folder
    :return: a sentence that says what it is, without reading its rows
    """
    what = "Folder" if path.is_dir() else "File"
    if not path.exists():
        return f"There is no file or folder {path}."
    kind = recognise(path)
    if kind is None:
        return f"{what} {path} is of no kind known."
    if not kind.key:
        return f"{what} {path} is {kind.phrase}, which is not read here: {kind.way_on}."
    return f"{what} {path} is {kind.phrase}."


def label_of_file(path: Path, kind: Kind) -> str:
    """
    :param path: a file or folder
    :param kind: what it is
    :return: what it is called in messages
    """
    what = "Folder" if path.is_dir() else "File"
    return f"{what} {path} ({kind.phrase})"
