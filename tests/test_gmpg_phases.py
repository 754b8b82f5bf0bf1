"""
GMPG's two phases, and what one model hands over to another.
"""

import copy

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.logger import configure

from sb3_genpolicy import GMPG, GMPO, StopTrainingOnTargetKL
from sb3_genpolicy.common.algorithms.divergence import realised_kl
from sb3_genpolicy.common.transitions.outliers import evenly
from sb3_genpolicy.generative import Likelihood, Sampler
from tests.helpers.arrays import SMALL, make_arrays
from tests.helpers.gmpg import small_batch, small_gmpg
from tests.helpers.states import same_state

# Phases


def test_phases_share_one_count_of_steps(arrays, tmp_path):
    phases, model = [], small_gmpg(arrays)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(20, log_interval=5, callback=lambda scope, _: phases.append(scope["self"].phase) is None)
    # What comes next: the tenth update was the last of the first phase
    assert model.num_timesteps == model._n_updates == 20 and phases == ["pretraining"] * 9 + ["policy"] * 11
    rows = np.genfromtxt(tmp_path / "progress.csv", delimiter=",", names=True, deletechars="", dtype=None, encoding="utf-8")
    np.testing.assert_array_equal(rows["time/total_timesteps"], [5, 10, 15, 20])
    assert np.isfinite(rows["train/critic_loss"][:2]).all() and np.isnan(rows["train/kl"][0])
    for key in ("train/kl", "train/q_value", "train/policy_loss", "train/beta"):
        assert np.isfinite(rows[key][2:]).all(), key


@pytest.mark.parametrize(("estimator", "logged"), [("discrete", True), ("ode", True), ("path", False)])
def test_log_pi_and_log_mu_are_logged_where_they_are_known(arrays, estimator, logged):
    model = small_gmpg(arrays, kl_estimator=estimator, pretraining_steps=0).learn(2)
    means = model.means.pop()
    assert {"kl", "q_value"} <= set(means) and ({"log_pi", "log_mu"} <= set(means)) == logged
    if logged:
        assert (means["log_pi"] - means["log_mu"]).item() == pytest.approx(means["kl"].item(), abs=1e-5)


def test_the_first_phase_is_cloning_with_critics(arrays):
    """Bit for bit GMPO with beta=0, which ends where the second phase begins; then nothing but the actor moves."""
    clone = GMPO("FlowPolicy", dataset=arrays, policy_kwargs=SMALL, seed=0, beta=0.0).learn(10)
    model = small_gmpg(arrays).learn(10)
    for name in ("actor", "actor_ema", "critic", "critic_target", "value_net"):
        assert same_state(getattr(clone, name).state_dict(), getattr(model, name).state_dict()), name
    before = copy.deepcopy(model.policy.state_dict())
    model.learn(1, reset_num_timesteps=False)
    assert same_state(dict(model.behaviour.state_dict()), dict(clone.actor_ema.state_dict()))
    model.learn(5, reset_num_timesteps=False)
    for key, value in model.policy.state_dict().items():
        same = th.equal(value, before[key])
        assert same != (key.startswith(("actor.model", "actor_ema.model", "behaviour.model"))), key
    assert same_state(dict(model.behaviour.state_dict()), dict(clone.actor_ema.state_dict()))


def test_the_policy_starts_as_a_copy_of_the_averaged_model_with_a_fresh_optimizer(arrays):
    clone = GMPO("FlowPolicy", dataset=arrays, policy_kwargs=SMALL, seed=0, beta=0.0).learn(10)
    model = small_gmpg(arrays, policy_learning_rate=0.0).learn(11)
    assert same_state(dict(model.actor.state_dict()), dict(clone.actor_ema.state_dict()))
    assert {int(state["step"]) for state in model.actor.optimizer.state.values()} == {1}


def test_four_fifths_of_the_first_learn_are_pretraining(arrays):
    model = small_gmpg(arrays, pretraining_steps=None).learn(10)
    assert model.pretraining_steps == 8 and model._updates_before_policy == 8
    model.learn(100)
    assert model.pretraining_steps == 8


def kls_of(model):
    """Every update's divergence, as it comes."""
    kls, before_step = [], model.before_step

    def noting(objective):
        kls.extend(value.item() for name, value in objective.extras.items() if name == "kl")
        return before_step(objective)

    model.before_step = noting
    return kls


@pytest.mark.parametrize(("tolerance", "patience"), [(0.3, 7), (0.8, 0)])
def test_the_second_phase_ends_by_the_divergence_that_it_has_come_to(arrays, tolerance, patience):
    model = small_gmpg(arrays, target_kl=0.02, policy_learning_rate=1e-4)
    kls, stop = kls_of(model), StopTrainingOnTargetKL(tolerance=tolerance, window=10, patience=patience)
    model.learn(2_000, callback=stop)
    windows = np.minimum(kls[: len(kls) - patience], 0.04).reshape(-1, 10).mean(axis=1)
    assert (windows[:-1] < 0.02 * (1.0 - tolerance)).all() and windows[-1] >= 0.02 * (1.0 - tolerance)
    assert len(windows) > 1 and model.num_timesteps == 10 + len(kls) < 2_000
    if patience == 0:
        assert stop.kl == pytest.approx(windows[-1], rel=1e-3)


def test_a_divergence_out_of_reach_is_waited_for_to_the_end(arrays):
    model, stop = small_gmpg(arrays, target_kl=50.0), StopTrainingOnTargetKL(window=5)
    model.learn(40, callback=stop)
    assert model.num_timesteps == 40 and stop.kl < 1.0
    for other in (small_gmpg(arrays, beta=1.0), GMPO("FlowPolicy", dataset=arrays, policy_kwargs=SMALL)):
        with pytest.raises(ValueError, match="give it to a GMPG that finds beta"):
            other.learn(1, callback=StopTrainingOnTargetKL())


@pytest.mark.parametrize(
    ("stop", "options"),
    [
        *((stop, {}) for stop in (6, 10, 15)),
        # Which the second phase alone has
        (15, dict(kl_estimator="discrete", target_kl=0.1)),
        *((stop, dict(gradient_estimator="adjoint", target_kl=0.1)) for stop in (10, 15)),
    ],
    ids=str,
)
def test_a_resumed_run_goes_on_inside_its_phase(arrays, tmp_path, stop, options):
    """Bit for bit, stopped in the first phase, between both, and in the second."""

    def make():
        return small_gmpg(arrays, policy_learning_rate=lambda remaining: 1e-3 * remaining, **options)

    whole = make().learn(20)
    make().learn(20, callback=lambda scope, _: scope["self"].num_timesteps < stop).save(tmp_path / "stopped")
    resumed = GMPG.load(tmp_path / "stopped", trust_pickle=True)
    assert resumed.num_timesteps == stop
    resumed.learn(20 - stop, reset_num_timesteps=False, dataset=arrays)
    assert same_state(whole.get_parameters(), resumed.get_parameters())
    assert whole.log_beta == resumed.log_beta


# Handing over


def test_a_model_or_its_file_hands_over_behaviour_and_critics(arrays, tmp_path):
    """One pretraining for GMPG and GMPO, given as a model of either phase, a file, or a clone; options come along."""
    first = small_gmpg(arrays, policy_kwargs=dict(path="cosine"), policy="DiffusionPolicy").learn(10)
    behaviour = {key: value.clone() for key, value in first.actor_ema.state_dict().items()}
    first.save(tmp_path / "first")
    later = GMPG.load(tmp_path / "first").learn(5, reset_num_timesteps=False, dataset=arrays)
    for source in (first, later, tmp_path / "first.zip", str(tmp_path / "first")):
        for algorithm, options in ((GMPG, {}), (GMPO, {}), (GMPO, dict(weighting="softmax", n_actions=3))):
            # GMPO's own default would be a noise network on another path
            model = algorithm("DiffusionPolicy", pretrained=source, seed=4, **options)
            assert model.policy.path.__class__.__name__ == "CosinePath" and model.reward_function == first.reward_function
            assert same_state(dict(model.actor.state_dict()), behaviour) and not model.pretraining
            model.learn(3, dataset=arrays)
            assert same_state(dict(model.critic.state_dict()), dict(first.critic.state_dict()))
            assert not same_state(dict(model.actor.state_dict()), behaviour)
    # The source stays as it is
    assert same_state(dict(first.actor_ema.state_dict()), behaviour)


def test_beta_may_be_changed_on_loading(arrays, tmp_path):
    small_gmpg(arrays, pretraining_steps=0, target_kl=0.5).learn(2).save(tmp_path / "model")
    changed = GMPG.load(tmp_path / "model", beta=7.0).learn(1, dataset=arrays)
    # It was adapted, and is fixed now, also in another file
    assert changed.means.pop()["beta"] == pytest.approx(7.0) and changed.target_kl is None
    changed.save(tmp_path / "changed")
    assert GMPG.load(tmp_path / "changed").learn(2, dataset=arrays).current_beta.item() == pytest.approx(7.0)
    assert GMPG.load(tmp_path / "changed", target_kl=0.3).target_kl == 0.3
    assert GMPG.load(tmp_path / "model").target_kl == 0.5 and GMPG.load(tmp_path / "model", target_kl=None).target_kl is None
    assert GMPG.load(tmp_path / "model", beta=7.0, target_kl=0.3).target_kl == 0.3
    changed.beta = 3.0
    assert changed.scaled(th.ones(1), small_batch(changed)).item() == pytest.approx(3.0 * changed.horizon_ratio)


def test_a_clone_hands_over_and_other_models_are_refused(arrays, tmp_path):
    clone = GMPO("FlowPolicy", dataset=arrays, policy_kwargs=SMALL, beta=0.0).learn(3)
    clone.save(tmp_path / "clone")
    model = GMPG("FlowPolicy", pretrained=tmp_path / "clone")
    assert same_state(dict(model.behaviour.state_dict()), dict(clone.actor_ema.state_dict()))
    weighted = GMPO("FlowPolicy", dataset=arrays, policy_kwargs=SMALL, beta=2.0).learn(3)
    with pytest.raises(ValueError, match="was trained with beta=2.0, so that it is no model of the behaviour policy"):
        GMPG("FlowPolicy", pretrained=weighted)
    # GMPO's advantage weights need its critics alone
    assert same_state(dict(GMPO("FlowPolicy", pretrained=weighted).critic.state_dict()), dict(weighted.critic.state_dict()))
    with pytest.raises(ValueError, match=r"another path \(LinearPath\(.*\)\) than this one \(VPPath\("):
        GMPG("DiffusionPolicy", pretrained=clone)
    with pytest.raises(ValueError, match=r"another network: .* shape \(2, 5, 32\) there and \(2, 5, 8\)"):
        GMPG("FlowPolicy", pretrained=clone, policy_kwargs=dict(net_arch=[8]))
    with pytest.raises(ValueError, match="leave out pretraining_steps=5"):
        GMPG("FlowPolicy", pretrained=clone, pretraining_steps=5)
    with pytest.raises(ValueError, match="another observation_space"):
        GMPG("FlowPolicy", dataset=make_arrays(obs_dim=4), pretrained=clone)


# What the log says of the policy


def test_the_log_has_the_exact_divergence_of_the_policy_from_the_behaviour_model():
    """Fields that are constant carry a standard normal by their constant: the divergence is half its squared difference."""
    model = small_gmpg(make_arrays(n_episodes=40), pretraining_steps=0, policy_learning_rate=0.0).learn(1)
    with th.no_grad():
        for part, shift in ((model.actor_ema, 0.5), (model.behaviour, -0.25)):
            weights = list(part.model.network.parameters())
            for weight in weights:
                weight.zero_()
            weights[-1].fill_(shift)
    state = th.get_rng_state()
    n_dims = model.actor_ema.action_dim
    # Up to the mean of 256 draws of the noise
    assert realised_kl(model).item() == pytest.approx(n_dims * 0.5 * 0.75**2, abs=4 * 0.75 * (n_dims / 256) ** 0.5)
    assert th.equal(th.get_rng_state(), state)
    model.behaviour.load_state_dict(model.actor_ema.state_dict())
    assert realised_kl(model).item() == pytest.approx(0.0, abs=1e-6)


def test_it_is_of_actions_of_the_policy():
    """By densities of the continuous flows, from the same noise in the same states; of the other's actions it is another."""
    options = dict(pretraining_steps=0, policy_learning_rate=0.0, policy_kwargs=dict(sampling_steps=40))
    model = small_gmpg(make_arrays(n_episodes=40), **options).learn(1)
    policy, other = model.actor_ema, model.behaviour
    generator = th.Generator().manual_seed(1)
    with th.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.2 * th.randn(parameter.shape, generator=generator))
    rows = th.as_tensor(evenly(model.replay_buffer.size(), 256))
    observations = model.replay_buffer.rows(rows).observations
    noise = th.randn(len(rows), policy.action_dim, generator=th.Generator().manual_seed(0))

    def divergence(one, another):
        features = [part.extract_features(observations, part.features_extractor) for part in (one, another)]
        exact = Likelihood(sampler=Sampler("rk4", 20))
        actions, log_prob = one.model.sample_with_log_prob(features[0], noise, exact)
        return (log_prob - another.model.log_prob(actions, features[1], exact)).mean().item()

    expected, reverse = divergence(policy, other), divergence(other, policy)
    assert realised_kl(model).item() == pytest.approx(expected, rel=0.1)
    assert abs(reverse - expected) > 0.2 * expected > 0.01


def test_the_divergence_is_logged_in_the_second_phase_alone(arrays, tmp_path):
    model = small_gmpg(arrays)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(20, log_interval=5)
    rows = np.genfromtxt(tmp_path / "progress.csv", delimiter=",", names=True, deletechars="", dtype=None, encoding="utf-8")
    logged = rows["train/policy_kl"]
    assert np.isnan(logged[0]) and (logged[2:] > 0.0).all()
    assert logged[-1] == pytest.approx(realised_kl(model).item(), rel=1e-4)
