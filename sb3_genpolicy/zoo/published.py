"""
The scores that the paper reports, of its own methods and of others. Of the DeepMind Control suite it reports returns, of which
1000 are a score of 100. D4PG's spread on humanoid-run, printed as 166, is taken as 1.66, with which its printed average is
right.
"""

import csv
import importlib.resources
from typing import NamedTuple

# What the paper calls our paths
_PAPER_PATHS = {"linear": "ICFM", "cosine": "GVP", "vp": "VPSDE"}


class PublishedScore(NamedTuple):
    """
    :param mean: normalised score
    :param std: its standard deviation over seeds, None where none is given
    """

    mean: float
    std: float | None


def published_scores() -> dict[tuple[str, str], PublishedScore]:
    """
    :return: task and method -> score, from the tables of https://arxiv.org/abs/2412.01245
    """
    with (importlib.resources.files("sb3_genpolicy.zoo") / "published_scores.csv").open() as file:
        return {
            (row["task"], row["method"]): PublishedScore(float(row["mean"]), float(row["std"]) if row["std"] else None)
            for row in csv.DictReader(file)
        }


def published_method(method: str) -> str | None:
    """
    :param method: one of ours, ``GMPO cosine``
    :return: what the paper calls it, ``GMPO GVP``; None if it is not one of the paper's
    """
    algorithm, _, path = method.partition(",")[0].partition(" ")
    theirs = f"{algorithm} {_PAPER_PATHS.get(path)}"
    return theirs if theirs in {published for _, published in published_scores()} else None
