"""
What reading, holding and drawing rows costs, beside the sources' own readers.

    python -m benchmarks.datasets read [--steps 1000000] [--lengths 1000 20]
    python -m benchmarks.datasets stream [--steps 40000000] [--folder DIR] [--in-memory]

``read`` writes a million steps of Hopper's shape the way each source keeps them, with long and with short episodes, and prints
seconds of the source's own reader, of ours the first time and again, and the peak of the memory of each, as a multiple of the
bytes of the rows. ``stream`` writes a dataset into flat files and prints what a batch, and a step of GMPO, costs from there;
run it where memory is limited to less than the dataset.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import h5py
import minari
import numpy as np
import torch as th
from gymnasium import spaces
from minari.data_collector.episode_buffer import EpisodeBuffer
from tqdm import tqdm

OBS_DIM, ACTION_DIM = 11, 3
# Observation, action, reward and both flags in float32: every number once
ROW_BYTES = 4 * (OBS_DIM + ACTION_DIM + 3)

# Of more episodes, Minari's Arrow storage takes hours to write
_ARROW_EPISODES = 2000

# What the sources' own readers do until the arrays are there; D4RL's reads every key of the file whole
OWN_READERS = {
    "Minari HDF5": """
import minari
start()
episodes = list(minari.load_dataset({source!r}).iterate_episodes())
keys = ("observations", "actions", "rewards", "terminations", "truncations")
data = {{key: np.concatenate([getattr(episode, key) for episode in episodes]) for key in keys}}
""",
    "Minari Arrow": None,
    "D4RL HDF5": """
import h5py
start()
with h5py.File({source!r}) as file:
    data = {{key: file[key][()] for key in file}}
""",
    "npz": """
start()
with np.load({source!r}) as file:
    data = {{key: file[key] for key in file}}
""",
    "SB3 pickle": """
from stable_baselines3.common.save_util import load_from_pkl
start()
data = load_from_pkl({source!r})
""",
}
OWN_READERS["Minari Arrow"] = OWN_READERS["Minari HDF5"]
OURS = """
from sb3_genpolicy import load_dataset
load_dataset("pendulum-mixed")
start()
data = load_dataset({source!r})
"""
PROGRAM = """
import re, sys, time
import numpy as np
def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
began = time.perf_counter(), peak()
def start():
    global began
    began = time.perf_counter(), peak()
{code}
print("RESULT", time.perf_counter() - began[0], peak() - began[1])
"""


def columns_of(steps: int, length: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(steps + 1, OBS_DIM)).astype(np.float32)
    ends = np.arange(1, steps + 1) % length == 0
    return dict(
        observations=states[:-1],
        next_observations=states[1:],
        actions=rng.uniform(-1, 1, (steps, ACTION_DIM)).astype(np.float32),
        rewards=rng.normal(size=steps).astype(np.float32),
        terminals=np.zeros(steps, bool),
        timeouts=ends,
    )


def write(kind: str, columns: dict[str, np.ndarray], length: int, folder: Path) -> str:
    """Write a source; it is named by what is returned."""
    steps = len(columns["rewards"])
    if kind.startswith("Minari"):
        name = f"bench/{kind.split()[1].lower()}{length}-v0"
        storage, box = None, spaces.Box(-np.inf, np.inf, (OBS_DIM,), np.float32)
        for first in tqdm(range(0, steps, 1000 * length), kind):
            buffers = [_episode(columns, at, at + length) for at in range(first, min(first + 1000 * length, steps), length)]
            if storage is None:
                storage = minari.create_dataset_from_buffers(
                    name,
                    buffers,
                    observation_space=box,
                    action_space=spaces.Box(-1, 1, (ACTION_DIM,), np.float32),
                    data_format=kind.split()[1].lower(),
                )
            else:
                storage.update_dataset_from_buffer(buffers)
        return name
    if kind == "D4RL HDF5":
        with h5py.File(folder / f"{length}.hdf5", "w") as file:
            for key, column in columns.items():
                file.create_dataset(key, data=column, compression="gzip")
        return str(folder / f"{length}.hdf5")
    if kind == "npz":
        np.savez_compressed(folder / f"{length}.npz", **columns)
        return str(folder / f"{length}.npz")
    from stable_baselines3.common.buffers import ReplayBuffer
    from stable_baselines3.common.save_util import save_to_pkl

    box = spaces.Box(-np.inf, np.inf, (OBS_DIM,), np.float32)
    buffer = ReplayBuffer(steps, box, spaces.Box(-1, 1, (ACTION_DIM,), np.float32), device="cpu")
    for key in ("observations", "next_observations", "actions"):
        getattr(buffer, key)[:, 0] = columns[key]
    buffer.rewards[:, 0], buffer.dones[:, 0], buffer.timeouts[:, 0] = (columns[k] for k in ("rewards", "timeouts", "timeouts"))
    buffer.full = True
    save_to_pkl(folder / f"{length}.pkl", buffer)
    return str(folder / f"{length}.pkl")


def _episode(columns: dict[str, np.ndarray], start: int, end: int) -> EpisodeBuffer:
    return EpisodeBuffer(
        observations=np.concatenate([columns["observations"][start:end], columns["next_observations"][end - 1 : end]]),
        actions=columns["actions"][start:end],
        rewards=columns["rewards"][start:end],
        terminations=columns["terminals"][start:end],
        truncations=columns["timeouts"][start:end],
    )


def measure(code: str) -> tuple[float, float]:
    """Seconds, and bytes by which the peak of memory grows, in a process of its own, imports apart."""
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(code=code)], capture_output=True, text=True, check=True)
    found = re.search(r"RESULT (\S+) (\S+)", done.stdout)
    assert found is not None, done.stderr
    return float(found[1]), float(found[2])


def read(options: argparse.Namespace) -> None:
    warnings.filterwarnings("ignore", module="minari")
    folder = Path(tempfile.mkdtemp())
    os.environ.update(MINARI_DATASETS_PATH=str(folder / "minari"), SB3_GENPOLICY_CACHE=str(folder / "cache"))
    data_bytes = options.steps * ROW_BYTES
    print(f"{options.steps:,} steps, {data_bytes / 1e6:.0f} MB; seconds, and peak memory over the bytes of the rows")
    print("| source | episodes of | its own reader | ours, first | ours, again |\n|---|---|---|---|---|")
    for length in options.lengths:
        columns = columns_of(options.steps, length)
        for kind in options.kinds or OWN_READERS:
            if kind == "Minari Arrow" and options.steps / length > _ARROW_EPISODES:
                print(f"| {kind} | {length} | not written: Minari looks through all files after every episode | | |")
                continue
            source = write(kind, columns, length, folder)
            own = measure(OWN_READERS[kind].format(source=source))
            first, again = (measure(OURS.format(source=source)) for _ in range(2))
            cells = [f"{seconds:.2f} s, {grown / data_bytes:.1f}x" for seconds, grown in (own, first, again)]
            print(f"| {kind} | {length} | {' | '.join(cells)} |", flush=True)
    shutil.rmtree(folder)


def stream(options: argparse.Namespace) -> None:
    from sb3_genpolicy import GMPO, load_dataset

    folder = options.folder or Path(tempfile.mkdtemp())
    os.environ["SB3_GENPOLICY_CACHE"] = str(folder / "cache")
    path = folder / "large.hdf5"
    if not path.exists():
        _write_large(path, options.steps)
    start = time.perf_counter()
    data = load_dataset(path, memory_map=not options.in_memory)
    place = "in memory" if options.in_memory else "on disk"
    print(f"{data.n_rows:,} rows, {data.nbytes / 1e9:.2f} GB {place}, opened in {time.perf_counter() - start:.1f} s")
    th.set_num_threads(1)
    model = GMPO("FlowPolicy", dataset=data, seed=0, device=options.device).learn(10, log_interval=None)
    buffer = model.replay_buffer
    result = {}
    for name, call in (("batch", lambda: buffer.sample(256)), ("step of GMPO", lambda: model.train(1, 256))):
        times = []
        for _ in range(options.batches):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        result[name] = 1e3 * float(np.median(times)), 1e3 * float(np.mean(times))
        print(f"{name} of 256: median {result[name][0]:.2f} ms, mean {result[name][1]:.2f} ms", flush=True)
    peak = 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])  # type: ignore[index]
    print(json.dumps(dict(rows=data.n_rows, bytes=data.nbytes, peak_rss=peak, **result)))


def _write_large(path: Path, steps: int) -> None:
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        shapes = dict(observations=(OBS_DIM,), actions=(ACTION_DIM,), rewards=(), terminals=(), timeouts=())
        columns = {key: file.create_dataset(key, (steps, *shape), np.float32) for key, shape in shapes.items()}
        for start in tqdm(range(0, steps, 10**6), "writing"):
            rows = slice(start, min(start + 10**6, steps))
            n = rows.stop - rows.start
            columns["observations"][rows] = rng.random((n, OBS_DIM), np.float32)
            columns["actions"][rows] = 2.0 * rng.random((n, ACTION_DIM), np.float32) - 1.0
            columns["rewards"][rows] = rng.random(n, np.float32)
            columns["timeouts"][rows] = np.arange(start + 1, rows.stop + 1) % 1000 == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    reading = commands.add_parser("read")
    reading.add_argument("--steps", type=int, default=10**6)
    reading.add_argument("--lengths", type=int, nargs="+", default=[1000, 20])
    reading.add_argument("--kinds", nargs="+", choices=list(OWN_READERS))
    streaming = commands.add_parser("stream")
    streaming.add_argument("--steps", type=int, default=40 * 10**6)
    streaming.add_argument("--folder", type=Path)
    streaming.add_argument("--in-memory", action="store_true", help="for comparison")
    streaming.add_argument("--batches", type=int, default=300)
    streaming.add_argument("--device", default="auto")
    options = parser.parse_args()
    {"read": read, "stream": stream}[options.command](options)


if __name__ == "__main__":
    main()
