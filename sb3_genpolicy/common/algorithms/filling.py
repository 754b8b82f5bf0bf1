"""
Read a dataset into a model's replay buffer. To its first dataset a model fits its reward scale, action range and statistics.
"""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecNormalize

from sb3_genpolicy.common.algorithms.held_out import HeldOutRows
from sb3_genpolicy.common.algorithms.scales import fit_action_range, fit_normalizer, say_coarse_space, say_other_units
from sb3_genpolicy.common.datasets import DatasetSource, load_dataset
from sb3_genpolicy.common.datasets.envs import SpacesVecEnv, env_id_of, find_dataset
from sb3_genpolicy.common.datasets.fitting import fit_to_spaces
from sb3_genpolicy.common.datasets.suites import suite_scores
from sb3_genpolicy.common.replay.vec_normalize import fit_observations, fit_rewards
from sb3_genpolicy.common.transitions.episode_weights import describe_episode_weights
from sb3_genpolicy.common.transitions.returns import horizon_of, returns_to_go
from sb3_genpolicy.common.transitions.rewards import fit_reward_transform, transform_rewards
from sb3_genpolicy.common.transitions.transforms import LearningRows, action_transforms, prepare
from sb3_genpolicy.common.transitions.transitions import Transitions, label_of

# Below this share of their size, differences are rounding
_ROUNDING = 1e-6


def fill_replay_buffer(model: Any, dataset: DatasetSource | None) -> None:
    """
    Read a dataset into the replay buffer of a model.

    :param model: the model
    :param dataset: the dataset of this call of ``learn``; None for the one given or filled before, or the environment's
    :raises ValueError: if there is none, or it is damaged or does not fit the spaces
    """
    data = _read(model, dataset)
    model.dataset_name = data.name
    model.reference_scores = data.reference_scores or suite_scores(env_id_of(model.env))
    model._dataset_on_disk = data.memory_mapped
    if model.reward_function is None:
        model.reward_function = fit_reward_transform(model.reward_transform, data, model.gamma)
    if model.fitted_gamma is None and model._n_updates == 0:
        model.fitted_length = data.n_rows / data.n_episodes
        model.fitted_gamma = 1.0 - 1.0 / horizon_of(transform_rewards(model.reward_function, data.rewards))
    chosen = prepare(data, model.transforms, model.episode_kl)
    # A model of release 0.1 was trained on the whole space
    fit_action_range(model.policy, chosen.data, first=not model._action_range_is_fitted and model._n_updates == 0)
    model._action_range_is_fitted = True
    n_steps, horizon = _steps_of_returns(model, chosen), model.policy.horizon
    longer = model.critic_options.distilled_from
    # A number of steps that was asked for goes before a lambda that was not
    trace = model.critic_options.trace if n_steps == 1 else 0.0
    model.replay_buffer.fill(
        chosen.data,
        model.reward_function,
        chosen.learnt,
        # Actions that are valued together are followed by what comes after all of them
        max(n_steps, horizon.valued_length, longer or 1),
        model.critic_gamma,
        trace,
        chosen.drawn,
        chosen.matched,
        horizon.history,
        horizon.chunk_length,
        windows=longer is not None,
    )
    is_first = not model._normalizer_is_fitted and model._n_updates == 0
    _fit_statistics(model, chosen, label_of(data))
    if is_first:
        _fit_critic_scales(model, chosen)
    model.held_out = None
    if len(chosen.held_out):
        model.held_out = HeldOutRows(
            chosen.held_out, chosen.data, model.replay_buffer, model._vec_normalize_env, model.critic_gamma, longer
        )
    if model.verbose >= 1:
        print(data.describe())
        weights = chosen.matched if chosen.drawn is None else chosen.drawn
        if weights is not None:
            print(describe_episode_weights(chosen.data, weights))


def _fit_critic_scales(model: Any, chosen: LearningRows) -> None:
    """To the returns and rewards of the rows that are learnt from."""
    rewards = model.replay_buffer.normalized_rewards(
        model._vec_normalize_env, th.as_tensor(transform_rewards(model.reward_function, chosen.data.rewards))
    ).numpy()
    returns = returns_to_go(chosen.data, rewards, model.critic_gamma).rewards
    if chosen.learnt is not None:
        rewards, returns = rewards[chosen.learnt], returns[chosen.learnt]
    model.policy.fit_critic_scales(float(returns.mean()), _deviation(returns), _deviation(rewards))


def _deviation(values: np.ndarray) -> float:
    deviation = float(values.std(dtype=np.float64))
    # Equal numbers may be apart from their mean by its rounding
    return deviation if deviation > _ROUNDING * float(np.abs(values).max()) else 1.0


def _steps_of_returns(model: Any, chosen: LearningRows) -> int:
    of_critic = model.critic_options.n_steps
    if model.critic_options.return_lambda and chosen.n_steps > 1:
        raise ValueError(
            f"The critic asks for lambda-returns, and transforms= for NStepReturns({chosen.n_steps}): leave out the transform."
        )
    if of_critic > 1 and chosen.n_steps > 1 and of_critic != chosen.n_steps:
        raise ValueError(
            f"The critic asks for returns of {of_critic} steps, and transforms= for NStepReturns({chosen.n_steps}): leave out "
            "the transform."
        )
    return max(of_critic, chosen.n_steps)


def _read(model: Any, dataset: DatasetSource | None) -> Transitions:
    source = find_dataset((dataset, model.dataset), model.env, model.dataset_name, type(model).__name__)
    assert isinstance(model.action_space, spaces.Box)
    known = isinstance(source, str) and source == model.dataset_name
    data = load_dataset(
        source,
        memory_map=True if known and model._dataset_on_disk else None,
        action_space=model.action_space,
        reference_scores=model.reference_scores if known else None,
        action_transforms=action_transforms(model.transforms),
    )
    return fit_to_spaces(data, model.observation_space, model.action_space)


def _fit_statistics(model: Any, chosen: LearningRows, label: str) -> None:
    """Fit the statistics of observations to the model's first dataset; warn if those of a later one are far off."""
    wrapper = model._vec_normalize_env
    if wrapper is not None:
        _fit_wrapper(model, wrapper, chosen.data)
    if not model._normalizer_is_fitted and model._n_updates == 0:
        fit_normalizer(model.policy, model.replay_buffer, wrapper, label)
        model._normalizer_is_fitted = True
    else:
        say_other_units(model.policy, model.replay_buffer, label)
    if not isinstance(model.env, SpacesVecEnv) and model.env is not None:
        say_coarse_space(model.observation_space, model.replay_buffer, label)


def _fit_wrapper(model: Any, wrapper: VecNormalize, data: Transitions) -> None:
    fit_observations(wrapper, model.replay_buffer.observation_chunks(single=True), label_of(data))
    fit_rewards(wrapper, data, model.reward_function, model.gamma, known=model._vec_rewards_are_fitted)
    model._vec_rewards_are_fitted = True
