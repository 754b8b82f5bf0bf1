"""
From a folder of runs to a table: numbers that can be worked out by hand, and the paper's beside them.
"""

import itertools
import json
import zipfile
from collections import OrderedDict

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import yaml
from matplotlib.image import imread
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_genpolicy import GMPO, load_dataset
from sb3_genpolicy.zoo.__main__ import main
from sb3_genpolicy.zoo.environments import dataset_key
from sb3_genpolicy.zoo.published import published_scores
from sb3_genpolicy.zoo.results_picture import mean_curve
from sb3_genpolicy.zoo.runs import find_runs, read_yaml
from sb3_genpolicy.zoo.scores import Scores, aggregates, collect
from sb3_genpolicy.zoo.tasks import PUBLISHED_TASKS
from tests.helpers import tiny_envs

_NUMBERS = itertools.count(1)
LOCOMOTION = ("halfcheetah", "hopper", "walker2d")


def make_run(
    folder, returns, dataset="a/b-v0", algo="gmpo", seed=0, path="linear", reference_scores=(-100.0, 100.0), **config
):
    """A finished run as the zoo leaves it. Returns: (n_evaluations, n_episodes)."""
    key = dataset_key(dataset)
    run = folder / algo / f"{key}_{next(_NUMBERS)}"
    (run / key).mkdir(parents=True)
    args = dict(env=key, gym_env="Tiny-v0", dataset=dataset, seed=seed, path=path, env_kwargs=None)
    (run / key / "args.yml").write_text(yaml.dump(OrderedDict(args)))
    (run / key / "config.yml").write_text(yaml.dump(OrderedDict(dataset=dataset, n_timesteps=20, **config)))
    returns = np.array(returns, dtype=float)
    steps = 10 * np.arange(1, len(returns) + 1)
    np.savez(run / "evaluations.npz", timesteps=steps, results=returns, ep_lengths=np.full(returns.shape, 8))
    with zipfile.ZipFile(run / f"{key}.zip", "w") as archive:
        archive.writestr("data", json.dumps({"reference_scores": reference_scores}))
    return run


@pytest.fixture
def cwd(tmp_path, minari_root, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def results(*arguments):
    return main(["results", *(str(argument) for argument in arguments)])


def rows_of(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return {cells[0]: cells[1:] for cells in ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)}


def test_table(cwd, capsys):
    # Last evaluations of mean 0, 20 and 40: scores 50, 60 and 70, of which the best evaluation (90) is none
    for seed, last in enumerate([(-10, 10), (10, 30), (40, 40)]):
        make_run(cwd / "logs", [(80, 80), last], seed=seed)
    for seed in range(2):
        make_run(cwd / "logs", [(0, 0), (-20, -20)], algo="gmpg", path="vp", seed=seed)
    make_run(cwd / "logs", [(0, 0), (60, 80)], dataset="c/d-v0", algo="gmpg", path="vp")
    assert results("-f", "logs") == 0
    rows = rows_of(capsys.readouterr().out)
    assert rows["task"] == ["behaviour", "GMPG vp", "GMPO linear"]
    assert rows["`a/b-v0`"] == ["", "40.0 ± 0.0 (2)", "60.0 ± 8.2 (3)"]
    assert rows["`c/d-v0`"] == ["", "85.0 (1)", ""]
    # Over the task that both have, and the two seeds that both have there
    assert rows["**mean**"] == ["", "40.0 [40.0, 40.0]", "55.0 [50.0, 60.0]"]
    assert rows_of((cwd / "results" / "results.md").read_text()) == rows
    values = pd.read_csv(cwd / "results" / "results.csv")
    assert values[values.method == "GMPO linear"].score.tolist() == [50.0, 60.0, 70.0]
    for picture in ("curves.png", "intervals.png"):
        assert imread(cwd / "results" / picture).std() > 0.05


def test_behaviour_is_the_mean_return_of_the_dataset(cwd, capsys):
    tiny_envs.make_minari("tiny/walk/first-v0")
    make_run(cwd / "logs", [(0, 0)], dataset="tiny/walk/first-v0")
    assert results("-f", "logs") == 0
    returns = [episode["actions"][:, 0].sum() for episode in tiny_envs.play("Tiny-v0")]
    assert rows_of(capsys.readouterr().out)["`tiny/walk/first-v0`"][0] == f"{100 * (np.mean(returns) + 4) / 8:.1f}"


def test_returns_where_nobody_knows_the_scale(cwd, capsys):
    make_run(cwd / "logs", [(3, 5)], reference_scores=None)
    assert results("-f", "logs") == 0
    output = capsys.readouterr().out
    assert rows_of(output)["`a/b-v0`"] == ["", "4.0 (1)"] and "**mean**" not in rows_of(output)
    assert "Returns, not scores, of a/b-v0" in output and not (cwd / "results" / "intervals.png").exists()


def test_published_scores_stand_beside_the_same_task(cwd, capsys):
    # D4RL's file, whose reference scores are known by its name: a return of 3234.3 is a score of 100
    for path in ("cosine", "vp"):
        make_run(cwd / "logs", [(3234.3, 3234.3)], dataset="d4rl/hopper_medium-v2.hdf5", path=path, reference_scores=None)
    # Minari's were recorded anew
    make_run(cwd / "logs", [(0.0, 0.0)], dataset="mujoco/hopper/medium-v0", path="cosine")
    make_run(cwd / "logs", [(0.0, 0.0)], dataset="mujoco/hopper/medium-v0", path="vp")
    assert results("-f", "logs") == 0
    rows = rows_of(capsys.readouterr().out)
    head = dict(zip(rows["task"], rows["`hopper-medium-v2`"], strict=True))
    assert head["GMPO cosine"] == head["GMPO vp"] == "100.0 (1)"
    assert head["GMPO GVP (published)"] == "74.6 ± 21.2" and head["GMPO VPSDE (published)"] == "71.9 ± 22.1"
    assert head["SRPO (published)"] == "95.5" and head["GMPG VPSDE (published)"] == "101.1 ± 2.6"
    # Ours first, beside ours
    assert rows["task"][3:5] == ["GMPO GVP (published)", "GMPO VPSDE (published)"]
    assert not any(rows["`mujoco/hopper/medium-v0`"][3:])


def test_published_averages():
    """The averages that the paper prints below its table, where they are those of its rows."""
    scores = published_scores()
    locomotion = {"GMPO VPSDE": 80.2, "GMPO GVP": 82.7, "GMPG VPSDE": 87.3, "GMPG GVP": 84.2, "GMPG ICFM": 83.4, "SRPO": 87.1}
    for method, average in locomotion.items():
        rows = [score.mean for (task, name), score in scores.items() if name == method and task.startswith(LOCOMOTION)]
        assert len(rows) == 9 and np.mean(rows) == pytest.approx(average, abs=0.1)
    mazes = [score.mean for (task, name), score in scores.items() if name == "GMPO GVP" and "antmaze" in task]
    assert len(mazes) == 6 and np.mean(mazes) == pytest.approx(73.8, abs=0.1)


def test_published_averages_of_the_suite():
    """Printed as returns, of which 1000 are a score of 100. Those of SRPO and RABM are not the mean of their rows."""
    scores = published_scores()
    suite = [name for name, task in PUBLISHED_TASKS.items() if task.env_id.startswith("dm_control/") and name != "rodent-gaps"]
    assert len(suite) == 9
    printed = {"D4PG": (416, 83), "QGPO": (509, 220), "IDQL": (538, 224), "GMPO GVP": (561, 243), "GMPG GVP": (599, 230)}
    for method, (mean, std) in printed.items():
        rows = [scores[name, method] for name in suite]
        assert np.mean([row.mean for row in rows]) == pytest.approx(mean / 10, abs=0.1)  # some are cut off, not rounded
        assert np.mean([row.std for row in rows]) == pytest.approx(std / 10, abs=0.25)
    assert not any(task == "rodent-gaps" for task, _ in scores)


def test_published_scores_stand_beside_rows_of_rl_unplugged(cwd, capsys):
    unplugged = "data/dm_control_suite/cartpole_swingup.npz"
    run = make_run(cwd / "logs", [(800.0, 900.0)], dataset=unplugged, path="cosine", reference_scores=None)
    args = run / dataset_key(unplugged) / "args.yml"
    args.write_text(args.read_text().replace("Tiny-v0", "dm_control/cartpole-swingup-v0"))
    # Anybody's own, of the same name
    make_run(cwd / "logs", [(800.0, 900.0)], dataset="mine/cartpole_swingup.npz", path="cosine", reference_scores=None)
    assert results("-f", "logs") == 0
    output = capsys.readouterr().out
    assert "Its returns in the DeepMind Control suite are a tenth here" in output
    rows = rows_of(output)
    head = dict(zip(rows["task"], rows["`cartpole-swingup`"], strict=True))
    assert head["GMPO cosine"] == "85.0 (1)" and head["GMPO GVP (published)"] == "83.0 ± 5.1"
    assert head["GMPG GVP (published)"] == "85.8 ± 5.1" and head["D4PG (published)"] == "85.6 ± 1.3"
    assert rows["`mine/cartpole_swingup.npz`"] == ["", "850.0 (1)", *[""] * (len(rows["task"]) - 2)]


def test_returns_of_the_suite_have_a_scale_of_their_own(cwd, capsys):
    for env_id, dataset in (("dm_control/walker-walk-v0", "a/walker-v0"), ("dm_control/RodentRunGaps-v0", "a/rodent-v0")):
        run = make_run(cwd / "logs", [(700.0, 900.0)], dataset=dataset, reference_scores=None)
        args = run / dataset_key(dataset) / "args.yml"
        args.write_text(args.read_text().replace("Tiny-v0", env_id))
    assert results("-f", "logs") == 0
    output = capsys.readouterr().out
    assert rows_of(output)["`a/walker-v0`"] == ["", "80.0 (1)"] and rows_of(output)["`a/rodent-v0`"] == ["", "800.0 (1)"]
    assert "Returns, not scores, of a/rodent-v0" in output


def scores_of(**matrices):
    """Scores whose columns are (n_runs, n_tasks)."""
    n_tasks = next(iter(matrices.values())).shape[1]
    tasks = [f"task {number}" for number in range(n_tasks)]
    values = {(task, method): matrix[:, row] for method, matrix in matrices.items() for row, task in enumerate(tasks)}
    return Scores(tasks, list(matrices), {}, values, set(tasks))


def test_interquartile_mean_is_scipys():
    matrix = np.random.default_rng(0).normal(50, 20, (5, 4))
    statistics, n_runs = aggregates(scores_of(ours=matrix), reps=50)
    assert n_runs == 5 and statistics["mean"]["ours"].point == pytest.approx(matrix.mean())
    assert statistics["IQM"]["ours"].point == pytest.approx(scipy.stats.trim_mean(matrix, 0.25, axis=None))


def test_intervals_of_two_seeds_on_one_task():
    # Resampled means are 0, 50, 50 and 100, each a quarter of the time
    statistics, _ = aggregates(scores_of(ours=np.array([[0.0], [100.0]])))
    assert statistics["mean"]["ours"].interval == (0.0, 100.0)
    # Seeds that agree leave no doubt
    statistics, _ = aggregates(scores_of(ours=np.full((3, 2), 30.0)), reps=50)
    assert statistics["mean"]["ours"] == (30.0, (30.0, 30.0)) == statistics["IQM"]["ours"]
    # And one seed tells nothing of others
    assert aggregates(scores_of(ours=np.ones((1, 2))), reps=50)[0]["mean"]["ours"] == (1.0, None)


def test_intervals_are_the_normal_ones_of_many_seeds():
    matrix = np.random.default_rng(1).normal(50, 10, (400, 1))
    mean = aggregates(scores_of(ours=matrix))[0]["mean"]["ours"]
    half = 1.96 * matrix.std() / np.sqrt(len(matrix))
    assert mean.interval == pytest.approx((mean.point - half, mean.point + half), abs=0.15)


def test_intervals_are_the_same_every_time_and_leave_numpy_alone():
    scores = scores_of(ours=np.random.default_rng(0).normal(50, 20, (4, 3)))
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    first = aggregates(scores, reps=50)
    assert np.array_equal(np.random.get_state()[1], before)
    np.random.seed(6)
    assert aggregates(scores, reps=50) == first != aggregates(scores, reps=50, seed=1)


def test_aggregates_use_the_tasks_and_seeds_that_all_have():
    values = {("x", "one"): np.array([1.0, 2.0, 3.0]), ("x", "two"): np.array([5.0, 7.0]), ("y", "one"): np.array([100.0])}
    statistics, n_runs = aggregates(Scores(["x", "y"], ["one", "two"], {}, values, {"x", "y"}), reps=50)
    assert n_runs == 2 and statistics["mean"]["one"].point == 1.5 and statistics["mean"]["two"].point == 6.0


def test_runs_of_different_settings_do_not_share_a_cell(cwd, capsys):
    make_run(cwd / "logs", [(0, 0)], seed=0, beta=1.0)
    make_run(cwd / "logs", [(20, 20)], seed=0, beta=4.0)
    make_run(cwd / "logs", [(40, 40)], seed=1, beta=4.0)
    assert results("-f", "logs") == 1
    message = capsys.readouterr().err
    assert "GMPO linear on a/b-v0 has runs of different settings (beta: 1.0, 4.0). Add `--by beta`" in message
    assert results("-f", "logs", "--by", "beta") == 0
    rows = rows_of(capsys.readouterr().out)
    assert rows["task"] == ["behaviour", "GMPO linear, beta=1.0", "GMPO linear, beta=4.0"]
    assert rows["`a/b-v0`"] == ["", "50.0 (1)", "65.0 ± 5.0 (2)"]


def test_each_seed_may_have_a_pretraining_of_its_own(cwd, capsys):
    make_run(cwd / "logs", [(0, 0)], seed=0, pretrained="logs/first.zip")
    make_run(cwd / "logs", [(20, 20)], seed=1, pretrained="logs/second.zip")
    assert results("-f", "logs") == 0
    make_run(cwd / "logs", [(20, 20)], seed=2)
    assert results("-f", "logs") == 1
    assert "different settings (pretrained: False, True)" in capsys.readouterr().err


def test_a_repeated_seed_counts_once(cwd, capsys):
    make_run(cwd / "logs", [(0, 0)], seed=3)
    latest = make_run(cwd / "logs", [(20, 20)], seed=3)
    scores = collect(find_runs(cwd / "logs"))
    assert scores.values["a/b-v0", "GMPO linear"].tolist() == [60.0]
    assert f"which {latest} repeats" in capsys.readouterr().out


def test_runs_that_are_not_over_are_named_and_left_out(cwd, capsys):
    run = make_run(cwd / "logs", [(0, 0)])
    make_run(cwd / "logs", [(0, 0)], seed=1)
    (run / "evaluations.npz").unlink()
    assert results("-f", "logs") == 0
    output = capsys.readouterr().out
    assert f"Left out: logs/gmpo/{run.name} has no evaluations.npz" in output and "50.0 (1)" in output


def test_runs_are_chosen_by_algorithm_and_dataset(cwd, capsys):
    make_run(cwd / "logs", [(0, 0)])
    make_run(cwd / "other", [(0, 0)], dataset="c/d-v0")
    make_run(cwd / "other", [(0, 0)], dataset="c/d-v0", algo="gmpg")
    assert results("-f", "logs", "other", "-a", "gmpo", "--dataset", "c/d-v0") == 0
    rows = rows_of(capsys.readouterr().out)
    assert rows["task"] == ["behaviour", "GMPO linear"] and "`a/b-v0`" not in rows
    assert results("-f", "nothing") == 1
    assert capsys.readouterr().err == "There are no runs in nothing: `train -f nothing` makes some.\n"
    assert results("-f", "logs", "--stochastic") == 1
    assert capsys.readouterr().err == "--stochastic evaluates afresh: add --eval-episodes.\n"


def test_curves_are_means_at_common_steps(cwd):
    make_run(cwd / "logs", [(-100, -100), (0, 0), (100, 100)], seed=0)
    make_run(cwd / "logs", [(-100, 100), (50, 50)], seed=1)
    steps, values = mean_curve(find_runs(cwd / "logs"))
    assert steps.tolist() == [10, 20] and values.tolist() == [[0.0, 50.0], [50.0, 75.0]]


def test_files_of_runs_run_nothing(tmp_path):
    witness = tmp_path / "witness"
    (tmp_path / "args.yml").write_text(
        "!!python/object/apply:collections.OrderedDict\n- - [seed, 3]\n  - [env, x]\n"
        f"  - [callback, !!python/object/apply:os.system ['touch {witness}']]\n"
        "  - [policy_kwargs, {activation_fn: !!python/name:torch.nn.modules.activation.Tanh ''}]\n"
    )
    loaded = read_yaml(tmp_path / "args.yml")
    assert (loaded["seed"], loaded["env"]) == (3, "x") and not witness.exists()
    assert loaded["policy_kwargs"] == {"activation_fn": "name:torch.nn.modules.activation.Tanh"}


@pytest.mark.parametrize("stochastic", [[], ["--stochastic"]])
def test_last_parameters_are_evaluated_afresh(cwd, capsys, stochastic):
    tiny_envs.make_minari("tiny/walk/first-v0")
    small = ["-params", "batch_size:8", "policy_kwargs:dict(net_arch=[16])"]
    train = ["train", "--algo", "gmpo", "--dataset", "tiny/walk/first-v0", "-n", "10", "--eval-freq", "-1", "--seed", "1"]
    assert main([*train, *small, "--env-kwargs", "slope:2.0"]) == 0
    capsys.readouterr()
    evaluation = ["-f", "logs", "--eval-episodes", 6, "--seed", 7]
    assert results(*evaluation, *stochastic) == 0
    output = capsys.readouterr().out
    (run,) = find_runs("logs")
    (kept,) = json.loads((run.path / "scores.json").read_text())
    model = GMPO.load(run.model, seed=7)
    env = make_vec_env("Tiny-v0", n_envs=6, seed=7, env_kwargs=dict(slope=2.0))
    returns, _ = evaluate_policy(model, env, 6, deterministic=not stochastic, return_episode_rewards=True)
    np.testing.assert_allclose(kept["returns"], returns, rtol=1e-5)
    assert rows_of(output)["`tiny/walk/first-v0`"][1] == f"{100 * (np.mean(returns) + 4) / 8:.1f} (1)"
    assert ("sampled" if stochastic else "deterministic") in output
    # Read again, not played again: the file is as it was
    written = (run.path / "scores.json").stat().st_mtime_ns
    assert results(*evaluation, *stochastic) == 0 and (run.path / "scores.json").stat().st_mtime_ns == written
    assert load_dataset("tiny/walk/first-v0").reference_scores == run.reference_scores
