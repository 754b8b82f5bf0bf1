"""
Which episodes judge: where some were held out, those that trained no policy.
"""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy

from sb3_genpolicy.common.algorithms.offline_algorithm import OfflineAlgorithm
from sb3_genpolicy.common.algorithms.registry import registered
from sb3_genpolicy.common.datasets import DatasetSource, load_dataset
from sb3_genpolicy.common.datasets.fitting import fit_to_spaces
from sb3_genpolicy.common.datasets.paths import HDF5_SUFFIXES, NPZ_SUFFIXES
from sb3_genpolicy.common.files.model_files import ALGORITHM, open_model_file
from sb3_genpolicy.common.policies.planning_policy import PlanningPolicy, horizon_of
from sb3_genpolicy.common.transitions.time_windows import with_stacks
from sb3_genpolicy.common.transitions.transforms import DatasetTransform, HeldOutEpisodes, Prepared, action_transforms
from sb3_genpolicy.common.transitions.transitions import Transitions, label_of
from sb3_genpolicy.generative.checks import shown

#: What can be evaluated: a model, a policy alone, or the file of a model
Candidate = BaseAlgorithm | BasePolicy | str | os.PathLike[str]


def opened(candidate: Any) -> BaseAlgorithm | BasePolicy:
    """
    :param candidate: a model, a policy, or the file of a model of this package
    :return: the model or the policy
    :raises ValueError: if the file is none of a model that is registered
    :raises TypeError: if it is something else
    """
    if isinstance(candidate, (BaseAlgorithm, BasePolicy)):
        return candidate
    if not isinstance(candidate, (str, os.PathLike)):
        raise TypeError(f"What is evaluated has to be a model, a policy or the file of a model, not {shown(candidate)}.")
    with open_model_file(Path(candidate)) as file:
        names = file.plain_settings().get(ALGORITHM) or ["GMPO"]
    known = {entry.algorithm.__name__: entry.algorithm for entry in registered().values()}
    for name in [names] if isinstance(names, str) else names:
        if name in known:
            return known[name].load(Path(candidate))
    raise ValueError(
        f"{candidate} is a model of {shown(names)}, which nobody has registered here: import the module that does, or load it "
        "yourself and give the model."
    )


def read_for(models: Sequence[Any], dataset: DatasetSource | None) -> Transitions:
    """
    :param models: that are to be evaluated, of the same spaces
    :param dataset: the logged data; None: what the first model was trained on
    :return: the record, in the shape that they see it in
    :raises ValueError: if there is no dataset, or the spaces do not fit
    """
    first, history = models[0], horizon_of(models[0]).history
    shows, takes = spaces_of(first)
    for model in models:
        _check_blending(model)
    for model in models[1:]:
        if horizon_of(model).history != history:
            raise ValueError("Policies that see different numbers of observations cannot be compared: evaluate each alone.")
        other = spaces_of(model)
        if other != (shows, takes):
            raise ValueError(f"Policies of different spaces cannot be compared: {other[0]}, {other[1]} and {shows}, {takes}.")
    trained = first if isinstance(first, OfflineAlgorithm) else None
    if dataset is None and trained is not None:
        dataset = trained.dataset if trained.dataset is not None else trained.dataset_name
    if dataset is None:
        raise ValueError("There is nothing to judge by: pass dataset= (a Minari id, a file, a buffer, a mapping of arrays).")
    known = trained is not None and isinstance(dataset, str) and dataset == trained.dataset_name
    data = load_dataset(
        dataset,
        action_space=takes,
        reference_scores=trained.reference_scores if known and trained is not None else None,
        action_transforms=action_transforms(trained.transforms) if trained is not None else (),
    )
    data = with_stacks(fit_to_spaces(data, shows, takes), history)
    return replace(data, states=_shaped(data.states, data.observation_space))


def spaces_of(model: Any) -> tuple[spaces.Space[Any], spaces.Box]:
    """
    :param model: a model or a policy
    :return: of the environment's observations and actions, also for a policy alone that sees or plans several
    """
    if isinstance(model, PlanningPolicy):
        return model.planning.observation_space, model.planning.action_space
    assert isinstance(model.action_space, spaces.Box)
    return model.observation_space, model.action_space


def _check_blending(model: Any) -> None:
    policy, horizon = getattr(model, "policy", model), horizon_of(model)
    if horizon.execute_length < horizon.chunk_length and policy.plan_blending is not None:
        raise ValueError(
            f"A policy whose plans are averaged where they overlap (plan_blending={policy.plan_blending:g}) cannot be "
            "evaluated without a simulator: its action hangs on several plans at a time. Set model.policy.plan_blending = "
            f"None, with which the newest plan acts, {horizon.execute_length} of its {horizon.chunk_length} actions."
        )


def _shaped(states: Any, space: spaces.Space) -> Any:
    """As policies take them: records have a column where an observation is one number."""
    if isinstance(space, spaces.Dict):
        return {key: _shaped(states[key], part) for key, part in space.spaces.items()}
    return states.reshape(len(states), *(space.shape or ()))


#: Names under which sources keep the logarithm of the density by which an action was drawn
LOG_PROBS = ("behaviour_log_probs", "action_log_probs", "infos/action_log_probs")


def found_log_probs(dataset: Any, n_rows: int) -> np.ndarray | None:
    """
    :param dataset: a source
    :param n_rows: rows of the record that it became
    :return: the logarithms of the densities by which actions were drawn, (n_rows,), where a mapping, an npz or an HDF5 file
        has them under one of :data:`LOG_PROBS`; None where there are none, or, with a warning, not one for each row
    """
    found = None
    if isinstance(dataset, Mapping) and not isinstance(dataset, Transitions):
        found = _first_of(dataset)
    elif isinstance(dataset, (str, os.PathLike)) and Path(dataset).is_file():
        if str(dataset).endswith(NPZ_SUFFIXES):
            with np.load(dataset) as arrays:
                found = _first_of(arrays)
        elif str(dataset).endswith(HDF5_SUFFIXES):
            import h5py

            with h5py.File(dataset) as file:
                found = _first_of(file)
    if found is None:
        return None
    values = np.asarray(found, dtype=np.float64).reshape(len(found), -1)[:, 0]
    if len(values) != n_rows or not np.isfinite(values).all():
        warnings.warn(
            f"The logged densities of the actions are {len(values)}, and not all finite or not one for each of the {n_rows} "
            "rows: they are left out, and a model of the behaviour stands for them.",
            stacklevel=3,
        )
        return None
    return values


def _first_of(arrays: Any) -> Any:
    for name in LOG_PROBS:
        if name in arrays:
            return np.asarray(arrays[name])
    return None


def judging_episodes(models: Sequence[Any], data: Transitions) -> np.ndarray:
    """
    :param models: that are to be evaluated
    :param data: the logged data
    :return: numbers of the episodes that judge: those that trained none of the models where there are any, else all, with a
        warning
    """
    is_free = np.ones(data.n_episodes, dtype=bool)
    trained = [model for model in models if isinstance(model, OfflineAlgorithm) and _may_have_seen(model, data)]
    for model in trained:
        is_free &= _untouched(model, data)
    if is_free.any():
        return np.flatnonzero(is_free)
    of_them = "The policy was" if len(models) == 1 else f"{len(trained)} of the {len(models)} policies were"
    warnings.warn(
        f"{of_them} trained on all episodes of {label_of(data)} that are to judge: values may flatter. Train with "
        "transforms=[HeldOutEpisodes()], or judge by another dataset.",
        stacklevel=3,
    )
    return np.arange(data.n_episodes)


def _may_have_seen(model: OfflineAlgorithm, data: Transitions) -> bool:
    if data.name is None or model.dataset_name is None:
        # Arrays have no name: they are taken for those of the training
        return data.name == model.dataset_name and model.num_timesteps > 0
    parts = set(data.name.split(" + "))
    return bool(parts & set(model.dataset_name.split(" + ")))


def _untouched(model: OfflineAlgorithm, data: Transitions) -> np.ndarray:
    """(n_episodes,), which episodes were held out from a model's training on these data."""
    if data.name != model.dataset_name or not any(isinstance(each, HeldOutEpisodes) for each in model.transforms):
        return np.zeros(data.n_episodes, dtype=bool)
    prepared = Prepared(data, np.ones(data.n_episodes, dtype=bool), np.zeros(data.n_episodes, dtype=bool))
    with warnings.catch_warnings():
        # They were said at the training
        warnings.simplefilter("ignore")
        for transform in model.transforms:
            if isinstance(transform, DatasetTransform):
                prepared = transform(prepared)
    return prepared.held_out
