"""
IDQL: a clone and critics that are trained apart, and how one of several actions is chosen.
"""

import numpy as np
import pytest
import torch as th
from scipy import stats

from sb3_genpolicy import GMPO, IDQL, IQLCritic
from sb3_genpolicy.common.policies.candidates import draw_by_expectile
from sb3_genpolicy.common.policies.critics import CriticEnsemble
from tests.helpers.arrays import SMALL, make_arrays


def options(**others):
    return dict(dict(policy_kwargs=dict(SMALL, sampling_steps=2), seed=0, batch_size=8, dataset=make_arrays()), **others)


def test_training_is_gmpo_s_at_beta_zero():
    ours = IDQL("FlowPolicy", **options()).learn(5)
    weighted = GMPO("FlowPolicy", beta=0.0, critic="iql", **options()).learn(5)
    for mine, expected in zip(ours.policy.parameters(), weighted.policy.parameters(), strict=True):
        th.testing.assert_close(mine, expected)


@pytest.mark.parametrize("critic", ["iql", "onestep"])
def test_takes_what_was_trained_before(critic, tmp_path):
    trained = GMPO("FlowPolicy", beta=0.0, critic=critic, **options()).learn(5)
    trained.save(tmp_path / "trained")
    chooses = GMPO.load(tmp_path / "trained")
    chooses.policy.n_candidates, chooses.policy.candidate_temperature = 8, 0.0
    model = IDQL("FlowPolicy", pretrained=tmp_path / "trained", n_candidates=8, seed=0)
    assert model.critic_options == trained.critic_options
    observations = make_arrays()["observations"][:5]
    for deterministic in (True, False):
        expected, actions = (
            each.predict(observations, deterministic=deterministic)[0] for each in (chooses, model) if th.manual_seed(3)
        )
        np.testing.assert_array_equal(actions, expected)
    # It goes on cloning, as GMPO without weights does, and the critics stay
    model, weighted = (
        algorithm("FlowPolicy", pretrained=trained, **given, **options())
        for algorithm, given in ((IDQL, {}), (GMPO, dict(beta=0.0, pretraining_steps=0)))
    )
    model.learn(4), weighted.learn(4)
    for mine, expected in zip(model.policy.parameters(), weighted.policy.parameters(), strict=True):
        th.testing.assert_close(mine, expected)
    for mine, before in zip(model.policy.critic.parameters(), trained.policy.critic.parameters(), strict=True):
        th.testing.assert_close(mine, before, rtol=0.0, atol=0.0)
    assert not th.equal(next(model.actor.parameters()), next(trained.actor.parameters()))
    model.save(tmp_path / "gone_on")
    loaded = IDQL.load(tmp_path / "gone_on", dataset=make_arrays()).learn(2)
    for mine, before in zip(loaded.policy.critic.parameters(), trained.policy.critic.parameters(), strict=True):
        th.testing.assert_close(mine, before, rtol=0.0, atol=0.0)


def test_a_name_of_critics_is_checked_against_what_was_trained():
    trained = GMPO("FlowPolicy", beta=0.0, critic="onestep", **options()).learn(2)
    with pytest.raises(ValueError, match="choice='expectile' weighs by an expectile"):
        IDQL("FlowPolicy", pretrained=trained, choice="expectile")


class Line(CriticEnsemble):
    """Q is the first entry of the action, in every state."""

    def __init__(self):
        th.nn.Module.__init__(self)
        self.options = IQLCritic()

    def features_of(self, obs):
        return obs

    def preferences_of_members(self, features, actions, usual=None):
        return actions[None, :, :1]


@pytest.mark.parametrize("expectile", [0.3, 0.7, 0.9])
def test_v_is_the_mean_of_q_over_what_is_drawn(expectile):
    """What defines the weights: the expectile, here scipy's, is the mean of the policy that they make."""
    rng = np.random.default_rng(0)
    q_values = rng.normal(size=6)
    v = float(stats.expectile(q_values, expectile))
    candidates = th.tensor(q_values, dtype=th.float32)[None, :, None].expand(40_000, -1, -1)
    observations = th.zeros(40_000, 1)
    th.manual_seed(0)
    uniform = th.rand(40_000, 6)
    drawn = draw_by_expectile(Line(), lambda obs: th.full((len(obs), 1), v), observations, candidates, expectile, uniform)
    assert drawn.mean().item() == pytest.approx(v, abs=0.02)
    share_above = (drawn > v).float().mean().item()
    above, below = (q_values > v).sum() * expectile, (q_values < v).sum() * (1.0 - expectile)
    assert share_above == pytest.approx(above / (above + below), abs=0.01)


@pytest.mark.parametrize(
    ("choice", "temperature", "expectile"), [("best", 0.0, None), ("softmax", 0.5, None), ("expectile", 0.0, 0.8)]
)
def test_the_policy_chooses_as_it_is_told(choice, temperature, expectile):
    model = IDQL("FlowPolicy", choice=choice, temperature=0.5, n_candidates=5, expectile=0.8, **options())
    policy = model.policy
    assert (policy.n_candidates, policy.candidate_temperature, policy.candidate_expectile) == (5, temperature, expectile)
    model.learn(2)
    action, _ = model.predict(make_arrays()["observations"][0])
    assert model.action_space.contains(action)


def test_predictions_take_the_best_candidate():
    model = IDQL("FlowPolicy", n_candidates=16, **options()).learn(5)
    observations = make_arrays()["observations"]
    chosen, _ = model.predict(observations, deterministic=True)
    policy = model.policy
    noise = policy.candidate_noise(16)
    with th.no_grad():
        obs = th.as_tensor(observations)
        features = policy.actor_ema.extract_features(obs, policy.actor_ema.features_extractor)
        for row, action in enumerate(chosen):
            drawn = policy.actor_ema.sample(features[row].expand(16, -1), noise, True)
            q_values = policy.critic(obs[row].expand(16, -1), drawn)
            best = th.minimum(*q_values)[:, 0].argmax()
            np.testing.assert_allclose(policy.action_range.unscale(drawn[best][None])[0], action, atol=1e-5)


def test_files_keep_the_choice_and_load_may_change_it(tmp_path):
    model = IDQL("FlowPolicy", choice="expectile", n_candidates=4, **options()).learn(4)
    model.save(tmp_path / "model")
    loaded = IDQL.load(tmp_path / "model")
    assert (loaded.policy.n_candidates, loaded.policy.candidate_expectile) == (4, 0.7)
    changed = IDQL.load(tmp_path / "model", choice="softmax", temperature=0.3, n_candidates=6)
    policy = changed.policy
    assert (policy.n_candidates, policy.candidate_temperature, policy.candidate_expectile) == (6, 0.3, None)
    assert IDQL.load(tmp_path / "model", expectile=0.9).policy.candidate_expectile == 0.9
    for goes_on in (model, loaded):
        goes_on.learn(4, reset_num_timesteps=False, dataset=make_arrays())
    for mine, expected in zip(loaded.policy.parameters(), model.policy.parameters(), strict=True):
        assert th.equal(mine, expected)
    model.policy.save(tmp_path / "policy.pt")
    assert type(model.policy).load(tmp_path / "policy.pt").candidate_expectile == 0.7


def test_an_onnx_file_draws_by_the_expectile(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = IDQL("FlowPolicy", choice="expectile", n_candidates=4, **options()).learn(3)
    model.policy.export_onnx(tmp_path / "policy.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "policy.onnx")
    observations = make_arrays()["observations"]
    n = len(observations)
    rng = np.random.default_rng(0)
    noise, uniform = rng.normal(size=(n, 4, 2)).astype(np.float32), rng.random((n, 4), dtype=np.float32)
    (actions,) = session.run(["action"], dict(observation=observations, noise=noise, uniform=uniform))
    policy = model.policy
    with th.no_grad():
        obs = th.as_tensor(observations)
        features = policy.actor_ema.extract_features(obs, policy.actor_ema.features_extractor)
        repeated = features.repeat_interleave(4, dim=0)
        candidates = policy.actor_ema.sample(repeated, th.as_tensor(noise).flatten(0, 1)).unflatten(0, (-1, 4))
        chosen = draw_by_expectile(policy.critic, policy.value_net, obs, candidates, 0.7, th.as_tensor(uniform))
    np.testing.assert_allclose(actions, policy.action_range.unscale(chosen), atol=1e-5)


def test_it_goes_on_online():
    model = IDQL("FlowPolicy", "Pendulum-v1", n_candidates=2, **options(dataset="pendulum-mixed")).learn(3).learn_online(12)
    assert model.num_timesteps == 15 and model.replay_buffer.n_added == 12


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (dict(choice="expectil"), "choice='expectil' is unknown. Did you mean 'expectile'?"),
        (dict(temperature=0.0), "temperature must be a number > 0.0"),
        (dict(n_candidates=0), "n_candidates must be a number >= 1"),
        (dict(choice="expectile", critic="onestep"), "weighs by an expectile, and OneStepCritic"),
        (dict(policy_kwargs=dict(n_candidates=4)), "policy_kwargs has n_candidates, which IDQL's"),
        (dict(policy_kwargs=dict(candidate_expectile=0.4)), "policy_kwargs has candidate_expectile, which IDQL's"),
    ],
)
def test_mistakes_get_a_sentence(given, sentence):
    with pytest.raises(ValueError) as caught:
        IDQL("FlowPolicy", **options(**given))
    assert sentence in str(caught.value)


def test_an_expectile_draws_whatever_the_temperature():
    model = GMPO("FlowPolicy", critic="iql", **options()).learn(1)
    policy, observations = model.policy, make_arrays()["observations"]
    policy.n_candidates = 6

    def actions(temperature, expectile):
        policy.candidate_temperature, policy.candidate_expectile = temperature, expectile
        th.manual_seed(3)
        return model.predict(observations)[0]

    np.testing.assert_array_equal(actions(0.0, 0.7), actions(1.0, 0.7))
    assert (actions(1.0, 0.7) != actions(1.0, None)).any()
    assert (actions(0.0, 0.7) != actions(0.0, None)).any()
