"""
Deterministic actions by name, on policies whose mean and modes are known.
"""

import numpy as np
import pytest
import torch as th

from sb3_genpolicy import GMPO
from sb3_genpolicy.common.policies import deterministic
from sb3_genpolicy.common.policies.deterministic import DETERMINISTIC_ACTIONS, two_halves
from sb3_genpolicy.common.policies.fixed_draws import fixed_draws
from sb3_genpolicy.generative import Likelihood
from sb3_genpolicy.gmpo import FlowPolicy
from tests.helpers.arrays import SMALL
from tests.helpers.exact_policies import exact_policy
from tests.helpers.observation_spaces import SPACES, dataset_of, policy_for, rows_of

MEAN, STD = (0.1, -0.2), (0.1, 0.2)
# Of two modes, the one at the left has two thirds
MODES = dict(means=[(-0.6, 0.2), (0.6, 0.2)], std=(0.05, 0.05), weights=(0.67, 0.33))
ROW = np.zeros(3, np.float32)


def acted(policy, name, **options):
    policy.deterministic_action = name
    return policy.predict(ROW, deterministic=True, **options)[0]


@pytest.mark.parametrize(
    ("path", "kwargs"),
    [("linear", {}), ("linear", dict(solver="sde", sampling_steps=20)), ("cosine", {}), ("vp", {})],
    ids=str,
)
def test_the_mean_of_a_gaussian_is_found(path, kwargs):
    policy = exact_policy([MEAN], STD, path=path, **kwargs)
    for name in ("mean", "one_step_mean"):
        np.testing.assert_allclose(acted(policy, name), MEAN, atol=5e-3)
    # Some draws, not all of them, lie off the mean
    assert 1e-3 < np.abs(acted(policy, "mode_mean") - MEAN).max() < 0.1
    assert acted(policy, "best_q")[0] > MEAN[0] + STD[0]


@pytest.mark.parametrize("name", ["weighted_mean", "auto"])
@pytest.mark.parametrize(
    ("slopes", "share"), [((1.0,), 1.0), ((1.0, 1.0), 1.0), ((5.0, -3.0), 1.0 / 33.0), ((2.0, 0.0), 1.0 / 3.0)]
)
def test_a_gaussian_is_tilted_by_q_as_far_as_networks_agree(name, slopes, share):
    """
    In proportion to exp(Q / spread) it moves by its variance times the slope. Two networks of slopes 1 + d and 1 - d have the
    variance 2 d^2 about their mean.
    """
    policy = exact_policy([MEAN], STD, slopes=[(slope, 0.0) for slope in slopes], deterministic_draws=1024)
    policy.spreads.q.fill_(STD[0])
    np.testing.assert_allclose(acted(policy, name), (MEAN[0] + share * STD[0], MEAN[1]), atol=0.012)
    policy.spreads.q.fill_(1e6)
    np.testing.assert_allclose(acted(policy, name), MEAN, atol=5e-3)


def test_of_two_modes_the_mean_is_between_and_others_are_in_one():
    policy = exact_policy(**MODES)
    centre = 0.67 * -0.6 + 0.33 * 0.6
    np.testing.assert_allclose(acted(policy, "one_step_mean"), (centre, 0.2), atol=1e-4)
    np.testing.assert_allclose(acted(policy, "mean"), (centre, 0.2), atol=0.15)
    assert np.abs(acted(policy, "mean")[0] - [-0.6, 0.6]).min() > 0.2
    np.testing.assert_allclose(acted(policy, "mode_mean"), (-0.6, 0.2), atol=0.03)
    # Critics that do not agree, even if their mean wants the other mode by far, leave the one with more draws
    policy = exact_policy(**MODES, slopes=((5.0, 0.0), (-1.0, 0.0)))
    np.testing.assert_allclose(acted(policy, "auto"), (-0.6, 0.2), atol=0.03)


def test_an_error_of_a_noise_network_counts_ten_times_at_most_in_the_one_step_mean():
    policy = exact_policy([MEAN], STD, path="vp", prediction="noise")
    np.testing.assert_allclose(acted(policy, "one_step_mean"), MEAN, atol=2e-3)
    network = policy.actor_ema.model.network
    network.register_forward_hook(lambda module, inputs, output: output + 5e-3)
    # At t = 0 it would count 150 times
    off = np.abs(acted(policy, "one_step_mean") - MEAN)
    assert 0.03 < off.min() and off.max() < 0.06


def test_critics_that_agree_choose_the_mode():
    for slope, mode in ((3.0, 0.6), (-3.0, -0.6)):
        policy = exact_policy(**MODES, slopes=((slope, 0.0), (2.0 * slope, 0.0)))
        np.testing.assert_allclose(acted(policy, "auto"), (mode, 0.2), atol=0.03)
        assert abs(acted(policy, "best_q")[0] - mode) < 0.2
    # A difference that is small beside what Q spreads elsewhere does not count
    policy.spreads.q.fill_(1e3)
    policy.critic.layers[0].weight.data *= -1.0
    np.testing.assert_allclose(acted(policy, "auto"), (-0.6, 0.2), atol=0.03)


def test_the_medoid_need_not_be_of_the_half_with_more_draws(monkeypatch):
    """Two groups at the right are one half, whose draws are more; the medoid is in the group at the left."""
    groups = [[0.15, 0.48]] * 5 + [[0.84, 0.84]] * 4 + [[0.87, 0.32]] * 3
    draws = th.tensor(groups) + 0.01 * th.randn(12, 2, generator=th.Generator().manual_seed(0))
    halves = two_halves(draws[None])
    assert halves.shares[0, 0] == 5 / 12 and halves.are_modes().item()
    monkeypatch.setattr(deterministic, "fixed_draws", lambda *_: draws[None])
    left, right = draws[:5].numpy(), draws[5:].numpy()
    # The last agree on 4 / 22 of what they say
    for slopes, chosen, slope in (
        ((-5.0, -5.0), left, -5.0),
        ((5.0, 5.0), right, 5.0),
        ((-5.0, 1.0), right, -2.0 * 4.0 / 22.0),
    ):
        policy = exact_policy(**MODES, slopes=[(slope, 0.0) for slope in slopes], deterministic_draws=12)
        policy.spreads.q.fill_(1.0)
        expected = np.average(chosen, axis=0, weights=np.exp(slope * chosen[:, 0]))
        np.testing.assert_allclose(acted(policy, "auto"), expected, atol=1e-5)


def test_the_densest_has_the_highest_log_probability():
    policy = exact_policy(**MODES, deterministic_draws=16, sampling_steps=24)
    likelihood, rows = Likelihood("discrete"), np.repeat(ROW[None], 16, axis=0)
    policy.deterministic_action = "densest"
    taken = policy.predict(rows[:2], deterministic=True)[0]
    np.testing.assert_allclose(taken[0], taken[1], atol=1e-6)
    features = policy.actor_ema.extract_features(th.tensor(rows[:1]), policy.actor_ema.features_extractor)
    draws = fixed_draws(policy.actor_ema, features, 16)[0]
    log_probs = policy.log_prob(rows, draws, likelihood).detach().numpy()
    np.testing.assert_allclose(taken[0], draws[int(log_probs.argmax())], atol=1e-4)
    # By the closed form too: it is the draw that is nearest to its mode, in the larger one
    means, weights = th.tensor(MODES["means"]), th.tensor(MODES["weights"])
    off = (draws[:, None] - means) / 0.05
    exact = (weights.log() - 0.5 * off.square().sum(dim=2)).logsumexp(dim=1)
    assert exact.argmax() == log_probs.argmax()


@pytest.mark.parametrize("solver", ["dpm++", "sde"])
def test_solvers_without_a_density_of_their_own_have_a_densest_draw(solver):
    taken = acted(exact_policy(**MODES, solver=solver, deterministic_draws=8), "densest")
    assert np.abs(taken[0] - [-0.6, 0.6]).min() < 0.1


def test_guidance_moves_them_by_the_closed_form():
    """Along Q alone, by w of the policy's standard deviations."""
    policy = exact_policy([MEAN], STD)
    policy.spreads.actions.copy_(th.tensor(STD))
    policy.spreads.q.fill_(STD[0])
    for name in ("zero_noise", "mean", "one_step_mean"):
        np.testing.assert_allclose(acted(policy, name, guidance=1.5), (MEAN[0] + 1.5 * STD[0], MEAN[1]), atol=5e-3)
    with pytest.raises(ValueError, match="'densest' asks for densities, and those of a guided policy are not computed"):
        acted(policy, "densest", guidance=1.5)


def test_halves():
    generator = th.Generator().manual_seed(0)
    draws = 0.1 * th.randn(3, 20, 2, generator=generator)
    draws[0, 12:] += 2.0  # two modes
    draws[1, 0] += 5.0  # an outlier
    draws[2] = 0.3  # a single point
    halves = two_halves(draws)
    assert halves.are_modes().tolist() == [True, False, False]
    order = halves.shares[0].argsort()
    np.testing.assert_allclose(halves.shares[0][order], [0.4, 0.6])
    np.testing.assert_allclose(halves.means[0][order[1]], draws[0, :12].mean(dim=0), atol=1e-6)
    np.testing.assert_allclose(halves.means[0][order[0]], draws[0, 12:].mean(dim=0), atol=1e-6)
    along = (draws[0] - th.cat([halves.means[0][order[1:]].expand(12, 2), halves.means[0][order[:1]].expand(8, 2)])) @ (
        (halves.means[0][order[0]] - halves.means[0][order[1]]) / (halves.means[0][0] - halves.means[0][1]).norm()
    )
    np.testing.assert_allclose(halves.spread[0], along.square().mean().sqrt(), rtol=1e-4)
    assert halves.apart()[1] > 4.5 and halves.apart()[2] == 0.0


@pytest.mark.filterwarnings("ignore:.*lead to another observation than the next row")
@pytest.mark.parametrize("space", ["box", "dict", "image"])
def test_they_repeat_row_by_row_for_observations_of_every_kind(space):
    # The last of an odd number of draws would be from noise zero, which is the densest where the field hardly bends
    kwargs = dict(SMALL, deterministic_draws=8)
    model = GMPO(policy_for(space, "Flow"), dataset=dataset_of(SPACES[space]), batch_size=8, policy_kwargs=kwargs, seed=0)
    model.learn(2)
    rows = rows_of(model.observation_space, 5, seed=2)
    one = {key: value[3] for key, value in rows.items()} if isinstance(rows, dict) else rows[3]
    seen = []
    for name in DETERMINISTIC_ACTIONS:
        model.policy.deterministic_action = name
        actions, _ = model.predict(rows, deterministic=True)
        th.manual_seed(len(seen))
        before = th.random.get_rng_state()
        np.testing.assert_array_equal(model.predict(rows, deterministic=True)[0], actions)
        assert th.equal(th.random.get_rng_state(), before)
        np.testing.assert_allclose(model.predict(one, deterministic=True)[0], actions[3], atol=1e-5)
        assert all(model.action_space.contains(action) for action in actions)
        seen.append(actions)
    assert model.policy.spreads.q > 0.0 and all(np.abs(actions - seen[0]).max() > 1e-3 for actions in seen[1:])


def test_a_typo_is_told_and_options_are_saved(arrays, tmp_path):
    with pytest.raises(ValueError, match="deterministic_action='mode_meen' is unknown. Did you mean 'mode_mean'?"):
        GMPO("FlowPolicy", dataset=arrays, policy_kwargs=dict(SMALL, deterministic_action="mode_meen"))
    kwargs = dict(SMALL, deterministic_action="mean", deterministic_draws=4, candidate_temperature=0.5)
    policy = GMPO("FlowPolicy", dataset=arrays, policy_kwargs=kwargs, seed=0).policy
    with pytest.raises(ValueError, match="'bestq' is unknown. Did you mean 'best_q'?"):
        policy.deterministic_action = "bestq"
    with pytest.raises(ValueError, match="deterministic_draws must be a number >= 2, not 1"):
        policy.deterministic_draws = 1
    with pytest.raises(ValueError, match="candidate_temperature must be a number >= 0.0, not -1"):
        policy.candidate_temperature = -1
    assert policy.deterministic_action == "mean"
    policy.save(tmp_path / "policy")
    loaded = FlowPolicy.load(tmp_path / "policy")
    assert loaded.acting_options() == policy.acting_options()
    rows = arrays["observations"][:3]
    np.testing.assert_array_equal(loaded.predict(rows, deterministic=True)[0], policy.predict(rows, deterministic=True)[0])
