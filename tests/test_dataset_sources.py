"""
What a source is taken for by its name, and the reference scores that it comes with.
"""

import json
import os
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from minari.storage.datasets_root_dir import get_dataset_path

from sb3_genpolicy import GMPO, OfflineEvalCallback, dataset_info, load_dataset, normalized_score
from sb3_genpolicy.common.datasets import dataset_spaces, open_minari
from sb3_genpolicy.zoo.environments import dataset_key
from sb3_genpolicy.zoo.runs import reference_scores_of
from sb3_genpolicy.zoo.tasks import published_task
from tests.helpers.arrays import SMALL
from tests.helpers.data_formats import flat_columns, make_episodes, write_hdf5, write_minari, write_npz, write_pickle
from tests.helpers.sentences import fault_of

# Endings

WRITERS = {
    ".NPZ": lambda path: write_npz(path.with_suffix(".npz"), flat_columns(make_episodes())),
    ".Npz": lambda path: write_npz(path.with_suffix(".npz"), flat_columns(make_episodes())),
    ".HDF5": lambda path: write_hdf5(path, flat_columns(make_episodes())),
    ".H5": lambda path: write_hdf5(path, flat_columns(make_episodes())),
    ".Hdf": lambda path: write_hdf5(path, flat_columns(make_episodes())),
    ".PKL": lambda path: write_pickle(path.with_suffix(".pkl"), make_episodes()),
    ".Pickle": lambda path: write_pickle(path.with_suffix(".pkl"), make_episodes()),
}


def written(folder, ending):
    """SB3 and numpy add endings of their own: the file is named afterwards."""
    path = folder / f"data{ending}"
    os.replace(WRITERS[ending](path), path)
    return path


@pytest.mark.parametrize("ending", WRITERS)
def test_endings_in_capitals(ending, tmp_path):
    path = written(tmp_path, ending)
    expected = load_dataset(flat_columns(make_episodes()))
    for source in (path, str(path)):
        data = load_dataset(source)
        assert data.name == str(path)
        np.testing.assert_allclose(data.rewards, expected.rewards)
        observation_space, action_space = dataset_spaces(source)
        assert (observation_space.shape, action_space.shape) == (data.observation_space.shape, data.action_space.shape)
    # A model keeps the name, and reads the file again
    model = GMPO("FlowPolicy", dataset=str(path), policy_kwargs=SMALL).learn(1)
    model.save(tmp_path / "model")
    assert GMPO.load(tmp_path / "model").learn(2).replay_buffer.size() == data.n_rows
    both = load_dataset(f"{path} + {path}")
    assert both.n_rows == 2 * data.n_rows


@pytest.mark.parametrize("ending", [".NPZ", ".HDF5"])
def test_endings_in_capitals_stay_on_disk(ending, tmp_path):
    data = load_dataset(written(tmp_path, ending), memory_map=True)
    assert data.memory_mapped
    np.testing.assert_allclose(data.rewards, load_dataset(flat_columns(make_episodes())).rewards)


def test_endings_in_capitals_in_the_zoo():
    assert dataset_key("/data/robots/door.HDF5") == dataset_key("/data/robots/door.hdf5") == "robots-door"
    assert dataset_key("/data/robots/Door.NPZ") == "robots-Door"
    assert published_task("/data/hopper_medium-v2.HDF5").name == "hopper-medium-v2"
    assert published_task("/data/hopper_medium-v2.npz") is None


# What is not there


@pytest.mark.parametrize(
    "name", ["./absent", "~/absent", "/no/where", "../absent-v0", "absent.csv", "a b", "C:\\data\\x", "x/"]
)
@pytest.mark.parametrize("read", [load_dataset, open_minari, dataset_spaces], ids=lambda read: read.__name__)
def test_a_path_that_is_not_there(name, read, tmp_path, monkeypatch, minari_root):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^There is no file or folder .* \(looked for in ") as caught:
        read(name)
    assert fault_of(caught.value) is None and str(tmp_path) in str(caught.value)
    # What is given as a path is none of Minari's ids
    with pytest.raises(ValueError, match="There is no file or folder mujoco/hopper-v0"):
        read(Path("mujoco/hopper-v0"))


def test_a_name_that_may_be_either(tmp_path, monkeypatch, minari_root):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match=r"There is no folder runs/mine \(looked for in .*no dataset 'runs/mine'.* ids end in"
    ):
        load_dataset("runs/mine")
    with pytest.raises(ValueError, match="^There is no dataset 'runs/mine-v0' on this machine"):
        load_dataset("runs/mine-v0")


def test_what_is_there_and_is_none(tmp_path, minari_root):
    (tmp_path / "rows.odd").touch()
    for read in (load_dataset, open_minari, dataset_spaces):
        with pytest.raises(ValueError, match=r"rows\.odd is of no kind known by its ending; there are \.hdf5, "):
            read(str(tmp_path / "rows.odd"))
        with pytest.raises(ValueError, match="holds no Minari dataset: give the one that has the folder 'data' in it"):
            read(tmp_path)


def test_folders_of_minari_datasets_are_still_found(tmp_path, minari_root):
    name = write_minari(make_episodes())
    folder = Path(get_dataset_path(name))
    for source in (name, folder, str(folder), f"{folder}/"):
        assert load_dataset(source).name == name
    os.replace(folder, tmp_path / "moved")
    assert load_dataset(tmp_path / "moved").name == str(tmp_path / "moved")


# Reference scores

BAD = {
    "equal": (1.0, 1.0),
    "turned": (5.0, -5.0),
    "NaN": (np.nan, 1.0),
    "infinite": (0.0, np.inf),
    "one": (0,),
    "three": (0, 1, 2),
    "text": "01",
    "texts": ("0", "1"),
    "a number": 3.0,
    "a dictionary": {0: 1, 2: 3},
    "none in it": (None, 1.0),
}


def entries(scores):
    """The ways in which reference scores come, each as a function that is to refuse them."""
    columns = flat_columns(make_episodes())
    data = load_dataset(columns)
    return [
        lambda: load_dataset(columns, reference_scores=scores),
        lambda: load_dataset({**columns, "reference_scores": scores}),
        lambda: load_dataset(replace(data, reference_scores=scores)),
        lambda: dataset_info(replace(data, reference_scores=scores)),
        lambda: GMPO("FlowPolicy", dataset={**columns, "reference_scores": scores}, policy_kwargs=SMALL).learn(1),
        lambda: normalized_score(3.0, scores),
    ]


@pytest.mark.parametrize("scores", BAD.values(), ids=BAD)
def test_reference_scores_that_are_none(scores):
    for enter in entries(scores):
        with pytest.raises(ValueError, match="reference_scores") as caught:
            enter()
        assert fault_of(caught.value) is None


@pytest.mark.parametrize("scores", [(0, 20), [0.0, 20.0], np.array([0, 20]), (np.float32(0), np.int64(20))], ids=str)
def test_reference_scores_of_any_kind_of_number(scores):
    columns = flat_columns(make_episodes())
    for data in (load_dataset(columns, reference_scores=scores), load_dataset({**columns, "reference_scores": scores})):
        assert data.reference_scores == (0.0, 20.0) and all(type(score) is float for score in data.reference_scores)
    assert normalized_score(5.0, scores) == 25.0


@pytest.mark.parametrize("scores", [(1.0, 1.0), (2.0, 1.0), (float("nan"), 1.0), ("low", "high"), ([0], 1)], ids=str)
def test_reference_scores_that_a_minari_dataset_has_wrong_are_left_out(scores, minari_root):
    name = write_minari(make_episodes())
    path = Path(get_dataset_path(name)) / "data/metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "ref_min_score": scores[0], "ref_max_score": scores[1]}))
    with pytest.warns(
        UserWarning, match=f"'{name}'.*ref_min_score and ref_max_score.*read without reference scores"
    ) as caught:
        data = load_dataset(name)
    assert len(caught) == 1 and data.reference_scores is None and data.n_rows == 26
    assert "no reference scores" in str(dataset_info(data))


def test_an_evaluation_says_it_before_the_training(tmp_path):
    model = GMPO("FlowPolicy", "Pendulum-v1", dataset="pendulum-mixed", policy_kwargs=SMALL)
    model.read_dataset()
    model.reference_scores = (0.0, 0.0)
    with pytest.raises(
        ValueError, match="reference_scores: the return that counts as a score of 100 must lie above"
    ) as caught:
        model.learn(5, callback=OfflineEvalCallback(model.get_env(), eval_freq=5, n_eval_episodes=1))
    assert fault_of(caught.value) is None and model.num_timesteps == 0


def test_runs_of_models_that_were_saved_with_any(tmp_path):
    assert reference_scores_of({"reference_scores": [0.0, 20.0]}, None) == (0.0, 20.0)
    with pytest.warns(UserWarning, match="hopper_medium-v2.hdf5 was saved with reference_scores .* They are left out"):
        assert reference_scores_of({"reference_scores": [1.0, 1.0]}, "hopper_medium-v2.hdf5") == (-20.272305, 3234.3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reference_scores_of({"reference_scores": None}, None) is None
