"""
Behaviour cloning: what is cloned, by which policies, and that nothing asks for critics.
"""

import numpy as np
import pytest
import torch as th
from scipy import optimize, stats

from sb3_genpolicy import BC, GMPG, GMPO, BestEpisodes, HeldOutEpisodes, learn_side_by_side
from sb3_genpolicy.common.algorithms.training_log import validation_losses
from sb3_genpolicy.common.policies.critics import NoCritic
from tests.helpers.arrays import SMALL, make_arrays, one_step_data
from tests.helpers.model_zips import settings_of

POLICIES = ["FlowPolicy", "DiffusionPolicy", "GaussianPolicy", "DeterministicPolicy"]
# The whole box, whose units scaled actions have
OPTIONS = dict(policy_kwargs=dict(SMALL, normalize_actions=False), seed=0, batch_size=128, learning_rate=3e-3)


def cloned(policy, actions, steps, **options):
    data = dict(one_step_data(actions, np.zeros(len(actions))), action_space=make_arrays(action_dim=1)["action_space"])
    return BC(policy, dataset=data, **{**OPTIONS, **options}).learn(steps)


def test_a_gaussian_is_the_most_likely_one():
    """By scipy's optimizer, of the truncated density, on actions of which a quarter are at the bound."""
    actions = np.clip(np.random.default_rng(0).normal(0.6, 0.5, size=(400, 1)), -1.0, 1.0).astype(np.float32)

    def loss(parameters):
        location, scale = np.tanh(parameters[0]), np.exp(parameters[1])
        return -stats.truncnorm.logpdf(
            actions, (-1.0 - location) / scale, (1.0 - location) / scale, loc=location, scale=scale
        ).mean()

    best = optimize.minimize(loss, [0.5, -1.0], method="Nelder-Mead")
    model = cloned("GaussianPolicy", actions, steps=600)
    likely = -model.policy.log_prob(np.zeros((400, 1), np.float32), actions).mean().item()
    assert likely == pytest.approx(best.fun, abs=0.01)
    assert model.actor_ema.deviation.item() == pytest.approx(np.exp(best.x[1]), rel=0.1)


def test_a_deterministic_policy_is_the_mean():
    actions = np.random.default_rng(0).uniform(-0.9, 0.3, size=(400, 1)).astype(np.float32)
    model = cloned("DeterministicPolicy", actions, steps=200)
    assert model.predict(np.zeros(1, np.float32))[0].item() == pytest.approx(actions.mean(), abs=0.02)


@pytest.mark.parametrize("policy", ["FlowPolicy", "DiffusionPolicy"])
def test_a_flow_keeps_two_ways_of_acting_apart(policy):
    actions = np.random.default_rng(0).choice([-0.6, 0.6], p=[0.3, 0.7], size=(400, 1)).astype(np.float32)
    wider = dict(net_arch=[64, 64], normalize_actions=False)
    model = cloned(policy, actions, steps=800, learning_rate=1e-2, policy_kwargs=wider)
    th.manual_seed(0)
    drawn, _ = model.predict(np.zeros((1000, 1), np.float32))
    assert (np.abs(drawn) > 0.3).mean() > 0.85
    assert (drawn > 0.0).mean() == pytest.approx((actions > 0.0).mean(), abs=0.1)


@pytest.mark.parametrize("policy", POLICIES)
def test_files_resume_bit_for_bit_and_hold_no_critics(tmp_path, policy):
    model = BC(policy, dataset=make_arrays(), policy_kwargs=SMALL, seed=0, batch_size=8).learn(4)
    assert {name.partition(".")[0] for name in model.policy.state_dict()} <= {
        *("actor", "actor_ema", "normalizer", "action_range", "spreads")
    }
    assert model.get_parameters().keys() == {"policy", "actor.optimizer"}
    model.save(tmp_path / "model")
    assert settings_of(tmp_path / "model.zip")["policy_kwargs"]["critic"] == {":object:": "NoCritic"}
    loaded = BC.load(tmp_path / "model")
    assert loaded.policy.critic_options == NoCritic()
    for goes_on in (model, loaded):
        goes_on.learn(4, reset_num_timesteps=False, dataset=make_arrays())
    for mine, expected in zip(loaded.policy.parameters(), model.policy.parameters(), strict=True):
        assert th.equal(mine, expected)
    model.policy.save(tmp_path / "policy.pt")
    alone = type(model.policy).load(tmp_path / "policy.pt")
    observations = make_arrays()["observations"]
    np.testing.assert_array_equal(*(each.predict(observations, deterministic=True)[0] for each in (alone, model)))


@pytest.mark.parametrize("policy", POLICIES)
def test_side_by_side_it_is_what_it_is_alone(policy):
    def models():
        return [BC(policy, dataset=make_arrays(), policy_kwargs=SMALL, seed=seed, batch_size=8) for seed in range(2)]

    together, alone = learn_side_by_side(models(), 5), [model.learn(5) for model in models()]
    for mine, expected in zip(together, alone, strict=True):
        for parameter, other in zip(mine.policy.parameters(), expected.policy.parameters(), strict=True):
            th.testing.assert_close(parameter, other, rtol=1e-4, atol=1e-6)


def test_a_flow_is_that_of_gmpo_at_beta_zero():
    """The same draws, the same weights: one of the two does without critics."""
    options = dict(dataset=make_arrays(), policy_kwargs=SMALL, seed=0, batch_size=8)
    clone, weighted = BC("FlowPolicy", **options).learn(5), GMPO("FlowPolicy", beta=0.0, critic="iql", **options).learn(5)
    for mine, expected in zip(clone.actor.parameters(), weighted.actor.parameters(), strict=True):
        th.testing.assert_close(mine, expected)


def test_rewards_are_not_looked_at():
    arrays = make_arrays()
    models = [
        BC("FlowPolicy", dataset=dict(arrays, rewards=rewards), policy_kwargs=SMALL, seed=0, batch_size=8).learn(3)
        for rewards in (arrays["rewards"], np.zeros_like(arrays["rewards"]))
    ]
    for mine, other in zip(*(model.policy.parameters() for model in models), strict=True):
        assert th.equal(mine, other)


def test_held_out_rows_show_the_cloning_loss():
    transforms = [HeldOutEpisodes(0.3), BestEpisodes(share=0.8)]
    model = BC("GaussianPolicy", dataset=make_arrays(8), policy_kwargs=SMALL, seed=0, transforms=transforms).learn(2)
    found = validation_losses(model)
    with th.no_grad():
        batch = model.held_out.batch(model.device)
        expected = -model.policy.actor.distribution(batch.observations).log_prob(batch.actions).mean()
    assert set(found) == {"cloning_loss"} and found["cloning_loss"].item() == pytest.approx(expected.item())


# What critics would be needed for


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(n_candidates=8), "n_candidates=8 acts by the values of critics, and this policy has none"),
        (dict(guidance=0.5), "guidance=0.5 acts by"),
        (dict(deterministic_action="best_q"), "deterministic_action='best_q' acts by"),
        (dict(n_critics=4), "n_critics=4 is given, but there are no critics here"),
        (dict(critic="iql"), r"critic=NoCritic\(\) is given beside policy_kwargs=dict\(critic='iql'\)"),
    ],
)
def test_options_that_need_critics_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        BC("FlowPolicy", dataset=make_arrays(), policy_kwargs=dict(SMALL, **options))


def test_whoever_asks_for_values_later_gets_a_sentence(tmp_path):
    model = BC("FlowPolicy", dataset=make_arrays(), policy_kwargs=SMALL, seed=0).learn(2)
    observation = make_arrays()["observations"][0]
    with pytest.raises(ValueError, match="has no critics that could choose among its actions"):
        model.policy.predict(observation, guidance=0.5)
    model.policy.n_candidates = 4
    with pytest.raises(ValueError, match="has no critics that could choose among its actions"):
        model.predict(observation)


def test_other_algorithms_need_critics():
    clone = BC("FlowPolicy", dataset=make_arrays(), policy_kwargs=SMALL).learn(2)
    with pytest.raises(ValueError, match="GMPO needs critics, and here there are none"):
        GMPO("FlowPolicy", dataset=make_arrays(), policy_kwargs=SMALL, critic=NoCritic())
    for algorithm in (GMPO, GMPG):
        with pytest.raises(ValueError, match="needs critics, and here there are none"):
            algorithm("FlowPolicy", dataset=make_arrays(), pretrained=clone)


def test_online_it_would_imitate_itself():
    model = BC("GaussianPolicy", "Pendulum-v1", dataset="pendulum-mixed", policy_kwargs=SMALL)
    with pytest.raises(
        ValueError, match="cannot go on online: behaviour cloning imitates whoever chose the dataset's actions"
    ):
        model.learn_online(10)
