"""
How long an import takes beside Stable-Baselines3's: fresh processes, in turns, the best and the median of each. All files are
compiled beforehand, as pip compiles what it installs.

``python -m benchmarks.import_time``
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

BESIDE = "import stable_baselines3"
#: What programs begin with. The first alone is nothing yet: names are looked up when they are asked for
IMPORTS = (
    "import sb3_genpolicy",
    "from sb3_genpolicy import GMPO, load_dataset",
    "import sb3_genpolicy.public",
)


def seconds(statement: str, compiled: str) -> tuple[float, float]:
    """
    :param statement: an import
    :param compiled: folder of compiled files
    :return: how long it takes in a process of its own, without the interpreter's start, in seconds: by the clock, and of the
        processor, which other programs disturb less
    """
    program = (
        "from time import perf_counter, process_time; wall, cpu = perf_counter(), process_time(); "
        f"{statement}; print(perf_counter() - wall, process_time() - cpu)"
    )
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": compiled, "PYTHONDONTWRITEBYTECODE": ""}
    printed = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environment
    ).stdout
    wall, cpu = map(float, printed.split())
    return wall, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="processes of each import")
    args = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {statement: [] for statement in (BESIDE, *IMPORTS)}
    with tempfile.TemporaryDirectory() as compiled:
        for statement in found:
            # Unmeasured, for compiled files and the disk's cache
            seconds(statement, compiled)
        for _ in range(args.rounds):
            for statement, taken in found.items():
                taken.append(seconds(statement, compiled))
    print(f"{args.rounds} rounds, Python {sys.version.split()[0]}; the best and the median in seconds, the best over SB3's")
    print(f"{'':44}{'by the clock':>24}   {'of the processor':>24}")
    best = [min(times) for times in zip(*found[BESIDE], strict=True)]
    for statement, taken in found.items():
        line = f"{statement:44}"
        for times, least in zip(zip(*taken, strict=True), best, strict=True):
            line += f"{min(times):8.2f}{statistics.median(times):8.2f}{min(times) / least:8.2f}   "
        print(line)


if __name__ == "__main__":
    main()
