"""
The page about a comparison, with its numbers as tables beside it.
"""

import json
from collections.abc import Mapping

import pandas as pd

from sb3_genpolicy.common.files.whole_files import whole_file
from sb3_genpolicy.reporting import page
from sb3_genpolicy.reporting.drawings import data_uri
from sb3_genpolicy.zoo.comparison.evaluation import EVALUATION_SEED
from sb3_genpolicy.zoo.comparison.frames import CLONING
from sb3_genpolicy.zoo.comparison.pictures import curves_figure, profiles_figure
from sb3_genpolicy.zoo.comparison.shared_work import Comparison
from sb3_genpolicy.zoo.comparison.statistics import Statistics, statistics_of
from sb3_genpolicy.zoo.results import behaviour_score
from sb3_genpolicy.zoo.results_picture import intervals_figure
from sb3_genpolicy.zoo.scores import Aggregate

WAYS = {"deterministic": "Deterministic actions", "sampled": "Sampled actions"}


def write_report(comparison: Comparison, reps: int) -> pd.DataFrame:
    """
    Write ``index.html``, ``runs.csv`` and ``curves.csv``.

    :param comparison: whose runs are all done
    :param reps: resamples of the bootstrap
    :return: a row for each run
    """
    rows, curves = comparison.frames()
    output = comparison.output
    statistics = {way: statistics_of(rows, way, reps) for way in WAYS}
    parts = [
        *_beginning(comparison, rows),
        *(part for way in WAYS for part in _scores(way, statistics[way])),
        *_curves(curves, statistics["deterministic"]),
        *_cost(rows),
        *_fairness(comparison, rows),
        *_settings(comparison, rows, reps),
    ]
    title = f"{', '.join(statistics['deterministic'].scores.methods)} compared"
    for name, text in (
        ("runs.csv", rows.to_csv(index=False)),
        ("curves.csv", curves.to_csv(index=False)),
        ("index.html", page.page(title, parts)),
    ):
        with whole_file(output / name, "") as file:
            file.write(text.encode())
    print(f"Written: {output / 'index.html'}, {output / 'runs.csv'}, {output / 'curves.csv'}")
    return rows


def _beginning(comparison: Comparison, rows: pd.DataFrame) -> list[str]:
    conditions, n_seeds = comparison.conditions, rows.seed.nunique()
    text = (
        f"{conditions.steps:,} gradient steps of {conditions.batch_size} rows each for every method, on every dataset with "
        f"{n_seeds} {'seed' if n_seeds == 1 else 'seeds'}; the last parameters, evaluated in {conditions.episodes} episodes "
        f"from the same starts (seed {EVALUATION_SEED}). Nothing was selected and nothing tuned for a dataset: methods have "
        "the settings at the end of this page."
    )
    diverged = rows[rows.diverged.notna()]
    said = [f"{row.algorithm} on {row.dataset}, seed {row.seed}: {row.diverged}" for row in diverged.itertuples()]
    warning = ["Trainings that diverged count with the parameters from before that step. " + " ".join(said)] if said else []
    return [page.paragraph(line) for line in [text, *warning]]


def _scores(way: str, statistics: Statistics) -> list[str]:
    scores = statistics.scores
    heads = ["dataset", "behaviour", *scores.methods]
    rows = []
    for task in scores.tasks:
        behaviour = behaviour_score(task) if task in scores.normalized else None
        first = [page.cell(task), page.cell("" if behaviour is None else f"{behaviour:.1f}")]
        rows.append(first + [_aggregate(statistics.cells[task, method]) for method in scores.methods])
    for name, by_method in statistics.aggregates.items():
        rows.append([page.cell(name), page.cell(""), *(_aggregate(by_method[method]) for method in scores.methods)])
    parts = [page.heading(f"Scores: {WAYS[way].lower()}"), page.table(heads, rows, f"scores-{way}")]
    parts.append(page.paragraph(_caption(statistics)))
    if statistics.aggregates and statistics.n_seeds > 1:
        drawn = data_uri(intervals_figure(statistics.aggregates))
        parts += [page.picture(drawn, f"Mean and interquartile mean over datasets with their intervals, {way}")]
    if statistics.profiles is not None:
        drawn = data_uri(profiles_figure(statistics.profiles))
        parts += [page.heading("Performance profiles", 3), page.picture(drawn, f"Share of runs above a score, {way}")]
    return parts + _improvement(way, statistics)


def _caption(statistics: Statistics) -> str:
    scores = statistics.scores
    sentences = ["Means over seeds of normalised scores (0: random, 100: expert)"]
    sentences[0] += (
        ", with 95 % intervals (rliable's stratified bootstrap over seeds)."
        if statistics.n_seeds > 1
        else (". A single seed has no interval.")
    )
    returns = [task for task in scores.tasks if task not in scores.normalized]
    if returns:
        sentences.append(
            f"Returns, not scores, and in no mean, of {', '.join(returns)}: nobody says what counts as 0 and 100."
        )
    if 1 < statistics.n_seeds < 5:
        sentences.append(f"Intervals of {statistics.n_seeds} seeds are narrower than they should be.")
    return " ".join(sentences)


def _aggregate(aggregate: Aggregate) -> str:
    interval = aggregate.interval
    return page.cell(f"{aggregate.point:.1f}", "" if interval is None else f"[{interval[0]:.1f}, {interval[1]:.1f}]")


def _improvement(way: str, statistics: Statistics) -> list[str]:
    methods = statistics.scores.methods
    if not statistics.improvement:
        return []
    rows = []
    for one in methods:
        cells = [page.cell(one)]
        for other in methods:
            found = statistics.improvement.get((one, other))
            if found is None:
                cells.append(page.cell(""))
                continue
            interval = "" if found.interval is None else f"[{found.interval[0]:.2f}, {found.interval[1]:.2f}]"
            cells.append(page.cell(f"{found.point:.2f}", interval, shade=found.point))
        rows.append(cells)
    text = "How likely a run of the row's method scores higher than one of the column's, a mean over datasets."
    return [
        page.heading("Probability of improvement", 3),
        page.table(["", *methods], rows, f"improvement-{way}"),
        page.paragraph(text),
    ]


def _curves(curves: pd.DataFrame, statistics: Statistics) -> list[str]:
    figure = curves_figure(curves, statistics.scores)
    if figure is None:
        return []
    clones = " Grey: the shared pretraining, which clones." if curves.algorithm.str.startswith(CLONING).any() else ""
    text = (
        "Mean over seeds, deterministic actions, against gradient steps, those of a shared pretraining among them; the band "
        f"is from the worst to the best seed.{clones}"
    )
    return [
        page.heading("Learning curves"),
        page.picture(data_uri(figure), "Scores against gradient steps"),
        page.paragraph(text),
    ]


def _cost(rows: pd.DataFrame) -> list[str]:
    cells = []
    for method, group in rows.groupby("algorithm", sort=False):
        means = group[["pretraining_seconds", "seconds"]].mean()
        acting = group.acting_ms.median()
        shown = (f"{means.seconds:,.1f}", f"{means.pretraining_seconds:,.1f}", f"{means.sum():,.1f}", f"{acting:.2f}")
        cells.append([page.cell(str(method)), *map(page.cell, shown)])
    heads = ["method", "training, s", "shared pretraining, s", "together, s", "an action, ms"]
    machines = "; ".join(dict.fromkeys(rows.machine))
    text = (
        "Means over runs, evaluations left out; an action: median of single deterministic predictions. What is shared was "
        f"spent once for all that share it. Machines: {machines}."
    )
    if len(set(rows.machine)) > 1:
        text += " Runs were on different machines, so that seconds do not compare."
    return [page.heading("Cost"), page.table(heads, cells, "cost"), page.paragraph(text)]


def _fairness(comparison: Comparison, rows: pd.DataFrame) -> list[str]:
    conditions, cells = comparison.conditions, []
    for contender in comparison.contenders:
        shared, own = contender.pretraining, conditions.own_steps(contender)
        if shared is None:
            how = f"trains all its own: {contender.reason}"
            steps = f"{own:,}"
        else:
            others = [c.label for c in comparison.contenders if c.pretraining is shared and c is not contender]
            how = f"takes behaviour model and critics of {shared.label}"
            how += f", as {', '.join(others)}" if others else ", which no other method here takes"
            steps = f"{conditions.pretraining_steps:,} + {own:,}"
        cells.append([page.cell(contender.label), page.cell(steps), page.cell(how, words=True)])
    return [page.heading("Who shared what"), page.table(["method", "steps", ""], cells, "shared")]


def _settings(comparison: Comparison, rows: pd.DataFrame, reps: int) -> list[str]:
    cells = [
        [page.cell(c.label), page.cell(_in_line(c.described()), f"Defaults: {_in_line(c.defaults())}", words=True)]
        for c in comparison.contenders
    ]
    cells += [[page.cell(p.label), page.cell(_in_line(p.described()), words=True)] for p in comparison.pretrainings]
    common = {**comparison.conditions.described(), "bootstrap": reps}
    return [
        page.heading("Settings, versions, command"),
        page.table(["method", ""], cells, "settings"),
        page.paragraph(f"For all: {_in_line(common)}."),
        page.paragraph(_made_with(rows)),
        page.code(comparison.command),
    ]


def _in_line(settings: Mapping[str, object]) -> str:
    return ", ".join(
        f"{name}: {json.dumps(value) if not isinstance(value, str) else value}" for name, value in settings.items()
    )


def _made_with(rows: pd.DataFrame) -> str:
    found = dict.fromkeys(rows.versions)
    different = " Runs were made with different versions, which may not compare." if len(found) > 1 else ""
    return f"Made with {'; '.join(found)}.{different}"
