"""
The critics of a saved model beside measured returns, and beside logged ones.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from benchmarks.critics.estimates import Estimate
from benchmarks.critics.logged import LoggedCorrelations, logged_correlations
from benchmarks.critics.measure import RETURNS, folder_of
from benchmarks.critics.scoring import AGGREGATIONS, Scores, discounted, overestimation, score
from sb3_genpolicy import load_dataset
from sb3_genpolicy.common.algorithms.registry import registered
from sb3_genpolicy.common.transitions.returns import returns_to_go
from sb3_genpolicy.common.transitions.rewards import transform_rewards
from sb3_genpolicy.common.transitions.transforms import action_transforms, prepare

RESULTS = Path(__file__).parents[1] / "results" / "critics.jsonl"
NETWORKS = ("critic", "critic_target")
_ROWS_AT_ONCE = 8192


def load_model(path: Path) -> Any:
    """
    :param path: a saved model, of any registered algorithm
    :return: the model, on the CPU
    :raises ValueError: if it is of none of them
    """
    refusals = []
    for each in registered().values():
        try:
            return each.algorithm.load(path, device="cpu")
        except ValueError as error:
            refusals.append(str(error))
    raise ValueError("\n".join(refusals))


@th.no_grad()
def members_of(model: Any, network: str, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """
    :param model: the model
    :param network: ``critic`` or ``critic_target``
    :param observations: (states, observation_dim)
    :param actions: in the environment's units, (states, actions, action_dim)
    :return: Q of each member, (members, states, actions)
    """
    model.policy.set_training_mode(False)
    n_states, n_actions, _ = actions.shape
    observed, _ = model.policy.obs_to_tensor(observations.repeat(n_actions, axis=0))
    scaled = model.policy.scale_action(actions.reshape(n_states * n_actions, *model.action_space.shape))
    scaled = th.as_tensor(scaled.reshape(len(scaled), -1), dtype=th.float32)
    parts = zip(observed.split(_ROWS_AT_ONCE), scaled.split(_ROWS_AT_ONCE), strict=True)
    values = th.cat([getattr(model.policy, network).values(*part) for part in parts], dim=1)
    return values.double().numpy().reshape(-1, n_states, n_actions)


@th.no_grad()
def values_of(model: Any, observations: np.ndarray) -> np.ndarray:
    """
    :param model: the model
    :param observations: (n, observation_dim)
    :return: V, (n,)
    """
    model.policy.set_training_mode(False)
    observed, _ = model.policy.obs_to_tensor(observations)
    return th.cat([model.policy.value_net(part) for part in observed.split(_ROWS_AT_ONCE)]).double().numpy()[:, 0]


def measured_returns(dataset: str, finished: bool = True, name: str = RETURNS) -> dict[str, np.ndarray]:
    """
    :param dataset: its id
    :param finished: whether all has to be measured, or the states that are done will do
    :param name: what the measurement is called
    :return: what ``measure`` kept, by name
    :raises ValueError: if it is not there yet
    """
    path = folder_of(dataset) / f"{name}.npz"
    command = f"python -m benchmarks.critics measure --dataset {dataset} --name {name}"
    if not path.exists():
        raise ValueError(f"The returns of {dataset} were not measured: {command}")
    with np.load(path) as arrays:
        kept = {key: arrays[key] for key in arrays.files}
    last = "long_" if name == RETURNS else ""
    if finished and (f"{last}done" not in kept or kept[f"{last}done"] < len(kept[f"{last}rewards"])):
        raise ValueError(f"The returns of {dataset} are not all measured yet. To go on: {command}")
    return kept


def measured_scores(
    model: Any, dataset: str, horizon: int | None = None, gamma: float | None = None
) -> dict[str, tuple[Scores, Estimate]]:
    """
    :param model: the model
    :param dataset: whose measured returns
    :param horizon: count only so many steps of a rollout
    :param gamma: discount factor of the returns; the model's by default
    :return: for each network and aggregation, as ``critic, minimum``, the scores and the overestimation
    :raises ValueError: if there are no finished measurements
    """
    kept = measured_returns(dataset)
    gamma = model.gamma if gamma is None else gamma
    rewards = kept["rewards"][..., :horizon]
    returns = discounted(rewards, kept["lengths"], gamma, model.reward_function)
    long_returns = discounted(kept["long_rewards"], kept["long_lengths"], gamma, model.reward_function)
    scores = {}
    for network in NETWORKS:
        members = members_of(model, network, kept["observations"], kept["actions"])
        for name, aggregate in AGGREGATIONS.items():
            above = overestimation(aggregate(members)[: len(long_returns), 0], long_returns[:, 0])
            scores[f"{network}, {name}"] = score(members, returns, name), above
    return scores


def ceilings(dataset: str, horizons: list[int], gamma: float) -> None:
    """
    Print what a perfect critic would get, from what is measured so far.

    :param dataset: its id
    :param horizons: numbers of steps that are counted
    :param gamma: discount factor
    """
    kept = measured_returns(dataset, finished=False)
    done = int(kept["done"])
    share = (kept["lengths"][:done] < kept["rewards"].shape[-1]).mean()
    print(f"{dataset}: {done} states, discount {gamma:g}, {share:.1%} of rollouts terminate")
    print("| steps | ceiling within | ceiling of ranks | deviation within, true | of the best by half of the rollouts |")
    print("|---|---|---|---|---|")
    for horizon in horizons:
        returns = discounted(kept["rewards"][:done, ..., :horizon], kept["lengths"][:done], gamma)
        # Any values will do: ceilings do not depend on them
        scores = score(returns.mean(axis=-1)[None], returns)
        cells = [horizon, scores.within.ceiling, f"{scores.rank.least.value:.3f} to {scores.rank.most.value:.3f}"]
        print("| " + " | ".join(map(str, [*cells, scores.gain.deviation, scores.gain.by_returns])) + " |")


def logged_scores(model: Any, dataset: str) -> tuple[bool, dict[str, LoggedCorrelations]]:
    """
    :param model: the model
    :param dataset: what it learnt from
    :return: whether the rows are of held-out episodes (of all episodes, if none was held out), and for each network and
        aggregation the correlations with logged returns to go
    """
    chosen = prepare(load_dataset(dataset, action_transforms=action_transforms(model.transforms)), model.transforms)
    is_held_out = len(chosen.held_out) > 0
    rows = chosen.held_out if is_held_out else np.arange(chosen.data.n_rows)
    data = chosen.data.select_rows(rows)
    ends = np.asarray(data.ends)
    v = values_of(model, data.observations)
    rewards = transform_rewards(model.reward_function, data.rewards)
    to_go = returns_to_go(data, rewards, model.critic_gamma)
    last_values = values_of(model, data.next_observations)[to_go.last_rows]
    returns = to_go.rewards + to_go.discounts * last_values
    scores = {}
    for network in NETWORKS:
        members = members_of(model, network, data.observations, data.actions.reshape(len(rewards), 1, -1))
        for name, aggregate in AGGREGATIONS.items():
            scores[f"{network}, {name}"] = logged_correlations(aggregate(members)[:, 0], v, returns, ends)
    return is_held_out, scores


def score_model(path: Path, dataset: str, horizon: int | None = None) -> None:
    """
    Print a model's scores, and append them to the results.

    :param path: a saved model
    :param dataset: what it learnt from, and whose returns were measured
    :param horizon: count only so many steps of a rollout
    """
    model = load_model(path)
    measured = measured_scores(model, dataset, horizon)
    is_held_out, logged = logged_scores(model, dataset)
    first = next(iter(measured.values()))[0]
    print(f"{dataset}, {path.stem}; gain is in standard deviations of true returns within a state")
    print("| critic | within | of ceiling | rank | gain | across | overestimation | members / actions |", end="")
    print(f" Q - V with {'held-out' if is_held_out else 'learnt'} return - V | Q with return, given V |")
    print("|" + 10 * "---|")
    rows = {}
    for name, (scores, above) in measured.items():
        members, actions = scores.disagreement
        cells = [name, scores.within.value, scores.within.share, scores.rank.value, scores.gain.value, scores.across, above]
        cells += [f"{members.value:.3g} / {actions.value:.3g}", logged[name].advantage, logged[name].given_value]
        print("| " + " | ".join(map(str, cells)) + " |")
        rows[name] = {**plain(scores), "overestimation": plain(above), "logged": plain(logged[name])}
    most, least = first.rank.most, first.rank.least
    ceilings = ["a perfect critic", first.within.ceiling, "", f"{least.value:.3f} to {most.value:.3f}"]
    print("| " + " | ".join(map(str, [*ceilings, f"at least {first.gain.by_returns}"])) + " |" + 5 * " |")
    row = dict(dataset=dataset, model=path.stem, algorithm=type(model).__name__, steps=model.num_timesteps, seed=model.seed)
    row.update(gamma=model.gamma, expectile=model.expectile, horizon=horizon, held_out=is_held_out, scores=rows)
    with RESULTS.open("a") as file:
        file.write(json.dumps(row) + "\n")


def plain(scores: Any) -> Any:
    """
    :param scores: named tuples within each other
    :return: the same as dictionaries, with numbers of six digits
    """
    if isinstance(scores, tuple):
        return {name: plain(value) for name, value in scores._asdict().items()}  # type: ignore[attr-defined]
    return float(f"{scores:.6g}")
