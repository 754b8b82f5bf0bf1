"""
How a policy acts: samplers by name and at predict time, and the probability of its actions in the environment's units.
"""

import functools
import threading

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from torch import nn

from sb3_genpolicy import GMPO
from sb3_genpolicy.generative import (
    SOLVERS,
    ConditionalMLP,
    GaussianFourierTimeFeatures,
    Likelihood,
    LinearPath,
    OptimalTransportCoupling,
    Sampler,
    UShapedMLP,
)
from tests.helpers.arrays import BEST, SMALL
from tests.helpers.closed_forms import central_difference
from tests.helpers.models import bimodal_arrays, train_bimodal

ROWS = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)


def trained(arrays, policy="FlowPolicy", **policy_kwargs):
    return GMPO(policy, dataset=arrays, policy_kwargs={**SMALL, **BEST, **policy_kwargs}, seed=0, batch_size=16).learn(5)


@pytest.mark.parametrize("policy", ["FlowPolicy", "DiffusionPolicy"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_acts_by_its_name(arrays, policy, solver):
    model = trained(arrays, policy, solver=solver, sampling_steps=4)
    assert model.policy.sampler == model.policy.actor.sampler == Sampler(solver, 4)
    first, second = (model.predict(ROWS, deterministic=True)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    # An observation gets the same action alone and among others, unless steps adapt to what else is in the batch
    if solver != "dopri5":
        np.testing.assert_allclose(model.predict(ROWS[2], deterministic=True)[0], first[2], atol=1e-5)
    assert (model.predict(ROWS)[0] != model.predict(ROWS)[0]).any()


def test_the_sampler_can_be_changed_for_one_prediction_or_for_good(arrays):
    model = trained(arrays)
    usual, before = model.predict(ROWS, deterministic=True)[0], model.policy.sampler
    fine = model.predict(ROWS, deterministic=True, solver="rk4", sampling_steps=50)[0]
    assert model.policy.sampler == before and (fine != usual).any()
    np.testing.assert_array_equal(model.predict(ROWS, deterministic=True)[0], usual)
    np.testing.assert_array_equal(model.policy.predict(ROWS, deterministic=True, solver=Sampler("rk4", 50))[0], fine)
    model.policy.set_sampler("rk4", 50)
    np.testing.assert_array_equal(model.predict(ROWS, deterministic=True)[0], fine)
    model.policy.set_sampler(time_grid="angle")
    assert model.policy.sampler == Sampler("rk4", 50, "angle") == model.policy.actor.sampler
    with pytest.raises(ValueError, match="sampling_steps must be a number >= 1, not 0"):
        model.predict(ROWS, sampling_steps=0)
    with pytest.raises(ValueError, match="Did you mean 'rk4'"):
        model.policy.set_sampler("rk44")


@pytest.mark.parametrize(
    ("policy", "options"),
    [
        ("FlowPolicy", dict(network="unet", net_arch=dict(pi=[16, 8]), time_features="gaussian_fourier", prediction="data")),
        ("FlowPolicy", dict(path=LinearPath(extra_noise=0.1), coupling="optimal_transport", time_grid="angle")),
        (
            "FlowPolicy",
            dict(network=UShapedMLP, time_features=GaussianFourierTimeFeatures, coupling=OptimalTransportCoupling(1.0)),
        ),
        ("DiffusionPolicy", dict(prediction="score", solver="dpm++", time_grid="log_snr", matching_loss="likelihood")),
        ("DiffusionPolicy", dict(path="cosine", prediction="noise", solver=Sampler("dopri5", rtol=1e-3, atol=1e-3))),
    ],
)
def test_options_reach_the_model_and_the_file(arrays, tmp_path, policy, options):
    model = trained(arrays, policy, **options)
    generative = model.actor.model
    assert isinstance(generative.network, UShapedMLP if "network" in options else ConditionalMLP)
    assert isinstance(generative.network.time_features, GaussianFourierTimeFeatures) == ("time_features" in options)
    assert isinstance(generative.coupling, OptimalTransportCoupling) == ("coupling" in options)
    assert generative.prediction == options.get("prediction", "velocity")
    if "matching_loss" in options:
        assert generative.loss == "likelihood"
    expected, coarse = model.predict(ROWS, deterministic=True)[0], Likelihood(sampler=Sampler("midpoint", 2))
    log_prob = model.policy.log_prob(ROWS, th.zeros(6, 2), coarse)
    model.save(tmp_path / "model")
    model.policy.save(tmp_path / "policy")
    for policy_again in (GMPO.load(tmp_path / "model").policy, type(model.policy).load(tmp_path / "policy")):
        np.testing.assert_array_equal(policy_again.predict(ROWS, deterministic=True)[0], expected)
        assert policy_again.sampler == model.policy.sampler
        assert th.equal(policy_again.log_prob(ROWS, th.zeros(6, 2), coarse), log_prob)


@pytest.fixture(scope="module")
def bimodal():
    """Policies by the name of their path, trained when they are first asked for."""
    return functools.cache(lambda name: train_bimodal(name))


@pytest.mark.parametrize(
    ("name", "likelihood"),
    [
        ("linear", None),
        ("linear", Likelihood("discrete", Sampler("euler", 10))),
        ("linear", Likelihood("discrete", Sampler("midpoint", 10))),
        ("linear", Likelihood("hutchinson")),
        ("cosine", None),
        ("cosine", Likelihood("discrete", Sampler("euler", 10))),
        # A noise network's field has kinks, where its estimate of the action reaches a bound
        pytest.param("vp", Likelihood(sampler=Sampler("rk4", 64)), marks=pytest.mark.slow),
        pytest.param("vp", Likelihood(sampler=Sampler("dopri5")), marks=pytest.mark.slow),
    ],
)
def test_density_of_a_trained_policy_integrates_to_one_in_the_environments_units(bimodal, name, likelihood):
    policy, actions = bimodal(name), th.linspace(-6.0, 10.0, 501)[:, None]
    with th.no_grad():
        density = policy.log_prob(th.zeros(501, 1), actions, likelihood).exp()
    mass = th.trapezoid(density, actions[:, 0])
    assert mass.item() == pytest.approx(1.0, abs=0.01)
    # Its modes, at 0 and 4, are those of the data, with their shares
    left = actions[:, 0] < 2.0
    assert th.trapezoid(density[left], actions[left, 0]).item() == pytest.approx(0.3, abs=0.05)
    assert actions[density.argmax()].item() == pytest.approx(4.0, abs=0.3)


def test_density_is_that_of_the_samples(bimodal):
    """By another route: the share of many samples between two bounds."""
    policy, n = bimodal("cosine"), 10_000
    th.manual_seed(0)
    with th.no_grad():
        actions, log_prob = policy.sample_with_log_prob(th.zeros(n, 1))
        edges = th.linspace(-1.0, 5.0, 13)
        grid = th.linspace(-1.0, 5.0, 301)
        density = policy.log_prob(th.zeros(301, 1), grid[:, None]).exp()
    shares = th.histogram(actions[:, 0], edges).hist / n
    masses = [th.trapezoid(density[25 * k : 25 * k + 26], grid[25 * k : 25 * k + 26]) for k in range(12)]
    np.testing.assert_allclose(shares, masses, atol=0.012)
    assert log_prob.mean().item() == pytest.approx((density * density.log()).sum().item() * 0.02, abs=0.05)


@pytest.mark.parametrize("likelihood", [None, Likelihood("discrete", Sampler("euler", 5))])
def test_samples_come_with_the_log_probability_that_log_prob_gives_them(arrays, likelihood):
    policy = trained(arrays).policy
    actions, log_prob = policy.sample_with_log_prob(ROWS, th.zeros(6, 2), likelihood)
    assert actions.shape == (6, 2) and log_prob.shape == (6,)
    np.testing.assert_allclose(policy.log_prob(ROWS, actions, likelihood).detach(), log_prob.detach(), atol=2e-3)
    # From noise zero, with the same sampler, they are the deterministic actions, but for the clip
    if likelihood is not None:
        clipped = policy.predict(ROWS, deterministic=True, solver=likelihood.sampler)[0]
        np.testing.assert_allclose(actions.detach().clamp(-1, 1), clipped, atol=1e-5)
    assert policy.sample_with_log_prob(ROWS)[0].shape == (6, 2)


def test_discrete_log_probability_is_that_of_the_sampler_that_acts(arrays):
    policy = trained(arrays, solver="euler", sampling_steps=3).policy
    actions = th.zeros(6, 2)
    mine = policy.log_prob(ROWS, actions, Likelihood("discrete"))
    assert th.equal(mine, policy.log_prob(ROWS, actions, Likelihood("discrete", Sampler("euler", 3))))
    policy.set_sampler(sampling_steps=6)
    assert not th.allclose(policy.log_prob(ROWS, actions, Likelihood("discrete")), mine)


def test_gradients_reach_actions_observations_and_parameters(arrays):
    """In the environment's units, [-1, 1] here stretched to [-2, 6], against finite differences."""
    model = GMPO("FlowPolicy", dataset=bimodal_arrays(-2.0, 6.0, 64), policy_kwargs=dict(net_arch=[8], activation_fn=nn.Tanh))
    policy = model.policy.double()
    actions, observations = th.tensor([[1.0], [3.0]], dtype=th.float64), th.tensor([[0.3], [-0.2]], dtype=th.float64)
    leaves = actions.clone().requires_grad_(), observations.clone().requires_grad_()
    policy.log_prob(leaves[1], leaves[0]).sum().backward()
    moved = central_difference(lambda values: policy.log_prob(observations, values), actions)
    np.testing.assert_allclose(leaves[0].grad, moved, rtol=1e-3)
    seen = central_difference(lambda values: policy.log_prob(values, actions), observations)
    np.testing.assert_allclose(leaves[1].grad, seen, rtol=1e-3)
    assert all(parameter.grad is not None for parameter in policy.actor_ema.model.parameters())


def test_actions_of_any_shape_and_observations_of_any_kind(arrays):
    matrix = {**arrays, "actions": arrays["actions"].reshape(-1, 2, 1), "action_space": spaces.Box(-1, 1, (2, 1), np.float32)}
    actions, log_prob = trained(matrix).policy.sample_with_log_prob(ROWS)
    assert actions.shape == (6, 2, 1) and log_prob.shape == (6,)
    parts = {"a": arrays["observations"], "b": arrays["observations"][:, :1]}
    following = {"a": arrays["next_observations"], "b": arrays["next_observations"][:, :1]}
    policy = trained({**arrays, "observations": parts, "next_observations": following}, "FlowMultiInputPolicy").policy
    rows = {"a": ROWS, "b": ROWS[:, :1]}
    assert policy.log_prob(rows, np.zeros((6, 2))).shape == (6,)
    with pytest.raises(ValueError, match="observations are one tensor, but this policy's are a dictionary of a, b"):
        policy.log_prob(ROWS, th.zeros(6, 2))
    with pytest.raises(ValueError, match="observations are a dictionary of a, but this policy's are a dictionary of a, b"):
        policy.log_prob({"a": ROWS}, th.zeros(6, 2))
    with pytest.raises(ValueError, match=r"observations\['b'\] have shape \(6, 3\), but this policy's are \(batch_size, 1\)"):
        policy.log_prob({"a": ROWS, "b": ROWS}, th.zeros(6, 2))
    with pytest.raises(ValueError, match="batches of unequal size: 2, 6"):
        policy.log_prob({"a": ROWS, "b": ROWS[:2, :1]}, th.zeros(6, 2))


@pytest.mark.parametrize(
    ("observations", "actions", "message"),
    [
        (
            ROWS[0],
            th.zeros(1, 2),
            r"observations have shape \(3,\).*\(batch_size, 3\). One alone becomes a batch by observations\[None\]",
        ),
        (ROWS[:, :2], th.zeros(6, 2), r"observations have shape \(6, 2\), but this policy's are \(batch_size, 3\)"),
        (ROWS, th.zeros(2), r"actions have shape \(2,\).*\(batch_size, 2\). One alone becomes a batch by actions\[None\]"),
        (ROWS, th.zeros(6, 3), r"actions have shape \(6, 3\), but this policy's are \(batch_size, 2\)"),
        (ROWS, th.zeros(5, 2), "There are 5 actions for 6 observations"),
    ],
)
def test_wrong_shapes_are_told(arrays, observations, actions, message):
    with pytest.raises(ValueError, match=message):
        trained(arrays).policy.log_prob(observations, actions)


def test_wrong_noise_and_samplers_without_density_are_told(arrays):
    policy = trained(arrays, solver="dpm++").policy
    with pytest.raises(ValueError, match=r"noise has shape \(6, 3\), but needs one draw per action dimension: \(6, 2\)"):
        policy.sample_with_log_prob(ROWS, th.zeros(6, 3))
    with pytest.raises(ValueError, match=r"solver='dpm\+\+' has no log-probability of method='discrete'"):
        policy.log_prob(ROWS, th.zeros(6, 2), Likelihood("discrete"))
    # The continuous density does not depend on the sampler that acts
    assert policy.log_prob(ROWS, th.zeros(6, 2)).isfinite().all()


def test_diverged_parameters_are_named_when_acting(arrays):
    model = trained(arrays)
    model.policy.actor_ema.model.network.head.weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="midpoint step 1 of 5.*parameters are not finite: training diverged"):
        model.predict(ROWS)


def test_options_of_a_prediction_are_its_own_also_in_threads(arrays):
    model = GMPO("FlowPolicy", dataset=arrays, seed=0, policy_kwargs=SMALL)
    before, observation = model.policy.sampler, np.zeros(3, np.float32)
    steps = [dict(sampling_steps=1), dict(sampling_steps=7)]
    options = [*steps, dict(solver="sde", sampling_steps=6), dict(time_grid="uniform"), {}]
    wanted = [model.predict(observation, deterministic=True, **option)[0] for option in options]
    assert len({tuple(action) for action in wanted}) == len(options)
    seen = []

    def ask(k):
        for _ in range(60):
            seen.append((k, model.predict(observation, deterministic=True, **options[k])[0], model.policy.sampler))

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(len(options))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 60 * len(options)
    for k, action, sampler in seen:
        np.testing.assert_array_equal(action, wanted[k])
        assert sampler == before
