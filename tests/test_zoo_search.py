"""
The search for hyper-parameters: what is tried, what is pruned, and a study that two processes share.
"""

import os
import time

import numpy as np
import optuna
import pytest
import torch as th
import yaml
from optuna.trial import TrialState
from sqlalchemy.exc import IntegrityError, OperationalError

from sb3_genpolicy import GMPG, GMPO, FittedQOptions, Guards, load_dataset
from sb3_genpolicy.common.algorithms.registry import registered
from sb3_genpolicy.evaluation import callbacks
from sb3_genpolicy.evaluation.support import fit_behaviour
from sb3_genpolicy.zoo.__main__ import main
from sb3_genpolicy.zoo.experiment import OfflineExperimentManager
from sb3_genpolicy.zoo.storage import lay_out_database
from tests.helpers import tiny_envs
from tests.helpers.warm_processes import WarmProcess

CLASSES = {"gmpo": GMPO, "gmpg": GMPG}


@pytest.fixture
def search(tmp_path, minari_root, monkeypatch):
    """Run a search in a study on a database, and open the study."""
    monkeypatch.chdir(tmp_path)
    tiny_envs.make_minari("tiny/walk/first-v0")
    storage = f"sqlite:///{tmp_path}/study.db"

    def run(*arguments, algo="gmpo", n_trials=2):
        shared = ["--storage", storage, "--study-name", "study", "--no-optim-plots"]
        run = ["-n", "8", "-optimize", "--n-trials", str(n_trials), "--eval-episodes", "2", "--n-evaluations", "2"]
        code = main(["train", "--algo", algo, "--dataset", "tiny/walk/first-v0", *run, *shared, *arguments])
        return code, optuna.load_study(study_name="study", storage=storage)

    return run


@pytest.mark.parametrize("algo", ["bc", "diffusionql", "fql", "gmpg", "gmpo", "idql", "iql", "qgpo", "rebrac", "srpo"])
def test_what_is_sampled_are_options_of_the_algorithm(algo):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    entry = registered()[algo]
    for _ in range(20):
        trial = study.ask()
        options = entry.sampler(trial, 2, 1, {})
        arrays = dict(observations=np.zeros((4, 3)), actions=np.zeros((4, 2)), rewards=np.ones(4), terminals=np.ones(4))
        model = entry.algorithm(next(iter(entry.policies)), dataset=arrays, policy_kwargs=dict(net_arch=[8]), **options)
        assert model.batch_size in (64, 128, 256, 512, 1024)
        assert algo == "bc" or 0.97 <= model.gamma < 1.0
        # What a study keeps stands for the same options
        assert entry.converter(trial.params) == options


@pytest.mark.parametrize("algo", CLASSES)
def test_search_and_training_with_what_it_found(search, algo, tmp_path, capsys):
    code, study = search(algo=algo)
    assert code == 0 and [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 2
    assert all(len(trial.intermediate_values) == 2 for trial in study.trials)
    assert len(list(tmp_path.glob("logs/*/report_*.csv"))) == 1
    # Nothing that `enjoy` would take for a run
    assert list(tmp_path.glob("logs/*/tiny*")) == []
    # Trial 0 as well as any other
    code, _ = search("--trial-id", "0", "-n", "2", "--eval-freq", "-1", algo=algo, n_trials=0)
    arguments = ["--algo", algo, "--dataset", "tiny/walk/first-v0", "-n", "2", "--eval-freq", "-1"]
    shared = ["--storage", f"sqlite:///{tmp_path}/study.db", "--study-name", "study", "--trial-id", "0"]
    assert main(["train", *arguments, *shared]) == 0
    model = CLASSES[algo].load(f"logs/{algo}/tiny-walk-first-v0_1/tiny-walk-first-v0.zip")
    attributes = study.trials[0].user_attrs
    assert (model.gamma, model.batch_size) == (attributes["gamma"], attributes["batch_size"])
    assert model.target_kl == study.trials[0].params["target_kl"]


def test_settings_that_are_not_searched_stay(search, tmp_path):
    settings = dict(policy="DiffusionPolicy", n_timesteps=8, policy_kwargs=dict(path="cosine", net_arch=[8]))
    (tmp_path / "own.yml").write_text(yaml.safe_dump({"default": settings}))
    seen = []
    learn = GMPO.learn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GMPO, "learn", lambda self, *args, **kwargs: seen.append(self) or learn(self, *args, **kwargs))
        assert search("-conf", "own.yml", n_trials=1)[0] == 0
    assert type(seen[0].policy.path).__name__ == "CosinePath" and seen[0].dataset == "tiny/walk/first-v0"


def test_faults_of_settings_are_not_pruned(search, capsys):
    code, study = search("-params", "policy_kwargs:dict(net_archh=[8])")
    assert code == 1 and "has no option 'net_archh'. Did you mean 'net_arch'?" in capsys.readouterr().err
    assert TrialState.PRUNED not in [trial.state for trial in study.trials]


def test_faults_of_the_data_are_not_pruned(search, capsys):
    code, study = search("--env", "Pendulum-v1")
    assert code == 1 and "have shape (2,), but the environment's have (1,)" in capsys.readouterr().err
    assert TrialState.PRUNED not in [trial.state for trial in study.trials]


def test_divergence_is_pruned_and_the_search_goes_on(search, monkeypatch, capsys):
    weights, calls = GMPO.advantage_weights, []

    def diverge_in_the_first_trial(self, advantage):
        calls.append(self)
        return weights(self, advantage * th.nan if len(calls) == 2 else advantage)

    monkeypatch.setattr(GMPO, "advantage_weights", diverge_in_the_first_trial)
    code, study = search()
    assert code == 0 and [trial.state for trial in study.trials] == [TrialState.PRUNED, TrialState.COMPLETE]
    assert "Training diverged: in gradient step" in capsys.readouterr().out


def test_processes_of_one_study_try_different_settings(monkeypatch):
    class Manager(OfflineExperimentManager):
        def __init__(self, storage):
            self.seed, self.storage, self.n_startup_trials = 0, storage, 10

    def first_beta(storage, process):
        monkeypatch.setattr(os, "getpid", lambda: process)
        study = optuna.create_study(sampler=Manager(storage)._create_sampler("tpe"))
        return study.ask().suggest_float("beta", 0.0, 1.0)

    assert first_beta("sqlite://", 1) != first_beta("sqlite://", 2)
    # Alone, a search is its seed's
    assert first_beta(None, 1) == first_beta(None, 2)


def test_a_database_that_another_process_is_laying_out_is_waited_for(monkeypatch):
    faults = [
        IntegrityError("INSERT INTO alembic_version", {}, Exception()),
        OperationalError("CREATE TABLE", {}, Exception()),
    ]
    waited = []

    def get_storage(address):
        if faults:
            raise faults.pop(0)

    monkeypatch.setattr(optuna.storages, "get_storage", get_storage)
    monkeypatch.setattr(time, "sleep", waited.append)
    lay_out_database("sqlite:///study.db")
    assert faults == [] and len(waited) == 2
    # One that cannot be opened at all is said to be so in the end
    faults += [OperationalError("no such host", {}, Exception())] * 20
    with pytest.raises(OperationalError):
        lay_out_database("sqlite:///study.db")


@pytest.mark.parametrize("storage", ["sqlite:///study.db", "study.log"])
def test_two_processes_share_a_study(tmp_path, storage):
    command = ["sb3_genpolicy.zoo", "train", "--algo", "gmpo", "--dataset", "pendulum-mixed", "-n", "4"]
    command += ["-optimize", "--max-total-trials", "6", "--eval-episodes", "1", "--n-evaluations", "1", "--no-optim-plots"]
    command += ["--storage", storage, "--study-name", "shared", "--seed", "0"]
    started = [WarmProcess(*command, folder=tmp_path) for _ in range(2)]
    finished = [process.finish() for process in started]
    outputs = [process.stdout + process.stderr for process in finished]
    assert [process.returncode for process in finished] == [0, 0], outputs
    if storage.endswith(".log"):
        backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / storage))
        study = optuna.load_study(study_name="shared", storage=optuna.storages.JournalStorage(backend))
    else:
        study = optuna.load_study(study_name="shared", storage=f"sqlite:///{tmp_path}/study.db")
    assert [trial.number for trial in study.trials] == list(range(len(study.trials))) and 6 <= len(study.trials) <= 7
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}
    # Both took part, and no settings were tried twice
    assert all("Trial" in output and "finished with value" in output for output in outputs)
    assert len({trial.params["target_kl"] for trial in study.trials}) == len(study.trials)


def test_a_search_without_a_simulator_is_judged_by_the_dataset(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny = FittedQOptions(n_members=2, net_arch=(8,), steps=4, first_steps=4, batch_size=16)
    monkeypatch.setattr(callbacks, "DURING_TRAINING", tiny)
    # Nothing of so few steps would be told
    lenient = Guards(largest_error=1e9, largest_disagreement=1e9, largest_drift=1e9, largest_outside=1.0)
    monkeypatch.setattr(callbacks, "Guards", lambda: lenient)
    monkeypatch.setattr(callbacks, "fit_behaviour", lambda *a, **k: fit_behaviour(*a[:2], 2, 0, progress_bar=False))
    data = load_dataset("pendulum-mixed").select_episodes(np.arange(12))
    np.savez("own.npz", **{key: data[key] * (0.5 if key == "actions" else 1.0) for key in data})
    command = ["train", "--algo", "bc", "--dataset", "own.npz", "-n", "8", "-optimize", "--n-trials", "2", "--no-optim-plots"]
    command += ["--n-evaluations", "2", "--storage", f"sqlite:///{tmp_path}/study.db", "--study-name", "study"]
    assert main(command) == 1
    assert "or --offline-evaluation where there is none" in capsys.readouterr().err
    assert main([*command, "--offline-evaluation"]) == 0
    study = optuna.load_study(study_name="study", storage=f"sqlite:///{tmp_path}/study.db")
    done = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    assert done and all(-1e4 < trial.value < 0.0 for trial in done)
