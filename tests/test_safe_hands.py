"""
Limits on how fast and how suddenly actions change, and on how unlikely they are: what is caught, what is left alone, what is
done.
"""

import math
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger

from sb3_genpolicy import BC, ActionLimits, SafeHands, UnsafeAction, fit_action_limits
from sb3_genpolicy.safety import limits as limits_of
from tests.helpers.action_faults import Replay, with_jumps

STD = 0.1


def motion(n_steps, n_envs, dim, seed):
    """Smooth actions with some noise, (n_steps, n_envs, dim), stationary."""
    rng = np.random.default_rng(seed)
    t = np.arange(n_steps)[:, None, None]
    phases, speeds = rng.uniform(0.0, 6.3, (1, n_envs, dim)), rng.uniform(0.02, 0.2, (1, n_envs, dim))
    return np.clip(0.4 * np.sin(phases + speeds * t) + 0.01 * rng.normal(size=(n_steps, n_envs, dim)), -1.0, 1.0)


def dataset_of(actions):
    n_steps, n_envs, dim = actions.shape
    rows = actions.transpose(1, 0, 2).reshape(-1, dim).astype(np.float32)
    timeouts = np.tile(np.arange(n_steps) == n_steps - 1, n_envs)
    zeros = np.zeros(len(rows), np.float32)
    box = spaces.Box(-1.0, 1.0, (dim,), np.float32)
    observations = np.arange(len(rows), dtype=np.float32)[:, None]
    return dict(observations=observations, actions=rows, rewards=zeros, terminals=zeros, timeouts=timeouts, action_space=box)


def act(hands, n_steps, n_envs=1, begins=True):
    starts = np.full(n_envs, begins)
    done = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "An action was outside the limits")
        for _ in range(n_steps):
            done.append(hands.predict(np.zeros((n_envs, 1), np.float32), episode_start=starts)[0])
            starts = np.zeros(n_envs, dtype=bool)
    return np.array(done)


class Normal:
    """N(0, 0.1^2) of each dimension, whatever is observed."""

    def log_prob(self, observations, actions):
        z = actions.double() / STD
        return (-0.5 * z.square() - math.log(STD * math.sqrt(2.0 * math.pi))).sum(dim=1)

    def obs_to_tensor(self, observation):
        return th.as_tensor(observation), True

    def predict(self, observations, **_):
        return np.random.default_rng(0).normal(0.0, STD, (len(observations), 1)), None


# What is caught, and what is left alone


@pytest.mark.parametrize("dim", [1, 7, 28])
@pytest.mark.parametrize("otherwise", ["clip", "hold"])
def test_every_planted_jump_is_caught_and_clean_actions_pass(dim, otherwise):
    limits = fit_action_limits(dataset_of(motion(500, 40, dim, seed=0)))
    clean = motion(400, 25, dim, seed=1)
    hands = SafeHands(Replay(clean), limits, otherwise)
    act(hands, len(clean), 25)
    assert hands.n_actions == 10_000 and hands.counts["any"] <= 100
    planted, places = with_jumps(clean, limits, 60, np.random.default_rng(2))
    hands = SafeHands(Replay(planted), limits, otherwise)
    done = act(hands, len(planted), 25)
    caught = {(event.step - 1, event.env) for event in hands.events}
    assert {tuple(place) for place in places} <= caught
    changes = np.abs(np.diff(done.astype(np.float64), axis=0))
    assert (changes <= limits.speed * (1.0 + 1e-5) + 1e-6).all()


@pytest.mark.parametrize("parts", [dict(jump=False), {}, dict(behaviour=Normal())], ids=["speed", "jump", "density"])
@pytest.mark.parametrize("touched", [0.005, 0.1])
def test_so_many_logged_actions_are_outside_as_were_asked_for(parts, touched):
    """Together, and not less than by one limit alone."""
    rng = np.random.default_rng(0)
    actions = np.clip(rng.normal(0.0, STD, (2000, 4, 1)), -1.0, 1.0)
    limits = fit_action_limits(dataset_of(actions), touched=touched, **parts)
    hands = SafeHands(Replay(actions), limits, "clip", behaviour=Normal())
    share = np.mean(
        np.logical_or.reduce(
            [
                *(np.abs(np.diff(actions, axis=0)) > limits.speed)[1:].T[0].reshape(1, -1),
                *(np.abs(np.diff(actions, 2, axis=0)) > limits.jump).T[0].reshape(1, -1),
                (Normal().log_prob(None, th.as_tensor(actions[2:].reshape(-1, 1))).numpy() < limits.log_density)
                .reshape(-1, 4)
                .T.reshape(-1),
            ]
        )
    )
    assert 0.3 * touched < share <= 1.1 * touched
    act(hands, 50, 4)
    assert hands.n_actions == 200


def test_limits_of_noise_are_the_normal_distributions():
    """Differences of independent normals deviate by sqrt(2), second ones by sqrt(6); densities by a chi-squared number."""
    actions = np.random.default_rng(0).normal(0.0, 0.05, (100_000, 1, 1))
    limits = fit_action_limits(dataset_of(actions), touched=0.02)
    assert limits.speed == pytest.approx(2.576 * 0.05 * math.sqrt(2.0), rel=0.02)
    assert limits.jump == pytest.approx(2.576 * 0.05 * math.sqrt(6.0), rel=0.02)

    class Wide(Normal):
        def log_prob(self, observations, actions):
            return super().log_prob(observations, actions * STD / 0.05)

    limits = fit_action_limits(dataset_of(actions), behaviour=Wide(), touched=0.03)
    assert limits.log_density == pytest.approx(-0.5 * 2.576**2 - math.log(STD * math.sqrt(2.0 * math.pi)), rel=0.05)


def test_changes_across_an_episodes_start_count_nowhere():
    """Two episodes at both ends of the range, in each of which nothing but a small step is made."""
    actions = np.concatenate([np.full(50, -0.9), np.full(50, 0.9)])[:, None] + 0.01 * (np.arange(100)[:, None] % 2)
    data = dataset_of(actions[:, None])
    data["timeouts"] = np.arange(100) % 50 == 49
    limits = fit_action_limits(data)
    assert limits.speed == pytest.approx(0.01, rel=1e-3) and limits.jump == pytest.approx(0.02, rel=1e-3)
    hands = SafeHands(Replay(actions[:, None]), limits)
    for step in range(100):
        hands.predict(np.zeros((1, 1)), episode_start=np.array([step % 50 == 0]))
    assert hands.counts["any"] == 0
    steps_apart = dict(data, next_observations=data["observations"] + 0.5, timeouts=np.ones(100))
    with pytest.raises(ValueError, match="no two steps of an episode"):
        fit_action_limits(steps_apart)


def test_a_limit_that_stops_nothing_is_said():
    """Pendulum's agents push with all they have, to one side and to the other."""
    with pytest.warns(UserWarning, match="a limit on their speed that lets them pass stops nothing"):
        fit_action_limits("pendulum-mixed")


# What is done


def test_clip_goes_as_far_as_it_may():
    """At a speed of 0.1 a step to 1, and not more suddenly than by 0.04 a step."""
    fast = act(
        SafeHands(Replay(np.ones((30, 1, 1)) * [[0.0]] + (np.arange(30) > 0)[:, None, None]), ActionLimits(speed=0.1)), 13
    )
    np.testing.assert_allclose(fast[:, 0, 0], np.minimum(0.1 * np.arange(13), 1.0), rtol=1e-5)
    sudden = ActionLimits(speed=0.1, jump=0.04)
    actions = np.concatenate([np.zeros(2), np.ones(30)])[:, None, None]
    hands = SafeHands(Replay(actions), sudden)
    done = act(hands, 6)[:, 0, 0]
    np.testing.assert_allclose(done, [0.0, 0.0, 0.04, 0.12, 0.22, 0.32], atol=1e-6)
    assert hands.counts == dict(any=4, speed=4, jump=4) and "of 6 actions 4 were touched" in str(hands)
    assert hands.events[0].wanted == 1.0 and hands.events[0].done == pytest.approx(0.04) and hands.events[0].step == 3


def test_a_sudden_turn_is_touched_at_a_speed_that_may_be():
    turns = np.array([0.0, 0.0, 0.09, 0.0, 0.09])[:, None, None]
    hands = SafeHands(Replay(turns), ActionLimits(speed=0.1, jump=0.04))
    np.testing.assert_allclose(act(hands, 5)[:, 0, 0], [0.0, 0.0, 0.04, 0.04, 0.08], atol=1e-6)
    assert hands.counts == dict(any=3, jump=3)


def test_hold_waits_a_step_and_forgets_a_spike():
    spike = np.array([0.0, 0.0, 0.9, 0.0, 0.02])[:, None, None]
    hands = SafeHands(Replay(spike), ActionLimits(speed=0.1), "hold")
    np.testing.assert_allclose(act(hands, 5)[:, 0, 0], [0.0, 0.0, 0.0, 0.0, 0.02], atol=1e-6)
    assert hands.counts["any"] == 1
    # Not for a little more than may be
    a_little = np.array([0.0, 0.0, 0.15, 0.2, 0.2])[:, None, None]
    done = act(SafeHands(Replay(a_little), ActionLimits(speed=0.1), "hold"), 5)[:, 0, 0]
    np.testing.assert_allclose(done, [0.0, 0.0, 0.1, 0.2, 0.2], atol=1e-6)
    # What the policy insists on is approached
    steady = np.array([0.0, 0.5, 0.5, 0.5, 0.5])[:, None, None]
    done = act(SafeHands(Replay(steady), ActionLimits(speed=0.1), "hold"), 5)[:, 0, 0]
    np.testing.assert_allclose(done, [0.0, 0.0, 0.1, 0.1, 0.2], atol=1e-6)


def test_raise_says_where_and_does_nothing():
    actions = np.zeros((5, 3, 2))
    actions[2, 1] = 0.7
    hands = SafeHands(Replay(actions), ActionLimits(speed=0.5), "raise")
    act(hands, 2, 3)
    with pytest.raises(
        UnsafeAction, match=r"In environment 1, at its action 3, the policy wants \[0.7, 0.7\] after \[0, 0\].*speed"
    ):
        act(hands, 1, 3, begins=False)
    with pytest.raises(UnsafeAction, match="nan"):
        act(SafeHands(Replay(np.full((1, 1, 2), np.nan)), ActionLimits()), 1)


def test_an_unlikely_action_becomes_the_nearest_likely_one():
    """Of 32 draws within two standard deviations that which is nearest; no draw is further out."""
    limits = ActionLimits(log_density=float(Normal().log_prob(None, th.tensor([[2.0 * STD]]))))
    hands = SafeHands(Replay(np.array([[[0.1]], [[0.9]]])), limits, behaviour=Normal())
    done = act(hands, 2)[:, 0, 0]
    draws = np.random.default_rng(0).normal(0.0, STD, 32)
    assert done[0] == pytest.approx(0.1) and done[1] == pytest.approx(draws[draws <= 2.0 * STD].max())
    assert hands.counts == dict(any=1, density=1)
    # Held for as long as was said, then refused
    hold = SafeHands(Replay(np.array([0.1, *[0.9] * 9])[:, None, None]), limits, "hold", behaviour=Normal(), patience=3)
    np.testing.assert_allclose(act(hold, 4)[:, 0, 0], 0.1, rtol=1e-6)
    with pytest.raises(UnsafeAction, match=r"\(density\), after the one before was held for 3 steps"):
        act(hold, 1, begins=False)


def test_limits_of_speed_go_before_those_of_density():
    """Nothing likely is near enough: the nearest that is near enough."""
    limits = ActionLimits(speed=0.05, log_density=float(Normal().log_prob(None, th.tensor([[2.0 * STD]]))))
    hands = SafeHands(Replay(np.array([[[0.9]], [[0.9]]])), ActionLimits(speed=0.05), behaviour=Normal())
    act(hands, 1)
    hands.limits = limits
    assert act_on(hands) == pytest.approx(0.85)


def act_on(hands):
    return float(hands.predict(np.zeros((1, 1), np.float32))[0][0, 0])


# As SB3 has it


def test_with_a_real_policy_in_a_real_environment(monkeypatch, tmp_path):
    """One observation or several, a density of a flow, `evaluate_policy`, the log."""
    monkeypatch.setattr(limits_of, "_MOST", 200)
    model = BC("FlowPolicy", "Pendulum-v1", dataset="pendulum-mixed", seed=0, policy_kwargs=dict(net_arch=[32])).learn(30)
    with pytest.warns(UserWarning, match="stops nothing"):
        fitted = fit_action_limits("pendulum-mixed", behaviour=model)
    assert -100.0 < fitted.log_density < -2.0
    limits = ActionLimits(speed=0.3, log_density=fitted.log_density)
    hands = SafeHands(model, limits, behaviour=model)
    with pytest.warns(UserWarning, match="outside the limits .* for the first time"):
        short = make_vec_env(lambda: gym.make("Pendulum-v1", max_episode_steps=40), n_envs=3, seed=0)
        evaluate_policy(hands, short, 3, deterministic=False)
    assert hands.n_actions == 120 and 0 < hands.counts["any"] < 120

    logged = {}
    logger = Logger(str(tmp_path), [])
    logger.record = lambda name, value: logged.update({name: value})
    hands.record(logger)
    assert logged["safety/speed"] == hands.counts["speed"] / 120 > 0.0

    with pytest.raises(ValueError, match="There were 3 environments, and now there are 1"):
        hands.predict(np.zeros(3, np.float32))
    hands.reset()
    action, _ = hands.predict(np.zeros(3, np.float32))
    assert action.shape == (1,) and model.action_space.contains(action)


def test_wrong_options_are_said():
    model = Replay(np.zeros((1, 1, 2)))
    with pytest.raises(ValueError, match="speed must be a number above 0"):
        ActionLimits(speed=0.0)
    with pytest.raises(ValueError, match=r"limits.speed has shape \(3,\), but actions have 2 dimensions"):
        SafeHands(model, ActionLimits(speed=np.ones(3)))
    with pytest.raises(ValueError, match="give it as behaviour="):
        SafeHands(model, ActionLimits(log_density=-3.0))
    with pytest.raises(ValueError, match="clip"):
        SafeHands(model, ActionLimits(), "clipp")
    with pytest.raises(TypeError, match="patience"):
        SafeHands(model, ActionLimits(), patiense=3)


@pytest.mark.parametrize("single", [True, False])
def test_the_density_sees_observations_as_the_policy_reads_them(single):
    """Images have their channels first there, which they have last in the environment."""
    seen = []

    class Reads(Normal):
        def obs_to_tensor(self, observation):
            return th.as_tensor(np.moveaxis(observation, -1, 1)), True

        def log_prob(self, observations, actions):
            seen.append(tuple(observations.shape))
            return super().log_prob(observations, actions)

    actions = np.zeros((1, 1)) if single else np.zeros((1, 2, 1))
    model = Replay(actions[:, None] if single else actions)
    model.actions = actions.astype(np.float32)
    model.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    hands = SafeHands(model, ActionLimits(log_density=-50.0), behaviour=Reads())
    hands.predict(np.zeros((8, 6, 3) if single else (2, 8, 6, 3), np.uint8))
    assert seen == [(1 if single else 2, 3, 8, 6)]
