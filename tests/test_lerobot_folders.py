"""
LeRobot's folders: what was written comes back, whatever is missing is named, and success may stand for rewards.
"""

import io
import json

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from PIL import Image

from sb3_genpolicy import GMPO, export_lerobot, load_dataset, write_policy_card
from sb3_genpolicy.common.policies.dict_extractor import DictExtractor
from tests.helpers.arrays import SMALL
from tests.helpers.data_formats import flat_columns, make_episodes
from tests.test_formats_of_others import FOLDER

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
LOST = pytest.mark.filterwarnings("ignore:.* cut off is left out")
STATE = dict(observations="observation.state")


def assert_same(data, expected):
    for key, column in flat_columns(expected).items():
        np.testing.assert_array_equal(data[key], column.astype(np.float32), err_msg=key)


def test_what_was_exported_comes_back(tmp_path):
    episodes = make_episodes()
    folder = export_lerobot(flat_columns(episodes), tmp_path / "out", fps=20, task="balance")
    data = load_dataset(folder)
    assert_same(data, episodes)
    # Bounds are those of the data, by the statistics of the file
    np.testing.assert_array_equal(data.action_space.high, data.actions.max(axis=0))
    stats = json.loads((folder / "meta" / "stats.json").read_text())
    np.testing.assert_allclose(stats["observation.state"]["mean"], data.observations.mean(axis=0), rtol=1e-5)
    assert "balance" in (folder / "README.md").read_text()
    with pytest.raises(ValueError, match="is there already, and not an empty folder"):
        export_lerobot(data, folder)


def test_dictionaries_with_images_come_back(tmp_path):
    episodes = make_episodes((3, 4))
    columns = flat_columns(episodes)
    images = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
    tree = dict(camera=images, state=columns["observations"])
    following = dict(camera=np.roll(images, -1, axis=0), state=columns["next_observations"])
    given = load_dataset({**columns, "observations": tree, "next_observations": following})
    with pytest.warns(UserWarning, match="observation.camera \\(image\\) are left out"):
        assert_same(load_dataset(export_lerobot(given, tmp_path / "out")), episodes)
    with pytest.warns(UserWarning, match="left out, first frame 3 of episode 1"):
        data = load_dataset(tmp_path / "out", observations=["observation.camera", "observation.state"])
    np.testing.assert_array_equal(data.observations["observation.camera"], images[:-1])


def without_rewards(folder):
    """As most of them are: what LeRobot's own recorder writes."""
    lacking = ["next.reward", "next.success", "next.observation.state"]
    file = folder / "data" / "chunk-000" / "file-000.parquet"
    table = pq.read_table(file)
    pq.write_table(table.drop_columns([name for name in lacking if name in table.column_names]), file)
    info = json.loads((folder / "meta" / "info.json").read_text())
    info["features"] = {key: feature for key, feature in info["features"].items() if key not in lacking}
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    return folder


def test_success_at_the_end_or_a_function_stand_for_rewards(tmp_path):
    episodes = make_episodes()
    folder = without_rewards(export_lerobot(flat_columns(episodes), tmp_path / "out"))
    with pytest.raises(ValueError, match=r"a LeRobot dataset\) has no rewards: pass `relabel=`.*success_at_end=True"):
        load_dataset(folder)
    data = load_dataset(folder, success_at_end=True)
    assert data.n_rows == 26
    np.testing.assert_array_equal(data.rewards, data.ends)
    np.testing.assert_array_equal(data.terminals, data.ends)

    def relabel(arrays):
        assert arrays["frame_index"][5] == 0 and arrays["episode"][5] == 1
        arrays["rewards"] = arrays["timestamp"]
        arrays["terminals"] = arrays["ends"] & (arrays["episode"] != 3)

    with pytest.warns(UserWarning, match="left out, first frame 7 of episode 3"):
        data = load_dataset(folder, relabel=relabel)
    assert data.n_rows == 25 and data.timeouts.sum() == 1 and data.terminals.sum() == 3
    np.testing.assert_allclose(data.rewards[:3], np.arange(3) / 30, rtol=1e-6)


def test_a_file_for_each_episode_and_their_own_statistics(tmp_path):
    """Version 2.1."""
    episodes = make_episodes()
    folder = export_lerobot(flat_columns(episodes), tmp_path / "out")
    whole = pq.read_table(folder / "data" / "chunk-000" / "file-000.parquet")
    (folder / "data" / "chunk-000" / "file-000.parquet").unlink()
    (folder / "meta" / "stats.json").unlink()
    lines = []
    for number, episode in enumerate(episodes):
        part = whole.filter(pa.compute.equal(whole["episode_index"], number))
        pq.write_table(part, folder / "data" / "chunk-000" / f"episode_{number:06d}.parquet")
        stats = {"action": {"min": episode.actions.min(axis=0).tolist(), "max": episode.actions.max(axis=0).tolist()}}
        lines.append(json.dumps({"episode_index": number, "stats": stats}))
    (folder / "meta" / "episodes_stats.jsonl").write_text("\n".join(lines))
    info = json.loads((folder / "meta" / "info.json").read_text())
    path = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    info |= dict(codebase_version="v2.1", data_path=path, splits={"train": "0:2", "test": "2:4"})
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    data = load_dataset(folder)
    assert_same(data, episodes)
    np.testing.assert_array_equal(data.action_space.low, data.actions.min(axis=0))
    assert_same(load_dataset(folder, subset="test"), episodes[2:])
    (folder / "data" / "chunk-000" / "episode_000002.parquet").unlink()
    with pytest.raises(ValueError, match="has no file of episode 2, .*fetch it whole"):
        load_dataset(folder)
    info["data_path"] = "../{episode_index}.parquet"
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match="its data_path leads out of the folder"):
        load_dataset(folder)


@LOST
def test_frames_that_are_missing_are_counted(tmp_path):
    folder = export_lerobot(flat_columns(make_episodes()), tmp_path / "out")
    file = folder / "data" / "chunk-000" / "file-000.parquet"
    pq.write_table(pq.read_table(file).slice(0, 20), file)
    with pytest.raises(ValueError, match="is not whole: its info.json says 26 frames, and its files have 20"):
        load_dataset(folder)


@LOST
def test_a_policy_trains_on_a_folder_of_lerobots_own_making(tmp_path):
    data = load_dataset(FOLDER / "lerobot", **STATE)
    model = GMPO("FlowPolicy", dataset=data, policy_kwargs=SMALL, batch_size=8, device="cpu", seed=0).learn(2)
    action, _ = model.predict(data.observations[0])
    assert data.action_space.contains(action)
    page = write_policy_card(model, tmp_path / "policy", name="Pusher", notes="Scores 3.").read_text()
    # Two gradient steps, as counted by the model's own log
    assert page.startswith("---\nlibrary_name: ") and "| gradient steps | 2 |" in page and "Scores 3." in page
    assert "# Pusher" in page and 'GMPO.load("model.zip")' in page


def test_images_of_lerobots_own_making():
    with pytest.warns(UserWarning, match="cut off is left out"):
        data = load_dataset(FOLDER / "lerobot", observations=["observation.image"])
    episodes = np.repeat(np.arange(3), np.diff(data.episode_starts))
    step = np.arange(data.n_rows) - data.episode_starts[episodes]
    np.testing.assert_array_equal(data.observations[:, 4, 4, 1], 10 * episodes + step)


def test_gray_images_stay_gray_and_depth_is_refused(tmp_path):
    columns = flat_columns(make_episodes((3, 4)))
    images = np.random.default_rng(0).integers(0, 256, (7, 40, 36, 1), dtype=np.uint8)
    given = load_dataset({**columns, "observations": images, "next_observations": np.roll(images, -1, axis=0)})
    folder = export_lerobot(given, tmp_path / "out")
    with pytest.warns(UserWarning, match="cut off is left out"):
        data = load_dataset(folder, observations=["observation.image"])
    np.testing.assert_array_equal(data.observations, images[:-1])
    for deep, pattern in (
        (Image.fromarray(np.full((40, 36), 40000, np.uint16)), "image of more than 8 bits in row 2, as depth is written"),
        (Image.fromarray(images[0, :20, :, 0]), r"image of shape \(20, 36, 1\) in row 2, and one of \(40, 36, 1\) in row 0"),
    ):
        stream = io.BytesIO()
        deep.save(stream, format="PNG")
        changed(folder, "observation.image", 2, {"bytes": stream.getvalue(), "path": None})
        with pytest.raises(ValueError, match=pattern):
            load_dataset(folder, observations=["observation.image"])


def changed(folder, key, row, cell):
    file = folder / "data" / "chunk-000" / "file-000.parquet"
    table = pq.read_table(file)
    cells = table[key].to_pylist()
    cells[row] = cell
    number = table.column_names.index(key)
    pq.write_table(table.set_column(number, key, pa.array(cells, table.schema.field(number).type)), file)
    return folder


def test_frames_that_do_not_follow_each_other_are_named(tmp_path):
    folder = changed(export_lerobot(flat_columns(make_episodes()), tmp_path / "out"), "frame_index", 7, 9)
    with pytest.raises(ValueError, match="frame 1 of episode 1 is followed by frame 3: frames are missing, or there twice"):
        load_dataset(folder)


def test_done_inside_an_episode_is_said(tmp_path):
    folder = changed(export_lerobot(flat_columns(make_episodes()), tmp_path / "out"), "next.done", 7, True)
    with pytest.warns(
        UserWarning, match="'next.done' is set in 1 frames that are not the last of their episode, first in row 7"
    ):
        assert_same(load_dataset(folder), make_episodes())


def test_a_policy_trains_on_observations_whose_names_have_dots(tmp_path):
    """LeRobot's own, as soon as there are two; no module of torch may be called so."""
    columns = flat_columns(make_episodes())
    names = {"observation.state": slice(0, 2), "observation.environment_state": slice(2, 3)}
    for key in ("observations", "next_observations"):
        columns[key] = {name: columns[key][:, part] for name, part in names.items()}
    data = load_dataset(export_lerobot(columns, tmp_path / "out"))
    assert data.observations.keys() == names.keys()
    model = GMPO("MultiInputPolicy", dataset=data, policy_kwargs=SMALL, batch_size=8, device="cpu", seed=0).learn(2)
    model.save(tmp_path / "model")
    first = {name: array[0] for name, array in data.observations.items()}
    action, _ = model.predict(first, deterministic=True)
    np.testing.assert_array_equal(GMPO.load(tmp_path / "model").predict(first, deterministic=True)[0], action)


def test_names_with_dots_are_no_other_features():
    """An underscore in their place may be a name of its own."""
    space = spaces.Dict({"a.b": spaces.Box(-1, 1, (2,)), "a_b": spaces.Box(-1, 1, (1,)), "a.b_": spaces.Box(-1, 1, (1,))})
    extractor = DictExtractor(space)
    assert extractor.features_dim == 4
    row = {"a.b": th.tensor([[1.0, 2.0]]), "a_b": th.tensor([[3.0]]), "a.b_": th.tensor([[4.0]])}
    assert sorted(extractor(row)[0].tolist()) == [1.0, 2.0, 3.0, 4.0]
