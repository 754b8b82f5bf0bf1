"""
Somebody's module outside the package, and processes that import it.
"""

import os
import subprocess
import sys
from pathlib import Path

import sb3_genpolicy
from tests.helpers.warm_processes import WarmProcess

# Of another library than ours, in a module of its own
MODULE = '''
from dataclasses import dataclass

import numpy as np

from sb3_genpolicy import GMPO, register
from sb3_genpolicy.generative.networks import ConditionalMLP
from sb3_genpolicy.gmpo import FlowPolicy


class Network(ConditionalMLP):
    pass


@dataclass
class Lowered:
    """A transform of rewards."""

    by: float = 1.0

    def __call__(self, rewards: np.ndarray) -> np.ndarray:
        return rewards - self.by


class ShortPolicy(FlowPolicy):
    pass


class ShortGMPO(GMPO):
    def __init__(self, policy, env, batch_size=8, **options):
        super().__init__(policy, env, batch_size=batch_size, **options)


register("short", ShortGMPO, {"ShortPolicy": ShortPolicy}, classes=[Network], objects=[Lowered])
'''


def run(*arguments, cwd="."):
    """In a process of its own."""
    path = os.pathsep.join([str(Path(sb3_genpolicy.__file__).parents[1]), str(Path(cwd).absolute())])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def zoo(*arguments):
    return WarmProcess("sb3_genpolicy.zoo", *arguments, folder=Path.cwd()).finish()
