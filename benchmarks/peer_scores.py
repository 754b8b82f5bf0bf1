"""
Normalised scores of d3rlpy's IQL and TD3+BC: trained in an environment of its own on the same arrays, evaluated here on the
same episodes as ours.

    python -m benchmarks.peer_scores --python PEER/bin/python --dataset rlzoo/hopper/medium-v0 --steps 20000 --seeds 0 1

PEER is a virtual environment with ``d3rlpy==2.8.1``. Settings are those of d3rlpy's reproductions of the papers on D4RL's
locomotion tasks. Every run appends one line to ``benchmarks/results/peer_scores.jsonl``; what is there already is left out.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

RESULTS = Path(__file__).parent / "results" / "peer_scores.jsonl"
ALGORITHMS = ("IQL", "TD3+BC")
# What the other interpreter is called with: this file trains in either
_TRAIN = "--train"


def train(arrays: str, algorithm: str, steps: int, seed: int, policy: str) -> None:
    """
    Runs where d3rlpy is.

    :param arrays: file of the dataset
    :param algorithm: one of :data:`ALGORITHMS`
    :param steps: gradient steps
    :param seed: of the training
    :param policy: file that the trained policy is written to, as TorchScript
    """
    import d3rlpy
    import torch as th

    th.set_num_threads(1)
    d3rlpy.seed(seed)
    with np.load(arrays) as file:
        dataset = d3rlpy.dataset.MDPDataset(**file)
    model: Any = _iql(d3rlpy, steps) if algorithm == "IQL" else _td3_plus_bc(d3rlpy)
    model.fit(
        dataset,
        n_steps=steps,
        n_steps_per_epoch=steps,
        show_progress=False,
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
    )
    model.save_policy(policy)


def _iql(d3rlpy: Any, steps: int) -> Any:
    falling = d3rlpy.optimizers.AdamFactory(lr_scheduler_factory=d3rlpy.optimizers.CosineAnnealingLRFactory(T_max=steps))
    return d3rlpy.algos.IQLConfig(
        actor_learning_rate=3e-4,
        critic_learning_rate=3e-4,
        actor_optim_factory=falling,
        batch_size=256,
        weight_temp=3.0,
        max_weight=100.0,
        expectile=0.7,
        reward_scaler=d3rlpy.preprocessing.ReturnBasedRewardScaler(multiplier=1000.0),
    ).create(device="cpu:0")


def _td3_plus_bc(d3rlpy: Any) -> Any:
    return d3rlpy.algos.TD3PlusBCConfig(
        actor_learning_rate=3e-4,
        critic_learning_rate=3e-4,
        batch_size=256,
        target_smoothing_sigma=0.2,
        target_smoothing_clip=0.5,
        alpha=2.5,
        update_actor_interval=2,
        observation_scaler=d3rlpy.preprocessing.StandardObservationScaler(),
    ).create(device="cpu:0")


class TracedPolicy:
    """
    What ``evaluate_policy`` asks of a model.

    :param path: a policy as TorchScript, of actions in [-1, 1]
    :param space: the actions that these stand for
    """

    def __init__(self, path: Path, space: spaces.Box):
        import torch as th

        self._policy, self._space = th.jit.load(str(path)), space

    def set_random_seed(self, seed: int) -> None:
        """
        :param seed: of nothing: it acts without random numbers
        """

    def predict(self, observation: np.ndarray, *_: Any, **__: Any) -> tuple[np.ndarray, None]:
        """
        :param observation: (n_envs, observation_dim)
        :return: actions, and no state
        """
        import torch as th

        with th.no_grad():
            action = self._policy(th.as_tensor(observation, dtype=th.float32))
        low, high = self._space.low, self._space.high
        return low + 0.5 * (action.numpy().clip(-1.0, 1.0) + 1.0) * (high - low), None


def measure(python: str, dataset: str, algorithm: str, steps: int, seed: int, episodes: int) -> dict[str, Any]:
    """
    :param python: interpreter of an environment with d3rlpy
    :param dataset: its id
    :param algorithm: one of :data:`ALGORITHMS`
    :param steps: gradient steps
    :param seed: of the training
    :param episodes: of the evaluation
    :return: seconds of the training, and the score
    """
    from benchmarks.scores import scores_of
    from sb3_genpolicy import load_dataset

    data = load_dataset(dataset)
    space = data.action_space
    actions = 2.0 * (np.asarray(data.actions, np.float32) - space.low) / (space.high - space.low) - 1.0
    with tempfile.TemporaryDirectory() as folder:
        arrays, policy = Path(folder) / "arrays.npz", Path(folder) / "policy.pt"
        terminals = np.asarray(data.terminals, np.float32)
        timeouts = np.asarray(data.ends, np.float32) * (1.0 - terminals)
        np.savez(
            arrays,
            observations=np.asarray(data.observations, np.float32),
            actions=actions.astype(np.float32),
            rewards=np.asarray(data.rewards, np.float32),
            terminals=terminals,
            timeouts=timeouts,
        )
        start = time.perf_counter()
        command = [python, __file__, _TRAIN, str(arrays), algorithm, str(steps), str(seed), str(policy)]
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - start
        return dict(seconds=round(seconds, 1), deterministic=scores_of(TracedPolicy(policy, space), dataset, episodes, True))


def main() -> None:
    if _TRAIN in sys.argv:
        arrays, algorithm, steps, seed, policy = sys.argv[2:]
        return train(arrays, algorithm, int(steps), int(seed), policy)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="interpreter of an environment with d3rlpy")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=list(ALGORITHMS))
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--episodes", type=int, default=50)
    args = parser.parse_args()
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    done = [json.loads(line) for line in lines]
    for seed in args.seeds:
        for algorithm in args.algorithms:
            key = dict(dataset=args.dataset, method=f"d3rlpy {algorithm}", seed=seed, steps=args.steps, episodes=args.episodes)
            if any(key.items() <= row.items() for row in done):
                continue
            row = {**key, **measure(args.python, args.dataset, algorithm, args.steps, seed, args.episodes)}
            with RESULTS.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)


if __name__ == "__main__":
    main()
