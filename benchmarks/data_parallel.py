"""
GMPO's step with a joint batch, made by one process and by several that share it.

    python -m benchmarks.data_parallel [--processes 2] [--batch-sizes 256 4096] [--steps 60] [--repeats 5] [--device cpu]

Each number of processes is started by torchrun in turn, ``--repeats`` times, and medians are compared; one thread a process,
Hopper's shapes, the default networks. A step is one of ``learn``: drawing, gradients, their average, and the word of the first
process that the training goes on. "together" is the part of it that several processes add: the messages, and the wait for
whoever is late.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from typing import Any

import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from benchmarks.speed import arrays
from sb3_genpolicy import GMPO, data_parallel
from sb3_genpolicy.common.updates.processes import SeveralProcesses, processes

# Steps that are not timed
WARM_UP = 10


class Clock(BaseCallback):
    """Notes when the steps after the first ones begin, and what was spent on messages before."""

    def _on_step(self) -> bool:
        if self.num_timesteps == WARM_UP:
            self.start, self.talk_before = time.perf_counter(), sum(talk)
        return True


talk: list[float] = []


def timed(method: Any) -> Any:
    def call(*args: Any) -> Any:
        start = time.perf_counter()
        result = method(*args)
        talk.append(time.perf_counter() - start)
        return result

    return call


def one_process(batch_size: int, n_steps: int, device: str) -> None:
    """What each of the processes runs; the first one prints its milliseconds."""
    th.set_num_threads(1)
    for name in ("_averaged", "tell"):
        setattr(SeveralProcesses, name, timed(getattr(SeveralProcesses, name)))
    with data_parallel(device) as own:
        model, clock = GMPO("FlowPolicy", dataset=arrays(), batch_size=batch_size, seed=0, device=own), Clock()
        model.learn(WARM_UP + n_steps, clock, log_interval=None)
        if own.type == "cuda":
            th.cuda.synchronize()
        if processes().is_first:
            seconds, talked = time.perf_counter() - clock.start, sum(talk) - clock.talk_before
            print(json.dumps([1e3 * seconds / n_steps, 1e3 * talked / n_steps]))


def milliseconds(n_processes: int, batch_size: int, args: argparse.Namespace) -> list[float]:
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_processes)]
    command += ["-m", "benchmarks.data_parallel", "--child", str(batch_size)]
    command += ["--steps", str(args.steps), "--device", args.device]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[256, 4096])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        one_process(args.child, args.steps, args.device)
        return
    print(f"| joint batch | one process, ms | {args.processes} processes, ms | of it together, ms | ratio |")
    print("|---|---|---|---|---|")
    for batch_size in args.batch_sizes:
        turns = [[milliseconds(n, batch_size, args) for n in (1, args.processes)] for _ in range(args.repeats)]
        alone, shared, together = (statistics.median(turn[k][i] for turn in turns) for k, i in ((0, 0), (1, 0), (1, 1)))
        print(f"| {batch_size} | {alone:.2f} | {shared:.2f} | {together:.2f} | {alone / shared:.2f} |", flush=True)


if __name__ == "__main__":
    main()
