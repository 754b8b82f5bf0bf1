"""
What a name says of itself: a file by its ending, in capitals or not, a Minari id, or a path to something that is not there.
"""

import os
from pathlib import Path

from minari.dataset.minari_dataset import DATASET_ID_RE

HDF5_SUFFIXES = (".hdf5", ".h5", ".hdf")
NPZ_SUFFIXES = (".npz",)
PICKLE_SUFFIXES = (".pkl", ".pickle")
#: Files of all kinds that hold a dataset
FILE_SUFFIXES = HDF5_SUFFIXES + NPZ_SUFFIXES + PICKLE_SUFFIXES

Name = str | os.PathLike[str]


def ending(path: Name) -> str:
    """
    :param path: a path or another name
    :return: its ending in small letters: ``.npz`` of ``DATA.NPZ``
    """
    return Path(path).suffix.lower()


def fault_of_path(source: Name) -> str | None:
    """
    :param source: a source that is neither the folder of a Minari dataset nor a file of a kind that is read
    :return: what is wrong with it as a path, a sentence; None where it reads like a Minari id
    """
    path = Path(source).expanduser()
    if path.is_file():
        return f"File {path} is of no kind known by its ending; there are {', '.join(FILE_SUFFIXES)}."
    if path.is_dir():
        return (
            f"Folder {path} holds no Minari dataset: give the one that has the folder 'data' in it, or a file "
            f"({', '.join(FILE_SUFFIXES)})."
        )
    if isinstance(source, str) and DATASET_ID_RE.fullmatch(source) is not None:
        return None
    return f"There is no file or folder {path} (looked for in {Path.cwd()})."
