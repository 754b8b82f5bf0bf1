"""
The other methods in the zoo: training starts from the entries of their files, which say what the constructors do.
"""

import inspect

import pytest
import yaml

from sb3_genpolicy import BC, GMPG, GMPO, IDQL, IQL, DiffusionQL
from sb3_genpolicy.common.algorithms.registry import registered
from sb3_genpolicy.common.policies.critics.options import make_critic
from sb3_genpolicy.zoo.__main__ import main
from sb3_genpolicy.zoo.algorithms import hyperparams_file
from sb3_genpolicy.zoo.settings import with_objects
from sb3_genpolicy.zoo.tasks import PUBLISHED_TASKS
from tests.helpers import tiny_envs

ALGORITHMS = {"bc": BC, "idql": IDQL, "iql": IQL, "diffusionql": DiffusionQL}


def settings_in(algo, name=None):
    with open(hyperparams_file(algo, name)) as file:
        return yaml.safe_load(file)


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_the_default_entry_is_what_the_constructor_does(algo):
    entry = settings_in(algo)["default"]
    defaults = {name: option.default for name, option in inspect.signature(ALGORITHMS[algo].__init__).parameters.items()}
    if defaults.get("critic") is None:
        defaults["critic"] = getattr(ALGORITHMS[algo], "default_critic", None)
    own = {name: value for name, value in entry.items() if name not in ("n_timesteps", "policy")}
    for name, value in own.items():
        given, expected = (value, defaults[name]) if name != "critic" else map(make_critic, (value, defaults[name]))
        assert given == expected, name
    assert entry["policy"] in registered()[algo].policies


@pytest.mark.parametrize("algorithm", [GMPO, GMPG])
def test_the_default_divergence_is_the_entry_s(algorithm):
    entry = settings_in(algorithm.__name__.lower(), "tuned")["default"]
    assert algorithm("MlpPolicy", "Pendulum-v1").target_kl == entry["target_kl"] and "beta" not in entry


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_training_starts_from_it_and_is_scored(algo, minari_root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny_envs.make_minari("tiny/walk/first-v0")
    dataset = ["--dataset", "tiny/walk/first-v0"]
    small = ["-params", "policy_kwargs:dict(net_arch=[8])", "batch_size:8"]
    assert main(["train", "--algo", algo, *dataset, "-n", "2", "--eval-episodes", "1", *small]) == 0
    assert "Hyper-parameters: 'default' of" in capsys.readouterr().out
    assert main(["results", "-f", "logs", "--eval-episodes", "1"]) == 0
    assert f"| {algo.upper()}" in capsys.readouterr().out
    model = ALGORITHMS[algo].load(f"logs/{algo}/tiny-walk-first-v0_1/tiny-walk-first-v0.zip")
    assert model.num_timesteps == 2


@pytest.mark.parametrize("algo", ["iql", "idql", "diffusionql"])
def test_published_settings_make_a_model(algo):
    entries = settings_in(algo, "published")
    assert {name for name in PUBLISHED_TASKS if name.startswith(("halfcheetah", "hopper", "walker2d"))} <= set(entries)
    for settings in {repr(entry): entry for entry in entries.values()}.values():
        options = {name: value for name, value in settings.items() if name not in ("n_timesteps", "policy")}
        options["policy_kwargs"] = {**options["policy_kwargs"], "net_arch": [8]}
        options = with_objects(options, registered()[algo])
        model = ALGORITHMS[algo](settings["policy"], "Pendulum-v1", **options)
        assert model.gamma == 0.99 and model.tau == 0.005


def test_published_numbers():
    iql, idql, diffusion = (settings_in(algo, "published") for algo in ("iql", "idql", "diffusionql"))
    expectiles = {
        name: with_objects(dict(critic=entry["critic"]), registered()["idql"])["critic"].value_expectile
        for name, entry in idql.items()
    }
    assert all(expectile == (0.9 if "antmaze" in name else 0.7) for name, expectile in expectiles.items())
    assert {(entry["n_candidates"], entry["batch_size"]) for entry in idql.values()} == {(64, 512)}
    assert {(entry["beta"], entry["expectile"]) for name, entry in iql.items() if "antmaze" in name} == {(10.0, 0.9)}
    assert {(entry["beta"], entry["expectile"]) for name, entry in iql.items() if "antmaze" not in name} == {(3.0, 0.7)}
    # From the table of its code
    norms = {
        "hopper-medium-v2": 9.0,
        "hopper-medium-replay-v2": 4.0,
        "hopper-medium-expert-v2": 5.0,
        "walker2d-medium-v2": 1.0,
    }
    assert {name: diffusion[name]["max_grad_norm"] for name in norms} == norms
