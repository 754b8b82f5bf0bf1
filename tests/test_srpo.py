"""
SRPO: its optimum for a Gaussian behaviour policy and a quadratic Q, in closed form.
"""

import numpy as np
import pytest
import torch as th
from scipy import integrate

from sb3_genpolicy import SRPO
from sb3_genpolicy.common.updates.batch import Batch
from tests.helpers.arrays import SMALL, make_arrays, one_step_data
from tests.helpers.closed_forms import gaussian

MEAN, STD = -0.3, 0.25


class Quadratic(th.nn.Module):
    """Q(s, a) = -strength |a - best|^2, in place of a critic."""

    def __init__(self, strength, best):
        super().__init__()
        self.strength, self.best = strength, best

    def q_values(self, observations, actions):
        return -self.strength * (actions - self.best).square().sum(dim=1, keepdim=True)


def make_model(**options):
    given = dict(dataset=make_arrays(), policy_kwargs=SMALL, seed=0, batch_size=16)
    return SRPO("MlpPolicy", **{**given, **options})


def with_gaussian_behaviour(path, prediction, **options):
    """A model whose behaviour network is that of N(MEAN, STD^2) exactly."""
    data = one_step_data(np.linspace(-1, 1, 40)[:, None], np.zeros(40))
    kwargs = dict(net_arch=[8], path=path, prediction=prediction, normalize_actions=False)
    model = make_model(dataset=data, policy_kwargs=kwargs, **options)
    model.read_dataset()
    generative = model.policy.behaviour.model
    # Beyond the box the estimate of the data is clamped, which this Gaussian's tails are
    generative.network, generative.data_bound = gaussian(generative.path, prediction, MEAN, STD), None
    return model


def stiffness(path):
    """
    C in E[sigma^2 (noise(x) - z)] = C (a - mean): the noise of a Gaussian is sigma (x - alpha mean) / (alpha^2 std^2 +
    sigma^2), and E[x] = alpha a, E[noise z] = sigma^2 / (...).
    """

    def at(t):
        alpha, sigma, *_ = (value.item() for value in path(th.tensor(t, dtype=th.float64)))
        return sigma**2 * sigma * alpha / (alpha**2 * STD**2 + sigma**2)

    return integrate.quad(at, 0.02, 0.98)[0] / 0.96


@pytest.mark.parametrize(("path", "prediction"), [("vp", "noise"), ("cosine", "velocity")])
def test_the_score_pulls_as_the_density_does(path, prediction):
    model = with_gaussian_behaviour(path, prediction, n_times=8)
    actions = th.full((20_000, 1), 0.5, dtype=th.float64)
    pull = model.score_gradient(th.zeros(20_000, 1), actions, th.Generator().manual_seed(0)).mean().item()
    assert pull == pytest.approx(stiffness(model.policy.behaviour.model.path) * (0.5 - MEAN), rel=0.02)


def test_its_optimum_is_that_of_a_gaussian_and_a_quadratic():
    """beta grad Q = C (a - mean), that is a = (C mean + 2 beta k b) / (C + 2 beta k)."""
    beta, strength, best = 0.4, 0.2, 0.7
    model = with_gaussian_behaviour("vp", "noise", beta=beta, normalize_q=False)
    model.critics.critic = Quadratic(strength, best)
    optimizer = th.optim.Adam(model.policy.actor.parameters(), 0.02)
    rows = model.replay_buffer.rows(th.zeros(2000, dtype=th.long))
    generator = th.Generator().manual_seed(1)
    for step in range(150):
        optimizer.param_groups[0]["lr"] = 0.02 * (1.0 - step / 150)
        optimizer.zero_grad()
        model._policy_objective(Batch.of(rows, th.zeros(2000, dtype=th.long), generator)).losses["actor_loss"].backward()
        optimizer.step()
    pull, force = stiffness(model.policy.behaviour.model.path), 2 * beta * strength
    with th.no_grad():
        action = model.policy.actor(th.zeros(1, 1)).item()
    assert action == pytest.approx((pull * MEAN + force * best) / (pull + force), abs=0.01)


def test_beta_has_no_unit_where_slopes_are_normalised():
    gradients = []
    for factor in (1.0, 100.0):
        model = with_gaussian_behaviour("vp", "noise")
        model.critics.critic = Quadratic(factor, 0.4)
        batch = Batch.of(model.replay_buffer.rows(th.arange(16)), th.arange(16), th.Generator().manual_seed(0))
        model._policy_objective(batch).losses["actor_loss"].backward()
        gradients.append([p.grad.clone() for p in model.policy.actor.parameters()])
    for one, other in zip(*gradients, strict=True):
        th.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_every_loss_trains_its_own_network():
    model = make_model()
    model.read_dataset()
    rows = th.arange(16)
    objective = model.objective(Batch.of(model.replay_buffer.rows(rows), rows, th.Generator().manual_seed(0)))
    networks = {name: list(model.policy.networks()[name].parameters()) for name in objective.trains}
    of = dict(actor_loss="actor", critic_loss="critic", value_loss="value_net", matching_loss="behaviour")
    assert set(networks) == set(of.values())
    for loss, owner in of.items():
        for name, parameters in networks.items():
            grads = th.autograd.grad(objective.losses[loss], parameters, retain_graph=True, allow_unused=True)
            assert any(grad is not None and grad.abs().sum() > 0 for grad in grads) == (name == owner), (loss, name)
