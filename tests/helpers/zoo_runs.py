"""
The zoo's commands, run by tests in a folder with two datasets.
"""

from sb3_genpolicy.zoo.__main__ import main
from tests.helpers import tiny_envs

SMALL = ["batch_size:8", "policy_kwargs:dict(net_arch=[16])"]


def make_two_datasets():
    """Of one environment, where Minari looks for them."""
    for number, name in enumerate(("tiny/walk/first-v0", "tiny/walk/second-v0")):
        tiny_envs.make_minari(name, seed=100 * number)


def zoo(command, *arguments):
    """Run a command."""
    assert main([command, *(str(argument) for argument in arguments)]) == 0


def train(*arguments, algo="gmpo", dataset="tiny/walk/first-v0", steps=20, settings=()):
    dataset = ["--dataset", dataset] if dataset else []
    zoo("train", "--algo", algo, *dataset, "-n", steps, "--eval-episodes", 2, "-params", *SMALL, *settings, *arguments)
