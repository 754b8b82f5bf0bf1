"""
Pushing and pulling, with the network in a folder, and the card that travels with a model.
"""

import base64
import json
import re
import shutil
import zipfile

import huggingface_hub
import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.errors import EntryNotFoundError
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_genpolicy import GMPG, GMPO
from sb3_genpolicy.zoo.__main__ import main
from tests.helpers import tiny_envs

SMALL = ["-params", "batch_size:8", "policy_kwargs:dict(net_arch=[16])"]


@pytest.fixture(autouse=True)
def hub(tmp_path, minari_root, monkeypatch):
    """A folder in the place of the hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRUST_REMOTE_CODE", "True")
    root = tmp_path / "remote"

    def create_repo(self, *, repo_id, token, private, exist_ok):
        (root / repo_id).mkdir(parents=True, exist_ok=True)
        return f"https://hub/{repo_id}"

    def snapshot_download(self, *, repo_id, local_dir):
        shutil.copytree(root / repo_id, local_dir, dirs_exist_ok=True)

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        shutil.copytree(folder_path, root / repo_id, dirs_exist_ok=True)

    def hf_hub_download(repo_id, filename, **library):
        if not (root / repo_id / filename).is_file():
            raise EntryNotFoundError(f"{filename} is not in {repo_id}")
        return str(root / repo_id / filename)

    for method in (create_repo, snapshot_download, upload_folder):
        monkeypatch.setattr(huggingface_hub.HfApi, method.__name__, method)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    tiny_envs.make_minari("tiny/walk/first-v0")
    return root


def zoo(*arguments):
    assert main([str(argument) for argument in arguments]) == 0


def train(algo, *arguments):
    data = ["--dataset", "tiny/walk/first-v0", "-n", 20, "--seed", 3, "--eval-freq", 10, "--eval-episodes", 2]
    zoo("train", "--algo", algo, *data, *SMALL, *arguments)


@pytest.mark.parametrize(("algo", "cls"), [("gmpo", GMPO), ("gmpg", GMPG)])
def test_a_model_goes_to_the_hub_and_comes_back(algo, cls, hub, tmp_path, capsys):
    train(algo)
    zoo("push_to_hub", "--algo", algo, "--env", "Tiny-v0", "-f", "logs", "-orga", "me", "--no-render")
    name = f"{algo}-tiny-walk-first-v0"
    assert {"README.md", "args.yml", "config.yml", "results.json", f"{name}.zip"} <= {
        p.name for p in (hub / "me" / name).iterdir()
    }
    dataset = ["--dataset", "tiny/walk/first-v0"]
    zoo("load_from_hub", "--algo", algo, "--env", "Tiny-v0", *dataset, "-orga", "me", "-f", "pulled")
    pulled = cls.load(f"pulled/{algo}/tiny-walk-first-v0_1/tiny-walk-first-v0.zip")
    own = cls.load(f"logs/{algo}/tiny-walk-first-v0_1/tiny-walk-first-v0.zip")
    observation = np.ones(3, np.float32)
    assert np.array_equal(pulled.predict(observation, deterministic=True)[0], own.predict(observation, deterministic=True)[0])
    # Every command works on it, also where the dataset is not
    shutil.rmtree(tmp_path / "minari")
    capsys.readouterr()
    zoo("enjoy", "--algo", algo, "--env", "Tiny-v0", "-f", "pulled", "--no-render", "-n", 8)
    assert f"Loading pulled/{algo}/tiny-walk-first-v0_1" in capsys.readouterr().out
    zoo("enjoy", "--algo", algo, *dataset, "-f", "pulled", "--no-render", "-n", 8)
    zoo("results", "-f", "pulled")
    zoo("plot_train", "-a", algo, "-e", "Tiny-v0", "-f", "pulled", "--picture", "curve.png")


def test_the_card_says_what_the_model_is(hub, capsys):
    train("gmpo", "--env-kwargs", "slope:2.0")
    zoo(
        "push_to_hub",
        "--algo",
        "gmpo",
        "--env",
        "Tiny-v0",
        "-f",
        "logs",
        "-orga",
        "me",
        "-name",
        "tiny",
        "--no-render",
        "--seed",
        5,
    )
    card = ModelCard.load(hub / "me" / "tiny" / "README.md")
    # Scores by SB3's own evaluation, of the same ten episodes
    model = GMPO.load("logs/gmpo/tiny-walk-first-v0_1/tiny-walk-first-v0.zip")
    mean, std = evaluate_policy(model, make_vec_env("Tiny-v0", seed=5, env_kwargs=dict(slope=2.0)), 10)
    score = f"{100 * (mean + 4) / 8:.1f} ± {100 * std / 8:.1f}"
    assert f"| this model | 10 | deterministic | {mean:.1f} ± {std:.1f} | {score} |" in card.text
    with np.load("logs/gmpo/tiny-walk-first-v0_1/evaluations.npz") as stored:
        last = stored["results"][-1]
    assert f"| training, step 20 |  |  | {last.mean():.1f} ± {last.std():.1f} |" in card.text
    for part in (
        "# GMPO on tiny/walk/first-v0",
        "- dataset: `tiny/walk/first-v0`",
        "- environment of the evaluation: `Tiny-v0`",
        "0 is a return of -4, 100 one of 4",
        "- seed: 3",
        "- steps: 20 gradient steps",
        "batch_size: 8",
        "load_from_hub --algo gmpo --env Tiny-v0 --dataset 'tiny/walk/first-v0' -f logs -orga me -name tiny",
    ):
        assert part in card.text, part
    results = {result.metric_type: result for result in card.data.eval_results}
    assert results["normalized_score"].metric_value == pytest.approx(100 * (mean + 4) / 8, abs=0.06)
    assert results["mean_reward"].dataset_name == "tiny/walk/first-v0"
    assert card.data.library_name == "stable-baselines3" and "offline-reinforcement-learning" in card.data.tags
    # The command as it was typed, from the interpreter on
    command = re.search(r"## Training\n\n```sh\n(.*)\n```", card.text).group(1)
    assert command.startswith("python ") and "/bin/python" not in command.split()[0]


def test_the_card_shows_what_other_seeds_gave(hub):
    for seed in (3, 4):
        train("gmpo", "--seed", seed)
    train("gmpo", "--seed", 5, "-params", "beta:3", "batch_size:8")
    push = ["push_to_hub", "--algo", "gmpo", "--env", "Tiny-v0", "-f", "logs", "-orga", "me", "--no-render"]
    zoo(*push, "--exp-id", 2)
    text = ModelCard.load(hub / "me" / "gmpo-tiny-walk-first-v0" / "README.md").text
    assert "This model is the training of seed 4." in text and "| 5 |" not in text
    for number, seed in ((1, 3), (2, 4)):
        with np.load(f"logs/gmpo/tiny-walk-first-v0_{number}/evaluations.npz") as stored:
            returns = stored["results"][-1]
        assert f"| {seed} | {returns.mean():.1f} | {100 * (returns.mean() + 4) / 8:.1f} ± {12.5 * returns.std():.1f} |" in text
    # The third has settings of its own
    zoo(*push)
    assert "Another seed may" in ModelCard.load(hub / "me" / "gmpo-tiny-walk-first-v0" / "README.md").text


def test_other_algorithms_travel_too(hub, tmp_path, capsys):
    settings = dict(policy="MlpPolicy", n_timesteps=24, learning_starts=8, normalize=True, policy_kwargs=dict(net_arch=[16]))
    (tmp_path / "sac.yml").write_text(yaml.safe_dump({"Tiny-v0": settings}))
    run = ["--algo", "sac", "--env", "Tiny-v0"]
    zoo("train", *run, "-conf", "sac.yml", "--eval-freq", -1, "--seed", 9)
    zoo("push_to_hub", *run, "-f", "logs", "-orga", "me", "--no-render")
    card = ModelCard.load(hub / "me" / "sac-Tiny-v0" / "README.md")
    assert "# SAC on Tiny-v0" in card.text
    # rl_zoo3 keeps the command beside the model
    assert (tmp_path / "logs/sac/Tiny-v0_1/Tiny-v0/command.txt").read_text() in card.text
    zoo("load_from_hub", *run, "-orga", "me", "-f", "pulled")
    assert SAC.load("pulled/sac/Tiny-v0_1/Tiny-v0.zip").num_timesteps == 24 and "- seed: 9" in card.text
    assert (tmp_path / "pulled/sac/Tiny-v0_1/Tiny-v0/vecnormalize.pkl").is_file()


def test_settings_that_are_fetched_run_nothing(hub, tmp_path, capsys):
    train("gmpo", "--env-kwargs", "slope:2.0")
    zoo("push_to_hub", "--algo", "gmpo", "--env", "Tiny-v0", "-f", "logs", "-orga", "me", "--no-render")
    witness = tmp_path / "witness"
    for name in ("args.yml", "config.yml"):
        path = hub / "me" / "gmpo-tiny-walk-first-v0" / name
        path.write_text(path.read_text() + f"  - - extra\n    - !!python/object/apply:os.system ['touch {witness}']\n")
    run = ["--algo", "gmpo", "--env", "Tiny-v0"]
    zoo("load_from_hub", *run, "--dataset", "tiny/walk/first-v0", "-orga", "me", "-f", "pulled")
    capsys.readouterr()
    zoo("enjoy", *run, "-f", "pulled", "--no-render", "-n", 8, "--seed", 5)
    assert not witness.exists()
    # With the settings it was trained with
    model = GMPO.load("logs/gmpo/tiny-walk-first-v0_1/tiny-walk-first-v0.zip")
    mean, _ = evaluate_policy(model, make_vec_env("Tiny-v0", seed=5, env_kwargs=dict(slope=2.0)), 1)
    assert f"Mean reward: {mean:.2f}" in capsys.readouterr().out
    # What rl_zoo3 itself would have done
    yaml.unsafe_load((hub / "me" / "gmpo-tiny-walk-first-v0" / "args.yml").read_text())
    assert witness.exists()


def test_a_model_that_is_fetched_runs_nothing_unless_it_is_trusted(hub, tmp_path, capsys):
    train("gmpo")
    zoo("push_to_hub", "--algo", "gmpo", "--env", "Tiny-v0", "-f", "logs", "-orga", "me", "--no-render")
    path, witness = hub / "me" / "gmpo-tiny-walk-first-v0" / "gmpo-tiny-walk-first-v0.zip", tmp_path / "witness"
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    code = b"cposix\nsystem\n(S'touch " + str(witness).encode() + b"'\ntR."
    settings = {**json.loads(entries["data"]), "extra": {":serialized:": base64.b64encode(code).decode()}}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**entries, "data": json.dumps(settings)}.items():
            archive.writestr(name, content)
    run = ["--algo", "gmpo", "--env", "Tiny-v0", "-f", "pulled"]
    zoo("load_from_hub", *run, "--dataset", "tiny/walk/first-v0", "-orga", "me")
    enjoy = ["enjoy", *run, "--no-render", "-n", "8"]
    assert main(enjoy) == 1
    assert "'extra' in its entry 'data' is a pickle" in capsys.readouterr().err and not witness.exists()
    zoo(*enjoy, "--trust-pickle")
    assert witness.exists()


def test_nothing_is_fetched_without_trust(monkeypatch, capsys):
    train("gmpo")
    zoo("push_to_hub", "--algo", "gmpo", "--env", "Tiny-v0", "-f", "logs", "-orga", "me", "--no-render")
    monkeypatch.delenv("TRUST_REMOTE_CODE")
    pull = ["load_from_hub", "--algo", "gmpo", "--dataset", "tiny/walk/first-v0", "-orga", "me", "-f", "pulled"]
    assert main(pull) == 1
    assert "TRUST_REMOTE_CODE" in capsys.readouterr().err


def test_which_run_is_pushed_must_be_clear(capsys):
    tiny_envs.make_minari("tiny/walk/second-v0")
    train("gmpo")
    zoo("train", "--algo", "gmpo", "--dataset", "tiny/walk/second-v0", "-n", 2, "--eval-freq", -1, *SMALL)
    assert main(["push_to_hub", "--algo", "gmpo", "--env", "Tiny-v0", "-f", "logs", "-orga", "me", "--no-render"]) == 1
    assert "add --dataset, one of tiny/walk/first-v0, tiny/walk/second-v0" in capsys.readouterr().err
