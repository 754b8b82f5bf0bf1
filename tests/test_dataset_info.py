"""
What a dataset holds, in words, as a picture and from the command line.
"""

import numpy as np
import pytest
from gymnasium import spaces
from matplotlib.image import imread

from sb3_genpolicy import dataset_info, load_dataset
from sb3_genpolicy.data.__main__ import main
from tests.helpers.data_formats import Episode, flat_columns, make_episodes, write_minari, write_npz
from tests.helpers.warm_processes import WarmProcess


def by_hand():
    """Three episodes whose numbers are easy: returns 3, 10, 2; lengths 3, 2, 1; actions at a bound in a third of the steps."""
    return [
        Episode(np.zeros((4, 2), np.float32), np.array([[1.0], [0.0], [0.5]], np.float32), np.ones(3, np.float32), True),
        Episode(np.ones((3, 2), np.float32), np.array([[-1.0], [0.0]], np.float32), np.full(2, 5.0, np.float32), False),
        Episode(np.ones((2, 2), np.float32), np.array([[0.25]], np.float32), np.full(1, 2.0, np.float32), True),
    ]


def test_numbers_by_hand():
    info = dataset_info({**flat_columns(by_hand()), "reference_scores": (0.0, 20.0)})
    assert info.n_steps == 6 and info.n_episodes == 3
    np.testing.assert_array_equal(info.returns, [3.0, 10.0, 2.0])
    np.testing.assert_array_equal(info.lengths, [3, 2, 1])
    np.testing.assert_array_equal(info.terminated, [True, False, True])
    np.testing.assert_allclose(info.scores, [15.0, 50.0, 10.0])
    assert info.reward_range == (1.0, 2.5, 5.0)
    np.testing.assert_array_equal(info.action_range, [[-1.0], [1.0]])
    np.testing.assert_allclose(info.saturation, [2 / 6])
    text = str(info)
    for part in (
        "3: 2 ended by the environment, 1 cut off",
        "mean 5.00 +/- 3.56, from 2.00 to 10.00; best: episode 1",
        "mean 25.0 +/- 17.8, from 10.0 to 50.0 (0: return 0, 100: return 20)",
        "mean 2.5, from 1 to 5",
        "33.3%",
        "Box(-1.0, 1.0, (1,), float32)",
    ):
        assert part in text, part


def test_the_same_of_rows_on_a_disk(tmp_path):
    path = write_npz(tmp_path / "own.npz", flat_columns(make_episodes()))
    held, mapped = dataset_info(path), dataset_info(load_dataset(path, memory_map=True))
    assert str(held) == str(mapped)


def test_the_picture_shows_the_numbers(tmp_path):
    info = dataset_info("pendulum-mixed")
    figure = info.figure()
    titles = [axis.get_title() for axis in figure.axes]
    assert len(titles) == 6 and "returns (dotted: score 0, dashed: 100)" in titles
    returns = figure.axes[titles.index("returns (dotted: score 0, dashed: 100)")]
    assert sum(patch.get_height() for patch in returns.patches) == 240
    drawn = np.concatenate([line.get_ydata() for line in figure.axes[0].lines if len(line.get_ydata()) > 2])
    np.testing.assert_allclose(np.sort(drawn), np.sort(info.returns))
    info.save_picture(tmp_path / "picture.png")
    assert imread(tmp_path / "picture.png")[..., :3].std() > 0.05


def test_the_command_line(tmp_path, capsys, minari_root):
    name = write_minari(make_episodes())
    assert main(["info", name, "--picture", str(tmp_path / "picture.png")]) == 0
    printed = capsys.readouterr().out
    assert str(dataset_info(name)) in printed and (tmp_path / "picture.png").exists()
    # Several as one
    assert main(["info", name, name]) == 0
    assert "52 (" in capsys.readouterr().out
    assert main(["info", "absent/set-v0"]) == 1
    assert "There is no dataset 'absent/set-v0'" in capsys.readouterr().err
    columns = flat_columns(make_episodes())
    path = write_npz(tmp_path / "wide.npz", {**columns, "actions": 3.0 * columns["actions"]})
    assert main(["info", str(path)]) == 1
    assert main(["info", str(path), "--action-bounds", "-3", "3", "--reference-scores", "0", "20"]) == 0
    printed = capsys.readouterr().out
    assert str(spaces.Box(-3, 3, (2,), np.float32)) in printed and "(0: return 0, 100: return 20)" in printed


def test_the_module_runs(tmp_path):
    found, missed = (
        WarmProcess("sb3_genpolicy.data", "info", name, folder=tmp_path) for name in ("pendulum-mixed", "no/such-v0")
    )
    done = found.finish()
    assert done.returncode == 0 and "48,000" in done.stdout and "240 cut off" in done.stdout
    done = missed.finish()
    assert done.returncode == 1 and "no/such-v0" in done.stderr and "Traceback" not in done.stderr


def test_bad_sources_say_the_same_as_when_they_are_loaded():
    with pytest.raises(ValueError, match="has no key 'actions'"):
        dataset_info({"observations": np.zeros((3, 2))})
