"""
What a gradient step and a prediction cost in two trees of the source, this one and another.

    python -m benchmarks.step_times --against TREE [--turns 20] [--steps 20] [--seconds 45]

A process of each tree is warmed up; then they take turns, never both at once: the other tree, this tree, the other tree. Every
step is timed by itself, with Hopper's shapes, default networks, batch 256, one thread. Time is that of the processor: waiting
for other programs does not count. These make steps longer all the same and none shorter, through caches and clock rates, so
that the lower decile is the figure to compare, and the median says how busy the machine was. Where a line of the table would
take more than ``--seconds``, there are fewer turns of it.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

import sb3_genpolicy
from benchmarks.turns import Worker, serve
from sb3_genpolicy import GMPG, GMPO

OBS_DIM, ACTION_DIM, ROWS, BATCH_SIZE = 11, 3, 100_000, 256
WARM_UP = 20
#: What is reported -> the share of calls that take no longer
SHARES = {"lower decile": 0.1, "median": 0.5}
#: Calls of a turn for each step of one: predictions take less than a millisecond
CALLS = {"predict, one observation": 5}


def arrays() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return dict(
        observations=rng.normal(size=(ROWS, OBS_DIM)).astype(np.float32),
        actions=rng.uniform(-1, 1, (ROWS, ACTION_DIM)).astype(np.float32),
        rewards=rng.normal(size=ROWS).astype(np.float32),
        terminals=np.zeros(ROWS, np.float32),
        timeouts=(np.arange(ROWS) % 1000 == 999).astype(np.float32),
        action_space=spaces.Box(-1, 1, (ACTION_DIM,), np.float32),
    )


def sides() -> dict[str, Callable[[], Any]]:
    """Name -> one step of it, or one prediction."""
    options: dict[str, Any] = dict(dataset=arrays(), seed=0, batch_size=BATCH_SIZE, device="cpu")
    gmpo = GMPO("FlowPolicy", **options)
    gmpg = GMPG("FlowPolicy", pretraining_steps=1, gradient_estimator="pathwise", kl_estimator="path", **options)
    for model in (gmpo, gmpg):
        model.learn(2, log_interval=None)
    observation = np.zeros(OBS_DIM, np.float32)
    return {
        "GMPO, flow, advantage": lambda: gmpo.train(1, BATCH_SIZE),
        "GMPG, second phase, pathwise, path": lambda: gmpg.train(1, BATCH_SIZE),
        "predict, one observation": lambda: gmpo.predict(observation),
    }


def work() -> None:
    """What each of the two processes does: it reads a name and a count, and answers with the seconds of each call."""
    th.set_num_threads(1)
    steps = sides()
    serve(steps, str(Path(sb3_genpolicy.__file__).resolve().parent.parent))


def worker_of(tree: Path, folder: str) -> Worker:
    """
    :param tree: a folder with ``sb3_genpolicy``
    :param folder: where the process runs
    :return: a process with that tree
    """
    # The other tree need not have the benchmarks that this one has
    paths = [tree, Path(__file__).resolve().parent.parent]
    worker = Worker([sys.executable, os.path.abspath(__file__), "--worker"], folder, paths)
    if Path(worker.said) != tree.resolve():
        worker.end()
        sys.exit(f"sb3_genpolicy was to be that of {tree}, and is that of {worker.said}.")
    return worker


def in_turn(workers: list[Worker], name: str, args: argparse.Namespace) -> tuple[int, list[list[float]]]:
    """
    :param workers: the two processes
    :param name: what they do
    :param args: turns, steps and seconds
    :return: how many turns there were, and for each process the seconds of its calls
    """
    both: list[list[float]] = [[] for _ in workers]
    for worker in workers:
        worker.call(name, WARM_UP)
    start, n_turns = time.perf_counter(), 0
    while n_turns < args.turns and (n_turns == 0 or time.perf_counter() - start < args.seconds):
        for worker, seconds in zip(workers, both, strict=True):
            seconds += worker.call(name, args.steps * CALLS.get(name, 1))
        n_turns += 1
    return n_turns, both


def cells(both: list[list[float]]) -> str:
    """
    :param both: seconds of each call, of the other tree and of this one
    :return: milliseconds of each of :data:`SHARES`, and this tree's over the other's
    """
    found = []
    for share in SHARES.values():
        other, ours = (1e3 * float(np.quantile(seconds, share)) for seconds in both)
        found += [f"{other:.3f}", f"{ours:.3f}", f"{ours / other:.3f}"]
    return " | ".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, metavar="TREE", help="a folder with another sb3_genpolicy")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--steps", type=int, default=20, help="of each turn")
    parser.add_argument("--seconds", type=float, default=45.0, help="for each line of the table, at most")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return work()
    if args.against is None:
        parser.error("--against says which tree this one is compared with.")
    workers: list[Worker] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for tree in (args.against.resolve(), Path(sb3_genpolicy.__file__).resolve().parent.parent):
                workers.append(worker_of(tree, folder))
            columns = [f"{name}: other, ms | this | this / other" for name in SHARES]
            print(f"| | turns | {' | '.join(columns)} |")
            print("|---|---" + 3 * len(SHARES) * "|---" + "|", flush=True)
            for name in workers[0].names:
                n_turns, both = in_turn(workers, name, args)
                print(f"| {name} | {n_turns} | {cells(both)} |", flush=True)
        finally:
            for worker in workers:
                worker.end()


if __name__ == "__main__":
    main()
