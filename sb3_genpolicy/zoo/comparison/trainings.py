"""
A training of a comparison: the pretraining that methods share, or a method to its end, evaluated as all the others are.
"""

import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_genpolicy import GMPO
from sb3_genpolicy.common.algorithms.offline_algorithm import OfflineAlgorithm
from sb3_genpolicy.generative.checks import check_number
from sb3_genpolicy.reporting.versions import versions
from sb3_genpolicy.zoo.comparison.evaluation import acting_milliseconds, reference_scores_for, scores_of
from sb3_genpolicy.zoo.comparison.methods import Contender, Pretraining


@dataclass(frozen=True)
class Conditions:
    """
    What is the same for all.

    :param steps: gradient steps of a method, those of its pretraining among them
    :param pretraining_steps: of these, the steps of a pretraining that is shared
    :param batch_size: rows of each gradient step
    :param episodes: of the last parameters' evaluations, the same starts for all
    :param curve_points: evaluations along the way, 0 for none
    :param curve_episodes: episodes of each of these
    """

    steps: int
    pretraining_steps: int
    batch_size: int
    episodes: int
    curve_points: int
    curve_episodes: int

    def __post_init__(self) -> None:
        for name, low in (("steps", 2), ("pretraining_steps", 1), ("batch_size", 1), ("episodes", 1), ("curve_episodes", 1)):
            check_number(name, getattr(self, name), low=low, whole=True)
        check_number("curve_points", self.curve_points, low=0, whole=True)
        if self.pretraining_steps >= self.steps:
            raise ValueError(
                f"pretraining_steps={self.pretraining_steps} leave nothing of {self.steps} steps to methods that share them."
            )

    def described(self) -> dict[str, int]:
        """
        :return: all of it, by name
        """
        return asdict(self)

    def own_steps(self, contender: Contender) -> int:
        """
        :param contender: a method
        :return: steps that it does not share
        """
        return self.steps - (self.pretraining_steps if contender.pretraining is not None else 0)

    def marks(self) -> set[int]:
        """
        :return: steps after which models are evaluated along the way
        """
        return {round(self.steps * (k + 1) / self.curve_points) for k in range(self.curve_points)}


#: What a training gives: plain texts and numbers, as a study keeps them
Outcome = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """
    Where a training learns and acts.

    :param dataset: name of the dataset
    :param env_id: id that its environment is registered under
    :param seed: of the training
    :param device: where it is trained
    :param model: file of the trained model
    """

    dataset: str
    env_id: str
    seed: int
    device: str
    model: Path


def pretrain(pretraining: Pretraining, place: Place, conditions: Conditions, step: Callable[[], None]) -> Outcome:
    """
    :param pretraining: what is shared
    :param place: where
    :param conditions: what is the same for all
    :param step: called after every gradient step
    :return: what came of it; the model is in its file
    """
    model = GMPO(
        pretraining.policy,
        place.env_id,
        beta=0.0,
        batch_size=conditions.batch_size,
        dataset=place.dataset,
        seed=place.seed,
        device=place.device,
        **pretraining.options,
    )
    return _trained(model, place, conditions, 0, conditions.pretraining_steps, step)


def train(
    contender: Contender, place: Place, conditions: Conditions, pretrained: Path | None, step: Callable[[], None]
) -> Outcome:
    """
    :param contender: the method
    :param place: where
    :param conditions: what is the same for all
    :param pretrained: file of the pretraining, for a method that takes one
    :param step: called after every gradient step
    :return: what came of it, with the scores of the last parameters; the model is in its file
    """
    options = dict(contender.options)
    if pretrained is not None:
        options["pretrained"] = pretrained
    model = contender.entry.algorithm(
        contender.policy,
        place.env_id,
        batch_size=conditions.batch_size,
        dataset=place.dataset,
        seed=place.seed,
        device=place.device,
        **options,
    )
    own = conditions.own_steps(contender)
    outcome = _trained(model, place, conditions, conditions.steps - own, own, step)
    for way in ("deterministic", "sampled"):
        scores = scores_of(model, place.env_id, conditions.episodes, way == "deterministic")
        outcome[way] = float(scores.mean())
    outcome["acting_ms"] = acting_milliseconds(model, place.env_id)
    return outcome


def _trained(
    model: OfflineAlgorithm, place: Place, conditions: Conditions, before: int, steps: int, step: Callable[[], None]
) -> Outcome:
    model.read_dataset()
    curve = _Curve(place.env_id, conditions, before, step)
    diverged = None
    start = time.perf_counter()
    try:
        model.learn(steps, curve, log_interval=None)
    except FloatingPointError as error:
        # The parameters from before that step are there, and are what the method has come to
        diverged = str(error)
    seconds = time.perf_counter() - start - curve.seconds
    model.save(place.model)
    return dict(
        seconds=seconds,
        curve=curve.points,
        diverged=diverged,
        versions=versions(),
        normalized=reference_scores_for(model) is not None,
        machine=f"{platform.machine()}, {os.cpu_count()} cores, {th.get_num_threads()} threads, {model.device}",
    )


class _Curve(BaseCallback):
    """
    Scores along the way, by deterministic actions.

    :param env_id: of the environment
    :param conditions: what is the same for all
    :param before: steps that were trained before this training
    :param step: called after every gradient step
    """

    def __init__(self, env_id: str, conditions: Conditions, before: int, step: Callable[[], None]):
        super().__init__()
        self.env_id, self.before, self.step = env_id, before, step
        self.marks, self.episodes = conditions.marks(), conditions.curve_episodes
        #: Step and score
        self.points: list[tuple[int, float]] = []
        #: Spent with evaluations
        self.seconds = 0.0

    def _on_step(self) -> bool:
        self.step()
        if self.before + self.num_timesteps in self.marks:
            start = time.perf_counter()
            scores = scores_of(self.model, self.env_id, self.episodes, True)
            self.points.append((self.before + self.num_timesteps, float(scores.mean())))
            self.seconds += time.perf_counter() - start
        return True
