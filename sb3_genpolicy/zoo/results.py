"""
A folder of runs in, the paper's table out: normalised scores with their spread, aggregates with confidence intervals, curves,
and the published numbers where the task is the same.
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sb3_genpolicy.common.datasets import load_dataset
from sb3_genpolicy.common.datasets.suites import suite_scores
from sb3_genpolicy.common.transitions.transitions import normalized_score
from sb3_genpolicy.zoo.published import published_method, published_scores
from sb3_genpolicy.zoo.results_picture import draw_curves, draw_intervals
from sb3_genpolicy.zoo.runs import find_runs
from sb3_genpolicy.zoo.scores import Aggregate, Evaluation, Scores, aggregates, collect
from sb3_genpolicy.zoo.tasks import PUBLISHED_TASKS, published_task


def main(arguments: Sequence[str]) -> None:
    """
    :param arguments: of the command line, without the command
    :raises ValueError: if there are no runs, or runs that cannot be in one table
    """
    options = _parser().parse_args(arguments)
    runs = [run for folder in options.folders for run in find_runs(folder, options.algos)]
    if options.dataset is not None:
        runs = [run for run in runs if {run.task, run.dataset} & set(options.dataset)]
    if not runs:
        raise ValueError(f"There are no runs in {', '.join(options.folders)}: `train -f {options.folders[0]}` makes some.")
    evaluation = None
    if options.eval_episodes is not None:
        evaluation = Evaluation(options.eval_episodes, not options.stochastic, options.seed)
    elif options.stochastic:
        raise ValueError("--stochastic evaluates afresh: add --eval-episodes.")
    scores = collect(runs, options.by, evaluation)
    if not scores.tasks:
        raise ValueError("None of these runs has anything to show yet: evaluations come with `train --eval-freq`.")
    report(scores, Path(options.output), evaluation, options.reps)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sb3_genpolicy.zoo results",
        description="Normalised scores of runs: a Markdown table, curves, and aggregates with confidence intervals.",
    )
    parser.add_argument("-f", "--folders", nargs="+", default=["logs"], help="log folders of the zoo")
    parser.add_argument("-o", "--output", default="results", help="folder for results.md, results.csv and the pictures")
    parser.add_argument("-a", "--algos", nargs="+", help="algorithms to include, all by default")
    parser.add_argument("--dataset", nargs="+", help="datasets (or environments) to include, all by default")
    parser.add_argument("--by", nargs="+", default=[], metavar="NAME", help="hyper-parameters that make columns of their own")
    parser.add_argument(
        "--eval-episodes", type=int, help="evaluate the last parameters in so many fresh episodes; kept beside the models"
    )
    parser.add_argument("--stochastic", action="store_true", help="sample actions in the fresh episodes, as the paper does")
    parser.add_argument("--seed", type=int, default=10_000, help="of the fresh episodes")
    parser.add_argument("--reps", type=int, default=2000, help="resamples of the bootstrap")
    return parser


def report(scores: Scores, folder: Path, evaluation: Evaluation | None, reps: int) -> None:
    """
    Print the table, and write it with its pictures.

    :param scores: scores
    :param folder: where to
    :param evaluation: how they came about
    :param reps: resamples of the bootstrap
    """
    folder.mkdir(parents=True, exist_ok=True)
    statistics, n_runs = aggregates(scores, reps)
    text = f"{table(scores, statistics)}\n\n{_caption(scores, evaluation, n_runs)}\n"
    print(text)
    (folder / "results.md").write_text(text)
    _write_csv(scores, folder / "results.csv")
    pictures = [draw_curves(scores, folder / "curves.png")]
    if n_runs > 1:
        pictures.append(draw_intervals(statistics, folder / "intervals.png"))
    written = [str(folder / name) for name in ("results.md", "results.csv")] + [str(path) for path in pictures if path]
    print(f"Written: {', '.join(written)}")


def table(scores: Scores, statistics: dict[str, dict[str, Aggregate]]) -> str:
    """
    :param scores: scores
    :param statistics: of :func:`~sb3_genpolicy.zoo.scores.aggregates`
    :return: Markdown, in the paper's layout: a row for each task, a column for each method, published ones to the right
    """
    published, columns = published_scores(), _published_columns(scores)
    heads = ["task", "behaviour", *scores.methods, *(f"{method} (published)" for method in columns)]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for task in sorted(scores.tasks, key=_paper_order):
        known = published_task(task)
        cells = [_cell(scores.values.get((task, method))) for method in scores.methods]
        for method in columns:
            score = published.get((known.name, method)) if known is not None else None
            cells.append("" if score is None else f"{score.mean:.1f}" + ("" if score.std is None else f" ± {score.std:.1f}"))
        behaviour = behaviour_score(scores.datasets[task], scores.env_ids[task]) if task in scores.normalized else None
        lines.append("| " + " | ".join([f"`{task}`", "" if behaviour is None else f"{behaviour:.1f}", *cells]) + " |")
    for name, by_method in statistics.items():
        cells = [_aggregate_cell(by_method[method]) for method in scores.methods]
        lines.append("| " + " | ".join([f"**{name}**", "", *cells, *([""] * len(columns))]) + " |")
    return "\n".join(lines)


def _cell(values: np.ndarray | None) -> str:
    if values is None:
        return ""
    return f"{values.mean():.1f}" + (f" ± {values.std():.1f} ({len(values)})" if len(values) > 1 else " (1)")


def _aggregate_cell(aggregate: Aggregate) -> str:
    interval = aggregate.interval
    return f"{aggregate.point:.1f}" + ("" if interval is None else f" [{interval[0]:.1f}, {interval[1]:.1f}]")


def _published_columns(scores: Scores) -> list[str]:
    """Those of the paper's methods that have a score on one of the tasks: first those that are ours."""
    names = {task.name for task in map(published_task, scores.tasks) if task is not None}
    found = [method for name, method in published_scores() if name in names]
    counterparts = [method for method in map(published_method, scores.methods) if method in found]
    return list(dict.fromkeys([*(method for method in counterparts if method is not None), *found]))


def _paper_order(task: str) -> tuple[int, str]:
    published = published_task(task)
    order = list(PUBLISHED_TASKS)
    return (order.index(published.name) if published is not None else len(order), task)


def behaviour_score(dataset: str | None, env_id: str | None = None) -> float | None:
    """
    :param dataset: name of a dataset, None where there is none
    :param env_id: id of the environment that its runs were evaluated in, asked where the dataset does not say what counts as
        0 and 100
    :return: mean normalised score of its episodes, None where it is not on this machine
    """
    if dataset is None:
        return None
    try:
        data = load_dataset(dataset)
    except ValueError:
        return None
    task = published_task(dataset)
    reference = data.reference_scores or (task.reference_scores if task is not None else suite_scores(env_id))
    return float(normalized_score(data.episode_returns().mean(), reference)) if reference is not None else None


def _caption(scores: Scores, evaluation: Evaluation | None, n_runs: int) -> str:
    if evaluation is None:
        how = "the last evaluation of each training"
    else:
        actions = "deterministic" if evaluation.deterministic else "sampled"
        how = f"{evaluation.episodes} fresh episodes (seed {evaluation.seed}) with the last parameters and {actions} actions"
    sentences = [f"Normalised scores (0: random, 100: expert), mean ± standard deviation over seeds (their number), of {how}."]
    returns = [task for task in scores.tasks if task not in scores.normalized]
    if returns:
        sentences.append(f"Returns, not scores, of {', '.join(returns)}: nobody says what counts as 0 and 100 there.")
    if n_runs:
        intervals = ", with 95 % intervals by stratified bootstrap over seeds (rliable)" if n_runs > 1 else ""
        sentences.append(
            f"Mean and interquartile mean (IQM): over the tasks that all methods have ({len(scores.common_tasks)}), seeds of "
            f"each: {n_runs}{intervals}."
        )
    elif len(scores.methods) > 1:
        sentences.append("No aggregates: there is no task with scores of all methods.")
    if _published_columns(scores):
        sentences.append(
            "Published: tables of arXiv 2412.01245, whose scores of other methods are those of their papers, in D4RL's "
            "environments of the time."
        )
        if any(suite_scores(env_id) is not None for env_id in scores.env_ids.values()):
            sentences.append("Its returns in the DeepMind Control suite are a tenth here: 1000 is a score of 100.")
    return " ".join(sentences)


def _write_csv(scores: Scores, path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["task", "method", "seed", "score", "normalized", "run"])
        for (task, method), values in sorted(scores.values.items()):
            for run, value in zip(scores.runs[task, method], values, strict=True):
                row = [task, method, run.args.get("seed"), f"{value:.4f}", task in scores.normalized, run.path]
                writer.writerow(row)
