"""
FQL: where its optimum lies, what its losses are, and that acting is one network evaluation.
"""

import numpy as np
import pytest
import torch as th
from scipy import integrate, stats

from sb3_genpolicy import FQL, PolicyCritic
from sb3_genpolicy.common.algorithms.critic_hooks import rows_for_critics
from sb3_genpolicy.common.updates.batch import Batch
from tests.helpers.arrays import SMALL, make_arrays, one_step_data


def make_model(**options):
    given = dict(dataset=make_arrays(), policy_kwargs=dict(SMALL, sampling_steps=2), seed=0, batch_size=16)
    return FQL("MlpPolicy", **{**given, **options})


def batch_of(model, rows):
    model.read_dataset()
    rows = th.as_tensor(rows)
    return Batch.of(model.replay_buffer.rows(rows), rows, th.Generator().manual_seed(0))


class Quadratic(th.nn.Module):
    """Q(s, a) = -strength |a - best|^2, in place of a critic."""

    def __init__(self, strength, best):
        super().__init__()
        self.strength, self.best = strength, best

    def q_values(self, observations, actions):
        return -self.strength * (actions - self.best).square().sum(dim=1, keepdim=True)


class Shift(th.nn.Module):
    """A flow that has ended at ``mean + std z``."""

    def __init__(self, mean, std):
        super().__init__()
        self.mean, self.std, self.features_extractor = mean, std, th.nn.Identity()

    def extract_features(self, observations, extractor):
        return extractor(observations)

    def sample(self, features, noise, generator=None):
        return self.mean + self.std * noise


def test_the_policy_ends_between_the_flow_and_the_best_action():
    """alpha (a - f)^2 + k (a - b)^2 has its minimum at (alpha f + k b) / (alpha + k), for every draw of the noise."""
    alpha, strength, best = 0.5, 1.5, 0.4
    model = make_model(
        dataset=one_step_data(np.zeros((20, 1)), np.zeros(20)),
        alpha=alpha,
        normalize_q=False,
        policy_kwargs=dict(net_arch=[8]),
    )
    model.read_dataset()
    model.critics.critic = Quadratic(strength, best)
    # Modules of the policy are checked by nn.Module: put into its table
    model.policy._modules["behaviour"] = Shift(-0.2, 0.1)
    optimizer = th.optim.Adam(model.policy.actor.parameters(), 0.02)
    rows = model.replay_buffer.rows(th.zeros(256, dtype=th.long))
    generator = th.Generator().manual_seed(1)
    for step in range(400):
        optimizer.param_groups[0]["lr"] = 0.02 * (1.0 - step / 400)
        batch = Batch.of(rows, th.zeros(256, dtype=th.long), generator)
        optimizer.zero_grad()
        model._policy_objective(batch).losses["actor_loss"].backward()
        optimizer.step()
    noise = th.linspace(-2.0, 2.0, 9)[:, None]
    with th.no_grad():
        actions = model.policy.actor(th.zeros(9, 1), noise)
    expected = (alpha * (-0.2 + 0.1 * noise) + strength * best) / (alpha + strength)
    th.testing.assert_close(actions, expected, atol=0.01, rtol=0.0)


def test_what_it_pays_is_a_mean_over_dimensions_and_noise():
    """For constants a and f in two dimensions: the distance by quadrature over the flow's noise."""
    model = make_model()
    batch = batch_of(model, np.zeros(4096, dtype=int))
    model.policy._modules["behaviour"] = Shift(0.3, 0.2)
    for parameter in model.policy.actor.parameters():
        parameter.data.zero_()
    distance = model._policy_objective(batch).means["distillation_loss"].item()
    expected, _ = integrate.quad(lambda z: (0.3 + 0.2 * z) ** 2 * stats.norm.pdf(z), -8, 8)
    assert distance == pytest.approx(expected, rel=0.05)


def test_alpha_has_no_unit_where_q_is_normalised():
    """Rewards ten times as large, values ten times as large: the same gradient of the policy."""
    gradients = []
    for factor in (1.0, 10.0):
        model = make_model(alpha=0.3)
        batch = batch_of(model, range(16))
        model.critics.critic = Quadratic(factor, 0.4)
        model._policy_objective(batch).losses["actor_loss"].backward()
        gradients.append([p.grad.clone() for p in model.policy.actor.parameters()])
    for one, other in zip(*gradients, strict=True):
        th.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_every_loss_trains_its_own_network():
    model = make_model()
    batch = batch_of(model, range(16))
    objective = model.objective(batch)
    assert set(objective.trains) == {"actor", "critic", "value_net", "behaviour"}
    networks = {name: list(model.policy.networks()[name].parameters()) for name in objective.trains}
    of = dict(actor_loss="actor", critic_loss="critic", value_loss="value_net", matching_loss="behaviour")
    for loss, owner in of.items():
        for name, parameters in networks.items():
            grads = th.autograd.grad(objective.losses[loss], parameters, retain_graph=True, allow_unused=True)
            assert any(grad is not None and grad.abs().sum() > 0 for grad in grads) == (name == owner), (loss, name)


def test_critics_bootstrap_with_the_policy_that_acts():
    """The target of a row by hand: reward, discount, and the target critics at the action of the same noise."""
    model = make_model(critic=PolicyCritic(penalty=0.1), gamma=0.9, tau=0.0)
    model.read_dataset()
    rows = th.arange(8)
    # The policy that is trained has gone elsewhere
    for parameter in model.policy.actor.parameters():
        parameter.data.add_(0.3)
    samples, next_actions = rows_for_critics(model, rows, model.replay_buffer.rows(rows), [None])
    batch = Batch.of(samples, rows, th.Generator().manual_seed(3), next_actions=next_actions)
    targets = model.critics._targets(batch, 0.9)
    noise = th.randn((8, 2), generator=th.Generator().manual_seed(3))
    with th.no_grad():
        actions = model.policy.actor_ema(batch.next_observations, noise).clamp(-1, 1)
        values = model.critic_target.values(batch.next_observations, actions).mean(dim=0)
    cost = 0.1 * (actions - next_actions).square().sum(dim=1, keepdim=True).nan_to_num(nan=0.0)
    th.testing.assert_close(targets, batch.rewards + 0.9 * (1 - batch.dones) * (values - cost))


def test_acting_is_one_evaluation_of_one_network():
    model = make_model().learn(2)
    calls = []
    for name, network in model.policy.networks().items():
        network.register_forward_hook(lambda *_, name=name: calls.append(name))
    model.predict(np.zeros(3, np.float32))
    assert calls == ["actor_ema"]
