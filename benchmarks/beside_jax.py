"""
A gradient step of GMPO beside the same update in jitted JAX, and beside the bare products, Adam step and averages of it.

    python -m benchmarks.beside_jax --python PYTHON [--sizes 2x256 4x512] [--turns 12] [--steps 20] [--seconds 60]

PYTHON is that of an environment with JAX (0.10; nothing else), which runs ``jax_peer.py``: critics by implicit Q-learning,
flow matching weighted by advantages, Adam, Polyak averages, rows drawn inside; one compiled function for each update, and one
for twenty at a time. Both sides start in processes of their own, are held to one core, read the same rows, and take turns.
Time is that of the processor, each step by itself; other programs make steps longer and none shorter, so that the lower
decile is what to compare. Their losses stand beside each other below, to show that both compute the same.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.turns import Worker, rows_of_two_ways, serve

N_ROWS, BATCH, OBS_DIM, ACTION_DIM = 100_000, 256, 11, 3
WARM_UP = 20
#: Side and what it does -> updates of one call
TIMED = {("ours", "update"): 1, ("JAX", "update"): 1, ("JAX", "scan"): 20, ("ours", "bare"): 1, ("ours", "bare products"): 1}
LOSSES = ("critic_loss", "value_loss", "actor_loss", "matching_loss")


def work(widths: list[int]) -> None:
    """Our side."""
    import torch as th
    from gymnasium import spaces

    from benchmarks.floor import BareUpdate
    from sb3_genpolicy import GMPO
    from sb3_genpolicy.common.updates.precision import matmul_precision

    th.set_num_threads(1)
    # As in jax_peer.py; a given beta is fixed
    model = GMPO(
        "FlowPolicy",
        dataset={**rows_of_two_ways(N_ROWS), "action_space": spaces.Box(-1, 1, (ACTION_DIM,), np.float32)},
        batch_size=BATCH,
        gamma=0.9,
        beta=1.0,
        weight_clamp=100.0,
        critic="iql",
        expectile=0.7,
        reward_transform="none",
        policy_kwargs=dict(net_arch=widths),
        seed=0,
        device="cpu",
    ).learn(1, log_interval=None)
    said = dict(name=f"torch {th.__version__}", first_update=time.process_time())
    bare = BareUpdate(widths, BATCH, OBS_DIM, ACTION_DIM)

    def losses() -> dict[str, float]:
        means = model.descent.means.pop()
        return {name: float(means[name]) for name in LOSSES}

    with matmul_precision("float32", model.device):
        calls = {"update": lambda: model.train(1, BATCH), "bare": bare.run, "bare products": bare.multiply}
        serve(calls, said, {"losses": losses})


def in_turn(workers: dict[str, Worker], args: argparse.Namespace) -> dict[tuple[str, str], list[float]]:
    """
    :param workers: both processes
    :param args: turns, steps and seconds
    :return: seconds of each update, by side and what it does
    """
    timed: dict[tuple[str, str], list[float]] = {key: [] for key in TIMED}
    for (side, name), n_together in TIMED.items():
        workers[side].call(name, max(1, WARM_UP // n_together))
    start = time.perf_counter()
    for _ in range(args.turns):
        for (side, name), n_together in TIMED.items():
            seconds = workers[side].call(name, max(1, args.steps // n_together))
            timed[side, name] += [one / n_together for one in seconds]
        if time.perf_counter() - start > args.seconds:
            break
    return timed


def learning_curve(workers: dict[str, Worker], n_updates: int) -> list[dict[str, dict[str, float]]]:
    """
    :param workers: both processes, which have just started
    :param n_updates: how many each makes
    :return: of both sides, means of the losses over the first tenth and over the last
    """
    found = []
    for n_before, n_calls in ((0, n_updates // 10), (n_updates - 2 * (n_updates // 10), n_updates // 10)):
        for worker in workers.values():
            if n_before:
                worker.call("update", n_before)
                worker.call("losses", 1)
            worker.call("update", n_calls)
        found.append({side: worker.call("losses", 1) for side, worker in workers.items()})
    return found


def start(widths: list[int], python: str, folder: str) -> dict[str, Worker]:
    root, numbers = Path(__file__).resolve().parent.parent, [str(width) for width in widths]
    return {
        "ours": Worker([sys.executable, "-m", "benchmarks.beside_jax", "--worker", *numbers], folder, [root]),
        "JAX": Worker([python, "-m", "benchmarks.jax_peer", *numbers], folder, [root]),
    }


def row_of(size: str, timed: dict[tuple[str, str], list[float]], firsts: dict[str, float]) -> str:
    """A line of the table of times."""
    least = {key: 1e3 * float(np.quantile(seconds, 0.1)) for key, seconds in timed.items()}
    ours, peer = least["ours", "update"], least["JAX", "update"]
    others = [least[key] for key in (("JAX", "scan"), ("ours", "bare"), ("ours", "bare products"))]
    cells = [ours, peer, peer / ours, *others, firsts["ours"], firsts["JAX"]]
    return f"| {size} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", help="of an environment with JAX")
    parser.add_argument("--sizes", nargs="+", default=["2x256", "4x512"], help="layers x width, of every network")
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--steps", type=int, default=20, help="of each turn")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each size, at most")
    parser.add_argument("--curve", type=int, default=1000, help="updates after which losses are compared; 0: none")
    parser.add_argument("--worker", type=int, nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return work(args.worker)
    if args.python is None:
        parser.error("--python says which Python has JAX.")
    if hasattr(os, "sched_setaffinity"):
        # Inherited: JAX makes threads for as many cores as there are
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    curve: list[dict[str, dict[str, float]]] = []
    columns = ("ours", "JAX", "JAX / ours", "JAX, 20 a call", "bare update", "bare products", "first update, s: ours", "JAX")
    print("| networks | " + " | ".join(columns) + " |\n|" + (1 + len(columns)) * "---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for size in args.sizes:
            n_layers, width = map(int, size.split("x"))
            workers = start(n_layers * [width], args.python, folder)
            try:
                firsts = {side: worker.said["first_update"] for side, worker in workers.items()}
                if args.curve and not curve:
                    curve = learning_curve(workers, args.curve)
                print(row_of(size, in_turn(workers, args), firsts), flush=True)
            finally:
                for worker in workers.values():
                    worker.end()
    if curve:
        print(table_of_losses(args.sizes[0], args.curve, curve))


def table_of_losses(size: str, n_updates: int, curve: list[dict[str, dict[str, float]]]) -> str:
    """Losses of both sides, early and late."""
    heads = [f"{when} {n_updates // 10}: {side}" for when in ("first", "last") for side in curve[0]]
    lines = [f"\n| losses, {size}, {n_updates} updates | " + " | ".join(heads) + " |", "|---|" + len(heads) * "---|"]
    for name in LOSSES:
        lines.append(f"| {name} | " + " | ".join(f"{one[name]:.3f}" for both in curve for one in both.values()) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
