"""
Images and videos of LeRobot's folders.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np


def decoded_images(cells: list[Any], folder: Path, label: str) -> np.ndarray:
    """
    :param cells: (n_frames,), each with the bytes of a PNG, or its path
    :param folder: that paths are relative to
    :param label: what they are called
    :return: (n_frames, height, width, channels), uint8
    :raises ValueError: if one cannot be decoded
    """
    from PIL import Image

    images = []
    for row, cell in enumerate(cells):
        try:
            content = cell["bytes"] if cell.get("bytes") else (folder / Path(cell["path"]).name).read_bytes()
            with Image.open(io.BytesIO(content)) as image:
                images.append(np.asarray(image.convert("RGB"), dtype=np.uint8))
        except (OSError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{label} cannot be decoded in row {row} ({error}): the image is damaged or missing.") from error
    return np.stack(images)


def decoded_videos(
    folder: Path, info: dict[str, Any], key: str, episodes: np.ndarray, frames: np.ndarray, label: str
) -> np.ndarray:
    """
    :param folder: of the dataset
    :param info: what its ``info.json`` says
    :param key: of the video
    :param episodes: (n_rows,), the episode of every row, ascending
    :param frames: (n_rows,), the frame of every row in its episode
    :param label: what it is called
    :return: (n_rows, height, width, 3), uint8
    :raises ValueError: if PyAV is missing, or a video has fewer frames than its episode
    """
    try:
        import av  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise ValueError(
            f"{label}: '{key}' is a video, which PyAV decodes: pip install av (the extra [video]), or choose others by "
            "observations=[...]."
        ) from error
    offsets = _offsets(folder, info, key, episodes, label)
    pieces, held = [], {}
    for episode in np.unique(episodes):
        file, offset = offsets[int(episode)]
        if file not in held:
            # Episodes of one file follow each other
            held = {file: _frames_of(av, file, label)}
        wanted = offset + frames[episodes == episode]
        if wanted.max() >= len(held[file]):
            raise ValueError(f"{label}: {file} has {len(held[file])} frames, but episode {episode} goes to {wanted.max()}.")
        pieces.append(held[file][wanted])
    return np.concatenate(pieces)


def _frames_of(av: Any, file: Path, label: str) -> np.ndarray:
    try:
        with av.open(str(file)) as container:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    except (OSError, ValueError) as error:
        raise ValueError(f"{label}: the video {file} cannot be decoded ({error}).") from error


def _offsets(folder: Path, info: dict[str, Any], key: str, episodes: np.ndarray, label: str) -> dict[int, tuple[Path, int]]:
    """Of every episode its video file, and its first frame there."""
    template, chunk = str(info.get("video_path")), int(info.get("chunks_size") or 1000)
    numbers = [int(episode) for episode in np.unique(episodes)]
    if "episode_index" in template:
        return {
            episode: (
                folder / template.format(episode_chunk=episode // chunk, video_key=key, episode_index=episode),
                0,
            )
            for episode in numbers
        }
    import pyarrow.parquet as pq

    found: dict[int, tuple[Path, int]] = {}
    names = [f"videos/{key}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")]
    for file in sorted((folder / "meta" / "episodes").glob("*/*.parquet")):
        for row in pq.read_table(file, columns=["episode_index", *names]).to_pylist():
            chunk_index, file_index, start = (row[name] for name in names)
            video = folder / template.format(video_key=key, chunk_index=chunk_index, file_index=file_index)
            found[row["episode_index"]] = video, round(start * float(info["fps"]))
    lacking = [episode for episode in numbers if episode not in found]
    if lacking:
        raise ValueError(f"{label} does not say in which file the video '{key}' of episode {lacking[0]} is.")
    return found
