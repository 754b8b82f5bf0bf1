"""
rl_zoo3's commands with our algorithms, as a user runs them: train, enjoy, videos, plots.
"""

import pickle
import re
import sys

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import torch as th
import yaml
from matplotlib import pyplot as plt
from matplotlib.image import imread
from rl_zoo3 import ALGOS
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_genpolicy import GMPG, GMPO, load_dataset
from sb3_genpolicy.zoo import plots, register, results
from sb3_genpolicy.zoo.__main__ import main
from sb3_genpolicy.zoo.commands import command_line, module_of
from sb3_genpolicy.zoo.environments import dataset_key, entry_names
from sb3_genpolicy.zoo.experiment import OfflineExperimentManager
from sb3_genpolicy.zoo.runs import find_runs
from tests import tiny_envs

SMALL = ["batch_size:8", "policy_kwargs:dict(net_arch=[16])"]


@pytest.fixture(autouse=True)
def folder(tmp_path, minari_root, monkeypatch):
    """A folder of the test's own with two datasets of one environment."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("tiny/walk/first-v0", "tiny/walk/second-v0")):
        tiny_envs.make_minari(name, seed=100 * number)
    return tmp_path


def zoo(command, *arguments):
    """Run a command."""
    assert main([command, *(str(argument) for argument in arguments)]) == 0


def train(*arguments, algo="gmpo", dataset="tiny/walk/first-v0", steps=20, settings=()):
    dataset = ["--dataset", dataset] if dataset else []
    zoo("train", "--algo", algo, *dataset, "-n", steps, "--eval-episodes", 2, "-params", *SMALL, *settings, *arguments)


def test_registering_adds_to_what_the_zoo_has():
    register()
    assert ALGOS["gmpo"] is GMPO and ALGOS["gmpg"] is GMPG and ALGOS["sac"] is SAC


@pytest.mark.parametrize(("algo", "cls"), [("gmpo", GMPO), ("gmpg", GMPG)])
def test_two_datasets_of_one_environment_keep_apart(algo, cls, capsys):
    train("--env", "Tiny-v0", "--seed", 3, algo=algo)
    train("--env", "Tiny-v0", "--seed", 4, algo=algo, dataset="tiny/walk/second-v0")
    for name, seed in (("first", 3), ("second", 4)):
        model = cls.load(f"logs/{algo}/tiny-walk-{name}-v0_1/tiny-walk-{name}-v0.zip")
        assert (model.dataset_name, model.seed, model.num_timesteps) == (f"tiny/walk/{name}-v0", seed, 20)
        capsys.readouterr()
        run = ["--algo", algo, "--env", "Tiny-v0", "-f", "logs", "--no-render", "-n", 8]
        zoo("enjoy", *run, "--dataset", f"tiny/walk/{name}-v0")
        assert f"Loading logs/{algo}/tiny-walk-{name}-v0_1" in capsys.readouterr().out
        # The name of the runs will do too
        zoo("enjoy", *run[:2], "--env", f"tiny-walk-{name}-v0", *run[4:])
        assert f"Loading logs/{algo}/tiny-walk-{name}-v0_1" in capsys.readouterr().out
    assert main(["enjoy", *map(str, run)]) == 1
    message = capsys.readouterr().err
    assert message == (
        f"There are runs of {algo} on 2 datasets: add --dataset, one of tiny/walk/first-v0, tiny/walk/second-v0.\n"
    )


def test_enjoy_plays_what_the_model_plays(capsys):
    train("--seed", 0)
    zoo("enjoy", "--algo", "gmpo", "--env", "Tiny-v0", "-f", "logs", "--no-render", "-n", 24, "--seed", 5)
    printed = float(re.search(r"Mean reward: (\S+)", capsys.readouterr().out).group(1))
    model = GMPO.load("logs/gmpo/tiny-walk-first-v0_1/tiny-walk-first-v0.zip")
    mean, _ = evaluate_policy(model, make_vec_env("Tiny-v0", seed=5), n_eval_episodes=3)
    assert printed == pytest.approx(mean, abs=0.006)


def test_the_environment_is_that_of_the_dataset():
    train(steps=2)
    saved = yaml.unsafe_load(open("logs/gmpo/tiny-walk-first-v0_1/tiny-walk-first-v0/args.yml"))
    assert (saved["env"], saved["gym_env"], saved["dataset"]) == ("tiny-walk-first-v0", "Tiny-v0", "tiny/walk/first-v0")
    env, original = gym.make("tiny-walk-first-v0"), gym.make("Tiny-v0")
    assert env.spec.max_episode_steps == original.spec.max_episode_steps == tiny_envs.EPISODE_STEPS
    assert type(env.unwrapped) is type(original.unwrapped) and env.observation_space == original.observation_space


def test_a_dataset_may_name_another_environment_for_evaluation():
    tiny_envs.make_minari("tiny/walk/third-v0", eval_env=gym.make("Tiny-v0", slope=3.0))
    train(dataset="tiny/walk/third-v0", steps=2)
    assert gym.make("tiny-walk-third-v0").unwrapped.slope == 3.0
    # What the command line names counts more
    train("--env", "Tiny-v0", dataset="tiny/walk/third-v0", steps=2)
    assert gym.make("tiny-walk-third-v0").unwrapped.slope == 1.0


@pytest.mark.parametrize(
    ("dataset", "key"),
    [
        ("rlzoo/hopper/medium-v0", "rlzoo-hopper-medium-v0"),
        ("hf://farama-minari/mujoco/hopper/medium-v0", "mujoco-hopper-medium-v0"),
        ("pendulum-mixed", "pendulum-mixed"),
        ("/data/d4rl/hopper_medium-v2.hdf5", "d4rl-hopper_medium-v2"),
        ("/minari/rlzoo/hopper/medium-v0", "hopper-medium-v0"),
        ("a/b-v0 + c/d-v1", "a-b-v0-c-d-v1"),
    ],
)
def test_names_of_runs(dataset, key):
    assert dataset_key(dataset) == key


def test_names_of_entries():
    assert "mujoco/hopper/medium-v0" in entry_names("hf://farama-minari/mujoco/hopper/medium-v0")
    assert "hopper-medium-replay-v2" in entry_names("/data/d4rl/hopper_medium_replay-v2.hdf5")


def test_short_trainings_are_evaluated_to_their_last_step():
    train(steps=23)
    with np.load("logs/gmpo/tiny-walk-first-v0_1/evaluations.npz") as stored:
        assert stored["timesteps"].tolist() == [*range(2, 23, 2), 23]
        assert stored["results"].shape == (12, 2)
    train(steps=20)
    with np.load("logs/gmpo/tiny-walk-first-v0_2/evaluations.npz") as stored:
        assert stored["timesteps"].tolist() == list(range(2, 21, 2))
    log = pd.read_csv("logs/gmpo/tiny-walk-first-v0_1/progress.csv")
    scores = log["eval/normalized_score"].dropna().to_numpy()
    returns = log["eval/mean_reward"].dropna().to_numpy()
    np.testing.assert_allclose(scores, 100.0 * (returns + 4.0) / 8.0, rtol=1e-5)
    assert np.all(np.diff(log["time/time_elapsed"].dropna()) > 0)


def test_settings_reach_the_model():
    arguments = ["reward_transform:none", "beta:2.5", "learning_rate:lin_1e-3"]
    arguments += ["transforms:[{'BestEpisodes': {'share': 0.5}}, 'ClipActions']"]
    train("--env-kwargs", "slope:2.0", settings=arguments)
    model = GMPO.load("logs/gmpo/tiny-walk-first-v0_1/tiny-walk-first-v0.zip")
    assert (model.beta, model.reward_transform, model.batch_size) == (2.5, "none", 8)
    assert [type(transform).__name__ for transform in model.transforms] == ["BestEpisodes", "ClipActions"]
    assert model.transforms[0].share == 0.5
    # One step before the end of 20, a linear schedule has a twentieth left
    assert model.lr_schedule(0.05) == pytest.approx(5e-5)
    args = yaml.unsafe_load(open("logs/gmpo/tiny-walk-first-v0_1/tiny-walk-first-v0/args.yml"))
    assert args["env_kwargs"] == {"slope": 2.0}


def test_policy_learning_rate_may_be_a_schedule():
    train(algo="gmpg", settings=["policy_learning_rate:lin_2e-4", "pretraining_steps:5"])
    log = pd.read_csv("logs/gmpg/tiny-walk-first-v0_1/progress.csv")
    rates = log.set_index("time/total_timesteps")["train/learning_rate"]
    # Logged at the step before: progress remaining 1 - 9/20 and 1 - 19/20
    assert rates[10] == pytest.approx(2e-4 * 0.55) and rates[20] == pytest.approx(2e-4 * 0.05)


def test_normalize_is_fitted_to_the_dataset():
    train("--seed", 7, settings=["normalize:True"])
    run = "logs/gmpo/tiny-walk-first-v0_1/tiny-walk-first-v0"
    statistics = VecNormalize.load(f"{run}/vecnormalize.pkl", make_vec_env("Tiny-v0"))
    episodes = tiny_envs.play("Tiny-v0", seed=0)
    observations = [observation for episode in episodes for observation in episode["observations"][:-1]]
    # SB3 counts the one observation of its reset too
    observations.append(make_vec_env("Tiny-v0", seed=7).reset()[0])
    observations = np.array(observations)
    np.testing.assert_allclose(statistics.obs_rms.mean, observations.mean(axis=0), rtol=1e-4)
    zoo("enjoy", "--algo", "gmpo", "--env", "Tiny-v0", "-f", "logs", "--no-render", "-n", 8)


def test_statistics_are_there_for_the_best_model_of_a_training_that_breaks_off(monkeypatch):
    monkeypatch.setattr(OfflineExperimentManager, "save_trained_model", lambda self, model: None)
    train(settings=["normalize:True"])
    assert VecNormalize.load("logs/gmpo/tiny-walk-first-v0_1/tiny-walk-first-v0/vecnormalize.pkl", make_vec_env("Tiny-v0"))


def test_training_goes_on():
    train(settings=["pretraining_steps:15"], algo="gmpg")
    first = "logs/gmpg/tiny-walk-first-v0_1/tiny-walk-first-v0.zip"
    train("-i", first, settings=["pretraining_steps:15", "beta:3.0"], algo="gmpg")
    model = GMPG.load("logs/gmpg/tiny-walk-first-v0_2/tiny-walk-first-v0.zip")
    # The first phase is over after 15 updates in all, not 15 of each call
    assert model._n_updates == 40 and model.pretraining_finished and model.beta == 3.0


def test_policies_start_from_a_pretrained_model():
    train("-n", 6, algo="gmpg", settings=["pretraining_steps:6"])
    first = "logs/gmpg/tiny-walk-first-v0_1/tiny-walk-first-v0.zip"
    # Whatever the file says of a first phase: gmpg.yml has one
    train("-n", 3, algo="gmpg", settings=[f"pretrained:{first}"])
    train("-n", 2, "-i", first.replace("_1", "_2"), algo="gmpg", settings=[f"pretrained:{first}"])
    pretrained, second, third = (GMPG.load(first.replace("_1", f"_{number}")) for number in (1, 2, 3))
    assert second.pretraining_finished and (second._n_updates, third._n_updates) == (3, 5)
    for model in (second, third):
        for ours, theirs in zip(model.critic.parameters(), pretrained.critic.parameters(), strict=True):
            assert th.equal(ours, theirs)


def test_environments_options_in_the_file_hold_for_evaluations(folder):
    entry = dict(
        policy="FlowPolicy", n_timesteps=4, batch_size=8, policy_kwargs=dict(net_arch=[16]), env_kwargs=dict(slope=0.0)
    )
    (folder / "own.yml").write_text(yaml.safe_dump({"default": entry}))
    run = ["--algo", "gmpo", "--dataset", "tiny/walk/first-v0", "-conf", "own.yml", "--eval-freq", 2]
    zoo("train", *run)
    zoo("train", *run, "--env-kwargs", "slope:-1.0")
    returns = [np.load(f"logs/gmpo/tiny-walk-first-v0_{number}/evaluations.npz")["results"] for number in (1, 2)]
    assert not returns[0].any() and returns[1].all()


def test_checkpoints_and_best_model_can_be_watched(capsys):
    train("--save-freq", 10)
    for flag, name in (
        (["--load-best"], "best_model"),
        (["--load-checkpoint", 10], "rl_model_10_steps"),
        (["--load-last-checkpoint"], "rl_model_20_steps"),
    ):
        zoo("enjoy", "--algo", "gmpo", "--env", "Tiny-v0", "-f", "logs", "--no-render", "-n", 8, *flag)
        assert f"{name}.zip" in capsys.readouterr().out


def test_several_datasets_as_one():
    names = ["tiny/walk/first-v0", "tiny/walk/second-v0"]
    zoo("train", "--algo", "gmpo", "--dataset", *names, "-n", 2, "--eval-freq", -1, "-params", *SMALL)
    key = "tiny-walk-first-v0-tiny-walk-second-v0"
    assert GMPO.load(f"logs/gmpo/{key}_1/{key}.zip").dataset_name == " + ".join(names)


def test_a_files_entry_is_found_by_the_datasets_name(folder):
    entry = dict(policy="FlowPolicy", n_timesteps=3, batch_size=8, policy_kwargs=dict(net_arch=[16]))
    own = {"tiny/walk/first-v0": {**entry, "n_timesteps": 4}, "tiny-walk-second-v0": {**entry, "beta": 7}}
    settings = {"default": entry, **own}
    (folder / "own.yml").write_text(yaml.safe_dump(settings))
    for name in ("first", "second"):
        zoo("train", "--algo", "gmpo", "--dataset", f"tiny/walk/{name}-v0", "-conf", "own.yml", "--eval-freq", -1)
    first, second = (GMPO.load(f"logs/gmpo/tiny-walk-{n}-v0_1/tiny-walk-{n}-v0.zip") for n in ("first", "second"))
    assert (first.num_timesteps, first.beta) == (4, 1.0) and (second.num_timesteps, second.beta) == (3, 7)


def test_an_environment_that_carries_its_dataset(folder, capsys):
    class Carrying(gym.Wrapper):
        def get_dataset(self):
            return load_dataset("tiny/walk/second-v0")

    gym.register("Carrying-v0", lambda **kwargs: Carrying(tiny_envs.TinyEnv(**kwargs)), max_episode_steps=8)
    try:
        train("--env", "Carrying-v0", dataset=None)
    finally:
        del gym.registry["Carrying-v0"]
    assert GMPO.load("logs/gmpo/Carrying-v0_1/Carrying-v0.zip").dataset_name == "tiny/walk/second-v0"


# Faults

FIRST = ["--dataset", "tiny/walk/first-v0"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--env", "Tiny-v0"], "gmpo learns from a dataset: add --dataset (a Minari id, a file, or an embedded name). On this "
         "machine there are, for Tiny-v0: tiny/walk/first-v0, tiny/walk/second-v0."),
        (["--env", "Tiny-v0", "--dataset", "tiny/walk/frist-v0"], "There is no dataset 'tiny/walk/frist-v0' on this machine"),
        (["--dataset", "tiny/walk/frist-v0"], "There is no dataset 'tiny/walk/frist-v0' on this machine"),
        (["--dataset"], "--dataset needs the name of a dataset"),
        ([*FIRST, "-params", "betta:1"], "gmpo has no hyper-parameter 'betta'. Did you mean 'beta'?"),
        ([*FIRST, "-params", "n_envs:4"], "gmpo does not step its environment: leave out n_envs."),
        ([*FIRST, "-params", "seed:1"], "'seed' is no hyper-parameter: give it by the flag --seed."),
        ([*FIRST, "-params", "policy:FlowPolice"], "Policy 'FlowPolice' is unknown. Did you mean 'Flow"),
        ([*FIRST, "-params", "weighting:softmx"], "weighting='softmx' is unknown. Did you mean 'softmax'?"),
        ([*FIRST, "-params", "transforms:['Clip']"], "transforms: 'Clip' is unknown."),
        ([*FIRST, "-params", "transforms:ClipActions"], "transforms: 'ClipActions' is no list"),
        ([*FIRST, "-params", "dataset:tiny/walk/second-v0"], "--dataset says 'tiny/walk/first-v0' and"),
        ([*FIRST, "--env", "Pendulum-v1"], "actions of dataset 'tiny/walk/first-v0' have shape (2,)"),
        ([*FIRST, "--env", "Tinny-v0"], "Environment `Tinny` doesn't exist."),
        ([*FIRST, "-conf", "published-cosin"], "Did you mean 'published-cosine'?"),
        ([*FIRST, "-conf", "published-cosine"], "neither an entry for tiny/walk/first-v0"),
    ],
)  # fmt: skip
def test_faults_are_sentences_and_leave_nothing_behind(arguments, sentence, folder, capsys):
    assert main(["train", "--algo", "gmpo", "-n", "2", "-P", *arguments]) == 1
    message = capsys.readouterr().err
    assert sentence in message and "Traceback" not in message
    assert list(folder.glob("logs/*/*")) == []


def test_a_dataset_is_for_offline_algorithms(capsys):
    assert main(["train", "--algo", "sac", "--env", "Tiny-v0", "--dataset", "tiny/walk/first-v0"]) == 1
    assert capsys.readouterr().err == "sac learns in its environment: --dataset is for gmpg, gmpo.\n"


def test_unknown_commands_are_answered(capsys):
    assert main(["trian"]) == 1
    assert "There is no command 'trian'. Did you mean 'train'?" in capsys.readouterr().err
    assert main([]) == 0
    assert "push_to_hub" in capsys.readouterr().out


def test_rl_zoo3_is_asked_for_where_it_is_missing(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rl_zoo3", None)
    assert main(["train"]) == 1
    assert capsys.readouterr().err == "The zoo needs rl_zoo3: `pip install 'sb3_genpolicy[zoo]'`.\n"


def test_bugs_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(results, "find_runs", lambda *arguments: 5)
    with pytest.raises(TypeError, match="not iterable"):
        main(["results"])


@pytest.mark.parametrize(
    "form", ["policy_kwargs: \"dict(path='cosine', net_arch=[16])\"", "policy_kwargs: {path: cosine, net_arch: [16]}"]
)
def test_the_path_is_the_models(folder, form):
    (folder / "own.yml").write_text(f"default:\n  policy: DiffusionPolicy\n  n_timesteps: 2\n  batch_size: 8\n  {form}\n")
    run = ["--algo", "gmpo", "--dataset", "tiny/walk/first-v0", "--eval-freq", -1]
    zoo("train", *run, "-conf", "own.yml")
    # Also where it goes on, whatever the file says now
    zoo("train", *run, "-i", "logs/gmpo/tiny-walk-first-v0_1/tiny-walk-first-v0.zip", "-n", 2, "-params", "batch_size:8")
    assert [run.method for run in find_runs("logs")] == ["GMPO cosine"] * 2


def test_words_among_hyperparameters_need_no_quotes():
    train("-params", *SMALL, "dataset:tiny/walk/first-v0", "reward_transform:none", dataset=None, steps=2)
    model = GMPO.load("logs/gmpo/tiny-walk-first-v0_1/tiny-walk-first-v0.zip")
    assert model.dataset_name == "tiny/walk/first-v0" and model.reward_transform == "none"


# Other algorithms, videos, plots


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
