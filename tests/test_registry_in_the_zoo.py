"""
An algorithm of somebody's module in the commands of the zoo.
"""

import numpy as np
import pytest
import yaml

from sb3_genpolicy import GMPO, register
from sb3_genpolicy.zoo.__main__ import main
from tests.helpers.others_module import MODULE, zoo

pytestmark = pytest.mark.usefixtures("forgotten_afterwards")


class Mine(GMPO):
    pass


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with somebody's module."""
    (tmp_path / "my_offline_rl.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


TINY = ["--dataset", "tiny/walk/first-v0", "--gym-packages", "tests.helpers.tiny_envs", "my_offline_rl"]


@pytest.fixture
def data(folder, minari_root):
    from tests.helpers import tiny_envs

    tiny_envs.make_minari("tiny/walk/first-v0")
    return folder


def test_the_zoo_trains_and_shows_it(data, capsys):
    small = ["-params", "policy_kwargs:dict(net_arch=[8])"]
    trained = zoo("train", "--algo", "short", *TINY, "-n", "20", "--eval-episodes", "2", *small)
    assert trained.returncode == 0, trained.stderr
    assert "Hyper-parameters: no file is registered for short, so that ShortGMPO's own defaults are taken" in trained.stdout
    config = (data / "logs/short/tiny-walk-first-v0_1/tiny-walk-first-v0/config.yml").read_text()
    assert "ShortPolicy" in config and "100000" in config
    shown = zoo("enjoy", "--algo", "short", *TINY, "-f", "logs", "--no-render", "-n", "8")
    assert shown.returncode == 0 and "Loading logs/short/tiny-walk-first-v0_1" in shown.stdout, shown.stderr
    # Who forgets the module is told
    short = ["--algo", "short", *TINY[:2]]
    for command in (["train", *short], ["enjoy", *short], ["results", "--eval-episodes", "1"]):
        assert main([*command, "-f", "logs"]) == 1
        message = capsys.readouterr().err
        assert message.startswith("There is no algorithm 'short'.") and message.endswith(
            "One of your own is known by --gym-packages with the module that calls sb3_genpolicy.register.\n"
        )
    assert main(["train", "--algo", "short", *TINY[:2], "--gym-packages", "no_such_module"]) == 1
    assert capsys.readouterr().err == "--gym-packages no_such_module: there is no module 'no_such_module' here.\n"


def test_a_file_of_hyperparameters_names_what_was_registered(data, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(data))
    import my_offline_rl

    # Another test's process may have imported the module from its own folder
    register("short", my_offline_rl.ShortGMPO, classes=[my_offline_rl.Network], objects=[my_offline_rl.Lowered])
    settings = dict(n_timesteps=4, policy="ShortPolicy", reward_transform={"Lowered": {"by": 2.0}})
    settings["policy_kwargs"] = {"network": "Network", "net_arch": [8]}
    (data / "own.yml").write_text(yaml.safe_dump({"default": settings}))
    assert main(["train", "--algo", "short", *TINY[:2], "-conf", "own.yml", "--eval-freq", "-1"]) == 0
    assert main(["results", "-f", "logs", "--eval-episodes", "1", *TINY[2:]]) == 0
    assert "| SHORT linear |" in capsys.readouterr().out
    model = my_offline_rl.ShortGMPO.load("logs/short/tiny-walk-first-v0_1/tiny-walk-first-v0.zip")
    assert type(model.actor.model.network) is my_offline_rl.Network and model.reward_transform == my_offline_rl.Lowered(2.0)
    np.testing.assert_array_equal(model.reward_function(np.ones(2)), [-1.0, -1.0])


def test_a_search_without_a_sampler_gets_a_sentence(data, capsys):
    register("mine", Mine)
    assert main(["train", "--algo", "mine", *TINY[:2], "-optimize", "-n", "4", "--n-trials", "1"]) == 1
    assert capsys.readouterr().err == (
        "Nothing says what -optimize may try for mine: give sb3_genpolicy.register('mine', ...) a sampler=.\n"
    )


def test_a_search_tries_what_the_sampler_says(data, capsys):
    register("mine", Mine, sampler=lambda trial, *_: {"beta": trial.suggest_float("beta", 7.0, 8.0)})
    search = ["-optimize", "-n", "4", "--n-trials", "1", "--eval-episodes", "1", "--n-evaluations", "1", "--no-optim-plots"]
    assert main(["train", "--algo", "mine", *TINY[:2], *search, "-params", "policy_kwargs:dict(net_arch=[8])"]) == 0
    assert "beta: 7." in capsys.readouterr().out


def test_a_name_of_the_zoo_is_taken(data, capsys):
    register("sac", Mine)
    assert main(["train", "--algo", "sac", *TINY[:2]]) == 1
    assert (
        "rl_zoo3 has an algorithm 'sac' of its own: register tests.test_registry_in_the_zoo.Mine under"
        in capsys.readouterr().err
    )
