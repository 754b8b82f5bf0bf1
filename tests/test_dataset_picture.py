"""
The picture of a dataset: what its axes show, by their limits, their numbers and their patches.
"""

import itertools
import warnings
from dataclasses import replace

import numpy as np
import pytest
from gymnasium import spaces
from matplotlib.backends.backend_agg import FigureCanvasAgg

from sb3_genpolicy import dataset_info, load_dataset

ORDER, RETURNS, LENGTHS, REWARDS, ACTIONS, SATURATION = range(6)


def dataset(n_episodes=6, length=9, n_dims=2, reward=None, kinds="both", scale=1.0, **more):
    n = n_episodes * length
    rng = np.random.default_rng(0)
    # Steps that follow each other, with a gap between episodes
    steps = np.arange(n) + np.arange(n) // length
    ends = np.arange(n) % length == length - 1
    ended = {"both": np.arange(n) // length % 2 == 0, "ended": True, "cut off": False}[kinds]
    return dict(
        observations=np.stack([steps, -steps], axis=1),
        next_observations=np.stack([steps + 1, -steps - 1], axis=1),
        actions=rng.uniform(-1, 1, size=(n, n_dims)),
        rewards=scale * (rng.normal(size=n) if reward is None else np.full(n, reward)),
        terminals=ends & ended,
        timeouts=ends & ~np.asarray(ended),
        action_space=spaces.Box(-1, 1, (n_dims,), np.float32),
        **more,
    )


def drawn(source):
    """Its axes, drawn: their numbers are known only then."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = dataset_info(source).figure()
        FigureCanvasAgg(figure).draw()
    return figure.axes


def labels(axis):
    """Of one direction: what is written, and where it begins and ends in pixels."""
    low, high = sorted(axis.get_view_interval())
    ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high and tick.label1.get_text()]
    return [tick.label1.get_text() for tick in ticks], [tick.label1.get_window_extent() for tick in ticks]


def assert_apart(axes):
    for axis in axes:
        _, boxes = labels(axis.xaxis)
        for one, other in itertools.pairwise(boxes):
            assert one.x1 < other.x0, axis.get_title()
        _, boxes = labels(axis.yaxis)
        for one, other in itertools.pairwise(boxes):
            assert one.y1 < other.y0, axis.get_title()


SOURCES = {
    "two dimensions": dataset(),
    "28 dimensions": dataset(n_dims=28),
    "300 dimensions": dataset(n_dims=300),
    "one episode": dataset(n_episodes=1),
    "one step": dataset(n_episodes=1, length=1),
    "large": dataset(scale=-3.7e8),
    "large and constant": dataset(reward=1.0, scale=-3.7e8),
    "nearly constant": dataset(reward=1.0, scale=1234567.0, length=1),
    "small": dataset(scale=1e-7),
    "constant": dataset(reward=0.0),
    "all ended": dataset(kinds="ended"),
    "all cut off": dataset(kinds="cut off"),
    "many episodes": dataset(n_episodes=12_000, length=1),
    "long": dataset(length=20_000, n_episodes=2),
    "scored": dataset(reward=0.0, reference_scores=(-1230.0, 1e6)),
}


@pytest.mark.parametrize("name", SOURCES)
def test_numbers_stand_apart_and_are_of_all_episodes(name):
    axes = drawn(SOURCES[name])
    assert_apart(axes)
    assert all(len(labels(axis.xaxis)[0]) >= 1 and len(labels(axis.yaxis)[0]) >= 1 for axis in axes)
    whole = [axes[ORDER].xaxis, axes[RETURNS].yaxis, axes[LENGTHS].xaxis, axes[LENGTHS].yaxis, axes[REWARDS].yaxis]
    for axis in [*whole, axes[ACTIONS].xaxis, axes[SATURATION].xaxis]:
        texts, _ = labels(axis)
        assert all(text.isdigit() for text in texts), texts
    # Every episode and step is counted
    info = dataset_info(SOURCES[name])
    assert sum(patch.get_height() for patch in axes[RETURNS].patches) == info.n_episodes
    assert sum(patch.get_height() for patch in axes[LENGTHS].patches) == info.n_episodes
    assert sum(patch.get_height() for patch in axes[REWARDS].patches) == len(info.drawn_rewards)
    points = [line for line in axes[ORDER].lines if line.get_marker() == "."]
    assert sum(len(line.get_xdata()) for line in points) == info.n_episodes
    # And seen: within the limits of the axes
    for line in points:
        low, high = axes[ORDER].get_xlim()
        assert low < line.get_xdata().min() and line.get_xdata().max() < high


@pytest.mark.parametrize(("kinds", "names"), [("both", ["ended", "cut off"]), ("ended", []), ("cut off", [])])
def test_legends_have_what_is_there(kinds, names):
    axes = drawn(dataset(kinds=kinds))
    for axis in (axes[ORDER], axes[LENGTHS]):
        legend = axis.get_legend()
        assert ([] if legend is None else [text.get_text() for text in legend.get_texts()]) == names
        assert axis.get_title().endswith(")") == (kinds != "both")
        if kinds != "both":
            assert axis.get_title().endswith(f"(all {kinds})")


def test_shades_start_from_none_at_all():
    """Actions in equal numbers all over: as dark as the map gets, not white."""
    source = dataset(n_episodes=1, length=500, n_dims=2)
    source["actions"] = np.stack([np.linspace(-1, 1, 500), np.full(500, 0.5)], axis=1)
    (image,) = drawn(source)[ACTIONS].images
    assert image.get_clim() == (0.0, 1.0)
    shades = np.asarray(image.get_array())
    np.testing.assert_array_equal(shades[:, 0], 1.0)
    assert shades[:, 1].sum() == 1.0 and shades[37, 1] == 1.0
    # Nor where there is nothing else
    source["actions"] = np.stack([np.linspace(-1, 1, 500)] * 2, axis=1)
    (image,) = drawn(source)[ACTIONS].images
    assert image.get_clim() == (0.0, 1.0) and np.asarray(image.get_array()).min() == 1.0


def test_actions_without_bounds_are_drawn_between_the_least_and_the_largest():
    source = dataset(n_episodes=1, length=500, n_dims=2)
    source["actions"] = np.stack([np.linspace(-1, 0, 500), np.full(500, 0.25)], axis=1)
    data = replace(load_dataset(source), action_space=spaces.Box(-np.inf, np.inf, (2,), np.float32))
    axes = drawn(data)
    shades = np.asarray(axes[ACTIONS].images[0].get_array())
    np.testing.assert_array_equal(shades[:, 0], 1.0)
    # One action alone is in the middle
    assert shades[:, 1].sum() == 1.0 and shades[25, 1] == 1.0
    assert axes[ACTIONS].get_title() == "actions between their least and largest"
    assert not axes[SATURATION].patches and [text.get_text() for text in axes[SATURATION].texts] == [
        "the actions have no bounds"
    ]


def test_half_of_the_actions_have_bounds():
    source = dataset(n_episodes=1, length=500, n_dims=2)
    source["actions"] = np.stack([np.linspace(-1, 0, 500), np.where(np.arange(500) < 100, 1.0, 0.0)], axis=1)
    high = np.array([np.inf, 1.0], np.float32)
    axes = drawn(replace(load_dataset(source), action_space=spaces.Box(-high, high)))
    assert [(round(bar.get_x() + 0.4), bar.get_height()) for bar in axes[SATURATION].patches] == [(1, 20.0)]
    assert axes[ACTIONS].get_title() == "actions between their bounds, or least and largest"


def test_few_steps_at_a_bound_do_not_look_like_many():
    source = dataset(n_episodes=1, length=10)
    source["actions"][:] = 0.0
    assert drawn(source)[SATURATION].get_ylim() == (0.0, 1.0)


def test_a_long_name_and_dollars(tmp_path):
    info = replace(dataset_info(dataset()), name="/folder" * 30 + "/$x_$y.npz")
    figure = info.figure()
    FigureCanvasAgg(figure).draw()
    extent = figure._suptitle.get_window_extent()
    assert extent.x0 >= 0 and extent.x1 <= figure.bbox.width
