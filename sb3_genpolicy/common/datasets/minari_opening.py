"""
Minari datasets on this machine: which there are, and one opened, also where its metadata name an environment that is unknown
here.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import minari
from gymnasium.envs.registration import EnvSpec
from minari import MinariDataset
from minari.dataset._storages import get_minari_storage
from minari.dataset.minari_dataset import DATASET_ID_RE
from minari.dataset.minari_storage import MinariStorage
from minari.serialization import deserialize_space
from minari.storage.datasets_root_dir import get_dataset_path
from minari.storage.local import dataset_id_sort_key

from sb3_genpolicy.common.datasets.download import download_minari, is_remote, local_id
from sb3_genpolicy.common.datasets.embedded import EMBEDDED
from sb3_genpolicy.common.datasets.env_specs import SPEC_KEYS, readable_spec, recorded_env_id
from sb3_genpolicy.common.datasets.paths import Name, fault_of_path


def open_minari(source: Name, download: bool = False) -> MinariDataset:
    """
    :param source: id of a Minari dataset, its remote address, or its folder
    :param download: whether it is fetched if it is not on this machine; a remote address always is
    :return: the dataset, unread
    :raises ValueError: if there is none, or its metadata are damaged
    """
    name, folder = os.fspath(source), Path(source).expanduser()
    is_folder = (folder / "data").is_dir()
    if is_remote(name) or (download and not is_folder and isinstance(source, str) and DATASET_ID_RE.fullmatch(name)):
        download_minari(name)
    if not is_folder:
        folder = Path(get_dataset_path(local_id(name)))
        if not (folder / "data").exists():
            raise ValueError(fault_of_path(source) or _no_dataset(name))
    try:
        return _opened(folder / "data", None if is_folder else local_id(name))
    except ImportError as error:
        raise ValueError(f"Dataset '{name}' cannot be read without another package: {error}") from error
    except Exception as error:
        raise ValueError(
            f"Dataset '{name}' cannot be opened ({error}): its metadata are damaged, or of another version of Minari."
        ) from error


def _no_dataset(name: str) -> str:
    # Without a version it may be a folder that is meant
    is_path = "/" in name and not _is_complete(name)
    missing = f"There is no folder {name} (looked for in {Path.cwd()}), and " if is_path else "There is "
    return (
        f"{missing}no dataset '{name}' on this machine, which has {', '.join(local_datasets_for(None))}. "
        f"A Minari dataset is fetched by `minari download {name}`, or by `load_dataset` with download=True; ids end in a "
        "version: 'mujoco/hopper/medium-v0'."
    )


def _opened(path: Path, dataset_id: str | None) -> MinariDataset:
    try:
        return MinariDataset(path) if dataset_id is None else minari.load_dataset(dataset_id)
    except ImportError:
        raise
    except Exception:
        # Of damaged metadata this says what is wrong with them, where their environment is not all that is
        return _opened_whatever_its_environment(path)


def _opened_whatever_its_environment(path: Path) -> MinariDataset:
    """As Minari does it, without those parts of specifications that another version of gymnasium wrote."""
    metadata = MinariStorage.read_raw_metadata(path)
    specs = {key: readable_spec(metadata[key]) for key in SPEC_KEYS if metadata.get(key) is not None}
    spaces = {key: deserialize_space(metadata[key]) for key in ("observation_space", "action_space") if key in metadata}
    if len(spaces) < 2 and specs.get(SPEC_KEYS[0]) is not None:
        # Early datasets leave their spaces to the environment
        env = gym.make(EnvSpec.from_json(str(specs[SPEC_KEYS[0]])))
        spaces = {"observation_space": env.observation_space, "action_space": env.action_space, **spaces}
        env.close()
    base: Any = get_minari_storage(metadata["data_format"])

    class Storage(base):
        @property
        def metadata(self) -> dict[str, Any]:
            return {**super().metadata, **specs}

    return MinariDataset(Storage(path, **spaces, jpeg_encoding=bool(metadata.get("jpeg_encoding", True))))


def local_datasets_for(env_id: str | None) -> list[str]:
    """
    :param env_id: an environment's id, or None for all
    :return: the datasets on this machine that were recorded in that environment (in any version of it)
    """
    embedded = list(EMBEDDED) if env_id is None or same_env(env_id, "Pendulum-v1") else []
    return embedded + local_minari_datasets(env_id)


def same_env(env_id: str, other: str) -> bool:
    """
    :param env_id: an environment's id
    :param other: another's
    :return: whether they are versions of one environment
    """
    return env_id.rsplit("-v", 1)[0] == other.rsplit("-v", 1)[0]


def local_minari_datasets(env_id: str | None) -> list[str]:
    """
    :param env_id: an environment's id, or None for all
    :return: the Minari datasets on this machine that were recorded in that environment (in any version of it), without those
        whose metadata are damaged
    """
    root = Path(get_dataset_path())
    names = []
    for folder in _dataset_folders(root):
        name = folder.relative_to(root).as_posix()
        metadata = _metadata(folder)
        # What has another name, cannot be asked for by this one
        if metadata.get("dataset_id") == name and _is_complete(name):
            recorded = recorded_env_id(metadata)
            if env_id is None or (recorded is not None and same_env(env_id, recorded)):
                names.append(name)
    return sorted(names, key=dataset_id_sort_key)


def _dataset_folders(folder: Path) -> Iterator[Path]:
    try:
        inside = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    except OSError:
        return
    for path in inside:
        if (path / "data").exists():
            yield path
        else:
            yield from _dataset_folders(path)


def _metadata(folder: Path) -> dict[str, Any]:
    try:
        metadata = json.loads((folder / "data" / "metadata.json").read_text())
    except (OSError, ValueError):
        return {}
    return metadata if isinstance(metadata, dict) else {}


def _is_complete(name: str) -> bool:
    match = DATASET_ID_RE.fullmatch(name)
    return match is not None and match["version"] is not None
