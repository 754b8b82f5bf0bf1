"""
Files that are written whole or not at all, whenever a process is killed or a disk is full.
"""

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast


@contextmanager
def whole_file(path: str | Path | io.BufferedIOBase, suffix: str) -> Iterator[io.BufferedWriter]:
    """
    Open a file for writing that takes its place when it is whole; until then, what was there before is there.

    It is written under another name in the same folder, ``.<name>.<process>.part``, which stays where a process is killed.

    :param path: the file, whose folders are made; one that is open is given back as it is
    :param suffix: what its name ends in where it has no ending, as in SB3
    :raises OSError: if it cannot be written
    """
    if not isinstance(path, (str, Path)):
        yield cast(io.BufferedWriter, path)
        return
    target = _target_of(Path(path), suffix)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
        _sync_folder(target.parent)
    except OSError as error:
        there = "; what was there before is still there" if target.exists() else ""
        raise OSError(error.errno, f"The file was not written ({error.strerror}){there}", str(target)) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _target_of(path: Path, suffix: str) -> Path:
    path = path if path.suffix else Path(f"{path}.{suffix}")
    # Where a name stands for a file elsewhere, that one is replaced; SB3 too goes beside a folder of the name
    return Path(os.path.realpath(f"{path}_2" if path.is_dir() else path))


def _sync_folder(folder: Path) -> None:
    """A name outlasts a power failure when its folder is written; not every system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def last_checkpoint(folder: str | Path, name_prefix: str = "rl_model") -> Path:
    """
    The file to go on from after a run was killed.

    :param folder: where a ``CheckpointCallback`` saved to (its ``save_path``)
    :param name_prefix: its ``name_prefix``
    :return: the checkpoint with most steps; none of them is half written
    :raises FileNotFoundError: if there is none
    """
    pattern = re.compile(re.escape(name_prefix) + r"_(\d+)_steps\.zip")
    found = [(int(match[1]), file) for file in Path(folder).glob("*.zip") if (match := pattern.fullmatch(file.name))]
    if not found:
        raise FileNotFoundError(f"There is no checkpoint {name_prefix}_<steps>_steps.zip in the folder {folder}.")
    return max(found)[1]
