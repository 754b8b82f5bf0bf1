"""
Evaluations on real data, as a user makes them: what they say, what they withhold, and who judges.
"""

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_genpolicy import BC, FittedQOptions, HeldOutEpisodes, choose_policy, evaluate_offline, load_dataset
from sb3_genpolicy.evaluation import evaluate as evaluating
from sb3_genpolicy.evaluation.acting import Acting
from sb3_genpolicy.evaluation.caution import Caution
from sb3_genpolicy.evaluation.choose import rank
from sb3_genpolicy.evaluation.evaluate import ask_about
from sb3_genpolicy.evaluation.fitted_q import Learner
from sb3_genpolicy.evaluation.judges import judging_episodes, opened
from sb3_genpolicy.evaluation.question import find_horizon
from sb3_genpolicy.evaluation.support import fit_behaviour
from sb3_genpolicy.evaluation.verdict import Verdict
from sb3_genpolicy.evaluation.weighing import Densities, log_ratios

PENDULUM = "pendulum-mixed"
# Where its numbers do not matter
ROUGH = FittedQOptions(n_members=2, net_arch=(16,), steps=40, first_steps=40)
QUICK = FittedQOptions(n_members=3, net_arch=(32, 32), steps=300, first_steps=300, tau=0.05)


class Pushed(BasePolicy):
    """Of a clone's actions, those half the range further on: nobody acted so."""

    def __init__(self, clone, push):
        super().__init__(clone.observation_space, clone.action_space)
        self.clone, self.push = clone, push

    def _predict(self, observation, deterministic=False):
        return th.as_tensor(self.clone.predict(observation.numpy())[0] + self.push)


class OfTwo(BasePolicy):
    """The larger or the smaller of two actions of a clone, each of which is as it acts."""

    def __init__(self, clone, of_two):
        super().__init__(clone.observation_space, clone.action_space)
        self.clone, self.of_two = clone, of_two

    def _predict(self, observation, deterministic=False):
        return th.as_tensor(self.of_two(*(self.clone.predict(observation.numpy())[0] for _ in range(2))))


@pytest.fixture(scope="module")
def narrow():
    """Pendulum's data with actions that all lie in the middle third, and rewards that grow towards the right end."""
    data = load_dataset(PENDULUM).select_episodes(np.arange(24))
    actions = (data.actions / 3.0).astype(np.float32)
    fields = {key: np.asarray(data[key]) for key in ("observations", "next_observations", "terminals", "timeouts")}
    rewards = (data.rewards + 5.0 * actions[:, 0]).astype(np.float32)
    spaces_of = dict(observation_space=data.observation_space, action_space=data.action_space)
    return {**fields, "actions": actions, "rewards": rewards, **spaces_of}


@pytest.fixture(scope="module")
def clone(narrow):
    data = load_dataset(narrow)
    return fit_behaviour(data, data.observation_space, 300, 0, progress_bar=False)


def test_a_planted_catastrophe_is_never_called_better(narrow, clone):
    pushed = Pushed(clone, 1.2)
    found = evaluate_offline(pushed, narrow, behaviour=clone, options=QUICK)
    assert found.support.outside > 0.8
    assert found.verdict.word == "cannot be told"
    assert "hardly any were logged" in str(found.verdict)
    # What the networks believe by themselves would have been a recommendation
    assert found.estimate(of="difference").value > 100.0


def test_the_behaviours_clone_is_as_good_as_the_behaviour(narrow, clone):
    found = evaluate_offline(clone, narrow, behaviour=clone, options=QUICK)
    assert found.support.outside < 0.1 and abs(found.support.kl) < 1e-6
    difference, own = found.estimate(of="difference"), found.estimate(of="behaviour", method="logged returns")
    assert difference.low < 0.0 < difference.high and abs(difference.value) < 0.25 * abs(own.value)
    # Every step may be weighed with 1
    assert found.estimate(method="weighted importance").withheld.startswith("24 of 24")


def test_ranking(narrow, clone):
    left, right = OfTwo(clone, np.minimum), OfTwo(clone, np.maximum)
    choice = choose_policy(
        {"left": left, "beyond": Pushed(clone, 1.2), "right": right}, narrow, behaviour=clone, options=QUICK
    )
    assert list(choice.evaluations) == ["right", "left", "beyond"]
    assert choice.best == "right" and choice.probabilities["right"] > 0.7 and choice.probabilities["beyond"] == 0.0
    frame = choice.to_frame()
    assert list(frame["policy"]) == ["right", "left", "beyond"] and frame["verdict"].iloc[-1] == "cannot be told"
    assert "Best: right" in str(choice)


def test_what_caution_costs_counts_below_and_in_the_order(narrow, clone, monkeypatch):
    options = dict(behaviour=clone, options=FittedQOptions(n_members=2, net_arch=(16,), steps=40, first_steps=30))
    found = []
    for cost in (Caution(0.0, 0.0), Caution(0.4, 900.0), Caution(0.6, 900.0)):
        monkeypatch.setattr(evaluating, "caution", lambda *_, cost=cost: cost)
        found.append(evaluate_offline(clone, narrow, **options))
    plain, careful, beyond = found
    for kind in ("discounted", "undiscounted"):
        for of, method, shift in (("policy", "fitted Q", 900.0), ("behaviour", "logged returns", 0.0)):
            one, other = (each.estimate(kind, of, method) for each in (plain, careful))
            if one.low is not None:
                assert (one.value, one.high) == (other.value, other.high) and one.low - other.low == pytest.approx(shift)
    assert plain.cautious_value - careful.cautious_value == pytest.approx(900.0)
    assert beyond.verdict.word == "cannot be told" and "60% of its value" in str(beyond.verdict)
    assert "60% of its value" not in str(careful.verdict)
    sure = [dataclasses.replace(each, verdict=Verdict("not distinguishable", ())) for each in (careful, plain)]
    choice = rank(dict(zip(("careful", "plain"), sure, strict=True)))
    assert list(choice.evaluations) == ["plain", "careful"] and choice.probabilities["plain"] > 0.9


def test_what_all_begin_with_is_learnt_once_and_changes_nothing(narrow, clone, monkeypatch):
    begun, learn = [], Learner._learn_behaviour
    monkeypatch.setattr(Learner, "_learn_behaviour", lambda *args: begun.append(1) or learn(*args))
    options = dict(behaviour=clone, options=FittedQOptions(n_members=2, net_arch=(16,), steps=40, first_steps=30))
    policies = {"left": OfTwo(clone, np.minimum), "right": OfTwo(clone, np.maximum)}
    choice = choose_policy(policies, narrow, **options)
    assert len(begun) == 1
    for name, policy in policies.items():
        alone = evaluate_offline(policy, narrow, **options)
        assert [line[:6] for line in alone.estimates] == [line[:6] for line in choice.evaluations[name].estimates]
    assert len(begun) == 3


def test_who_was_held_out_judges_and_no_one_else():
    model = BC("FlowPolicy", dataset=PENDULUM, transforms=[HeldOutEpisodes(share=0.25, seed=3)], seed=0)
    model.learn(2, log_interval=None)
    data = load_dataset(PENDULUM)
    episodes = judging_episodes([model], data)
    assert len(episodes) == 60
    question, rows = ask_about([model], data, None, 200_000, 0)
    assert question.data.n_episodes == 60 and len(rows) == 60 * 200
    np.testing.assert_array_equal(question.data.rewards, data.rewards[rows])


def test_judges_that_trained_the_policy_are_named():
    model = BC("FlowPolicy", dataset=PENDULUM, seed=0).learn(2, log_interval=None)
    with pytest.warns(UserWarning, match="trained on all episodes of Dataset 'pendulum-mixed' that are to judge"):
        assert len(judging_episodes([model], load_dataset(PENDULUM))) == 240
    # Of other data there is nothing to say
    other = load_dataset(PENDULUM).select_episodes(np.arange(10))
    assert len(judging_episodes([model], other)) == 10


def test_time_limits():
    data = load_dataset(PENDULUM)
    assert find_horizon(data).steps == 200
    rows = np.concatenate([np.arange(130), np.arange(200, 400), np.arange(400, 480)])
    at_any_time = find_horizon(data.select_rows(rows))
    assert at_any_time.steps is None and "cut off after 80 to 200 steps" in at_any_time.why
    # Recordings end within an episode
    whole, two = np.arange(800), (np.arange(800, 890), np.arange(1000, 1070))
    interrupted = find_horizon(data.select_rows(np.concatenate([whole, *two])))
    assert interrupted.steps == 200 and "2 of them by something else before" in interrupted.why
    # As many that ended at another step are another limit
    three = [np.arange(start, start + 90) for start in (800, 1000, 1200)]
    assert find_horizon(data.select_rows(np.concatenate([whole[:600], *three]))).steps is None


def test_the_undiscounted_value_is_withheld_without_a_time_limit(narrow, clone):
    lengths = [200, 130] * 12
    rows = np.concatenate([np.arange(number * 200, number * 200 + length) for number, length in enumerate(lengths)])
    data = load_dataset(narrow).select_rows(rows)
    found = evaluate_offline(clone, data, behaviour=clone, options=ROUGH, deterministic=True)
    line = found.estimate("undiscounted")
    assert line.value is None and "there is no one time limit" in line.withheld
    assert "withheld" in str(found) and found.to_frame().shape[0] == len(found.estimates)
    assert "without random numbers" in found.estimate(method="doubly robust").withheld


def test_files_and_pictures(narrow, clone, tmp_path):
    clone.save(tmp_path / "clone.zip")
    again = opened(tmp_path / "clone.zip")
    assert type(again) is BC
    state = th.random.get_rng_state()
    found = evaluate_offline(str(tmp_path / "clone.zip"), narrow, behaviour=clone, options=ROUGH, deterministic=True)
    assert th.equal(state, th.random.get_rng_state())
    same = evaluate_offline(clone, narrow, behaviour=clone, options=ROUGH, deterministic=True)
    assert found.estimate().value == pytest.approx(same.estimate().value, rel=1e-4)
    assert found.picture(tmp_path / "found.png").stat().st_size > 10_000


def test_dictionaries_and_images():
    random = np.random.default_rng(0)
    space = spaces.Dict(image=spaces.Box(0, 255, (3, 36, 36), np.uint8), place=spaces.Box(-np.inf, np.inf, (2,), np.float32))
    n = 12 * 5
    seen = dict(image=random.integers(0, 255, (n, 3, 36, 36)).astype(np.uint8), place=random.normal(size=(n, 2)))
    ends = np.tile([0.0, 0.0, 0.0, 0.0, 1.0], 12)
    arrays = dict(
        observations=seen,
        actions=random.uniform(-1, 1, (n, 2)),
        rewards=seen["place"][:, 0],
        terminals=0.0 * ends,
        timeouts=ends,
        next_observations={key: np.roll(value, -1, axis=0) for key, value in seen.items()},
        observation_space=space,
        action_space=spaces.Box(-1.0, 1.0, (2,), np.float32),
    )
    model = BC("FlowMultiInputPolicy", dataset=arrays, seed=0, batch_size=8, transforms=[HeldOutEpisodes(share=0.5)])
    model.learn(2, log_interval=None)
    options = FittedQOptions(n_members=2, net_arch=(16,), steps=4, first_steps=4, batch_size=8)
    found = evaluate_offline(model, arrays, options=options, behaviour_steps=4, n_actions=2)
    assert found.n_episodes == 6 and np.isfinite(found.estimate().value)
    assert "6 episodes are fewer than 10" in str(found.verdict)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(gamma=1.0), "gamma"),
        (dict(n_actions=0), "n_actions"),
        (dict(level=1.5), "level"),
        (dict(behaviour_log_probs=np.zeros(3)), "3"),
    ],
)
def test_options_are_checked(narrow, clone, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate_offline(clone, narrow, behaviour=clone, options=QUICK, **options)


def test_what_is_no_model_is_refused(narrow):
    with pytest.raises(TypeError, match="has to be a model, a policy or the file of a model, not 3"):
        evaluate_offline(3, narrow)
    with pytest.raises(TypeError, match="has no option 'dataste'"):
        evaluate_offline(3, dataste=narrow)


def test_observations_that_are_one_number_each():
    rng = np.random.default_rng(0)
    seen, timeouts = rng.integers(0, 5, 240), np.zeros(240, np.float32)
    timeouts[19::20] = 1.0
    columns = dict(
        observations=seen,
        next_observations=np.roll(seen, -1),
        actions=rng.uniform(-1.0, 1.0, (240, 1)).astype(np.float32),
        rewards=np.ones(240, np.float32),
        terminals=np.zeros(240, np.float32),
        timeouts=timeouts,
        observation_space=spaces.Discrete(5),
    )
    clone = BC("MlpPolicy", None, dataset=columns, policy_kwargs=dict(net_arch=[16]), seed=0, device="cpu").learn(20)
    quick = FittedQOptions(n_members=2, net_arch=(16,), steps=40, first_steps=40)
    found = evaluate_offline(clone, columns, behaviour=clone, options=quick, n_resamples=100)
    # Every step earns 1, whatever is done
    assert found.estimate(of="behaviour", method="logged returns").value == pytest.approx(100.0, abs=0.5)


def test_densities_are_of_what_a_policy_sees_behind_vec_normalize():
    data = load_dataset(PENDULUM).select_episodes(np.arange(4))
    env = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]), norm_reward=False)
    options = dict(policy_kwargs=dict(net_arch=[16], normalize_observations=False), seed=0, device="cpu")
    model = BC("FlowPolicy", env, dataset=data, **options).learn(20)
    question, _ = ask_about([model], data, 0.99, 1000, 0)
    rows = np.arange(0, 200, 7)
    of_actions = Densities(None, np.zeros(question.data.n_rows))
    found = log_ratios(question, Acting(model), of_actions, rows)
    observations = (question.data.observations[rows] - env.obs_rms.mean) / np.sqrt(env.obs_rms.var + env.epsilon)
    actions = th.as_tensor(question.data.actions[rows])
    with th.no_grad():
        expected = model.policy.log_prob(th.as_tensor(observations, dtype=th.float32), actions)
    np.testing.assert_allclose(found, expected, atol=5e-3)
    # Which is something else than of observations as they come
    with th.no_grad():
        raw = model.policy.log_prob(th.as_tensor(question.data.observations[rows]), actions)
    assert np.abs(found - raw.numpy()).max() > 0.1
