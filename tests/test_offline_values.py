"""
Fitted Q evaluation and importance sampling beside exact values: of a finite chain, and of a linear-Gaussian system.
"""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy

from sb3_genpolicy import load_dataset
from sb3_genpolicy.evaluation import evaluate as evaluating
from sb3_genpolicy.evaluation.caution import caution
from sb3_genpolicy.evaluation.evaluate import evaluate_offline
from sb3_genpolicy.evaluation.fitted_q import FittedQ, FittedQOptions
from sb3_genpolicy.evaluation.judges import found_log_probs
from sb3_genpolicy.evaluation.question import DISCOUNTED, TOTAL, Question, find_horizon
from sb3_genpolicy.evaluation.values import episode_values
from sb3_genpolicy.evaluation.verdict import Guards
from tests.helpers.chain import REWARDS, ChainPolicy, discounted_value, log_chain, moves, total_value

GAMMA, N_STEPS = 0.8, 12
LOGGED, ASKED = np.full(5, 0.5), np.array([0.7, 0.7, 0.6, 0.6, 0.5])
START = np.array([0.5, 0.5, 0.0, 0.0, 0.0])
QUICK = FittedQOptions(net_arch=(32,), steps=600, first_steps=200, batch_size=128, learning_rate=3e-3, tau=0.05)


@pytest.fixture(scope="module", params=[False, True], ids=["time limit", "terminal"])
def on_chain(request):
    arrays, log_probs = log_chain(LOGGED, START, 150, N_STEPS, 0, request.param)
    found = evaluate_offline(
        ChainPolicy(ASKED),
        arrays,
        gamma=GAMMA,
        behaviour=ChainPolicy(LOGGED),
        behaviour_log_probs=log_probs,
        options=QUICK,
        level=0.95,
    )
    return found, request.param


@pytest.mark.parametrize("method", ["fitted Q", "fitted Q, initial states", "weighted importance", "doubly robust"])
def test_every_estimate_of_a_chain_has_its_exact_value_in_its_interval(on_chain, method):
    found, terminal = on_chain
    exact = {
        "discounted": discounted_value(ASKED, START, GAMMA, terminal),
        "undiscounted": total_value(ASKED, START, N_STEPS, terminal=terminal),
    }
    for kind, value in exact.items():
        estimate = found.estimate(kind, "policy", method)
        assert estimate.low < value < estimate.high, kind
        # No interval so wide that it says nothing: the behaviour is further off
        assert estimate.high - estimate.low < 0.35 * value


def test_the_behaviours_own_value_and_the_difference(on_chain):
    found, terminal = on_chain
    own = discounted_value(LOGGED, START, GAMMA, terminal)
    behaviour = found.estimate("discounted", "behaviour", "logged returns")
    assert behaviour.low < own < behaviour.high
    difference = found.estimate("discounted", "difference")
    assert 0.0 < difference.low < discounted_value(ASKED, START, GAMMA, terminal) - own < difference.high
    assert found.verdict.word == "better"


def test_totals_of_interrupted_episodes_go_on_to_the_time_limit():
    """Every third recording ends somewhere within its last episode; what was logged alone would be a sixth too little."""
    arrays, _ = log_chain(LOGGED, START, 240, N_STEPS, 3)
    random = np.random.default_rng(0)
    lengths = np.where(np.arange(240) % 3 == 0, random.integers(1, N_STEPS, 240), N_STEPS)
    kept = np.concatenate([np.arange(number * N_STEPS, number * N_STEPS + length) for number, length in enumerate(lengths)])
    data = load_dataset(arrays).select_rows(kept)
    found = evaluate_offline(ChainPolicy(ASKED), data, gamma=GAMMA, behaviour=ChainPolicy(LOGGED), options=QUICK, level=0.95)
    policy, behaviour = found.estimate("undiscounted"), found.estimate("undiscounted", "behaviour", "logged returns")
    own = total_value(LOGGED, START, N_STEPS)
    assert behaviour.low < own < behaviour.high
    assert data.rewards.sum() / 240 < behaviour.low
    assert policy.low < total_value(ASKED, START, N_STEPS) < policy.high
    assert policy.high - policy.low < 0.35 * own


@pytest.mark.parametrize("kind, gamma, steps", [(DISCOUNTED, 0.9, 400), (TOTAL, 0.9, 7)])
@pytest.mark.parametrize("worst", [0.0, -2.0])
def test_caution_is_what_is_lost_by_whoever_leaves_the_data(kind, gamma, steps, worst):
    """
    Every step earns 1; with a probability of a twentieth a step is the last one that does, and those after it earn nothing,
    where logged episodes end, or what a tenth of the logged steps earned.
    """
    n = 3 * steps
    ends = np.tile(np.arange(steps) == steps - 1, 3).astype(np.float32)
    flags = dict(terminals=ends, timeouts=0 * ends) if worst == 0.0 else dict(terminals=0 * ends, timeouts=ends)
    rewards = np.where((np.arange(n) % 10 == 0) & (worst < 0.0), worst, 1.0)
    zeros = np.zeros((n, 1))
    data = load_dataset(dict(observations=zeros, next_observations=zeros, actions=zeros, rewards=rewards, **flags))
    question = Question(data, gamma, find_horizon(data))
    factor = gamma if kind == DISCOUNTED else 1.0
    value, left = ((rate ** np.arange(steps)).sum() for rate in (factor, factor * 0.95))
    left += worst * (value - left)
    assert caution(question, 0.05, kind, value).shortfall == pytest.approx(value - left, rel=1e-6)
    assert caution(question, 0.0, kind, value).shortfall == 0.0


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("beyond", [1e6, -1e6])
def test_no_estimate_is_beyond_what_rewards_allow(terminal, beyond, monkeypatch):
    """The chain's rewards are 0 to 1 here; networks that have lost themselves say a million more, or less."""
    arrays, _ = log_chain(LOGGED, START, 30, N_STEPS, 0, terminal)
    arrays["rewards"] = np.resize(np.array([0.5, 1.0], np.float32), len(arrays["rewards"]))
    lost = evaluating.episode_values
    monkeypatch.setattr(
        evaluating,
        "episode_values",
        lambda *asked: (own := lost(*asked))._replace(difference=own.difference + beyond, initial=own.initial + beyond),
    )
    options = FittedQOptions(net_arch=(8,), steps=20, first_steps=20, batch_size=32)
    lenient = Guards(largest_error=1e9, largest_drift=1e9)
    found = evaluate_offline(
        ChainPolicy(ASKED), arrays, gamma=GAMMA, behaviour=ChainPolicy(LOGGED), options=options, guards=lenient
    )
    least = 0.0 if terminal else 0.5
    for kind, steps in (("discounted", 1.0 / (1.0 - GAMMA)), ("undiscounted", N_STEPS)):
        end = steps if beyond > 0.0 else least * steps
        for method in ("fitted Q", "fitted Q, initial states"):
            assert found.estimate(kind, "policy", method)[3:6] == pytest.approx((end, end, end))
        own, difference = found.estimate(kind, "behaviour", "logged returns"), found.estimate(kind, "difference")
        assert own.low < own.value < own.high < steps
        assert difference.high == pytest.approx(end - (own.low if beyond > 0.0 else own.high))


class LinearGaussian(BasePolicy):
    """``a = gain * s`` and noise of a standard deviation of its own."""

    def __init__(self, gain, deviation=0.4):
        super().__init__(spaces.Box(-20.0, 20.0, (1,), np.float32), spaces.Box(-10.0, 10.0, (1,), np.float32))
        self.gain, self.deviation = gain, deviation

    def _predict(self, observation, deterministic=False):
        return self.gain * observation + self.deviation * th.randn_like(observation)

    def log_prob(self, observations, actions):
        return th.distributions.Normal(self.gain * observations, self.deviation).log_prob(actions)[:, 0]

    def value(self, variance, gamma):
        """Of ``s' = 0.9 s + 0.5 a + 0.2 noise`` and ``r = -s^2 - 0.1 a^2``, the mean of s zero: V is quadratic."""
        square = (1.0 + 0.1 * self.gain**2) / (1.0 - gamma * (0.9 + 0.5 * self.gain) ** 2)
        noise = self.deviation**2
        constant = (0.1 * noise + gamma * square * (0.25 * noise + 0.04)) / (1.0 - gamma)
        return -(square * variance + constant)


def log_linear(policy, n_episodes, n_steps, seed):
    random = np.random.default_rng(seed)
    state = random.normal(size=n_episodes)
    steps = []
    for _ in range(n_steps):
        action = policy.gain * state + policy.deviation * random.normal(size=n_episodes)
        following = 0.9 * state + 0.5 * action + 0.2 * random.normal(size=n_episodes)
        steps.append((state, action, -(state**2) - 0.1 * action**2, following))
        state = following
    states, actions, rewards, following = (np.stack(each, axis=1).astype(np.float32) for each in zip(*steps, strict=True))
    cut = np.zeros_like(states)
    cut[:, -1] = 1.0
    arrays = dict(observations=states.reshape(-1, 1), actions=actions.reshape(-1, 1), rewards=rewards.ravel())
    arrays.update(next_observations=following.reshape(-1, 1), terminals=0.0 * cut.ravel(), timeouts=cut.ravel())
    return {**arrays, "observation_space": policy.observation_space, "action_space": policy.action_space}


def test_a_linear_gaussian_system():
    logged, asked, gamma = LinearGaussian(-0.6), LinearGaussian(-0.7), 0.8
    options = FittedQOptions(net_arch=(64,), steps=1000, first_steps=300, batch_size=256, learning_rate=3e-3, tau=0.05)
    data = log_linear(logged, 300, 10, 0)
    found = evaluate_offline(asked, data, gamma=gamma, behaviour=logged, options=options, level=0.95)
    # Of the beginnings that were drawn
    variance = float(np.square(data["observations"][::10]).mean())
    for method in ("fitted Q", "fitted Q, initial states", "weighted importance", "doubly robust"):
        line = found.estimate(method=method)
        assert line.low < asked.value(variance, gamma) < line.high, method
    difference = found.estimate(of="difference")
    assert difference.low < asked.value(variance, gamma) - logged.value(variance, gamma) < difference.high


def test_logged_densities_are_found_in_a_file(tmp_path):
    arrays, log_probs = log_chain(LOGGED, START, 30, 3, 1)
    both = {name: value for name, value in arrays.items() if isinstance(value, np.ndarray)}
    np.savez(tmp_path / "own.npz", **both, action_log_probs=log_probs)
    np.testing.assert_allclose(found_log_probs(tmp_path / "own.npz", 90), log_probs)
    np.testing.assert_allclose(found_log_probs({**arrays, "action_log_probs": log_probs[:, None]}, 90), log_probs)
    assert found_log_probs(arrays, 90) is None
    with pytest.warns(UserWarning, match="not one for each of the 91 rows"):
        assert found_log_probs(tmp_path / "own.npz", 91) is None


def test_with_the_right_q_values_are_right_however_early_episodes_are_cut_off():
    arrays, _ = log_chain(LOGGED, START, 4000, 2, 5)
    data = load_dataset(arrays)
    question = Question(data, GAMMA, find_horizon(data))

    def exact_q(rights):
        v = np.array([discounted_value(rights, one, GAMMA) for one in np.eye(5)])
        return v, np.stack([moves(np.full(5, side)) @ (REWARDS + GAMMA * v) for side in (0.0, 1.0)], axis=1)

    states, is_right = np.asarray(data.states).argmax(axis=1), (np.asarray(data.actions)[:, 0] > 0.0).astype(int)
    (v, q), (_, own_q) = exact_q(ASKED), exact_q(LOGGED)
    taken = states[: data.n_rows], is_right
    last = question.last_rows
    fitted = FittedQ(q[taken][None, None], v[states][None, None], own_q[taken][last][None, None], [], np.zeros(4000, bool), "")
    values = episode_values(question, fitted, DISCOUNTED)
    for found, rights in ((values.policy, ASKED), (values.behaviour, LOGGED), (values.initial, ASKED)):
        assert abs(found.mean() - discounted_value(rights, START, GAMMA)) < 3.0 * found.std() / np.sqrt(4000)
