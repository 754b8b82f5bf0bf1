"""
The page about a model: what it learnt from, how that went, what it does and how far it can be trusted.
"""

import datetime
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_genpolicy.common.algorithms.offline_algorithm import OfflineAlgorithm
from sb3_genpolicy.common.datasets import DatasetSource
from sb3_genpolicy.common.datasets.info import dataset_info
from sb3_genpolicy.common.files.whole_files import whole_file
from sb3_genpolicy.common.transitions.transitions import normalized_score
from sb3_genpolicy.evaluation.evaluate import evaluate_offline
from sb3_genpolicy.evaluation.judges import opened
from sb3_genpolicy.evaluation.picture import draw_evaluation_apart
from sb3_genpolicy.evaluation.result import OfflineEvaluation
from sb3_genpolicy.generative.checks import check_number, named_arguments, shown
from sb3_genpolicy.reporting import page
from sb3_genpolicy.reporting.behaviour import Behaviour, find_behaviour
from sb3_genpolicy.reporting.critic_checks import CriticChecks, check_critics
from sb3_genpolicy.reporting.curves import (
    HOW_TO_EVALUATE,
    HOW_TO_HAVE_THEM,
    NOTHING,
    Curves,
    evaluation_figure,
    find_curves,
    in_words,
    logged_figures,
)
from sb3_genpolicy.reporting.densities import Actions, act_in, choose_states, densities_figure, drawn_dimensions
from sb3_genpolicy.reporting.divergence import divergence_from, row_weights
from sb3_genpolicy.reporting.drawings import data_uri
from sb3_genpolicy.reporting.looked_at import LookedAt, look_at
from sb3_genpolicy.reporting.options import command_to_repeat, given_options, options_now, shown_options, what_it_is
from sb3_genpolicy.reporting.versions import versions

SECTIONS = {
    "data": "Data",
    "curves": "Curves",
    "actions": "What it does",
    "divergence": "How far from the behaviour",
    "critics": "Critics",
    "verdict": "Is it better",
    "settings": "Settings",
    "repeat": "Again",
}
# Numbers of an observation that are written down
_NUMBERS = 12
_PANELS = (
    "return of each episode",
    "returns",
    "lengths of episodes",
    "rewards",
    "actions between their bounds",
    "actions at a bound",
)


@named_arguments
def report(
    model: OfflineAlgorithm | str | os.PathLike[str],
    path: str | os.PathLike[str] = "report.html",
    dataset: DatasetSource | None = None,
    *,
    states: Any = None,
    behaviour: Any = None,
    behaviour_steps: int = 0,
    offline_evaluation: OfflineEvaluation | bool = False,
    logs: str | os.PathLike[str] | None = None,
    command: str | None = None,
    seed: int = 0,
) -> Path:
    """
    Write one HTML page about a training, which asks nothing of a network: its data, curves, action densities at chosen states
    beside the behaviour's, divergence and effective sample size, what speaks for and against its critics, the verdict of an
    evaluation without a simulator, settings, versions and the command to repeat it. What there is not is said in a sentence,
    with what to do. See docs/guide/report.md.

    It takes seconds, but for ``behaviour_steps`` and ``offline_evaluation=True``, and leaves the model and all random states
    as they were.

    :param model: a model of this package, or its file
    :param path: the page
    :param dataset: logged data that it is looked at by, see :func:`~sb3_genpolicy.common.datasets.load_dataset`. Default: what
        it was trained on; where episodes were held out (``HeldOutEpisodes``), numbers are of these.
    :param states: observations whose actions are drawn, batch first, as the environment gives them. Default: four of the data:
        of the best episode its first and middle one, and of 64 those in which the policy is farthest from the behaviour, and
        as far as in half of them.
    :param behaviour: a model of the behaviour policy (a ``BC`` that was trained). Default: the model's own, where it has one.
    :param behaviour_steps: gradient steps of a flow that is fitted to the data where the model has no behaviour model; about
        3,000 are enough. Default: none is.
    :param offline_evaluation: a result of :func:`~sb3_genpolicy.evaluation.evaluate.evaluate_offline`; or True: it is done
        now, with its default options, which takes minutes
    :param logs: folder of ``progress.csv`` or ``evaluations.npz``. Default: what was logged in this process, and the folder of
        the model's logger.
    :param command: what was run. Default: Python that makes the model again.
    :param seed: of all draws, >= 0
    :return: the page
    :raises TypeError: if the model is none of this package
    :raises ValueError: if a dataset or folder that is given cannot be read, or a file is of no model
    :raises OSError: if the page cannot be written
    """
    check_number("seed", seed, low=0, whole=True)
    check_number("behaviour_steps", behaviour_steps, low=0, whole=True)
    if not isinstance(offline_evaluation, (bool, OfflineEvaluation)):
        raise TypeError(
            f"offline_evaluation has to be True, False or what evaluate_offline gave, not {shown(offline_evaluation)}."
        )
    trained = _checked(model)
    curves = find_curves(trained, None if logs is None else Path(logs).expanduser())
    looked = look_at(trained, dataset, seed)
    stands: Behaviour | str = looked if isinstance(looked, str) else find_behaviour(looked, behaviour, behaviour_steps)
    if offline_evaluation is True:
        offline_evaluation = evaluate_offline(trained, dataset, seed=seed, progress_bar=True)
    found = offline_evaluation or None
    checks = looked if isinstance(looked, str) else check_critics(looked)
    title = f"{type(trained).__name__} on {trained.dataset_name or 'a dataset without a name'}"
    parts = [
        *_beginning(trained, curves, checks, found),
        *_data(looked),
        *_curves(trained, curves),
        *_actions(looked, stands, states),
        *_divergence(looked, stands, curves, found),
        *_critics(checks),
        *_verdict(found),
        *_settings(trained),
        *_repeat(trained, command),
    ]
    path = Path(path).expanduser()
    with whole_file(path, "html") as file:
        file.write(page.page(title, parts).encode())
    return path if path.suffix else path.with_name(f"{path.name}.html")


def _checked(model: Any) -> OfflineAlgorithm:
    found = opened(model) if isinstance(model, (str, os.PathLike)) else model
    if not isinstance(found, OfflineAlgorithm):
        kind = type(found).__name__ if isinstance(found, BaseAlgorithm) else shown(found)
        raise TypeError(f"report tells of models of this package, or of their files, not of {kind}.")
    return found


def _heading(name: str) -> str:
    return page.heading(SECTIONS[name], name=name)


def _beginning(model: OfflineAlgorithm, curves: Curves, checks: Any, found: OfflineEvaluation | None) -> list[str]:
    facts = what_it_is(model)
    played = curves.evaluations
    if played is not None:
        facts["last evaluation"] = (
            _score(float(played.mean[-1]), model.reference_scores) + f", after {int(played.steps[-1]):,} steps"
        )
    if found is not None:
        facts["without a simulator"] = str(found.verdict)
    now = datetime.datetime.now(datetime.timezone.utc)
    parts = [page.paragraph(f"Written {now:%Y-%m-%d %H:%M} UTC."), page.contents(SECTIONS), page.facts(facts, "summary")]
    if isinstance(checks, CriticChecks) and checks.is_beyond:
        parts.append(page.said("The critics' values are beyond what rewards and discount allow. See Critics."))
    return parts


def _score(value: float, reference_scores: tuple[float, float] | None) -> str:
    if reference_scores is None:
        return f"return {value:.1f}"
    return f"normalised score {float(normalized_score(value, reference_scores)):.1f} (return {value:.1f})"


def _data(looked: LookedAt | str) -> list[str]:
    parts = [_heading("data")]
    if isinstance(looked, str):
        return [*parts, page.said(looked)]
    info = dataset_info(looked.data)
    pictures = [(data_uri(figure), text) for figure, text in zip(info.figures(), _PANELS, strict=True)]
    return [*parts, page.facts(info.lines(), "dataset"), page.gallery(pictures, captions=False)]


def _curves(model: OfflineAlgorithm, curves: Curves) -> list[str]:
    parts = [_heading("curves")]
    if curves.evaluations is None and not curves.are_judged_by_data:
        parts.append(page.said(HOW_TO_EVALUATE))
    pictures = []
    if curves.evaluations is not None:
        figure = evaluation_figure(curves.evaluations, model.reference_scores)
        caption = "evaluations while it learnt" + (
            "" if curves.evaluations.std is None else ", ± a standard deviation over episodes"
        )
        pictures.append((data_uri(figure), caption))
    logged = logged_figures(curves, getattr(model, "held_kl", None))
    if not logged:
        parts.append(page.said(HOW_TO_HAVE_THEM))
    pictures += [(data_uri(figure), name) for name, figure in logged]
    if pictures:
        parts.append(page.gallery(pictures))
    if curves.source:
        parts.append(page.paragraph(f"From {curves.source}. Dotted: a phase ends. Dashed: what is held."))
    return parts


def _actions(looked: LookedAt | str, stands: Behaviour | str, given: Any) -> list[str]:
    parts = [_heading("actions")]
    if isinstance(looked, str):
        return [*parts, page.said(looked)]
    behaviour = None if isinstance(stands, str) else stands
    found = act_in(looked, behaviour, choose_states(looked, behaviour, given))
    shown_dimensions = drawn_dimensions(looked) if looked.acted.shape[1] > 1 else [0]
    text = (
        "Blue: what the policy does, sampled as it acts. Grey: what was logged in the hundred states nearest to it. "
        + (f"Orange: the behaviour policy, by {behaviour.name}. " if behaviour is not None else "")
        + "Black: the deterministic action. Actions are in the environment's units."
    )
    if looked.acted.shape[1] > 2:
        text += f" Of {looked.acted.shape[1]} dimensions the two are drawn in which logged actions vary most."
    parts.append(page.paragraph(text))
    if isinstance(stands, str):
        parts.append(page.said(stands))
    pictures = [(data_uri(densities_figure(looked, behaviour, each)), each.state.name) for each in found]
    parts.append(page.gallery(pictures))
    heads = ["state", *(f"{who}, action {k}" for k in shown_dimensions for who in ("policy", "behaviour", "logged nearby"))]
    rows = [
        [page.cell(each.state.name, _observation(each.state.observation)), *_means(each, shown_dimensions)] for each in found
    ]
    parts += [page.table(heads, rows, "states"), page.paragraph("Mean ± standard deviation over actions in one state.")]
    return parts


def _means(actions: Actions, dimensions: Sequence[int]) -> list[str]:
    cells = []
    for k in dimensions:
        for values in (actions.policy, actions.behaviour, actions.logged):
            cells.append(page.cell(NOTHING if values is None else f"{values[:, k].mean():.3g} ± {values[:, k].std():.2g}"))
    return cells


def _observation(observation: Any) -> str:
    if isinstance(observation, dict):
        return "; ".join(f"{key}: {_observation(value)}" for key, value in observation.items())
    numbers = observation[0].reshape(-1)
    if len(numbers) > _NUMBERS:
        return f"{len(numbers):,} numbers"
    return "(" + ", ".join(f"{number:.3g}" for number in numbers.tolist()) + ")"


def _divergence(looked: LookedAt | str, stands: Behaviour | str, curves: Curves, found: OfflineEvaluation | None) -> list[str]:
    parts = [_heading("divergence")]
    if isinstance(looked, str):
        return [*parts, page.said(looked)]
    model: Any = looked.model
    kl, weights = divergence_from(looked, stands), row_weights(looked)
    lines = {"KL(policy || behaviour)": kl.why}
    if kl.kl is not None:
        error = "" if kl.error is None else f" ± {kl.error:.2g}"
        name = "" if isinstance(stands, str) else stands.name
        lines["KL(policy || behaviour)"] = f"{kl.kl:.3g}{error} nats, over {kl.n_states} states; the behaviour is {name}"
    held = getattr(model, "held_kl", None)
    if held is not None:
        lines["held while it learns"] = f"{held:g} nats"
    for name, text in (("kl", "divergence, last logged"), ("weight_kl", "divergence of weighted rows, last logged")):
        if curves.last(f"train/{name}") is not None:
            lines[text] = f"{in_words(curves.last(f'train/{name}'))} nats"
    if isinstance(weights, str):
        lines["effective sample size"] = weights
    else:
        lines["effective sample size"] = (
            f"{weights.effective_share:.1%} of {weights.n_rows:,} rows, by the weights of the critics as they are now"
        )
        lines["divergence of weighted rows"] = f"{weights.kl:.3g} nats"
    logged = curves.last("train/effective_sample_size")
    if logged is not None:
        lines["effective sample size, last logged"] = f"{logged:.1%} of a batch"
    if found is not None:
        lines["beyond the rim of the data"] = (
            f"{found.support.outside:.1%} of its actions, of logged ones 1 % (evaluation without a simulator)"
        )
        if found.support.kl is not None:
            lines["divergence from a flow fitted to the judging episodes"] = f"{found.support.kl:.3g} nats"
    return [*parts, page.facts(lines, "divergences")]


def _critics(checks: CriticChecks | str) -> list[str]:
    parts = [_heading("critics")]
    if isinstance(checks, str):
        return [*parts, page.said(checks)]
    if not checks.are_held_out:
        parts.append(
            page.said(
                "No episode was held out, so that critics are judged by what they learnt. Train with "
                "transforms=[HeldOutEpisodes()] for numbers that can be trusted."
            )
        )
    pictures = [(data_uri(figure), caption) for caption, figure in checks.figures()]
    units = "Values are in the units of transformed rewards, which critics see."
    return [*parts, page.facts(checks.lines(), "checks"), page.gallery(pictures), page.paragraph(units)]


def _verdict(found: OfflineEvaluation | None) -> list[str]:
    parts = [_heading("verdict")]
    if found is None:
        how = (
            "Nobody has asked yet. found = evaluate_offline(model), then report(model, offline_evaluation=found): a value "
            "with an interval beside the behaviour's, and a verdict, from logged data alone (minutes)."
        )
        return [*parts, page.said(how)]
    parts.append(page.said(str(found.verdict)))
    heads = ["estimate", "of", "method", "value", f"{found.level:.0%} interval", "score"]
    rows = []
    for line in found.estimates:
        score = found.score(line.value, line.of) if line.kind == "undiscounted" else None
        interval = "" if line.low is None or line.high is None else f"{line.low:.4g} to {line.high:.4g}"
        value = page.cell(in_words(line.value, ".4g"), line.withheld)
        first = [page.cell(line.kind), page.cell(line.of, words=True), page.cell(line.method, words=True)]
        rows.append([*first, value, page.cell(interval), page.cell("" if score is None else f"{score:.1f}")])
    pictures = [(data_uri(figure), f"{found.policy} on {found.dataset}") for figure in draw_evaluation_apart(found)]
    text = (
        f"{found.policy} by {found.n_episodes} episodes ({found.n_rows:,} steps) of {found.dataset}. Held-out Bellman error "
        f"{found.error:.2f} standard deviations, disagreement {found.disagreement:.1f} times that about logged actions, "
        f"stopped {found.stopped}."
    )
    return [*parts, page.table(heads, rows, "estimates"), page.gallery(pictures, captions=False), page.paragraph(text)]


def _settings(model: OfflineAlgorithm) -> list[str]:
    given = given_options(model)
    parts = [_heading("settings")]
    if given:
        parts += [page.paragraph("What is not its default:"), page.facts(shown_options(given), "given")]
    else:
        parts.append(page.paragraph("All are defaults."))
    everything = page.facts(shown_options(options_now(model)), "options")
    return [*parts, page.folded("All settings, as they are now", [everything])]


def _repeat(model: OfflineAlgorithm, command: str | None) -> list[str]:
    made_with = {"versions": versions(), "machine": f"{platform.platform()}, trained on {model.device}"}
    parts = [_heading("repeat"), page.code(command or command_to_repeat(model)), page.facts(made_with, "versions")]
    text = "Seeds give the same numbers on the same machine with the same versions; others are apart by rounding."
    return [*parts, page.paragraph(text)]
