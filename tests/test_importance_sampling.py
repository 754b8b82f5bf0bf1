"""
Importance sampling and its doubly robust form over many data sets of a chain whose values are known.
"""

import numpy as np
import pytest

from sb3_genpolicy.evaluation.importance import Weights, doubly_robust, per_decision, weighted_per_decision
from tests.helpers.chain import N_STATES, REWARDS, moves, total_value

GAMMA, N_STEPS, N_SETS = 0.9, 5, 1000
LOGGED, ASKED = np.array([0.5, 0.5, 0.5, 0.5, 0.5]), np.array([0.7, 0.35, 0.65, 0.6, 0.5])
START = np.array([0.4, 0.3, 0.3, 0.0, 0.0])
EXACT = total_value(ASKED, START, N_STEPS, GAMMA)


def logged(n_episodes, seed):
    """Weights, rewards, states and whether the action was right, (n_episodes, N_STEPS) each."""
    random = np.random.default_rng(seed)
    state = random.choice(N_STATES, n_episodes, p=START)
    states, rights, rewards, ratios = [], [], [], []
    for _ in range(N_STEPS):
        is_right = random.random(n_episodes) < LOGGED[state]
        states.append(state)
        rights.append(is_right)
        ratios.append(np.where(is_right, ASKED[state] / LOGGED[state], (1 - ASKED[state]) / (1 - LOGGED[state])))
        goes_right = is_right ^ (random.random(n_episodes) < 0.1)
        state = np.clip(state + np.where(goes_right, 1, -1), 0, N_STATES - 1)
        rewards.append(REWARDS[state])
    stacked = [np.stack(each, axis=1) for each in (ratios, rewards, states, rights)]
    discounts = np.broadcast_to(GAMMA ** np.arange(N_STEPS), stacked[0].shape)
    return Weights(np.cumprod(stacked[0], axis=1), discounts), *stacked[1:]


def exact_q():
    """(N_STEPS, N_STATES, 2) of left and right, and V, (N_STEPS + 1, N_STATES), of the policy that is asked for."""
    by_action = [moves(np.zeros(N_STATES)), moves(np.ones(N_STATES))]
    v, q = np.zeros((N_STEPS + 1, N_STATES)), np.zeros((N_STEPS, N_STATES, 2))
    for step in reversed(range(N_STEPS)):
        q[step] = np.stack([goes @ (REWARDS + GAMMA * v[step + 1]) for goes in by_action], axis=1)
        v[step] = ASKED * q[step, :, 1] + (1 - ASKED) * q[step, :, 0]
    return q, v


def over_data_sets(estimate, n_episodes=200):
    return np.array([estimate(*logged(n_episodes, seed)) for seed in range(N_SETS)])


def is_unbiased(values):
    return abs(values.mean() - EXACT) < 3.0 * values.std() / np.sqrt(len(values))


def robust(q, v):
    def estimate(weights, rewards, states, rights):
        steps = np.arange(N_STEPS)
        of_q, of_v = q[steps, states, rights.astype(int)], v[steps, states]
        return doubly_robust(weights, rewards, of_q, of_v, np.zeros(len(states)), normalise=False).value

    return estimate


@pytest.fixture(scope="module")
def plain():
    return over_data_sets(lambda weights, rewards, *_: per_decision(weights, rewards).value)


def test_per_decision_weights_are_unbiased(plain):
    # The behaviour earns something else, which plain means of the returns would give
    assert abs(total_value(LOGGED, START, N_STEPS, GAMMA) - EXACT) > 10.0 * plain.std() / np.sqrt(N_SETS)
    assert is_unbiased(plain)


def test_doubly_robust_estimates_are_unbiased_with_a_wrong_q(plain):
    wrong = np.random.default_rng(1).normal(size=(N_STEPS, N_STATES, 2))
    own = ASKED * wrong[..., 1] + (1 - ASKED) * wrong[..., 0]
    assert is_unbiased(over_data_sets(robust(wrong, own)))


def test_doubly_robust_estimates_vary_less_with_the_right_q(plain):
    values = over_data_sets(robust(*exact_q()))
    assert is_unbiased(values)
    assert values.std() < 0.6 * plain.std()


def test_weighted_estimates_are_consistent_and_vary_less(plain):
    few = over_data_sets(lambda weights, rewards, *_: weighted_per_decision(weights, rewards).value)
    assert few.std() < plain.std()
    weights, rewards, *_ = logged(200_000, 0)
    found = weighted_per_decision(weights, rewards)
    assert abs(found.value - EXACT) < 3.0 * found.error < 0.02


def test_a_standard_error_is_the_spread_over_data_sets():
    values, errors = np.array([weighted_per_decision(*logged(100, seed)[:2]) for seed in range(300)]).T
    assert errors.mean() == pytest.approx(values.std(), rel=0.15)


def test_effective_sizes():
    discounts = np.ones((8, 3))
    assert Weights(np.full((8, 3), 5.0), discounts).effective_size == pytest.approx(8.0)
    one_rules = np.full((8, 3), 1e-9)
    one_rules[3] = 1.0
    assert Weights(one_rules, discounts).effective_size == pytest.approx(1.0)
    assert Weights(np.zeros((8, 3)), discounts).effective_size == 0.0


def test_a_cut_episode_ends_with_the_value_of_what_it_led_to():
    # Two steps, then five more units; nothing is weighed
    weights = Weights(np.ones((4, 3)), np.array([[1.0, 0.5, 0.0]] * 4))
    rewards = np.array([[1.0, 2.0, 0.0]] * 4)
    zeros = np.zeros_like(rewards)
    assert doubly_robust(weights, rewards, zeros, zeros, np.full(4, 5.0), False).value == pytest.approx(1.0 + 1.0 + 2.5)
