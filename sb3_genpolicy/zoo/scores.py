"""
Scores of runs: what each ended with, and aggregates over tasks with confidence intervals.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from rl_zoo3.utils import ALGOS, create_test_env, get_saved_hyperparams
from rliable import library as rly
from rliable import metrics
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv
from tqdm import tqdm

from sb3_genpolicy.common.transitions.transitions import normalized_score
from sb3_genpolicy.zoo.algorithms import check_algorithm
from sb3_genpolicy.zoo.environments import register_env
from sb3_genpolicy.zoo.runs import Run

# Environments that are stepped together in an evaluation
_ENVS = 16


@dataclass(frozen=True)
class Evaluation:
    """
    How the last parameters of a run are evaluated afresh.

    :param episodes: number of episodes
    :param deterministic: whether actions are deterministic, or sampled as in the paper
    :param seed: of the episodes' starts
    """

    episodes: int
    deterministic: bool = True
    seed: int = 10_000

    def returns(self, run: Run) -> np.ndarray:
        """
        :param run: a run with a saved model
        :return: (episodes,); kept beside the model, so that the next call reads them
        :raises ValueError: if the run has no model
        """
        if run.model is None:
            raise ValueError(f"{run.path} has no model {run.key}.zip: its training has not ended.")
        asked = dict(vars(self), model=run.model.stat().st_mtime_ns)
        path = run.path / "scores.json"
        kept = json.loads(path.read_text()) if path.is_file() else []
        for entry in kept:
            if entry["asked"] == asked:
                return np.array(entry["returns"])
        returns = self._play(run)
        path.write_text(json.dumps([*kept, {"asked": asked, "returns": returns.tolist()}]))
        return returns

    def _play(self, run: Run) -> np.ndarray:
        check_algorithm(run.algo)
        if run.dataset is not None:
            register_env(run.dataset, run.env_id)
        hyperparams, stats_path = get_saved_hyperparams(str(run.path / run.key), test_mode=True)
        env = create_test_env(
            run.key,
            n_envs=min(self.episodes, _ENVS),
            stats_path=stats_path,
            seed=self.seed,
            should_render=False,
            hyperparams=hyperparams,
            env_kwargs=run.args.get("eval_env_kwargs") or run.args.get("env_kwargs") or hyperparams.get("env_kwargs"),
            vec_env_cls=DummyVecEnv,
        )
        assert run.model is not None
        model = ALGOS[run.algo].load(run.model, custom_objects={"lr_schedule": lambda _: 0.0}, device="auto", seed=self.seed)
        returns, _ = evaluate_policy(model, env, self.episodes, self.deterministic, return_episode_rewards=True)
        env.close()
        return np.array(returns)


class Scores(NamedTuple):
    """
    What runs ended with.

    :param tasks: datasets (or environments), the rows
    :param methods: algorithms with their paths, the columns
    :param runs: task and method -> its runs, one for each seed
    :param values: task and method -> (n_runs,), each the mean of a run's episodes: normalised scores, or returns where nobody
        says what counts as 0 and 100
    :param normalized: tasks whose values are normalised scores
    """

    tasks: list[str]
    methods: list[str]
    runs: dict[tuple[str, str], list[Run]]
    values: dict[tuple[str, str], np.ndarray]
    normalized: set[str]

    @property
    def datasets(self) -> dict[str, str | None]:
        """Task -> name of its dataset, None of an environment."""
        return {task: runs[0].dataset for (task, _), runs in self.runs.items()}

    @property
    def env_ids(self) -> dict[str, str]:
        """Task -> id of the environment that its runs were evaluated in."""
        return {task: runs[0].env_id for (task, _), runs in self.runs.items()}

    @property
    def common_tasks(self) -> list[str]:
        """Tasks with normalised scores of every method."""
        return [t for t in self.tasks if t in self.normalized and all((t, m) in self.values for m in self.methods)]


def collect(runs: Sequence[Run], by: Sequence[str] = (), evaluation: Evaluation | None = None) -> Scores:
    """
    :param runs: runs
    :param by: hyper-parameters that make a method of its own of each of their values
    :param evaluation: how runs are evaluated afresh. Default: the last evaluation of the training is taken.
    :return: their scores
    :raises ValueError: if runs of one method on one task were made with different settings
    """
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        if (evaluation is None and run.evaluations is None) or (evaluation is not None and run.model is None):
            print(f"Left out: {run.path} has no {'evaluations.npz' if evaluation is None else 'model yet'}.")
            continue
        groups[run.task, _method(run, by)].append(run)
    groups = {key: _one_for_each_seed(key, group) for key, group in groups.items()}
    values, normalized = {}, set()
    everything = [run for group in groups.values() for run in group]
    returns = {run.path: last_returns(run, evaluation) for run in tqdm(everything, "evaluating", delay=2.0)}
    for (task, method), group in groups.items():
        means = np.array([returns[run.path].mean() for run in group])
        reference = group[0].reference_scores
        if reference is not None:
            means = np.asarray(normalized_score(means, reference))
            normalized.add(task)
        values[task, method] = means
    return Scores(sorted({task for task, _ in groups}), sorted({method for _, method in groups}), groups, values, normalized)


def last_returns(run: Run, evaluation: Evaluation | None) -> np.ndarray:
    """
    :param run: a run
    :param evaluation: how it is evaluated afresh, None for the training's last evaluation
    :return: returns of episodes with its last parameters
    """
    if evaluation is not None:
        return evaluation.returns(run)
    assert run.evaluations is not None
    return run.evaluations.returns[-1]


def _method(run: Run, by: Sequence[str]) -> str:
    return ", ".join([run.method, *(f"{name}={run.config.get(name, 'default')}" for name in by)])


def _one_for_each_seed(key: tuple[str, str], runs: list[Run]) -> list[Run]:
    """The latest of each seed; settings must agree."""
    settings = [run.settings for run in runs]
    names = sorted({name for one in settings for name in one if any(one.get(name) != other.get(name) for other in settings)})
    if names:
        values = {name: sorted({str(one.get(name, "default")) for one in settings}) for name in names}
        differences = "; ".join(f"{name}: {', '.join(value)}" for name, value in values.items())
        raise ValueError(
            f"{key[1]} on {key[0]} has runs of different settings ({differences}). Add `--by {' '.join(names)}`, for "
            f"columns of their own, or keep them in folders of their own. Runs: {', '.join(str(run.path) for run in runs)}."
        )
    by_seed: dict[Any, Run] = {}
    for run in runs:
        seed = run.args.get("seed")
        if seed in by_seed:
            print(f"Left out: {by_seed[seed].path}, which {run.path} repeats with the same seed and settings.")
        by_seed[seed] = run
    return list(by_seed.values())


class Aggregate(NamedTuple):
    """
    :param point: of a statistic over tasks and seeds
    :param interval: its 95 % interval, None for a single seed
    """

    point: float
    interval: tuple[float, float] | None


@contextmanager
def rliable_seed(seed: int) -> Iterator[None]:
    """
    rliable draws from numpy's global state.

    :param seed: of what it draws in the context, which leaves that state as it was
    """
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)


def aggregates(scores: Scores, reps: int = 2000, seed: int = 0) -> tuple[dict[str, dict[str, Aggregate]], int]:
    """
    Mean and interquartile mean over the tasks that all methods have, with 95 % intervals by rliable's stratified bootstrap
    over seeds (Agarwal et al., 2021, https://arxiv.org/abs/2108.13264).

    :param scores: scores
    :param reps: resamples
    :param seed: of the resampling
    :return: statistic -> method -> aggregate, empty where the methods have no task in common; and the number of seeds, the
        fewest that a method has on a task
    """
    tasks = scores.common_tasks
    if not tasks:
        return {}, 0
    n_runs = min(len(scores.values[task, method]) for task in tasks for method in scores.methods)
    matrices = {
        method: np.stack([scores.values[task, method][:n_runs] for task in tasks], axis=1) for method in scores.methods
    }
    with rliable_seed(seed):
        points, intervals = rly.get_interval_estimates(
            matrices, lambda matrix: np.array([metrics.aggregate_mean(matrix), metrics.aggregate_iqm(matrix)]), reps=reps
        )

    def aggregate(method: str, row: int) -> Aggregate:
        low, high = intervals[method][:, row]
        return Aggregate(float(points[method][row]), (float(low), float(high)) if n_runs > 1 else None)

    names = ("mean", "IQM")
    return {name: {method: aggregate(method, row) for method in scores.methods} for row, name in enumerate(names)}, n_runs
