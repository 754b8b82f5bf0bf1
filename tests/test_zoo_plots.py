"""
Other algorithms, videos and plots of the zoo.
"""

import pickle

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib import pyplot as plt
from matplotlib.image import imread
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_genpolicy.zoo import plots
from sb3_genpolicy.zoo.commands import command_line, module_of
from sb3_genpolicy.zoo.runs import find_runs
from tests.helpers import tiny_envs
from tests.helpers.zoo_runs import make_two_datasets, train, zoo


@pytest.fixture(autouse=True)
def folder(tmp_path, minari_root, monkeypatch):
    """A folder of the test's own with two datasets of one environment."""
    monkeypatch.chdir(tmp_path)
    make_two_datasets()
    return tmp_path


@pytest.fixture
def two_algorithms(folder):
    """Runs of GMPO on both datasets, and of SAC in their environment."""
    settings = dict(policy="MlpPolicy", n_timesteps=48, learning_starts=8, policy_kwargs=dict(net_arch=[16]))
    (folder / "sac.yml").write_text(yaml.safe_dump({"Tiny-v0": settings}))
    train("--eval-freq", 10, dataset="tiny/walk/first-v0")
    train("--eval-freq", 10, dataset="tiny/walk/second-v0")
    sac = ["--algo", "sac", "--env", "Tiny-v0", "-conf", "sac.yml", "-n", 48, "--eval-freq", 24, "--eval-episodes", 2]
    zoo("train", *sac)


def test_other_algorithms_are_rl_zoo3s_own(two_algorithms, capsys):
    model = SAC.load("logs/sac/Tiny-v0_1/Tiny-v0.zip")
    assert model.num_timesteps == 48
    zoo("enjoy", "--algo", "sac", "--env", "Tiny-v0", "-f", "logs", "--no-render", "-n", 8)
    assert "Loading logs/sac/Tiny-v0_1/Tiny-v0.zip" in capsys.readouterr().out


def test_results_of_any_algorithm(two_algorithms, capsys):
    zoo("results", "-f", "logs", "--eval-episodes", 2)
    table = capsys.readouterr().out
    mean, _ = evaluate_policy(SAC.load("logs/sac/Tiny-v0_1/Tiny-v0.zip"), make_vec_env("Tiny-v0", 2, seed=10_000), 2)
    assert f"| `Tiny-v0` |  |  | {mean:.1f} (1) |" in table and "| `tiny/walk/second-v0` |" in table


def evaluations(algo, key):
    with np.load(f"logs/{algo}/{key}_1/evaluations.npz") as stored:
        return stored["timesteps"], stored["results"].mean(axis=1)


def test_plot_train_draws_evaluations_of_offline_runs(two_algorithms, folder):
    plt.switch_backend("Agg")
    module = module_of("rl_zoo3.plots.plot_train")
    arguments = ["-a", "gmpo", "-e", "tiny-walk-first-v0", "-f", "logs"]
    with plots.with_evaluations(module, arguments) as theirs, command_line("plot_train", theirs):
        module.plot_train()
    (line,) = plt.gca().lines
    steps, means = evaluations("gmpo", "tiny-walk-first-v0")
    np.testing.assert_allclose(line.get_xdata(), steps)
    np.testing.assert_allclose(line.get_ydata(), means, rtol=1e-6)
    plt.close("all")


def test_plot_train_counts_what_was_played_where_it_was(two_algorithms):
    frame = plots.training_returns("logs/sac/Tiny-v0_1", {}, max_timesteps=40)
    assert frame["l"].tolist() == [tiny_envs.EPISODE_STEPS] * 5


def test_evaluations_have_their_seconds(two_algorithms):
    (run,) = find_runs("logs", ["gmpo"])[:1]
    frame = plots.training_returns(str(run.path), {str(run.path): run}, None)
    log = pd.read_csv(run.path / "progress.csv").dropna(subset=["eval/mean_reward"])
    assert frame["t"].tolist() == log["time/time_elapsed"].tolist() and 0 < frame["t"].iloc[0] < frame["t"].iloc[1]


@pytest.mark.parametrize("axis", ["steps", "episodes", "time"])
def test_plot_train_into_a_file(two_algorithms, folder, axis):
    zoo("plot_train", "-a", "gmpo", "-e", "Tiny-v0", "-f", "logs", "-x", axis, "-max", 10, "--picture", "train.png")
    assert imread(folder / "train.png").std() > 0.05


def test_all_plots_has_a_table_of_all_datasets_of_an_environment(two_algorithms, folder, capsys):
    capsys.readouterr()
    flags = ["-f", "logs", "--no-million", "--picture", "all.png"]
    zoo("all_plots", "-a", "gmpo", "sac", "-e", "Tiny-v0", *flags)
    table = capsys.readouterr().out
    for algo, key in (("gmpo", "tiny-walk-first-v0"), ("gmpo", "tiny-walk-second-v0"), ("sac", "Tiny-v0")):
        row = next(line for line in table.splitlines() if key in line)
        assert f"{evaluations(algo, key)[1][-1]:.0f} +/- 0" in row
        assert imread(folder / f"all-{key}.png").std() > 0.05


@pytest.mark.parametrize("freq", [10, 20])
def test_all_plots_takes_single_episodes_and_single_evaluations(capsys, freq):
    for seed in range(2):
        train("--eval-freq", freq, "--eval-episodes", 1, "--seed", seed)
    capsys.readouterr()
    zoo("all_plots", "-a", "gmpo", "-e", "Tiny-v0", "-f", "logs", "--picture", "all.png")
    last = [np.load(f"logs/gmpo/tiny-walk-first-v0_{number}/evaluations.npz")["results"][-1, 0] for number in (1, 2)]
    assert f"{np.mean(last):.0f} +/- {np.std(last) / np.sqrt(2):.0f}" in capsys.readouterr().out


def test_all_plots_shows_long_trainings_to_their_end(folder, capsys):
    train("--eval-freq", 5)
    path = folder / "logs/gmpo/tiny-walk-first-v0_1/evaluations.npz"
    with np.load(path) as stored:
        arrays = dict(stored)
    # As if a step were a quarter of a million; rl_zoo3 stops at two million steps
    arrays["timesteps"] = 250_000 * arrays["timesteps"]
    np.savez(path, **arrays)
    capsys.readouterr()
    zoo("all_plots", "-a", "gmpo", "-e", "Tiny-v0", "-f", "logs", "-o", "data", "--no-display")
    with open("data.pkl", "rb") as file:
        plotted = pickle.load(file)["tiny-walk-first-v0"]["GMPO-logs"]
    assert plotted["timesteps"][-1] == 5_000_000
    assert plotted["last_evals"] == pytest.approx(arrays["results"][-1].mean())


def test_record_video(two_algorithms, folder):
    run = ["-f", "logs", "-n", 12, "-o", "videos"]
    zoo("record_video", "--algo", "gmpo", "--env", "Tiny-v0", "--dataset", "tiny/walk/second-v0", *run)
    zoo("record_video", "--algo", "sac", "--env", "Tiny-v0", *run)
    videos = sorted(path.name for path in folder.glob("videos/*.mp4"))
    assert videos == [
        "final-model-gmpo-tiny-walk-second-v0-step-0-to-step-12.mp4",
        "final-model-sac-Tiny-v0-step-0-to-step-12.mp4",
    ]
    assert all((folder / "videos" / name).stat().st_size > 500 for name in videos)
