"""
Images and videos of LeRobot's folders.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np

# Of images with one number a pixel, as depth has: more than 8 bits of each
_FINE = ("I", "F", "I;16", "I;16B", "I;16L")


def decoded_images(cells: list[Any], shape: tuple[int, ...], folder: Path, label: str) -> np.ndarray:
    """
    :param cells: (n_frames,), each with the bytes of a PNG, or its path
    :param shape: of one, as ``info.json`` says, channels first or last
    :param folder: that paths are relative to
    :param label: what they are called
    :return: (n_frames, height, width, channels), uint8; one channel where ``shape`` has one, otherwise three
    :raises ValueError: if one cannot be decoded, has more than 8 bits a number or another size than the others
    """
    from PIL import Image

    images: list[np.ndarray] = []
    gray = len(shape) == 2 or (len(shape) == 3 and 1 in (shape[0], shape[-1]))
    for row, cell in enumerate(cells):
        try:
            content = cell["bytes"] if cell.get("bytes") else (folder / Path(cell["path"]).name).read_bytes()
            with Image.open(io.BytesIO(content)) as image:
                fine = image.mode in _FINE
                pixels = np.asarray(image.convert("L" if gray else "RGB"), dtype=np.uint8)
        except (OSError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{label} cannot be decoded in row {row} ({error}): the image is damaged or missing.") from error
        if fine:
            raise ValueError(
                f"{label} has an image of more than 8 bits in row {row}, as depth is written: choose others by "
                "observations=[...]."
            )
        images.append(pixels[..., None] if gray else pixels)
        if images[-1].shape != images[0].shape:
            raise ValueError(
                f"{label} has an image of shape {images[-1].shape} in row {row}, and one of {images[0].shape} in row 0: "
                "images have to be of one size."
            )
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
