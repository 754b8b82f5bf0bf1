"""
The critic guides the sampler: closed forms, units, and what is left alone where there is no guidance.
"""

from pathlib import Path

import numpy as np
import pytest
import torch as th

from sb3_genpolicy import GMPO, IQLCritic, OneStepCritic
from sb3_genpolicy.common.policies.candidates import choose_candidates
from sb3_genpolicy.common.policies.critics import CriticEnsemble
from sb3_genpolicy.common.policies.guidance import Spreads
from sb3_genpolicy.gmpo import FlowPolicy
from tests.helpers.arrays import SMALL, make_arrays
from tests.helpers.exact_policies import exact_policy

MEAN, STD = (0.1, -0.2), (0.1, 0.2)
ROWS = th.zeros(5, 3)


def acted(policy, noise, guidance):
    actor = policy.actor_ema
    with th.no_grad():
        features = actor.extract_features(ROWS, actor.features_extractor)
        return actor.sample(features, noise, guide=policy.guide(ROWS, guidance))


@pytest.mark.parametrize("path", ["linear", "cosine", "vp"])
def test_a_gaussian_policy_is_tilted_as_the_closed_form_says(path):
    """N(m, s^2) exp(w g a / q) is N(m + w s^2 g / q, s^2): with q the spread of g a, w standard deviations along g."""
    slopes = (2.0, -1.0)
    policy = exact_policy([MEAN], STD, path=path, slopes=(slopes, slopes), sampling_steps=24)
    std, slope = th.tensor(STD), th.tensor(slopes)
    policy.spreads.actions.copy_(std)
    policy.spreads.q.copy_((std * slope).norm())
    noise = th.randn(5, 2, generator=th.Generator().manual_seed(0))
    plain = acted(policy, noise, 0.0)
    np.testing.assert_allclose(plain, th.tensor(MEAN) + std * noise, atol=3e-3)
    shift = std.square() * slope / (std * slope).norm()
    for w in (0.5, 1.5):
        np.testing.assert_allclose(acted(policy, noise, w) - plain, (w * shift).expand(5, 2), atol=2e-3)


def test_spreads_are_those_of_the_policy_and_of_q_there():
    policy = exact_policy([MEAN], STD, slopes=((3.0, 0.0), (1.0, 0.0)))
    policy.spreads.fit(policy.actor_ema, policy.critic, th.zeros(3, 3), n_draws=4000)
    np.testing.assert_allclose(policy.spreads.actions, STD, rtol=0.05)
    # Of the mean of both critics, 2 a
    np.testing.assert_allclose(policy.spreads.q, 2.0 * STD[0], rtol=0.05)


def test_the_size_of_rewards_does_not_matter():
    noise = th.randn(5, 2, generator=th.Generator().manual_seed(0))
    seen = []
    for size in (1.0, 300.0):
        policy = exact_policy([MEAN], STD, slopes=((size, size), (size, size)))
        seen.append(acted(policy, noise, 1.0))
    np.testing.assert_allclose(*seen, atol=1e-5)
    assert (seen[0] - acted(policy, noise, 0.0)).abs().max() > 0.05


@pytest.mark.parametrize(
    "options",
    [
        OneStepCritic(net_arch=[16, 16], n_critics=3, n_quantiles=4, dropped_quantiles=1),
        OneStepCritic(net_arch=[16, 16], aggregation="lower_bound", advantage=False),
        IQLCritic(net_arch=[16, 16]),
    ],
    ids=lambda options: type(options).__name__,
)
def test_slopes_are_central_differences(options):
    kwargs = dict(SMALL, critic_activation_fn=th.nn.Tanh)
    critic = GMPO("FlowPolicy", dataset=make_arrays(), critic=options, policy_kwargs=kwargs, seed=0).policy.critic
    if options.learns_advantage:
        critic.scale.fill_(7.0)
    generator = th.Generator().manual_seed(0)
    observations, actions = th.randn(6, 3, generator=generator), th.rand(6, 2, generator=generator)
    slopes, h = critic.slopes(critic.features_of(observations), actions), 1e-2
    assert not slopes.requires_grad and all(parameter.grad is None for parameter in critic.parameters())
    with th.no_grad():
        for k in range(2):
            ends = [critic.preferences(observations, actions + sign * h * th.eye(2)[k]) for sign in (1.0, -1.0)]
            np.testing.assert_allclose(slopes[:, k], (ends[0] - ends[1])[:, 0] / (2.0 * h), rtol=2e-2, atol=5e-3)


def test_an_option_for_good_and_for_one_prediction(arrays, tmp_path, monkeypatch):
    model = GMPO("FlowPolicy", dataset=arrays, policy_kwargs=SMALL, seed=0, batch_size=8).learn(3)
    rows = arrays["observations"][:4]
    plain, _ = model.predict(rows, deterministic=True)
    guided, _ = model.predict(rows, deterministic=True, guidance=2.0)
    assert np.abs(guided - plain).max() > 1e-2 and model.policy.guidance == 0.0
    q = [model.policy.critic.preferences(th.tensor(rows), th.tensor(model.policy.scale_action(a))) for a in (plain, guided)]
    assert (q[1] > q[0]).all()
    model.policy.guidance = 2.0
    np.testing.assert_array_equal(model.predict(rows, deterministic=True)[0], guided)
    np.testing.assert_array_equal(model.predict(rows, deterministic=True, guidance=0.0)[0], plain)
    model.policy.save(tmp_path / "policy")
    loaded = FlowPolicy.load(tmp_path / "policy")
    assert loaded.guidance == 2.0 and th.equal(loaded.spreads.q, model.policy.spreads.q) and loaded.spreads.q > 0.0
    np.testing.assert_allclose(loaded.predict(rows, deterministic=True)[0], guided, atol=1e-6)
    model.save(tmp_path / "model")
    again = GMPO.load(tmp_path / "model")
    np.testing.assert_allclose(again.predict(rows, deterministic=True, guidance=2.0)[0], guided, atol=1e-6)
    # Without guidance nobody differentiates
    monkeypatch.setattr(CriticEnsemble, "slopes", None)
    np.testing.assert_array_equal(model.predict(rows, deterministic=True, guidance=0.0)[0], plain)
    with pytest.raises(ValueError, match="guidance must be a number >= 0.0, not -1.0"):
        model.predict(rows, guidance=-1.0)
    with pytest.raises(ValueError, match="guidance must be a number >= 0.0, not 'a lot'"):
        model.policy.guidance = "a lot"


@pytest.mark.parametrize("name", ["gmpo_flow", "gmpo_softmax_vp"])
def test_files_of_release_0_1_are_guided(name):
    folder = Path(__file__).parent / "files_of_0_1"
    model = GMPO.load(folder / name)
    with np.load(folder / f"{name}.npz") as file:
        rows = file["obs/observations"]
    plain, _ = model.predict(rows, deterministic=True)
    with pytest.warns(UserWarning, match="without the spread of its Q.*around the mean of the observations"):
        guided, _ = model.predict(rows, deterministic=True, guidance=1.0)
    assert np.abs(guided - plain).max() > 1e-3
    np.testing.assert_array_equal(GMPO.load(folder / name).predict(rows, deterministic=True, guidance=1.0)[0], guided)


def test_spreads_of_diverged_networks_are_refused():
    policy = exact_policy([MEAN], STD)
    policy.critic.layers[0].weight.data.fill_(float("nan"))
    before = policy.spreads.q.clone()
    with pytest.raises(ValueError, match="Q is not finite"):
        policy.fit_spreads(th.zeros(2, 3))
    assert th.equal(policy.spreads.q, before) and not th.equal(before, Spreads(2).q)


# Candidates


def test_candidates_are_drawn_in_proportion_to_the_exponential_of_the_advantage():
    policy = exact_policy([MEAN], STD, slopes=((2.0, 0.0), (2.0, 0.0)))
    candidates = th.tensor([[-0.4, 0.0], [0.0, 0.1], [0.3, 0.2], [0.4, 0.3]])
    n, temperature = 20_000, 0.5
    uniform = th.rand(n, 4, generator=th.Generator().manual_seed(0))
    with th.no_grad():
        taken = choose_candidates(policy.critic, th.zeros(n, 3), candidates.expand(n, 4, 2), temperature, uniform)
    seen = (taken[:, None] == candidates).all(dim=2).double().mean(dim=0)
    wanted = (2.0 * candidates[:, 0].double() / temperature).softmax(dim=0)
    # Pearson's chi square of three degrees of freedom: 1 in 1,000 above 16.3
    assert float((n * (seen - wanted).square() / wanted).sum()) < 16.3


def test_the_temperature_is_in_units_of_the_spread_of_q():
    """Actions are Gaussian, and so is Q, whose spread is 0.5."""
    policy = exact_policy([MEAN], STD, slopes=((5.0, 0.0), (5.0, 0.0)), n_candidates=8, candidate_temperature=0.0)
    policy.spreads.q.fill_(5.0 * STD[0])
    rows = np.zeros((4000, 3), np.float32)
    th.manual_seed(0)
    best = policy.predict(rows)[0][:, 0].mean()
    means = {}
    for temperature in (1e-3, 1.0, 1e3):
        policy.candidate_temperature = temperature
        means[temperature] = policy.predict(rows)[0][:, 0].mean()
    # The mean of the largest of 8 normal numbers is 1.424
    np.testing.assert_allclose([best, means[1e-3]], MEAN[0] + 1.424 * STD[0], atol=0.006)
    np.testing.assert_allclose(means[1e3], MEAN[0], atol=0.006)
    normal = np.random.default_rng(0).normal(size=(40_000, 8))
    weights = np.exp(normal) / np.exp(normal).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(means[1.0], MEAN[0] + STD[0] * (weights * normal).sum(axis=1).mean(), atol=0.006)


@pytest.mark.parametrize("expectile, takes_best", [(None, False), (0.7, True)])
def test_what_is_drawn_has_no_part_in_deterministic_actions(expectile, takes_best):
    """Of fixed candidates, the first of which comes from noise zero, the best has the largest first number."""
    slopes = ((5.0, 0.0), (5.0, 0.0))
    policy = exact_policy([MEAN], STD, slopes=slopes, n_candidates=8, candidate_temperature=0.0)
    policy.spreads.q.fill_(5.0 * STD[0])
    row = np.zeros((1, 3), np.float32)
    best = policy.predict(row, deterministic=True)[0][0, 0]
    assert best == pytest.approx(MEAN[0] + STD[0] * float(policy.candidate_noise(8)[:, 0].max()), abs=1e-3) and best > MEAN[0]
    policy.candidate_temperature, policy.candidate_expectile = 1e-3, expectile
    expected = best if takes_best else MEAN[0]
    assert policy.predict(row, deterministic=True)[0][0, 0] == pytest.approx(expected, abs=1e-4)


def test_spreads_are_those_of_the_networks_that_there_are(arrays, tmp_path):
    """Also in a file of the policy alone, and after more training."""
    model = GMPO("FlowPolicy", dataset=arrays, policy_kwargs=dict(net_arch=[16]), seed=0, learning_rate=1e-2).learn(20)
    model.policy.save(tmp_path / "policy")
    first = FlowPolicy.load(tmp_path / "policy").spreads.q.item()
    assert first == model.policy.known_spreads().q.item() > 0.0
    # Asked for on the way too, as by an evaluation
    model.learn(60, reset_num_timesteps=False, callback=lambda *_: model.policy.known_spreads() is not None)
    second = model.policy.known_spreads().q.item()
    assert second != pytest.approx(first, rel=0.001)
    model.save(tmp_path / "model")
    assert GMPO.load(tmp_path / "model").policy.known_spreads().q.item() == second


def test_the_spread_of_values_whose_squares_float32_does_not_hold():
    model = GMPO("FlowPolicy", None, dataset=make_arrays(), policy_kwargs=dict(net_arch=[8]), seed=0, device="cpu")
    policy, states, found = model.policy, th.rand(20, 3), []
    for scale in (1.0, 1e25):
        policy.critic.scale.fill_(scale)
        policy.fit_spreads(states)
        found.append(float(policy.spreads.q))
    assert found[0] > 0.0
    assert found[1] == pytest.approx(1e25 * found[0], rel=1e-4)
