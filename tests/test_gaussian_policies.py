"""
Gaussian and deterministic policies: densities up to the bounds, files, ONNX.
"""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from scipy import integrate, stats

from sb3_genpolicy import BC, IQL
from sb3_genpolicy.common.policies.deterministic_policy import DeterministicPolicy
from sb3_genpolicy.common.policies.gaussian_policy import GaussianPolicy
from sb3_genpolicy.generative.truncated_normal import TruncatedNormal
from tests.helpers.arrays import SMALL, make_arrays

# Modes in the middle, near a bound and on it; spreads from those of an agent that hardly varies to nearly uniform ones
CASES = [(0.0, 0.3), (0.3, 0.05), (0.97, 0.2), (1.0, 0.01), (-1.0, 1.0), (-0.4, 7.0)]


def scipys(location, scale):
    return stats.truncnorm((-1.0 - location) / scale, (1.0 - location) / scale, loc=location, scale=scale)


def ours(cases, dtype=th.float32):
    location, scale = th.tensor(cases, dtype=dtype).T
    return TruncatedNormal(location[:, None], scale[:, None])


def test_log_density_and_quantiles_are_scipy_s():
    levels = np.linspace(0.01, 0.99, 15)
    for case in CASES:
        points = scipys(*case).ppf(levels)
        distribution = ours([case])
        np.testing.assert_allclose(distribution.quantile(th.tensor(levels)[:, None])[:, 0], points, atol=2e-6)
        at = th.tensor(points, dtype=th.float32)[:, None]
        np.testing.assert_allclose(distribution.log_prob(at), scipys(*case).logpdf(at[:, 0].double()), atol=2e-4)


def test_ends_are_reached_and_nothing_is_beyond():
    distribution = ours(CASES)
    for level, end in ((0.0, -1.0), (1.0, 1.0)):
        drawn = distribution.quantile(th.full((len(CASES), 1), level))
        assert drawn.isfinite().all() and (drawn.abs() <= 1.0).all()
        np.testing.assert_allclose(drawn[-1], end, atol=1e-6)
    assert distribution.log_prob(th.ones(len(CASES), 1))[[0, 2, 3, 4, 5]].isfinite().all()
    assert (distribution.log_prob(th.full((len(CASES), 1), 1.001)) == -th.inf).all()


def test_dimensions_are_independent():
    location, scale = th.tensor([[0.2, -0.9]]), th.tensor([0.1, 0.5])
    x = th.tensor([[0.25, -0.3]])
    expected = scipys(0.2, 0.1).logpdf(0.25) + scipys(-0.9, 0.5).logpdf(-0.3)
    np.testing.assert_allclose(TruncatedNormal(location, scale).log_prob(x), [expected], rtol=1e-5)


@pytest.fixture(scope="module")
def model():
    """Gaussian, of actions in the environment's units between -3 and 5, so wide that both ends cut it off."""
    data = make_arrays(action_dim=1, low=-3.0, high=5.0)
    model = BC("GaussianPolicy", dataset=data, policy_kwargs=SMALL, seed=0).learn(20)
    with th.no_grad():
        model.policy.actor_ema.raw_deviation.fill_(0.34)
    assert model.policy.actor_ema.deviation.item() == pytest.approx(0.7, abs=0.01)
    return model


def test_density_is_of_the_environment_s_units(model):
    observation = np.zeros((1, 3), np.float32)

    def density(action):
        return model.policy.log_prob(observation, np.array([[action]], np.float32)).exp().item()

    low, high = (float(end[0]) for end in model.policy.action_range.ends)
    total, _ = integrate.quad(density, low, high, epsabs=1e-5)
    assert total == pytest.approx(1.0, abs=1e-4) and high - low > 4.0
    # The deterministic action is where it is largest
    mode, _ = model.predict(observation, deterministic=True)
    grid = np.linspace(low, high, 2001)
    assert grid[np.argmax([density(action) for action in grid])] == pytest.approx(mode.item(), abs=0.01)


def test_draws_are_of_that_density(model):
    observations = np.zeros((4000, 3), np.float32)
    th.manual_seed(0)
    drawn, _ = model.predict(observations)
    actor, action_range = model.policy.actor_ema, model.policy.action_range
    with th.no_grad():
        location = actor(th.zeros(1, 3)).item()
    expected = scipys(location, actor.deviation.item())
    scaled = action_range.scale_array(drawn)[:, 0]
    assert stats.kstest(scaled, expected.cdf).pvalue > 0.01
    assert model.action_space.contains(drawn[0])


def test_a_deviation_that_was_at_its_bound_comes_back():
    """A clamped parameter would get no gradient there."""
    policy = GaussianPolicy(spaces.Box(-1, 1, (1,)), spaces.Box(-1, 1, (1,)), lambda _: 1e-2, **SMALL)
    actor = policy.actor
    with th.no_grad():
        actor.raw_deviation.fill_(-4.0)
    assert actor.deviation.item() == pytest.approx(np.exp(-5.0), rel=0.01)
    actor.cloning_loss(th.zeros(2, 1), th.tensor([[-0.9], [0.9]])).mean().backward()
    assert actor.raw_deviation.grad.item() < 0.0


@pytest.mark.parametrize("name", ["GaussianPolicy", "DeterministicPolicy"])
def test_saved_alone_it_acts_the_same(tmp_path, name):
    model = BC(name, dataset=make_arrays(), policy_kwargs=dict(SMALL, layer_norm=True), seed=0).learn(3)
    model.policy.save(tmp_path / "policy.pt")
    policy = type(model.policy).load(tmp_path / "policy.pt")
    observations = make_arrays()["observations"]
    actions = [each.predict(observations, deterministic=True)[0] for each in (policy, model)]
    np.testing.assert_array_equal(*actions)
    assert any(isinstance(layer, th.nn.LayerNorm) for layer in policy.actor.layers)
    assert type(policy) in (GaussianPolicy, DeterministicPolicy)


@pytest.mark.parametrize("name", ["GaussianMultiInputPolicy", "DeterministicPolicy"])
def test_a_file_for_onnxruntime_acts_as_predict(tmp_path, name):
    onnxruntime = pytest.importorskip("onnxruntime")
    arrays = make_arrays(low=-3.0, high=5.0)
    observations = arrays["observations"]
    if "MultiInput" in name:
        space = spaces.Dict(place=spaces.Box(-np.inf, np.inf, (2,)), speed=spaces.Box(-np.inf, np.inf, (1,)))
        for key in ("observations", "next_observations"):
            arrays[key] = dict(place=arrays[key][:, :2], speed=arrays[key][:, 2:])
        arrays["observation_space"] = space
        observations = arrays["observations"]
    algorithm = IQL if "Gaussian" in name else BC
    model = algorithm(name, dataset=arrays, policy_kwargs=SMALL, seed=0).learn(3)
    model.policy.export_onnx(tmp_path / "policy.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "policy.onnx")
    inputs = observations if isinstance(observations, dict) else dict(observation=observations)
    (actions,) = session.run(["action"], inputs)
    np.testing.assert_allclose(actions, model.predict(observations, deterministic=True)[0], atol=1e-5)
    if "Gaussian" in name:
        with pytest.raises(ValueError, match="ONNX has no inverse error function"):
            model.policy.export_onnx(tmp_path / "other.onnx", deterministic=False)


def test_a_misspelt_option_names_the_right_one():
    with pytest.raises(TypeError, match="GaussianPolicy has no option 'layernorm'. Did you mean 'layer_norm'?"):
        BC("GaussianPolicy", dataset=make_arrays(), policy_kwargs=dict(layernorm=True))
