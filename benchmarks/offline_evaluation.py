"""
Is what :func:`sb3_genpolicy.evaluate_offline` says true? Policies of several methods, at several points of their training, and
deliberately bad ones, are judged by episodes that trained none of them, and then in the simulator.

    python -m benchmarks.offline_evaluation --folder FOLDER                     # all; what is finished is not done again
    python -m benchmarks.offline_evaluation --folder FOLDER --datasets rlzoo/pendulum/mixed-v0 --only bc gmpo
    python -m benchmarks.offline_evaluation --folder FOLDER --report            # the tables alone

Every finished piece is a line of ``FOLDER/pieces.jsonl``; models are in ``FOLDER/models``. Several processes may share a
folder if each has its own datasets.
"""

import argparse
import json
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from scipy.stats import spearmanr
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy

from sb3_genpolicy import BC, FQL, GMPO, IDQL, IQL, FittedQOptions, HeldOutEpisodes, ReBRAC, evaluate_offline, load_dataset
from sb3_genpolicy.common.algorithms.offline_algorithm import OfflineAlgorithm
from sb3_genpolicy.evaluation.judges import opened
from sb3_genpolicy.evaluation.support import fit_behaviour

DATASETS = (
    "rlzoo/pendulum/mixed-v0",
    "rlzoo/hopper/medium-v0",
    "rlzoo/hopper/medium-expert-v0",
    "rlzoo/hopper/mixed-v0",
    "rlzoo/halfcheetah/medium-v0",
    "rlzoo/halfcheetah/mixed-v0",
)
#: Name -> the training, and shares of its steps at which a policy is kept
TRAININGS: dict[str, tuple[Callable[..., OfflineAlgorithm], tuple[float, ...]]] = {
    "bc": (lambda **kw: BC("FlowPolicy", **kw), (0.01, 0.1, 1.0)),
    "iql": (lambda **kw: IQL("GaussianPolicy", **kw), (0.01, 0.1, 1.0)),
    "gmpo": (lambda **kw: GMPO("FlowPolicy", **kw), (0.01, 0.1, 1.0)),
    "gmpo-kl-1": (lambda **kw: GMPO("FlowPolicy", target_kl=1.0, **kw), (1.0,)),
    "fql": (lambda **kw: FQL("MlpPolicy", **kw), (0.1, 1.0)),
    "rebrac": (lambda **kw: ReBRAC("MlpPolicy", **kw), (0.01, 0.1, 1.0)),
    "idql": (lambda **kw: IDQL("FlowPolicy", **kw), (1.0,)),
}
#: Policies that are bad on purpose, made of the last clone
BAD = ("reversed", "pushed", "noise")
# Steps of a discounted episode: what follows is less than a thousandth
_LONG = 700


class Spoilt(BasePolicy):
    """
    A clone whose actions are reversed, pushed to one side by the whole half range, or replaced by uniform noise.

    :param clone: a model
    :param how: of :data:`BAD`
    """

    def __init__(self, clone: Any, how: str):
        super().__init__(clone.observation_space, clone.action_space)
        self.clone, self.how = clone, how

    def _predict(self, observation: Any, deterministic: bool = False) -> th.Tensor:
        actions = th.as_tensor(self.clone.predict(observation.numpy())[0])
        low, high = (th.as_tensor(bound) for bound in (self.action_space.low, self.action_space.high))  # type: ignore[attr-defined]
        if self.how == "reversed":
            return low + high - actions
        if self.how == "pushed":
            return (actions + 0.5 * (high - low)).clamp(low, high)
        return low + (high - low) * th.rand_like(actions)


class KeepAt(BaseCallback):
    """
    Saves the model at some steps.

    :param paths: step -> file
    """

    def __init__(self, paths: dict[int, Path]):
        super().__init__()
        self.paths = paths

    def _on_step(self) -> bool:
        if self.num_timesteps in self.paths:
            self.model.save(self.paths[self.num_timesteps])
        return True


class Pieces:
    """
    What was finished.

    :param folder: of the file
    """

    def __init__(self, folder: Path):
        self.path = folder / "pieces.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        lines = self.path.read_text().splitlines() if self.path.is_file() else []
        self.all = [json.loads(line) for line in lines if line.endswith("}")]

    def find(self, kind: str, dataset: str, policy: str) -> dict[str, Any] | None:
        """
        :param kind: ``truth`` or ``offline``
        :param dataset: its name
        :param policy: its name
        :return: the piece, None where it is not finished
        """
        for piece in self.all:
            if (piece["kind"], piece["dataset"], piece["policy"]) == (kind, dataset, policy):
                return piece
        return None

    def add(self, **piece: Any) -> None:
        """
        :param piece: what was finished
        """
        self.all.append(piece)
        with self.path.open("a") as file:
            file.write(json.dumps(piece) + "\n")


def name_of(training: str, share: float) -> str:
    """
    :param training: its name
    :param share: of its steps
    :return: the policy's name
    """
    return f"{training}@{share:.0%}"


def train(dataset: str, training: str, steps: int, folder: Path, seed: int) -> dict[str, Path]:
    """
    :param dataset: its name
    :param training: of :data:`TRAININGS`
    :param steps: gradient steps
    :param folder: of the models
    :param seed: of the training
    :return: name of a policy -> its file
    """
    make, shares = TRAININGS[training]
    files = {share: folder / f"{name_of(training, share)}.zip" for share in shares}
    if not all(path.is_file() for path in files.values()):
        model = make(dataset=dataset, seed=seed, transforms=[HeldOutEpisodes(share=0.25)], device="auto")
        at = {max(1, round(share * steps)): path for share, path in files.items()}
        model.learn(steps, log_interval=None, callback=KeepAt(at))
    return {name_of(training, share): path for share, path in files.items()}


def true_returns(model: Any, env_id: str, gamma: float, episodes: int, seed: int = 10_000) -> dict[str, list[float]]:
    """
    :param model: a model or a policy
    :param env_id: of the environment
    :param gamma: discount factor
    :param episodes: as many environments are stepped at once
    :param seed: of the starts
    :return: the returns of episodes: up to the time limit, and discounted, without it
    """
    limit = gym.spec(env_id).max_episode_steps or 1000
    n_steps = max(limit, _LONG if gamma <= 0.99 else 5 * _LONG)
    makers = [lambda: gym.make(env_id, max_episode_steps=n_steps + 1)] * episodes
    # Episodes that have ended go on as others, which are not counted
    envs = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.NEXT_STEP)
    observations, _ = envs.reset(seed=seed)
    th.manual_seed(seed)
    total, discounted, is_going = np.zeros(episodes), np.zeros(episodes), np.ones(episodes, dtype=bool)
    for step in range(n_steps):
        actions, _ = model.predict(observations)
        observations, rewards, terminated, *_ = envs.step(actions)
        earned = np.where(is_going, rewards, 0.0)
        total += earned if step < limit else 0.0
        discounted += gamma**step * earned
        is_going &= ~terminated
        if not is_going.any():
            break
    envs.close()
    return {"undiscounted": total.tolist(), "discounted": discounted.tolist()}


def critics_own_value(model: Any, first_observations: Any) -> float | None:
    """
    :param model: a model
    :param first_observations: of the judging episodes
    :return: what the critic that trained it says that it earns; None where it has none
    """
    policy = getattr(model, "policy", None)
    if not isinstance(model, OfflineAlgorithm) or policy is None or not policy.has_critics:
        return None
    actions = policy.scale_action(model.predict(first_observations)[0])
    with th.no_grad():
        tensors = policy.obs_to_tensor(first_observations)[0]
        own = th.as_tensor(actions, device=policy.device).float().flatten(1)
        return float(policy.critic_target.q_values(tensors, own).mean())


def judge_policy(
    model: Any, dataset: str, judging: Any, behaviour: Any, options: FittedQOptions, gamma: float
) -> dict[str, Any]:
    """
    :param model: a model or a policy
    :param dataset: what the data are called
    :param judging: the episodes that trained nobody
    :param behaviour: a model of the behaviour policy
    :param options: of fitted Q evaluation
    :param gamma: discount factor
    :return: what is said of it without the simulator
    """
    start = time.time()
    found = evaluate_offline(model, judging, behaviour=behaviour, options=options, gamma=gamma)
    lines = {
        f"{line.kind} {line.of} {line.method}": [line.value, line.low, line.high, line.withheld] for line in found.estimates
    }
    return {
        "lines": lines,
        "cautious": found.cautious_value,
        "beyond": found.cautions["discounted"].beyond,
        "verdict": found.verdict.word,
        "why": found.verdict.reasons,
        "outside": found.support.outside,
        "quantile": found.support.quantile,
        "kl": found.support.kl,
        "matching_loss": found.support.matching_loss,
        "error": found.error,
        "disagreement": found.disagreement,
        "critic": critics_own_value(model, judging.states[judging.episode_starts[:-1]]),
        "seconds": time.time() - start,
        "summary": str(found),
    }


def run(options: argparse.Namespace) -> None:
    """
    :param options: of the command line
    """
    pieces = Pieces(options.folder)
    for dataset in options.datasets:
        data = load_dataset(dataset)
        assert data.env_id is not None
        folder = options.folder / "models" / dataset.replace("/", "-")
        folder.mkdir(parents=True, exist_ok=True)
        # Those that `HeldOutEpisodes` holds out of every training
        probe = BC("FlowPolicy", dataset=dataset, transforms=[HeldOutEpisodes(share=0.25)])
        probe.read_dataset()
        judging = data.select_episodes(_held_out(probe, data))
        behaviour = fit_behaviour(judging, judging.observation_space, options.behaviour_steps, 0, progress_bar=True)
        wanted = [name for name in options.only if name in TRAININGS]
        files = {}
        for training in wanted:
            files.update(train(dataset, training, options.steps, folder, options.seed))
        models: dict[str, Any] = {name: opened(path) for name, path in files.items()}
        if "bc" in wanted and "bad" in options.only:
            models.update({how: Spoilt(models["bc@100%"], how) for how in BAD})
        for name, model in models.items():
            _finish(pieces, dataset, name, model, data.env_id, judging, behaviour, options)
    report(pieces)


def _held_out(probe: Any, data: Any) -> np.ndarray:
    from sb3_genpolicy.evaluation.judges import judging_episodes

    return judging_episodes([probe], data)


def _finish(
    pieces: Pieces, dataset: str, name: str, model: Any, env_id: str, judging: Any, behaviour: Any, options: argparse.Namespace
) -> None:
    if pieces.find("truth", dataset, name) is None:
        returns = true_returns(model, env_id, options.gamma, options.episodes)
        pieces.add(kind="truth", dataset=dataset, policy=name, scores=judging.reference_scores, **returns)
    if pieces.find("offline", dataset, name) is None:
        learner = FittedQOptions(steps=options.fqe_steps, first_steps=options.fqe_first_steps)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*that are to judge")
            found = judge_policy(model, dataset, judging, behaviour, learner, options.gamma)
        pieces.add(kind="offline", dataset=dataset, policy=name, **found)
        print(found["summary"], flush=True)


def _truth(pieces: Pieces, dataset: str) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Policies of which both are known: truth, and what was said."""
    both = {}
    for piece in pieces.all:
        said = pieces.find("offline", dataset, piece["policy"])
        if piece["kind"] == "truth" and piece["dataset"] == dataset and said is not None:
            both[piece["policy"]] = (piece, said)
    return both


def rankings(both: dict[str, tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, np.ndarray]:
    """
    :param both: policy -> truth, and what was said
    :return: name of a way to rank -> what it ranks policies by, the best highest; -inf where it says nothing
    """
    said = [own for _, own in both.values()]

    def line(name: str) -> list[float | None]:
        return [own["lines"].get(name, [None])[0] for own in said]

    known = [own["verdict"] != "cannot be told" for own in said]
    cautious = np.array([own["cautious"] for own in said])
    value = np.array([x if x is not None else -np.inf for x in line("discounted policy fitted Q")])
    losses = [own["matching_loss"] for own in said]
    return {
        # As `choose_policy` does: those of which nothing can be told come last
        "choose_policy": cautious - np.where(known, 0.0, 1e6),
        "fitted Q alone": value,
        "actions beyond the data": -np.array([own["outside"] for own in said]),
        "fitted Q, initial states": np.array(line("discounted policy fitted Q, initial states"), dtype=float),
        "the training's critic": np.array([own["critic"] if own["critic"] is not None else -np.inf for own in said]),
        "held-out loss": -np.array([loss if loss is not None else np.inf for loss in losses]),
    }


def report(pieces: Pieces) -> None:
    """
    :param pieces: what was finished
    """
    datasets = list(dict.fromkeys(piece["dataset"] for piece in pieces.all))
    table: dict[str, list[tuple[float, float]]] = defaultdict(list)
    covered: dict[str, list[bool]] = defaultdict(list)
    withheld: dict[str, int] = defaultdict(int)
    errors: dict[str, list[float]] = defaultdict(list)
    called_better = []
    for dataset in datasets:
        both = _truth(pieces, dataset)
        if len(both) < 2:
            continue
        true = np.array([np.mean(truth["undiscounted"]) for truth, _ in both.values()])
        ways = rankings(both)
        random = np.random.default_rng(0)
        draws = [(float(spearmanr(c, true)[0]), _regret(c, true)) for c in random.normal(size=(1000, len(true)))]
        table["a coin"].append((float(np.mean([d[0] for d in draws])), float(np.mean([d[1] for d in draws]))))
        for name, order in ways.items():
            table[name].append((_correlation(order, true), _regret(order, true)))
        _cover(both, covered, withheld, errors)
        called_better += [(dataset, name) for name in BAD if name in both and both[name][1]["verdict"] == "better"]
        print(f"\n{dataset}: {len(both)} policies, true returns {true.min():.5g} to {true.max():.5g}")
        for name, (truth, said) in sorted(both.items(), key=lambda item: -np.mean(item[1][0]["undiscounted"])):
            line, total = said["lines"]["discounted policy fitted Q"], said["lines"]["undiscounted policy fitted Q"]
            print(
                f"  {name:16} true {np.mean(truth['undiscounted']):9.5g} ({np.mean(truth['discounted']):8.4g})  said "
                f"{'withheld' if total[0] is None else format(total[0], '9.5g')} ({line[0]:8.4g})  {said['verdict']}"
            )
    print("\nRank correlation (median over datasets) and normalised regret (mean) of each way to choose:")
    for name, rows in table.items():
        correlations, regrets = np.array(rows).T
        print(f"  {name:26} {np.median(correlations):6.2f}  {regrets.mean():6.3f}   by dataset {np.round(correlations, 2)}")
    print("\nIntervals at 90 %: cover, of how many; withheld; mean absolute error in standard deviations of true values")
    for name, hits in covered.items():
        print(f"  {name:46} {np.mean(hits):5.0%} of {len(hits):3}; {withheld[name]:3}; {np.mean(errors[name]):.2f}")
    print(f"\nBad on purpose, and called better: {called_better or 'none'}")


def _correlation(order: np.ndarray, true: np.ndarray) -> float:
    said = np.isfinite(order)
    return float(spearmanr(order[said], true[said])[0]) if said.sum() > 2 and np.ptp(order[said]) > 0 else float("nan")


def _regret(order: np.ndarray, true: np.ndarray) -> float:
    return float((true.max() - true[int(np.argmax(order))]) / (true.max() - true.min()))


def _cover(
    both: dict[str, tuple[dict[str, Any], dict[str, Any]]],
    covered: dict[str, list[bool]],
    withheld: dict[str, int],
    errors: dict[str, list[float]],
) -> None:
    """An interval covers where the truth, give or take its own error from few episodes, is within it."""
    for kind in ("discounted", "undiscounted"):
        means = [np.mean(truth[kind]) for truth, _ in both.values()]
        for truth, said in both.values():
            for name, (value, low, high, _) in said["lines"].items():
                if not name.startswith(f"{kind} policy"):
                    continue
                if value is None or said["verdict"] == "cannot be told":
                    withheld[name] += 1
                    continue
                own = float(np.mean(truth[kind]))
                margin = 1.645 * float(np.std(truth[kind])) / np.sqrt(len(truth[kind]))
                half = np.hypot(0.5 * (high - low), margin)
                covered[name].append(bool(abs(own - 0.5 * (low + high)) <= half))
                errors[name].append(abs(value - own) / max(float(np.std(means)), 1e-9))


def main(arguments: Sequence[str] | None = None) -> None:
    """
    :param arguments: of the command line
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="of models and finished pieces")
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS))
    parser.add_argument("--only", nargs="+", default=[*TRAININGS, "bad"], help="trainings, and 'bad' for the spoilt ones")
    parser.add_argument("--steps", type=int, default=20_000, help="gradient steps of a training")
    parser.add_argument("--episodes", type=int, default=40, help="in the simulator, for each policy")
    parser.add_argument("--gamma", type=float, default=0.99)
    parser.add_argument("--fqe-steps", type=int, default=FittedQOptions().steps)
    parser.add_argument("--fqe-first-steps", type=int, default=FittedQOptions().first_steps)
    parser.add_argument("--behaviour-steps", type=int, default=3_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", action="store_true", help="print the tables of what is finished")
    options = parser.parse_args(arguments)
    if options.report:
        report(Pieces(options.folder))
    else:
        run(options)


if __name__ == "__main__":
    main()
