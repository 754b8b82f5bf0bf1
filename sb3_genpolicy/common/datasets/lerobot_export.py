"""
A dataset becomes a LeRobot folder of version 3.
"""

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from sb3_genpolicy.common.datasets.loading import load_dataset
from sb3_genpolicy.common.transitions.transitions import Transitions, label_of
from sb3_genpolicy.common.utils import tree_items
from sb3_genpolicy.generative.checks import check_number

_FILE = "chunk-000/file-000.parquet"
_QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
_INDEX = {"timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64", "task_index": "int64"}


def export_lerobot(
    dataset: Any, folder: str | os.PathLike[str], *, fps: int = 30, task: str | None = None, robot_type: str | None = None
) -> Path:
    """
    Write a dataset as a LeRobot folder of version 3: a frame for each step, with what was seen, the action taken there, what
    it earned (``next.reward``), whether the episode ended (``next.done``), and by itself (``next.success``). Observations are
    ``observation.state``, or ``observation.<key>`` of dictionaries; images are cells of PNG. What a step led to stands beside
    as ``next.observation...``, which LeRobot's policies do not look at.

    :param dataset: what :func:`~sb3_genpolicy.common.datasets.load_dataset` takes
    :param folder: a folder that is not there yet, or empty
    :param fps: steps of a second, by which frames get their times
    :param task: what was to be done, in words. Default: the id of the dataset's environment
    :param robot_type: what LeRobot calls the robot
    :return: the folder
    :raises ValueError: if the folder is not empty, pyarrow is missing, or images are not of one or three channels, these last
    """
    check_number("fps", fps, 1)
    path = Path(folder).expanduser()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path} is there already, and not an empty folder: give another, or remove it.")
    data = dataset if isinstance(dataset, Transitions) else load_dataset(dataset)
    part = path.with_name(f"{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        _write(data, part, fps, task or data.env_id or data.name or "a task", robot_type)
        if path.exists():
            path.rmdir()
        part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return path


def _write(data: Transitions, folder: Path, fps: int, task: str, robot_type: str | None) -> None:
    try:
        import pandas as pd
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ValueError("Writing a LeRobot folder needs pyarrow: pip install pyarrow (the extra [tables]).") from error
    for name in ("data/chunk-000", "meta/episodes/chunk-000"):
        (folder / name).mkdir(parents=True)
    columns = _columns(data, fps)
    for key, array in columns.items():
        if _is_image(array) and array.shape[-1] not in (1, 3):
            raise ValueError(
                f"{label_of(data)}: {key} has images of shape {array.shape[1:]}; LeRobot's have their channels last, 1 or 3."
            )
    features = {key: _feature(key, array) for key, array in columns.items()}
    lengths = np.diff(data.episode_starts)
    table = pa.table({key: _cells(pa, array) for key, array in columns.items()}).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": {key: _hub_type(array) for key, array in columns.items()}}})}
    )
    pq.write_table(table, folder / "data" / _FILE)
    pd.DataFrame({"task_index": [0]}, index=[task]).to_parquet(folder / "meta" / "tasks.parquet")
    episodes = []
    for number, (start, length) in enumerate(zip(data.episode_starts, lengths, strict=False)):
        stats = {key: _stats(array[start : start + length]) for key, array in columns.items()}
        episodes.append(
            {
                "episode_index": number,
                "tasks": [task],
                "length": int(length),
                "data/chunk_index": 0,
                "data/file_index": 0,
                "dataset_from_index": int(start),
                "dataset_to_index": int(start + length),
                **{f"stats/{key}/{name}": value for key, each in stats.items() for name, value in each.items()},
                "meta/episodes/chunk_index": 0,
                "meta/episodes/file_index": 0,
            }
        )
    pq.write_table(pa.Table.from_pylist(episodes), folder / "meta" / "episodes" / _FILE)
    info = {
        "codebase_version": "v3.0",
        "robot_type": robot_type,
        "total_episodes": data.n_episodes,
        "total_frames": data.n_rows,
        "total_tasks": 1,
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": int(fps),
        "splits": {"train": f"0:{data.n_episodes}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": None,
        "features": features,
    }
    (folder / "meta" / "info.json").write_text(json.dumps(info, indent=4))
    (folder / "meta" / "stats.json").write_text(json.dumps({key: _stats(array) for key, array in columns.items()}, indent=4))
    (folder / "README.md").write_text(_card(data, fps, task))


def _columns(data: Transitions, fps: int) -> dict[str, np.ndarray]:
    starts = data.episode_starts
    lengths = np.diff(starts)
    frame = np.arange(data.n_rows) - np.repeat(starts[:-1], lengths)
    columns: dict[str, np.ndarray] = {}
    for prefix, tree in (("", data.observations), ("next.", data.next_observations)):
        for key, array in _named(tree):
            if prefix and array.dtype == np.uint8 and array.ndim == 4:
                # Twice the images would be twice the folder
                continue
            columns[f"{prefix}{key}"] = np.asarray(array)
    columns["action"] = np.asarray(data.actions).reshape(data.n_rows, -1)
    columns["next.reward"] = np.asarray(data.rewards)
    columns["next.done"], columns["next.success"] = np.asarray(data.ends), np.asarray(data.terminals) > 0
    columns["timestamp"] = (frame / fps).astype(np.float32)
    columns["frame_index"], columns["episode_index"] = frame, np.repeat(np.arange(len(lengths)), lengths)
    columns["index"], columns["task_index"] = np.arange(data.n_rows), np.zeros(data.n_rows, dtype=np.int64)
    return columns


def _named(tree: Any) -> list[tuple[str, Any]]:
    if isinstance(tree, dict):
        return [(key if key.startswith("observation") else f"observation.{key}", array) for key, array in tree.items()]
    (_, array), *_ = tree_items(tree, "")
    return [("observation.image" if array.dtype == np.uint8 and array.ndim == 4 else "observation.state", array)]


def _is_image(array: np.ndarray) -> bool:
    return array.dtype == np.uint8 and array.ndim == 4


def _feature(key: str, array: np.ndarray) -> dict[str, Any]:
    if _is_image(array):
        return {"dtype": "image", "shape": list(array.shape[1:]), "names": ["height", "width", "channels"]}
    return {"dtype": _INDEX.get(key, str(array.dtype)), "shape": list(array.shape[1:]) or [1], "names": None}


def _cells(pa: Any, array: np.ndarray) -> Any:
    if _is_image(array):
        return pa.array([{"bytes": _png(image), "path": None} for image in array])
    if array.ndim == 1 or array.shape[1:] == (1,):
        return pa.array(array.reshape(-1))
    if array.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])
    return pa.array(array.tolist())


def _hub_type(array: np.ndarray) -> dict[str, Any]:
    """How the library `datasets` writes what a column is."""
    if _is_image(array):
        return {"_type": "Image"}
    value = {"dtype": str(array.dtype), "_type": "Value"}
    if array.ndim == 1 or array.shape[1:] == (1,):
        return value
    if array.ndim == 2:
        return {"feature": value, "length": array.shape[1], "_type": "List"}
    return {"shape": list(array.shape[1:]), "dtype": str(array.dtype), "_type": f"Array{array.ndim - 1}D"}


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(stream, format="PNG")
    return stream.getvalue()


def _stats(array: np.ndarray) -> dict[str, list[Any]]:
    """Of images by channel, in [0, 1], as LeRobot has them; of all else by entry."""
    if _is_image(array):
        flat = array.reshape(-1, array.shape[-1]).astype(np.float64) / 255.0
        shape: tuple[int, ...] = (array.shape[-1], 1, 1)
    else:
        flat, shape = array.reshape(len(array), -1).astype(np.float64), array.shape[1:] or (1,)
    told = {"min": flat.min(axis=0), "max": flat.max(axis=0), "mean": flat.mean(axis=0), "std": flat.std(axis=0)}
    told |= {name: np.quantile(flat, share, axis=0) for name, share in _QUANTILES.items()}
    return {**{name: value.reshape(shape).tolist() for name, value in told.items()}, "count": [len(array)]}


def _card(data: Transitions, fps: int, task: str) -> str:
    returns = data.episode_returns()
    return (
        "---\ntags:\n- LeRobot\n- reinforcement-learning\ntask_categories:\n- robotics\n"
        "configs:\n- config_name: default\n  data_files: data/*/*.parquet\n---\n\n"
        f"# {task}\n\n{label_of(data)}, written by `export_lerobot` of sb3_genpolicy: {data.n_rows} frames at {fps} a second "
        f"in {data.n_episodes} episodes, of which {int((np.asarray(data.terminals)[data.ends] > 0).sum())} ended by "
        f"themselves. Returns {returns.mean():.4g} +/- {returns.std():.4g}.\n"
    )
