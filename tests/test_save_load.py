"""
Saving, loading and resuming, as SB3's own tests ask of SAC.
"""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.save_util import load_from_zip_file

from sb3_genpolicy import GMPO, load_dataset
from sb3_genpolicy.common.algorithms import filling
from sb3_genpolicy.common.policies.actor import GenerativeActor
from sb3_genpolicy.common.policies.named import POLICY_ALIASES
from tests.helpers.arrays import SMALL, make_arrays
from tests.helpers.states import same_state

OBSERVATIONS = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
POLICIES = ["FlowPolicy", "DiffusionPolicy"]


def trained(arrays, policy="FlowPolicy", steps=10, **kwargs):
    return GMPO(policy, dataset=arrays, policy_kwargs=SMALL, seed=0, **kwargs).learn(steps)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_loaded_model_is_the_saved_one(arrays, tmp_path, policy):
    model = trained(arrays, policy, beta=2.5, expectile=0.8, learning_rate=1e-3)
    model.save(tmp_path / "model")
    loaded = GMPO.load(tmp_path / "model")
    assert same_state(model.get_parameters(), loaded.get_parameters())
    assert set(model.get_parameters()) == {"policy", "actor.optimizer", "critic.optimizer", "value_net.optimizer"}
    for name in ("beta", "expectile", "learning_rate", "num_timesteps", "_n_updates", "seed", "observation_space"):
        assert getattr(model, name) == getattr(loaded, name), name
    expected, _ = model.predict(OBSERVATIONS, deterministic=True)
    np.testing.assert_array_equal(loaded.predict(OBSERVATIONS, deterministic=True)[0], expected)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_resumed_run_equals_an_uninterrupted_one(arrays, tmp_path, policy):
    """Bit for bit: batches, noise, optimizers, targets and schedule all go on where they stopped."""

    def schedule(remaining):
        return 1e-3 * remaining

    whole = GMPO(policy, dataset=arrays, policy_kwargs=SMALL, seed=0, learning_rate=schedule).learn(20)

    class Stop:
        def __call__(self, locals_, globals_):
            return locals_["self"].num_timesteps < 12

    first = GMPO(policy, dataset=arrays, policy_kwargs=SMALL, seed=0, learning_rate=schedule).learn(20, callback=Stop())
    first.save(tmp_path / "stopped")
    # The schedule is a function
    resumed = GMPO.load(tmp_path / "stopped", trust_pickle=True)
    resumed.learn(8, reset_num_timesteps=False, dataset=arrays)
    assert resumed.num_timesteps == 20
    assert same_state(whole.get_parameters(), resumed.get_parameters())
    # A second interruption, of a run that was itself loaded and not trained since
    GMPO.load(tmp_path / "stopped", trust_pickle=True).save(tmp_path / "copied")
    again = GMPO.load(tmp_path / "copied", trust_pickle=True).learn(8, reset_num_timesteps=False, dataset=arrays)
    assert same_state(whole.get_parameters(), again.get_parameters())


def test_rows_stay_out_of_the_file_and_loading_reads_none(tmp_path, monkeypatch):
    # Given as a record, as a name and as a few rows: the file does not grow with them
    record = load_dataset("pendulum-mixed")
    GMPO("FlowPolicy", dataset=record, policy_kwargs=SMALL).learn(2).save(tmp_path / "record")
    model = GMPO("FlowPolicy", dataset="pendulum-mixed", policy_kwargs=SMALL).learn(2)
    model.save(tmp_path / "model")
    small = GMPO("FlowPolicy", dataset=make_arrays(action_dim=1), policy_kwargs=SMALL).learn(2)
    small.save(tmp_path / "small")
    for name in ("record", "model"):
        assert (tmp_path / f"{name}.zip").stat().st_size < 1.1 * (tmp_path / "small.zip").stat().st_size

    monkeypatch.setattr(filling, "load_dataset", lambda source: pytest.fail("the dataset was opened"))
    loaded = GMPO.load(tmp_path / "model")
    assert loaded.predict(np.zeros(3, np.float32))[0].shape == (1,)
    assert loaded.dataset_name == "pendulum-mixed" and tuple(loaded.reference_scores) == (-1230.0, -150.0)
    monkeypatch.undo()
    # Its name is enough to go on learning
    assert loaded.learn(3, reset_num_timesteps=False).num_timesteps == 5


def test_set_parameters_takes_a_dictionary_or_a_file(arrays, tmp_path):
    model, other = trained(arrays), trained(arrays, steps=3)
    model.save(tmp_path / "model")
    other.set_parameters(model.get_parameters())
    assert same_state(model.get_parameters(), other.get_parameters())
    other = trained(arrays, steps=3)
    other.set_parameters(str(tmp_path / "model"))
    assert same_state(model.get_parameters(), other.get_parameters())
    incomplete = {key: value for key, value in model.get_parameters().items() if key != "critic.optimizer"}
    with pytest.raises(ValueError, match="do not match"):
        other.set_parameters(incomplete)
    other.set_parameters(incomplete, exact_match=False)


def test_save_to_file_objects_and_paths(arrays, tmp_path):
    model = trained(arrays)
    for target in (tmp_path / "a", str(tmp_path / "b.zip")):
        model.save(target)
        assert same_state(GMPO.load(target).get_parameters(), model.get_parameters())
    buffer = io.BytesIO()
    model.save(buffer)
    buffer.seek(0)
    assert same_state(GMPO.load(buffer).get_parameters(), model.get_parameters())


def test_exclude_and_include(arrays, tmp_path):
    model = trained(arrays)
    model.save(tmp_path / "model", exclude=["gamma"], include=["replay_buffer"])
    data, _, _ = load_from_zip_file(tmp_path / "model")
    assert "gamma" not in data and data["replay_buffer"].size() == 26


def test_saving_does_not_change_the_run(arrays, tmp_path):
    plain, saved = trained(arrays, steps=5), trained(arrays, steps=5)
    saved.save(tmp_path / "model")
    assert same_state(
        plain.learn(5, reset_num_timesteps=False).get_parameters(), saved.learn(5, reset_num_timesteps=False).get_parameters()
    )


def test_options_can_be_changed_at_loading_and_misspelt_ones_are_named(arrays, tmp_path):
    trained(arrays).save(tmp_path / "model")
    assert GMPO.load(tmp_path / "model", beta=9.0).beta == 9.0
    with pytest.raises(TypeError, match="no option 'bta'. Did you mean 'beta'"):
        GMPO.load(tmp_path / "model", bta=9.0)
    with pytest.raises(ValueError, match="policy kwargs do not equal"):
        GMPO.load(tmp_path / "model", policy_kwargs=dict(net_arch=[8]))


@pytest.mark.parametrize("policy", POLICIES)
def test_policy_and_actor_can_be_saved_alone(arrays, tmp_path, policy):
    model = trained(arrays, policy)
    expected, _ = model.predict(OBSERVATIONS, deterministic=True)
    model.policy.save(tmp_path / "policy.pkl")
    loaded = POLICY_ALIASES[policy].load(tmp_path / "policy.pkl")
    np.testing.assert_array_equal(loaded.predict(OBSERVATIONS, deterministic=True)[0], expected)
    model.actor_ema.save(tmp_path / "actor.pkl")
    actor = GenerativeActor.load(tmp_path / "actor.pkl")
    np.testing.assert_array_equal(actor.predict(OBSERVATIONS, deterministic=True)[0], expected)


def test_replay_buffer_can_be_saved_and_loaded(arrays, tmp_path):
    model = trained(arrays)
    model.save_replay_buffer(tmp_path / "buffer")
    model.save(tmp_path / "model")
    loaded = GMPO.load(tmp_path / "model")
    loaded.load_replay_buffer(tmp_path / "buffer.pkl")
    assert th.equal(loaded.replay_buffer.observations, model.replay_buffer.observations)
    assert loaded.learn(2, reset_num_timesteps=False).num_timesteps == 12


def test_loaded_into_an_environment_it_goes_on_there(arrays, tmp_path):
    env = make_vec_env("Pendulum-v1", n_envs=2)
    GMPO("FlowPolicy", env, dataset="pendulum-mixed", policy_kwargs=SMALL).learn(2).save(tmp_path / "model")
    loaded = GMPO.load(tmp_path / "model", env=make_vec_env("Pendulum-v1", n_envs=3))
    assert loaded.n_envs == 3
    assert loaded.learn(2).num_timesteps == 2
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        GMPO.load(tmp_path / "model", env=make_vec_env("MountainCarContinuous-v0"))


def test_another_file_is_no_model(tmp_path):
    path = Path(tmp_path / "other.zip")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme", "nothing")
    with pytest.raises(ValueError, match="'readme' is none that a model's file has"):
        GMPO.load(path)
