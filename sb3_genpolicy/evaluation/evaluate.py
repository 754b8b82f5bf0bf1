"""
The value of a policy from logged data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import get_device
from tqdm import tqdm

from sb3_genpolicy.common.datasets import DatasetSource
from sb3_genpolicy.common.policies.normalization import ObservationNormalizer
from sb3_genpolicy.common.transitions.action_range import ActionRange
from sb3_genpolicy.common.transitions.transitions import Transitions, label_of
from sb3_genpolicy.common.utils import tree_map
from sb3_genpolicy.evaluation.acting import Acting, own_random_numbers, policy_actions
from sb3_genpolicy.evaluation.caution import caution
from sb3_genpolicy.evaluation.estimates import Found, allowed_by_rewards, evidence_of, fitted_estimates
from sb3_genpolicy.evaluation.fitted_q import Begun, FittedQ, FittedQOptions, Learner
from sb3_genpolicy.evaluation.intervals import Resamples
from sb3_genpolicy.evaluation.judges import Candidate, found_log_probs, judging_episodes, opened, read_for, spaces_of
from sb3_genpolicy.evaluation.plans import Plans
from sb3_genpolicy.evaluation.question import DISCOUNTED, Question, find_horizon, some_of
from sb3_genpolicy.evaluation.result import KINDS, OfflineEvaluation
from sb3_genpolicy.evaluation.support import check_behaviour, fit_behaviour, measure_support
from sb3_genpolicy.evaluation.values import episode_values
from sb3_genpolicy.evaluation.verdict import Guards, judge
from sb3_genpolicy.evaluation.weighing import Densities, weighed_estimates
from sb3_genpolicy.generative.checks import check_flag, check_number, named_arguments

# Of algorithms that have no discount, and policies alone
_GAMMA = 0.99
# Observations that the normaliser is fitted to at a time
_CHUNK = 2**16


@dataclass(frozen=True)
class Conditions:
    """
    What all evaluations that are compared have in common.

    :param deterministic: whether policies act without random numbers
    :param n_actions: drawn for every state
    :param level: probability of the intervals
    :param n_resamples: of the bootstrap
    :param options: of fitted Q evaluation
    :param guards: what has to be passed
    :param seed: of everything
    :param device: where networks are
    :param progress_bar: whether to show one
    """

    deterministic: bool
    n_actions: int
    level: float
    n_resamples: int
    options: FittedQOptions
    guards: Guards
    seed: int
    device: th.device
    progress_bar: bool

    def __post_init__(self) -> None:
        check_flag("deterministic", self.deterministic)
        check_flag("progress_bar", self.progress_bar)
        check_number("n_actions", self.n_actions, low=1, whole=True)
        check_number("level", self.level, low=0.0, high=1.0, low_open=True, high_open=True)
        check_number("n_resamples", self.n_resamples, low=100, whole=True)
        check_number("seed", self.seed, low=0, whole=True)


@named_arguments
def evaluate_offline(
    model: Candidate,
    dataset: DatasetSource | None = None,
    *,
    deterministic: bool = False,
    gamma: float | None = None,
    n_actions: int = 4,
    max_rows: int = 200_000,
    behaviour: Any = None,
    behaviour_steps: int = 3_000,
    behaviour_log_probs: np.ndarray | None = None,
    options: FittedQOptions | None = None,
    guards: Guards | None = None,
    level: float = 0.9,
    n_resamples: int = 2_000,
    seed: int = 0,
    device: th.device | str = "auto",
    progress_bar: bool = False,
) -> OfflineEvaluation:
    """
    The value of a policy, with an interval, from rows that it never acted on, beside the behaviour's own; and whether it is
    better than what acted there, or why that cannot be told. See docs/guide/offline_evaluation.md.

    Fitted Q evaluation has networks of its own and asks the policy for actions as it acts (solver, candidates and guidance
    included). A policy that executes several actions of a plan is evaluated as one that does (see
    :mod:`~sb3_genpolicy.evaluation.plans`), planning first where an episode begins. For every state some actions or plans are
    drawn once, before it learns, since drawing costs a flow more than learning does; of these one is taken at random each time
    that a row comes up.

    Where episodes were held out from the training (``HeldOutEpisodes``) these judge; else all do, with a warning.

    :param model: a model, a policy, or the file of a model
    :param dataset: the logged data, see :func:`~sb3_genpolicy.common.datasets.load_dataset`. Default: the model's own.
    :param deterministic: whether ``predict(deterministic=True)`` is evaluated, in place of what the policy samples
    :param gamma: discount factor, in [0, 1). Default: the algorithm's.
    :param n_actions: number of actions drawn for every state, >= 1, of a policy that acts by chance
    :param max_rows: of larger datasets so many rows are taken, in whole episodes drawn at random
    :param behaviour: a model of the behaviour policy that has a density (a ``BC`` that was trained), of as many actions
        together as the policy executes of a plan. Default: a flow that is fitted to the judging episodes in
        ``behaviour_steps``. (Those inside GMPO and GMPG clone better episodes more often.)
    :param behaviour_steps: gradient steps of that
    :param behaviour_log_probs: logarithms of the density by which each logged action was drawn, where it was logged,
        (n_rows,), of all rows of the dataset, in nats and the environment's units. Importance sampling takes them in place of
        a model's. Default: what the dataset has (``action_log_probs`` or ``infos/action_log_probs`` of a mapping, an npz or
        an HDF5 file).
    :param options: of fitted Q evaluation
    :param guards: what an evaluation has to pass, lest the verdict be that it cannot be told
    :param level: probability of the intervals, in (0, 1)
    :param n_resamples: of the bootstrap over episodes
    :param seed: of everything, a whole number >= 0; torch's own random state stays as it was
    :param device: where the evaluation's networks are
    :param progress_bar: whether to show them
    :return: estimates, verdict and what they rest on; print it
    :raises ValueError: if the dataset does not fit the policy, or an option is out of range
    :raises TypeError: if the model is none
    """
    conditions = Conditions(
        deterministic,
        n_actions,
        level,
        n_resamples,
        options or FittedQOptions(),
        guards or Guards(),
        seed,
        get_device(device),
        progress_bar,
    )
    name = type(model).__name__ if isinstance(model, (BaseAlgorithm, BasePolicy)) else str(model)
    densities = behaviour, behaviour_steps, behaviour_log_probs
    return evaluate_all({name: model}, dataset, gamma, max_rows, densities, conditions)[name]


def evaluate_all(
    models: Mapping[str, Candidate],
    dataset: DatasetSource | None,
    gamma: float | None,
    max_rows: int,
    densities: tuple[Any, int, np.ndarray | None],
    conditions: Conditions,
) -> dict[str, OfflineEvaluation]:
    """
    :param models: that are evaluated, by name, all by the same episodes
    :param dataset: the logged data; None: the first model's
    :param gamma: discount factor; None: the first model's
    :param max_rows: rows at most
    :param densities: ``behaviour``, ``behaviour_steps`` and ``behaviour_log_probs`` of :func:`evaluate_offline`
    :param conditions: how
    :return: the evaluations, by name
    """
    behaviour, steps, log_probs = densities
    policies = {name: opened(model) for name, model in models.items()}
    several = list(policies.values())
    data = read_for(several, dataset)
    question, rows = ask_about(several, data, gamma, max_rows, conditions.seed)
    logged = logged_densities(found_log_probs(dataset, data.n_rows) if log_probs is None else log_probs, data, rows)
    lengths = {name: Acting(policy).execute_length for name, policy in policies.items()}
    takes, space = spaces_of(several[0])[1], several[0].observation_space
    of_actions = {}
    for length in dict.fromkeys(lengths.values()):
        if behaviour is None:
            fitted = fit_behaviour(question.data, space, steps, conditions.seed, conditions.progress_bar, length)
            of_actions[length] = Densities(fitted.policy, logged)
        else:
            of_actions[length] = Densities(check_behaviour(getattr(behaviour, "policy", behaviour), takes, length), logged)
    begun: dict[str, Begun] = {}
    shown = tqdm(policies.items(), "policies", delay=2.0, disable=not conditions.progress_bar or len(policies) == 1)
    return {
        name: evaluate(policy, name, question, of_actions[lengths[name]], conditions, label_of(data), begun)
        for name, policy in shown
    }


def logged_densities(behaviour_log_probs: np.ndarray | None, data: Transitions, rows: np.ndarray) -> np.ndarray | None:
    """
    :param behaviour_log_probs: as they were given, of all rows
    :param data: the dataset
    :param rows: that judge
    :return: of these, (n_rows,); None where none were given
    :raises ValueError: if there is not one for each row, or one is not finite
    """
    if behaviour_log_probs is None:
        return None
    given = np.asarray(behaviour_log_probs, dtype=np.float64)
    if given.shape != (data.n_rows,):
        raise ValueError(f"behaviour_log_probs has shape {given.shape}, but {label_of(data)} has {data.n_rows} rows.")
    if not np.isfinite(given).all():
        row = int(np.flatnonzero(~np.isfinite(given))[0])
        raise ValueError(f"behaviour_log_probs is not finite in {data.where(row)}: a logged action has a density above 0.")
    return given[rows]


def ask_about(
    models: Sequence[Any], data: Transitions, gamma: float | None, max_rows: int, seed: int
) -> tuple[Question, np.ndarray]:
    """
    :param models: that are evaluated
    :param data: the logged data
    :param gamma: discount factor; None: the first model's
    :param max_rows: rows at most
    :param seed: of the draw of these
    :return: the question, and the rows of the data that it is asked of
    :raises ValueError: if the discount is out of range
    """
    if gamma is None:
        gamma = min(float(getattr(models[0], "gamma", _GAMMA)), 0.9999)
    check_number("gamma", gamma, low=0.0, high=1.0, high_open=True)
    check_number("max_rows", max_rows, low=1, whole=True)
    episodes = some_of(data, judging_episodes(models, data), max_rows, seed)
    judging = data.select_episodes(episodes)
    return Question(judging, float(gamma), find_horizon(data)), data.rows_of(episodes)


def evaluate(
    model: Any,
    name: str,
    question: Question,
    densities: Densities,
    conditions: Conditions,
    dataset: str,
    begun: dict[str, Begun],
) -> OfflineEvaluation:
    """
    :param model: a model or a policy
    :param name: what it is called
    :param question: by which episodes
    :param densities: of the logged actions
    :param conditions: how
    :param dataset: what the data are called
    :param begun: what evaluations by the same question and conditions have begun with; it is filled
    :return: the evaluation
    """
    acting = Acting(model, conditions.deterministic)
    fitted = fit_values(question, acting, conditions, begun)
    support = measure_support(question, acting, densities.behaviour, conditions.seed)
    kinds = range(len(fitted.q))
    values = {KINDS[kind]: episode_values(question, fitted, kind) for kind in kinds}
    n_members, n_episodes = values[KINDS[DISCOUNTED]].initial.shape
    resamples = Resamples.draw(conditions.n_resamples, n_episodes, n_members, conditions.seed)
    cautions = {
        name: caution(question, support.leaving, kind, allowed_by_rewards(question, kind).clip(float(own.policy.mean())))
        for kind, (name, own) in enumerate(values.items())
    }
    found = Found(values, resamples, fitted, cautions, conditions.level)
    evidence, estimates = evidence_of(found, support), fitted_estimates(found, question, conditions.guards)
    fewest = conditions.guards.fewest_effective
    estimates += weighed_estimates(question, acting, densities, fitted, conditions.level, fewest)
    return OfflineEvaluation(
        policy=name,
        dataset=dataset,
        gamma=question.gamma,
        level=conditions.level,
        n_rows=question.data.n_rows,
        n_episodes=n_episodes,
        estimates=estimates,
        verdict=judge(evidence, conditions.guards),
        support=support,
        error=evidence.error,
        disagreement=evidence.disagreement,
        curve=fitted.curve,
        stopped=fitted.stopped,
        reference_scores=question.data.reference_scores,
        values=values,
        cautions=cautions,
    )


def fit_values(question: Question, acting: Acting, conditions: Conditions, begun: dict[str, Begun]) -> FittedQ:
    """
    :param question: what is asked
    :param acting: the policy
    :param conditions: how
    :param begun: what other evaluations have begun with
    :return: what fitted Q evaluation learnt
    """
    data, device = question.data, conditions.device
    drawn = policy_actions(acting, data.states, conditions.n_actions, conditions.seed, conditions.progress_bar)
    scales = ActionRange(data.action_space)
    scales.fit(*data.action_extent())
    states = tree_map(lambda array: th.as_tensor(array, device=device), data.states)
    normalizer = ObservationNormalizer(data.observation_space)
    normalizer.fit(tree_map(lambda array, at=at: array[at : at + _CHUNK], states) for at in range(0, data.n_rows, _CHUNK))

    def scaled(actions: np.ndarray) -> th.Tensor:
        return scales.scale(th.as_tensor(actions)).float().to(device)

    with own_random_numbers(conditions.seed):
        learner = Learner(
            question,
            states,
            Plans(question, scaled(np.asarray(data.actions).reshape(data.n_rows, -1)), scaled(drawn)),
            acting.policy.make_features_extractor(),
            normalizer.to(device),
            conditions.options,
            conditions.seed,
        )
        return learner.learn(conditions.progress_bar, begun)
