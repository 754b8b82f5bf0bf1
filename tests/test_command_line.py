"""
``python -m sb3_genpolicy.data info``: its options, and what it prints of large and odd datasets.
"""

import re
from dataclasses import replace

import numpy as np
import pytest
from gymnasium import spaces

from sb3_genpolicy import dataset_info, load_dataset
from sb3_genpolicy.data.__main__ import main
from tests.helpers.data_formats import write_npz


def columns_of(n_dims, n=200, high=1.0, **more):
    """Actions of dimension k are evenly spread from -high to high * (k + 1) / n_dims."""
    shares = (np.arange(n_dims) + 1) / n_dims
    actions = np.linspace(-high, high * shares, n)
    timeouts = np.arange(n) % 20 == 19
    return dict(
        observations=np.arange(2.0 * n).reshape(n, 2),
        next_observations=np.arange(2.0 * n).reshape(n, 2) + 2.0,
        actions=actions,
        rewards=np.ones(n),
        terminals=np.zeros(n),
        timeouts=timeouts,
        **more,
    )


@pytest.fixture
def wide(tmp_path):
    """Three dimensions of actions beyond -1 to 1: up to 1, 2 and 3."""
    return str(write_npz(tmp_path / "wide.npz", columns_of(3, high=3.0)))


def run(capsys, *arguments):
    status = main(["info", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def refused(capsys, *arguments):
    status, out, err = run(capsys, *arguments)
    assert status == 1 and out == "" and err.count("\n") == 1 and re.search(r"[.)]\n$", err), err
    return err


# Bounds


@pytest.mark.parametrize(
    ("bounds", "low", "high"),
    [
        (("-3", "3"), [-3, -3, -3], [3, 3, 3]),
        (("-3,-3.5,-4e0", "3,3.5,4"), [-3, -3.5, -4], [3, 3.5, 4]),
        (("-3", "1.5,2.5,3"), [-3, -3, -3], [1.5, 2.5, 3]),
        (("-30e-1,-4,-.5e1", "3"), [-3, -4, -5], [3, 3, 3]),
    ],
    ids=str,
)
def test_bounds_for_each_dimension(bounds, low, high, wide, capsys):
    status, out, _ = run(capsys, wide, "--action-bounds", *bounds)
    space = spaces.Box(np.array(low, np.float32), np.array(high, np.float32))
    assert status == 0 and " ".join(str(space).split()) in out


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        (("-3,-3", "3,3"), "has 2 numbers, -3,-3, but actions have 3 dimensions: give one for all of them, or one for each"),
        (("-3", "3,3,3,3"), "has 4 numbers, 3,3,3,3, but actions have 3 dimensions"),
        (("3", "-3"), "in dimension 0 the lowest action, 3, has to be below the highest, -3"),
        (("-3,-3,5", "3,3,5"), "in dimension 2 the lowest action, 5, has to be below the highest, 5"),
        (("-3", "three"), "takes numbers, as -1 or -1,-0.5, not 'three'"),
        (("-3,", "3"), "takes numbers, as -1 or -1,-0.5, not '-3,'"),
        (("nan", "3"), "has one that is NaN"),
    ],
    ids=str,
)
def test_bounds_that_are_none(bounds, message, wide, capsys):
    assert message in refused(capsys, wide, "--action-bounds", *bounds)


def test_actions_are_clipped_or_rescaled(wide, capsys):
    # Without a word of their bounds, and then clipped to -1 and 1: of the 200 steps from -3 up to 1, 2 and 3
    assert "actions reach 3" in refused(capsys, wide)
    status, out, _ = run(capsys, wide, "--clip-actions")
    assert status == 0 and "action range  -1 to 1, -1 to 1, -1 to 1" in out
    inside = [np.mean(np.abs(np.linspace(-3, high, 200)) < 0.98) for high in (1, 2, 3)]
    assert ", ".join(f"{1 - share:.1%}" for share in inside) in out
    status, out, _ = run(capsys, wide, "--rescale-actions", "-3", "3")
    assert status == 0 and "action range  -1 to 0.333, -1 to 0.667, -1 to 1" in out
    assert "outside the bounds" in refused(capsys, wide, "--rescale-actions", "-2", "2")
    assert "--rescale-actions takes two numbers, not -2,1 2" in refused(capsys, wide, "--rescale-actions", "-2,1", "2")
    with pytest.raises(SystemExit):
        main(["info", wide, "--clip-actions", "--rescale-actions", "-3", "3"])


@pytest.mark.parametrize(
    ("scores", "message"),
    [(("5", "5"), "5 does not lie above 5"), (("nan", "1"), "NaN"), (("0", "inf"), "two finite numbers"), (("0", "x"), "'x'")],
)
def test_reference_scores_that_are_none(scores, message, wide, capsys):
    assert message in refused(capsys, wide, "--action-bounds", "-3", "3", "--reference-scores", *scores)


# Pictures


def test_the_folder_of_a_picture_is_made(wide, tmp_path, capsys):
    path = tmp_path / "new" / "folder" / "picture.PNG"
    assert run(capsys, wide, "--action-bounds", "-3", "3", "--picture", path)[0] == 0
    assert path.read_bytes()[:4] == b"\x89PNG"
    dataset_info("pendulum-mixed").save_picture(tmp_path / "another" / "picture.svg")
    assert b"<svg" in (tmp_path / "another" / "picture.svg").read_bytes()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("picture", "whose ending names no format: take .png, .pdf or .svg"),
        ("picture.gnp", "whose ending names no format"),
        ("folder.png", "which is a folder"),
        ("file/picture.png", "choose another place"),
        ("/proc/nowhere/picture.png", "choose another place"),
    ],
)
def test_a_picture_that_cannot_be_written_is_said_before_data_are_read(name, message, tmp_path, capsys, monkeypatch):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    # The source is not there, which is not what is said
    assert message in refused(capsys, "absent.npz", "--picture", name)
    with pytest.raises(ValueError, match=message):
        dataset_info("pendulum-mixed").save_picture(name)


def test_no_picture_is_left_of_data_that_cannot_be_read(tmp_path, capsys):
    refused(capsys, tmp_path / "absent.npz", "--picture", tmp_path / "picture.png")
    assert list(tmp_path.iterdir()) == []


# What is not there


@pytest.mark.parametrize(
    "name", ["./absent", "~/absent", "/absent/folder", "../absent-v0", "absent.csv", "a b", "data/absent.NPZ"]
)
def test_a_path_that_is_not_there_is_no_dataset_to_fetch(name, capsys, tmp_path, monkeypatch, minari_root):
    monkeypatch.chdir(tmp_path)
    for options in ([], ["--download"]):
        message = refused(capsys, name, *options)
        assert message.startswith("There is no file") and f"(looked for in {tmp_path})" in message
        assert "minari download" not in message


# What is printed


def test_many_dimensions_are_a_table(capsys, tmp_path):
    path = write_npz(tmp_path / "many.npz", columns_of(28))
    _, out, _ = run(capsys, path)
    assert max(map(len, out.splitlines())) < 110
    rows = re.findall(r"^ +(\d+) +(-?[\d.e-]+) to (-?[\d.e-]+) +([\d.]+)%$", out, re.MULTILINE)
    assert [int(row[0]) for row in rows] == list(range(28))
    largest = (np.arange(28) + 1) / 28
    np.testing.assert_allclose([float(row[2]) for row in rows], largest, rtol=0.01)
    at_a_bound = [np.mean(np.abs(np.linspace(-1, high, 200)) >= 0.98) for high in largest]
    np.testing.assert_allclose([float(row[3]) for row in rows], 100 * np.array(at_a_bound), atol=0.051)
    # Aligned
    assert len({len(line) for line in out.splitlines() if line.startswith(" " * 15)}) == 1


def test_hundreds_of_dimensions_and_keys():
    columns = columns_of(300)
    columns["observations"] = dict(near=np.zeros((200, 70)), far=np.zeros((200, 2)))
    del columns["next_observations"]
    bounds = np.linspace(1.0, 2.0, 70, dtype=np.float32)
    space = spaces.Dict(near=spaces.Box(-bounds, bounds), far=spaces.Box(-1, 1, (2,)))
    text = str(dataset_info(load_dataset(columns, observation_space=space)))
    assert "near: Box of shape (70,), float32, bounds from -2 to 2" in text
    assert "far: Box(-1.0, 1.0, (2,), float32)" in text
    assert len(text.splitlines()) < 90 and max(map(len, text.splitlines())) < 110
    assert "... 240 more, from -1 to 0.9" in text


def test_actions_without_bounds():
    data = load_dataset(columns_of(3))
    free = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    with np.errstate(all="raise"):
        info = dataset_info(replace(data, action_space=free))
        text = str(info)
    assert np.isnan(info.saturation).all() and not info.bounded.any()
    assert re.search(r"^saturation +no bounds$", text, re.MULTILINE)
    assert "action range  -1 to 0.333, -1 to 0.667, -1 to 1" in text
    np.testing.assert_allclose(info.drawn_range, info.action_range, rtol=1e-6)
    # Bounds in one dimension, of one kind in another
    high = np.array([1.0, np.inf, np.inf], np.float32)
    info = dataset_info(replace(data, action_space=spaces.Box(np.array([-1.0, -1.0, -np.inf], np.float32), high)))
    np.testing.assert_array_equal(info.bounded, [True, False, False])
    np.testing.assert_allclose(info.saturation, [np.mean(np.linspace(-1, 1 / 3, 200) <= -0.98), np.nan, np.nan])
    assert re.search(r"^saturation +1\.\d%, no bounds, no bounds of the actions lie at a bound$", str(info), re.MULTILINE)
