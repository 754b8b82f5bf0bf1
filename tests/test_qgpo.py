"""
QGPO: guided to the tilted density of a Gaussian mixture, which is known; its critics' targets; its two phases.
"""

import warnings

import numpy as np
import pytest
import torch as th
from scipy import special

from sb3_genpolicy import QGPO, PolicyCritic, SupportCritic
from sb3_genpolicy.common.policies.energy import EnergyGuide, contrastive_loss
from sb3_genpolicy.common.updates.batch import Batch
from sb3_genpolicy.generative import CosinePath, GenerativeModel, Sampler, VPPath
from sb3_genpolicy.generative.schedules import TimePoint
from tests.helpers.arrays import SMALL, make_arrays
from tests.helpers.closed_forms import GaussianMixture

MEANS, STDS, WEIGHTS, TILT = np.array([[-0.5], [0.4]]), np.array([0.15, 0.1]), np.array([0.7, 0.3]), 3.0


def mixture(path, prediction, tilted=False):
    """mu, or mu exp(TILT a) / Z: components move by TILT std^2, and their weights as their own normalisers do."""
    if not tilted:
        return GaussianMixture(path, prediction, MEANS, STDS, WEIGHTS)
    logs = np.log(WEIGHTS) + TILT * MEANS[:, 0] + 0.5 * (TILT * STDS) ** 2
    return GaussianMixture(path, prediction, MEANS + TILT * STDS[:, None] ** 2, STDS, special.softmax(logs))


class ExactEnergy:
    """Slopes of log p_tilted(x, t) - log p(x, t) in alpha x, from the scores of both mixtures."""

    def __init__(self, path):
        self.path, self.before, self.after = path, mixture(path, "score"), mixture(path, "score", tilted=True)

    def slopes(self, features, t, scaled):
        alpha = self.path(t).alpha
        x = scaled / alpha
        return (self.after(t, x) - self.before(t, x)) / alpha


@pytest.mark.parametrize("path", [VPPath(), CosinePath()])
@pytest.mark.parametrize("t", [0.2, 0.6, 0.95])
def test_an_exact_energy_gives_the_field_of_the_tilted_density(path, t):
    x = th.linspace(-2.0, 2.0, 11, dtype=th.float64)[:, None]
    times = th.full((1, 1), t, dtype=th.float64)
    guide = EnergyGuide(ExactEnergy(path), th.zeros(11, 1), 1.0)
    guided = guide(TimePoint(times, path(times)), x, mixture(path, "velocity")(times, x))
    th.testing.assert_close(guided, mixture(path, "velocity", tilted=True)(times, x), rtol=1e-6, atol=1e-8)


def make_model(**options):
    kwargs = dict(SMALL, sampling_steps=2)
    return QGPO("MlpPolicy", **{**dict(dataset=make_arrays(), policy_kwargs=kwargs, seed=0, batch_size=16), **options})


def test_the_energy_learns_the_tilt_by_contrast():
    """Trained on draws of mu with beta Q = TILT a, it guides an exact mu to the tilted density's probabilities and mean."""
    path = VPPath()
    model = QGPO("MlpPolicy", dataset=make_arrays(action_dim=1), policy_kwargs=dict(net_arch=[64, 64]), beta=TILT, seed=0)
    model.read_dataset()
    energy, generator = model.policy.energy, th.Generator().manual_seed(0)
    batch = Batch.of(model.replay_buffer.rows(th.zeros(128, dtype=th.long)), th.arange(128), generator)
    optimizer = th.optim.Adam(energy.parameters(), 1e-2)
    behaviour = mixture(path, "noise")
    model._support = type(
        "Drawn", (), {"draw": lambda self, part, batch, *_: behaviour.draw(128 * 16, generator).float().view(128, 16, 1)}
    )()
    model.critics.critic_target.q_values = lambda observations, actions: actions
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1.0 - step / 300)
        optimizer.zero_grad()
        model._energy_objective(batch).losses["energy_loss"].backward()
        optimizer.step()
    generative = GenerativeModel(behaviour, path, "noise", 1, data_bound=None)
    features = energy.extract_features(batch.observations, energy.features_extractor)[:1].expand(4000, -1).detach()
    noise = th.randn(4000, 1, generator=generator)
    with th.no_grad():
        drawn = generative.sample(features, noise, Sampler("heun", 12), guide=EnergyGuide(energy, features, 1.0))
    # Where the density is smooth, the slopes themselves
    for t in (0.1, 0.5, 0.7):
        times, x = th.full((1, 1), t, dtype=th.float64), th.tensor([[-0.5], [0.0], [0.5]], dtype=th.float64)
        scaled = path(times).alpha * x
        learnt = energy.slopes(features[:3], times.float(), scaled.float())
        th.testing.assert_close(learnt.double(), ExactEnergy(path).slopes(None, times, scaled), atol=0.2, rtol=0.0)
    # Between the modes, where f bends within a tenth, so small a network smooths it
    expected = mixture(path, "noise", tilted=True)
    share = (drawn > 0).float().mean().item()
    assert share == pytest.approx(expected.weights[1].item(), abs=0.13)
    mean = (expected.weights * expected.means[:, 0]).sum().item()
    assert drawn.mean().item() == pytest.approx(mean, abs=0.04)
    # Where mu itself is: the tilt is what makes the difference
    assert WEIGHTS[1] < share - 0.3


def test_contrast_is_least_where_the_softmaxes_agree():
    values = th.tensor([[0.3, -1.0, 2.0]], dtype=th.float64)
    for shift in (0.0, 5.0):
        energies = (values + shift).requires_grad_()
        loss = contrastive_loss(energies, values)
        (gradient,) = th.autograd.grad(loss.sum(), energies)
        assert gradient.abs().max() < 1e-12
        probabilities = special.softmax(values.numpy())
        assert loss.item() == pytest.approx(special.entr(probabilities).sum())


def test_targets_are_softmax_averages_over_the_support():
    model = make_model(beta=2.0, gamma=0.9, n_actions=3)
    model.read_dataset()
    rows = th.arange(10)
    batch = Batch.of(model.replay_buffer.rows(rows), rows, th.Generator().manual_seed(0))
    targets = model.critics._targets(batch, 0.9)[:, 0].numpy()
    actions = model.supported_actions("next_observations", batch)
    for row in range(10):
        with th.no_grad():
            values = [model.critic_target.q_values(batch.next_observations[[row]], a[None]).item() for a in actions[row]]
        value = np.average(values, weights=special.softmax(2.0 * np.array(values)))
        expected = batch.rewards[row].item() + 0.9 * (1 - batch.dones[row].item()) * value
        assert targets[row] == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("redraw", [False, True])
def test_actions_are_of_their_own_state(redraw):
    """A behaviour model that says which state it is asked for."""
    model = make_model(redraw_actions=redraw, n_actions=4)
    model.read_dataset()
    model.actor_ema.sample = lambda features, noise, generator=None: features[:, :2] + 1e-3 * noise
    rows = th.tensor([7, 2, 11])
    batch = Batch.of(model.replay_buffer.rows(rows), rows, th.Generator().manual_seed(0))
    for part in ("observations", "next_observations"):
        actions = model.supported_actions(part, batch)
        features = model.actor_ema.extract_features(getattr(batch, part), model.actor_ema.features_extractor)
        assert actions.shape == (3, 4, 2)
        th.testing.assert_close(actions, features[:, None, :2].expand(3, 4, 2), atol=0.01, rtol=0.0)
        same = th.equal(actions, model.supported_actions(part, batch))
        assert same is not redraw


def test_first_it_clones_then_the_clone_stays():
    model = make_model(pretraining_steps=3)
    critic = [p.clone() for p in model.critic.parameters()]
    model.learn(3)
    assert all(th.equal(p, before) for p, before in zip(model.critic.parameters(), critic, strict=True))
    model.learn(1, reset_num_timesteps=False)
    clone = [p.clone() for p in model.actor_ema.parameters()]
    energy = [p.clone() for p in model.policy.energy.parameters()]
    model.learn(3, reset_num_timesteps=False)
    assert all(th.equal(p, before) for p, before in zip(model.actor_ema.parameters(), clone, strict=True))
    assert not any(th.equal(p, before) for p, before in zip(model.policy.energy.parameters(), energy, strict=True))
    assert make_model().learn(10).pretraining_steps == 5


def test_it_saves_loads_and_goes_on_bit_for_bit_without_a_pickle(tmp_path):
    # An untrained velocity network does not carry actions to their bounds, as one of noise does
    kwargs = dict(SMALL, sampling_steps=2, path="cosine")
    model = make_model(pretraining_steps=2, critic=SupportCritic(n_critics=3), policy_kwargs=kwargs).learn(5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.save(tmp_path / "model")
        model.policy.save(tmp_path / "policy.pt")
    loaded = QGPO.load(tmp_path / "model")
    rows = make_arrays()["observations"][:4]
    expected = model.predict(rows, deterministic=True)[0]
    np.testing.assert_array_equal(loaded.predict(rows, deterministic=True)[0], expected)
    np.testing.assert_array_equal(
        type(model.policy).load(tmp_path / "policy.pt").predict(rows, deterministic=True)[0], expected
    )
    # The guide has a say
    assert not np.allclose(model.predict(rows, deterministic=True, guidance=0.0)[0], expected, atol=1e-6)
    for goes_on in (model, loaded):
        goes_on.learn(3, reset_num_timesteps=False, dataset=make_arrays())
    for mine, other in zip(loaded.policy.parameters(), model.policy.parameters(), strict=True):
        assert th.equal(mine, other)


def test_online_needs_actions_that_are_drawn_anew():
    options = dict(policy_kwargs=dict(SMALL, sampling_steps=2), seed=0, batch_size=8, n_actions=2, pretraining_steps=2)
    kept, redrawn = (
        QGPO("MlpPolicy", "Pendulum-v1", dataset="pendulum-mixed", redraw_actions=redraw, **options)
        for redraw in (False, True)
    )
    with pytest.raises(ValueError, match="cannot go on online: .* Take redraw_actions=True"):
        kept.learn_online(1)
    before = [p.clone() for p in redrawn.learn(3).actor.parameters()]
    assert redrawn.learn_online(5).num_timesteps == 8
    # The behaviour model learns again
    assert not any(th.equal(p, old) for p, old in zip(redrawn.actor.parameters(), before, strict=True))


def test_what_it_cannot_do_is_said(tmp_path):
    with pytest.raises(ValueError, match="give a SupportCritic, not PolicyCritic"):
        make_model(critic=PolicyCritic())
    with pytest.raises(ValueError, match="penalty says nothing of actions of the behaviour model"):
        SupportCritic(penalty=0.1)
    with pytest.raises(ValueError, match="pretraining_steps must be a number >= 1"):
        make_model(pretraining_steps=0)
    with pytest.raises(ValueError, match="gradient of the energy, .* With policy.guidance = 0.0"):
        make_model().policy.export_onnx(tmp_path / "policy.onnx")
