"""
What an SB3 user expects around the training: callbacks, evaluation, environments, VecNormalize, the online loop, clear errors.
"""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import (
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_genpolicy import GMPO, OfflineEvalCallback, load_dataset, make_offline_env, normalized_score
from tests.helpers.arrays import SMALL, make_arrays
from tests.helpers.recorded_arrays import pendulum_arrays, write_minari

DATA = "pendulum-mixed"


def pendulum(env="Pendulum-v1", **kwargs):
    return GMPO("FlowPolicy", env, dataset=DATA, policy_kwargs=SMALL, seed=0, **kwargs)


class ShortPendulum(gym.Wrapper):
    """Episodes of five steps; the return counts them."""

    def __init__(self):
        super().__init__(gym.make("Pendulum-v1", max_episode_steps=5))

    def step(self, action):
        observation, _, terminated, truncated, info = super().step(action)
        return observation, 2.0, terminated, truncated, info


# Callbacks


def test_callbacks_of_sb3_count_gradient_steps(tmp_path):
    evaluation = EvalCallback(ShortPendulum(), eval_freq=5, n_eval_episodes=2, log_path=str(tmp_path), verbose=0, warn=False)
    counted = []
    every = EveryNTimesteps(4, callback=EvalCallback(ShortPendulum(), verbose=0, warn=False))
    every.callback._on_step = lambda: counted.append(every.num_timesteps) is None
    checkpoints = CheckpointCallback(save_freq=10, save_path=str(tmp_path))
    pendulum().learn(20, callback=[evaluation, checkpoints, every, StopTrainingOnMaxEpisodes(3)])
    evaluations = np.load(tmp_path / "evaluations.npz")
    np.testing.assert_array_equal(evaluations["timesteps"], [5, 10, 15, 20])
    np.testing.assert_array_equal(evaluations["results"], 10.0)
    assert counted == [4, 8, 12, 16, 20]
    assert sorted(path.name for path in tmp_path.glob("*.zip")) == ["rl_model_10_steps.zip", "rl_model_20_steps.zip"]


def test_evaluation_logs_the_normalised_score(tmp_path):
    """Returns of 10 against reference scores of 0 and 40: 25, on the same line as the mean reward."""
    model = pendulum()
    model.set_logger(configure(str(tmp_path), ["csv"]))
    callback = OfflineEvalCallback(ShortPendulum(), eval_freq=4, n_eval_episodes=3, verbose=0, warn=False)
    model.fill_replay_buffer(None)
    model.reference_scores = (0.0, 40.0)
    model.learn(8, callback=callback, log_interval=None)
    rows = np.genfromtxt(tmp_path / "progress.csv", delimiter=",", names=True, deletechars="")
    np.testing.assert_allclose(rows["eval/mean_reward"], [10.0, 10.0])
    np.testing.assert_allclose(rows["eval/normalized_score"], [25.0, 25.0])
    assert callback.last_normalized_score == 25.0


def test_spread_of_scores_is_scaled_and_not_shifted():
    """The published code puts the standard deviation of returns through the affine score: 4 of (10, 50) became -15."""
    returns = np.array([26.0, 34.0])
    assert normalized_score(returns, (10.0, 50.0)).std() == pytest.approx(100.0 * returns.std() / 40.0)


def test_evaluation_agrees_with_evaluate_policy_on_monitored_environments():
    env, model = make_vec_env("Pendulum-v1", n_envs=3, seed=7), pendulum()
    callback = OfflineEvalCallback(env, eval_freq=2, n_eval_episodes=3, verbose=0)
    model.learn(2, callback=callback)
    env.seed(7)
    fresh = make_vec_env("Pendulum-v1", n_envs=3, seed=7)
    mean, _ = evaluate_policy(model, fresh, n_eval_episodes=3)
    assert callback.last_normalized_score == pytest.approx(normalized_score(mean, (-1230.0, -150.0)), abs=1e-3)


def test_evaluation_without_reference_scores_or_an_environment(arrays, recwarn):
    env = gym.make("Pendulum-v1", max_episode_steps=5)
    data = {**pendulum_arrays(), "observation_space": env.observation_space, "action_space": env.action_space}
    model = GMPO("FlowPolicy", dataset=data, policy_kwargs=SMALL)
    best = StopTrainingOnRewardThreshold(-1e9, verbose=0)
    callback = OfflineEvalCallback(env, eval_freq=3, callback_on_new_best=best, n_eval_episodes=1, verbose=0, warn=False)
    model.learn(10, callback=callback)
    assert callback.last_normalized_score is None and model.num_timesteps == 3
    assert not any("not of the same type" in str(warning.message) for warning in recwarn)


def test_progress_bar_counts_gradient_steps_however_many_environments(capsys):
    pendulum(make_vec_env("Pendulum-v1", n_envs=4)).learn(6, progress_bar=True)
    assert "6/6" in capsys.readouterr().out


# Environments


def test_set_env_checks_spaces_as_sac_does(arrays):
    model = pendulum()
    model.set_env(gym.make("Pendulum-v1"))
    with pytest.raises(ValueError, match="spaces do not match"):
        model.set_env(gym.make("MountainCarContinuous-v0"))
    model.learn(2)


def test_without_an_environment_spaces_come_from_the_dataset_and_one_can_be_given_later():
    model = GMPO("FlowPolicy", None, dataset=DATA, policy_kwargs=SMALL).learn(2)
    assert model.observation_space == gym.make("Pendulum-v1").observation_space
    with pytest.raises(ValueError, match="made from a dataset, without an environment"):
        model.env.step(np.zeros((1, 1)))
    model.set_env(gym.make("Pendulum-v1"))
    assert model.learn(2).num_timesteps == 2


def test_carried_dataset_is_found_through_wrappers_and_vector_environments():
    env = DummyVecEnv([lambda: gym.wrappers.TimeAwareObservation(make_offline_env(DATA))])
    with pytest.raises(ValueError, match="observations of dataset 'pendulum-mixed' has shape"):
        GMPO("FlowPolicy", env).learn(1)
    env = DummyVecEnv([lambda: gym.wrappers.RecordEpisodeStatistics(make_offline_env(DATA))])
    assert GMPO("FlowPolicy", env, policy_kwargs=SMALL).learn(1).dataset_name == DATA


def test_vec_normalize_is_fitted_from_the_dataset():
    data = load_dataset(DATA)
    env = VecNormalize(make_vec_env("Pendulum-v1", n_envs=2))
    model = pendulum(env, gamma=0.9).learn(3)
    np.testing.assert_allclose(env.obs_rms.mean, data.observations.mean(0), atol=1e-3)
    np.testing.assert_allclose(env.obs_rms.var, data.observations.var(0), rtol=1e-3)
    # Observations are normalised once, by the wrapper
    assert (model.policy.normalizer.parts[0].mean == 0).all()
    batch = model.replay_buffer.sample(20_000, env=env)
    assert abs(batch.observations.mean()) < 0.05 and abs(batch.observations.std() - 1) < 0.05
    # Rewards by the variance of discounted returns so far, which another wrapper finds by stepping through an episode
    expected = VecNormalize(make_vec_env("Pendulum-v1"), gamma=0.9)
    for reward in data.rewards[:200]:
        expected._update_reward(np.array([reward]))
    one = data.rewards[:200].astype(np.float64)
    by_hand = np.array([sum(0.9 ** (t - k) * one[k] for k in range(t + 1)) for t in range(200)])
    np.testing.assert_allclose(expected.ret_rms.var, by_hand.var(), rtol=1e-3)
    from sb3_genpolicy.common.replay.vec_normalize import discounted_returns_so_far

    seen = model.reward_function(data.rewards)
    np.testing.assert_allclose(env.ret_rms.var, discounted_returns_so_far(data, seen, 0.9).var(), rtol=1e-3)


def test_statistics_gathered_by_stepping_are_kept():
    env = VecNormalize(make_vec_env("Pendulum-v1"))
    env.reset()
    for _ in range(10):
        env.step(env.action_space.sample()[None])
    before = env.obs_rms.mean.copy()
    pendulum(env).learn(1)
    assert np.abs(env.obs_rms.mean - before).max() < 0.5 and env.obs_rms.count < 20


# The online loop that is inherited


def test_the_inherited_online_loop_goes_on_from_a_loaded_model(tmp_path):
    """It finds the dataset by its name again, and knows how rewards were scaled."""
    pendulum().learn(2).save(tmp_path / "model")
    model = GMPO.load(tmp_path / "model", env=make_vec_env("Pendulum-v1"))
    model.learning_starts = 5
    OffPolicyAlgorithm.learn(model, 10)
    assert model.replay_buffer.size() == 48_010
    returns = load_dataset(DATA).episode_returns()
    assert model.replay_buffer.reward_function.scale == pytest.approx(1000.0 / (returns.max() - returns.min()))


def test_the_inherited_online_loop_goes_on_from_the_dataset():
    model = pendulum(make_vec_env("Pendulum-v1", n_envs=2)).learn(5)
    rewards = model.replay_buffer.rewards[:10].clone()
    model.learning_starts = 0
    OffPolicyAlgorithm.learn(model, 40, log_interval=4)
    assert model.num_timesteps == 40 and model.replay_buffer.size() == 48_040
    assert th.equal(model.replay_buffer.rewards[:10], rewards)
    assert model.replay_buffer.actions.abs().max() <= 1.0
    # Rewards met online are scaled as the dataset's were
    scale = model.replay_buffer.reward_function.scale
    assert (model.replay_buffer.rewards[48_000:48_040] / scale).min() > -17.0


# Bad input: one sentence, before training


def test_no_dataset_anywhere_names_the_local_ones(minari_root):
    write_minari("test/pendulum-v0", pendulum_arrays(), env="Pendulum-v1")
    with pytest.raises(ValueError, match="for Pendulum-v1: pendulum-mixed, test/pendulum-v0.*make_offline_env"):
        GMPO("FlowPolicy", "Pendulum-v1").learn(1)
    with pytest.raises(ValueError, match="needs an environment or a dataset"):
        GMPO("FlowPolicy")


def test_discrete_actions_are_refused(arrays):
    with pytest.raises(ValueError, match="learns continuous actions"):
        GMPO("FlowPolicy", "CartPole-v1", dataset=arrays)
    arrays.update(action_space=spaces.Discrete(3), actions=np.zeros(26, int))
    with pytest.raises(ValueError, match="only continuous actions"):
        GMPO("FlowPolicy", dataset=arrays)


def test_data_of_another_environment_are_refused(arrays):
    with pytest.raises(ValueError, match=r"observations of the dataset has shape \(3,\), but the environment's has \(2,\)"):
        one_action = make_arrays(action_dim=1)
        GMPO("FlowPolicy", "MountainCarContinuous-v0", dataset=one_action, policy_kwargs=SMALL).learn(1)
    with pytest.raises(ValueError, match=r"actions of the dataset have shape \(2,\), but the environment's have \(1,\)"):
        GMPO("FlowPolicy", "Pendulum-v1", dataset=arrays, policy_kwargs=SMALL).learn(1)
    wide = make_arrays(action_dim=1, low=-5.0, high=5.0)
    with pytest.raises(ValueError, match="outside the bounds"):
        GMPO("FlowPolicy", "Pendulum-v1", dataset=wide, policy_kwargs=SMALL).learn(1)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        (dict(bta=1.0), TypeError, "GMPO has no option 'bta'. Did you mean 'beta'"),
        (dict(beta=-1.0), ValueError, "beta must be a number >= 0"),
        (dict(beta="high"), ValueError, "beta must be a number"),
        (dict(expectile=0.0), ValueError, "expectile must be a number > 0"),
        (dict(weight_clamp=0), ValueError, "weight_clamp must be a number > 0"),
        (dict(gamma=1.5), ValueError, "gamma must be a number >= 0.0 and <= 1.0"),
        (dict(batch_size=0), ValueError, "batch_size must be a number >= 1"),
        (dict(reward_transform="locomotive"), ValueError, "Did you mean 'locomotion'"),
        (dict(dataset="pendulum-mixd"), ValueError, "no dataset 'pendulum-mixd' on this machine, which has pendulum-mixed"),
    ],
)
def test_bad_options_are_named(arrays, kwargs, error, message):
    with pytest.raises(error, match=message):
        GMPO("FlowPolicy", **{"dataset": arrays, **kwargs})


def test_unknown_and_unsuitable_policies_are_named(arrays):
    with pytest.raises(ValueError, match="'FlowPolcy' is unknown. Did you mean 'FlowPolicy'"):
        GMPO("FlowPolcy", dataset=arrays)
    arrays["observations"], arrays["next_observations"] = ({"a": arrays[key]} for key in ("observations", "next_observations"))
    for policy in ("MlpPolicy", "FlowPolicy"):
        with pytest.raises(ValueError, match="MultiInputPolicy"):
            GMPO(policy, dataset=arrays)


def test_names_of_sb3_build_the_flow_policies(arrays):
    assert type(GMPO("MlpPolicy", dataset=arrays, policy_kwargs=SMALL).policy).__name__ == "FlowPolicy"
    # The constructors that SAC and GMPO share have the same order
    ours, sacs = (list(__import__("inspect").signature(c.__init__).parameters) for c in (GMPO, SAC))
    shared = [name for name in ours if name in sacs]
    assert shared == [name for name in sacs if name in ours]
