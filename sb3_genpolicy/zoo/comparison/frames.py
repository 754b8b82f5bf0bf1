"""
What studies keep of runs, as frames: a row for each run, and a row for each point of a curve.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from optuna.trial import FrozenTrial

from sb3_genpolicy.zoo.comparison.methods import Contender
from sb3_genpolicy.zoo.comparison.trainings import Conditions

#: What curves call the pretraining's own scores
CLONING = "cloning"


def rows_of(
    runs: Sequence[FrozenTrial],
    pretrainings: Sequence[FrozenTrial],
    contenders: Sequence[Contender],
    conditions: Conditions,
) -> pd.DataFrame:
    """
    :param runs: trials of the methods
    :param pretrainings: trials of the pretrainings
    :param contenders: the methods
    :param conditions: what is the same for all
    :return: a row for each run, by dataset, method and seed
    """
    seconds = {_key(trial, "pretraining"): trial.user_attrs["seconds"] for trial in pretrainings}
    by_label = {contender.label: contender for contender in contenders}
    rows = [_row(trial, by_label[trial.params["method"]], seconds, conditions) for trial in runs]
    frame = pd.DataFrame(rows)
    order = {label: number for number, label in enumerate(by_label)}
    places = frame.algorithm.map(order)
    return frame.assign(place=places).sort_values(["dataset", "place", "seed"]).drop(columns="place").reset_index(drop=True)


def _row(trial: FrozenTrial, contender: Contender, seconds: dict[Any, float], conditions: Conditions) -> dict[str, Any]:
    kept, shared = trial.user_attrs, contender.pretraining
    before = 0.0 if shared is None else seconds[trial.params["dataset"], shared.label, trial.params["seed"]]
    return dict(
        dataset=trial.params["dataset"],
        algorithm=contender.label,
        seed=trial.params["seed"],
        deterministic=kept["deterministic"],
        sampled=kept["sampled"],
        normalized=kept["normalized"],
        pretraining="its own" if shared is None else shared.label,
        pretraining_steps=conditions.steps - conditions.own_steps(contender),
        steps=conditions.own_steps(contender),
        pretraining_seconds=before,
        seconds=kept["seconds"],
        acting_ms=kept["acting_ms"],
        diverged=kept["diverged"],
        machine=kept["machine"],
        versions=kept["versions"],
    )


def curves_of(runs: Sequence[FrozenTrial], pretrainings: Sequence[FrozenTrial]) -> pd.DataFrame:
    """
    :param runs: trials of the methods
    :param pretrainings: trials of the pretrainings, which are clones
    :return: dataset, algorithm, seed, step and score (deterministic actions) of every evaluation along the way
    """
    rows = []
    for trial in [*pretrainings, *runs]:
        clone = f"{CLONING} ({trial.params['pretraining']})" if "pretraining" in trial.params else None
        for step, score in trial.user_attrs["curve"]:
            label = clone or trial.params["method"]
            rows.append((trial.params["dataset"], label, trial.params["seed"], step, score))
    return pd.DataFrame(rows, columns=["dataset", "algorithm", "seed", "step", "score"])


def _key(trial: FrozenTrial, axis: str) -> tuple[Any, Any, Any]:
    return trial.params["dataset"], trial.params[axis], trial.params["seed"]
