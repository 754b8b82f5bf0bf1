"""
Critics of several kinds, trained alone on one dataset and scored on the same measured returns.
"""

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.critics.measure import behaviour_of, folder_of
from benchmarks.critics.models import RESULTS, logged_scores, measured_scores, plain
from benchmarks.critics.results import rows_of
from sb3_genpolicy import GMPO, HeldOutEpisodes, IQLCritic, OneStepCritic, PolicyCritic, load_dataset
from sb3_genpolicy.common.policies.critics import CriticOptions
from sb3_genpolicy.common.updates.batch import Batch
from sb3_genpolicy.common.updates.objective import Objective

ABLATION = RESULTS.with_name("critic_ablation.jsonl")

#: Discounts of the returns that critics are scored by. Over 60 steps, those of 0.95 are nearly those of a whole episode
DISCOUNTS = (0.99, 0.95)
# They learn as long as they are trained
_one_step = partial(OneStepCritic, passes=None)
# What is printed of each
SHOWN = "critic_target, mean"
#: What is compared, by name
VARIANTS: dict[str, CriticOptions] = {
    # Release 0.1
    "iql": IQLCritic(),
    "iql mean": IQLCritic(aggregation="mean"),
    "iql layer norm": IQLCritic(aggregation="mean", layer_norm=True),
    "iql 0.9": IQLCritic(gamma=0.9),
    # The behaviour policy's Q, by networks of Q
    "q": _one_step(relative_actions=False, return_lambda=0.0, advantage=False),
    "q 5 steps": _one_step(relative_actions=False, advantage=False, n_steps=5),
    "q 20 steps": _one_step(relative_actions=False, advantage=False, n_steps=20),
    "q 0.9": _one_step(relative_actions=False, return_lambda=0.0, advantage=False, gamma=0.9),
    "q 0.9 plain": _one_step(relative_actions=False, return_lambda=0.0, advantage=False, gamma=0.9, layer_norm=False),
    "q 0.9 lambda": _one_step(relative_actions=False, advantage=False, gamma=0.9, return_lambda=0.8),
    # By networks of the advantage
    "advantage": _one_step(relative_actions=False, return_lambda=0.0),
    "advantage 0.9": _one_step(relative_actions=False, return_lambda=0.0, gamma=0.9),
    "advantage 0.9 lambda": _one_step(relative_actions=False, gamma=0.9, return_lambda=0.8),
    "advantage 0.9 lambda plain": _one_step(relative_actions=False, gamma=0.9, return_lambda=0.8, layer_norm=False),
    "advantage 0.8 lambda": _one_step(relative_actions=False, gamma=0.8, return_lambda=0.8),
    "advantage 0.95 lambda": _one_step(relative_actions=False, gamma=0.95, return_lambda=0.8),
    "q auto": _one_step(relative_actions=False, return_lambda=0.0, gamma="auto", advantage=False),
    "q auto lambda": _one_step(relative_actions=False, gamma="auto", advantage=False, return_lambda=0.8),
    "advantage auto": _one_step(relative_actions=False, return_lambda=0.0, gamma="auto"),
    "advantage auto lambda": _one_step(relative_actions=False, gamma="auto", return_lambda=0.8),
    "advantage auto lambda plain": _one_step(relative_actions=False, gamma="auto", return_lambda=0.8, layer_norm=False),
    "advantage auto lambda 4": _one_step(relative_actions=False, gamma="auto", return_lambda=0.8, n_critics=4),
    "advantage auto lambda 10": _one_step(relative_actions=False, gamma="auto", return_lambda=0.8, n_critics=10),
    "advantage auto lambda quantiles": _one_step(relative_actions=False, gamma="auto", return_lambda=0.8, n_quantiles=25),
    # By how far actions are from the usual one
    "onestep": _one_step(gamma=None, return_lambda=0.0),
    "ten steps 10": _one_step(gamma="auto", return_lambda=0.8, n_critics=10),
    "ten steps 4": _one_step(gamma="auto", return_lambda=0.8, n_critics=4),
    # Following more steps, and with another horizon; "default" stops after ten passes
    "default": OneStepCritic(),
    "default 10": OneStepCritic(n_critics=10),
    "default quantiles": OneStepCritic(n_quantiles=25),
    "default plain": OneStepCritic(layer_norm=False),
    "default absolute": OneStepCritic(relative_actions=False),
    "onestep lambda": _one_step(gamma=None, return_lambda=0.95),
    "onestep lambda dropout": _one_step(gamma=None, return_lambda=0.95, dropout=0.2),
    "ten steps": _one_step(gamma="auto", return_lambda=0.8),
    "onestep 0.966": _one_step(gamma=0.966, return_lambda=0.8),
    "onestep 0.95": _one_step(gamma=0.95, return_lambda=0.8),
    "onestep 0.97": _one_step(gamma=0.97, return_lambda=0.8),
    "onestep 0.99": _one_step(gamma=0.99, return_lambda=0.8),
    "onestep 0.998": _one_step(gamma=0.998, return_lambda=0.98),
    "onestep td 0.9": _one_step(gamma=0.9, return_lambda=0.0),
    "onestep td 0.97": _one_step(gamma=0.97, return_lambda=0.0),
    "iql relative": IQLCritic(relative_actions=True, layer_norm=True, aggregation="mean"),
    # By actions that are sampled from the clone
    "policy auto": PolicyCritic(gamma="auto"),
    "policy auto penalty": PolicyCritic(gamma="auto", penalty=0.1),
    "policy": PolicyCritic(),
    "policy penalty": PolicyCritic(penalty=0.1),
}


class CriticsAlone(GMPO):
    """
    The critics of GMPO without its policy, whose actor is that of a cloned model: with ``beta=0`` it can be given to other
    models as ``pretrained``.
    """

    def objective(self, batch: Batch) -> Objective:
        losses = self.critic_losses(batch)
        return losses.objective(advantage=losses.advantage.mean())

    def take_behaviour(self, cloned: Any) -> None:
        """
        :param cloned: a model of the behaviour policy, whose actor, statistics and scales are taken
        """
        for name in ("normalizer", "action_range", "actor", "actor_ema"):
            getattr(self.policy, name).load_state_dict(getattr(cloned.policy, name).state_dict())
        self.reward_function = cloned.reward_function
        self.connect_replay_buffer()
        self._normalizer_is_fitted = self._action_range_is_fitted = True


def path_of(dataset: str, variant: str, seed: int) -> Path:
    """
    :param dataset: its id
    :param variant: name of a kind of critic
    :param seed: of the training
    :return: where the trained critics are kept
    """
    return folder_of(dataset) / f"{variant.replace(' ', '-')}-{seed}.zip"


def ablate(dataset: str, variants: list[str], checkpoints: list[int], seeds: list[int]) -> None:
    """
    Train critics and append a line to the results at every checkpoint. What is there already is left out, and a training that
    was saved goes on.

    :param dataset: its id
    :param variants: names of kinds of critics
    :param checkpoints: steps after which they are scored, ascending
    :param seeds: of the trainings
    """
    done = {(row["dataset"], row["variant"], row["seed"], row["steps"]) for row in results()}
    for seed in seeds:
        for variant in variants:
            if (dataset, variant, seed, checkpoints[-1]) not in done:
                _train(dataset, variant, checkpoints, seed)


def results() -> list[dict[str, Any]]:
    """
    :return: what was measured so far
    """
    return rows_of(ABLATION)


def _train(dataset: str, variant: str, checkpoints: list[int], seed: int) -> None:
    model = _begun(dataset, variant, seed)
    first = model.num_timesteps
    seconds = 0.0
    for checkpoint in (each for each in checkpoints if each >= first):
        step = model.num_timesteps
        start = time.perf_counter()
        if checkpoint > step:
            model.learn(checkpoint - step, reset_num_timesteps=step == 0, log_interval=None)
        seconds += time.perf_counter() - start
        per_step = seconds / max(checkpoint - first, 1)
        _, logged = logged_scores(model, dataset)
        measured = {gamma: measured_scores(model, dataset, gamma=gamma) for gamma in DISCOUNTS}
        scores = {
            f"{name}, {gamma:g}": {**plain(score), "overestimation": plain(above), "logged": plain(logged[name])}
            for gamma, of_gamma in measured.items()
            for name, (score, above) in of_gamma.items()
        }
        row = dict(dataset=dataset, variant=variant, critic=str(VARIANTS[variant]), seed=seed, steps=checkpoint)
        with ABLATION.open("a") as file:
            file.write(json.dumps({**row, "seconds_per_step": per_step, "scores": scores}) + "\n")
        shown = {
            gamma: f"{of_gamma[SHOWN][0].within.share} of the ceiling, ranks {of_gamma[SHOWN][0].rank.value}"
            for gamma, of_gamma in measured.items()
        }
        print(dataset, variant, seed, checkpoint, shown, f"{per_step * 1e3:.1f} ms", flush=True)
        model.save(path_of(dataset, variant, seed))


def _begun(dataset: str, variant: str, seed: int) -> CriticsAlone:
    """A new model, or the one that was saved at the last checkpoint, to go on with."""
    path = path_of(dataset, variant, seed)
    if path.exists():
        return CriticsAlone.load(path, env=load_dataset(dataset).env_id, device="cpu", dataset=dataset)
    options: dict[str, Any] = dict(critic=VARIANTS[variant], transforms=[HeldOutEpisodes(0.1)], beta=0.0)
    model = CriticsAlone("FlowPolicy", load_dataset(dataset).env_id, dataset=dataset, seed=seed, device="cpu", **options)
    model.take_behaviour(behaviour_of(dataset))
    return model
