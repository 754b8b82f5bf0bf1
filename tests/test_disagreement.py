"""
What the critics' networks do not agree on counts for less (``heed_disagreement``).
"""

import numpy as np
import pytest
import torch as th

from sb3_genpolicy import GMPG, GMPO, OneStepCritic, learn_side_by_side
from sb3_genpolicy.common.policies.critics.aggregation import agreed, agreement
from sb3_genpolicy.common.updates.batch import Batch
from tests.helpers.arrays import make_arrays
from tests.helpers.side_by_side import assert_same

ARRAYS = make_arrays()


def make(algorithm=GMPO, critic="onestep", **options):
    defaults = dict(dataset=ARRAYS, policy_kwargs=dict(net_arch=[8]), seed=0, batch_size=8, beta=0.5, pretraining_steps=2)
    return algorithm("FlowPolicy", critic=critic, **{**defaults, **options})


def pretrained(algorithm=GMPO, **options):
    return make(algorithm, **options).learn(3)


def batch_of(model, size=8):
    rows = th.arange(size)
    generator = th.Generator().manual_seed(0)
    return Batch.of(model.replay_buffer.rows(rows, None), rows, generator)


def make_members(model, sign):
    """The second network gives what the first does, or its contrary."""
    for critic in (model.critic, model.critic_target):
        with th.no_grad():
            for name, parameter in critic.named_parameters():
                if name.startswith(("layers", "norms")):
                    parameter[1] = parameter[0]
            for parameter in critic.layers[-1].parameters():
                parameter[1] = sign * parameter[0]


@pytest.mark.parametrize("n", [1, 2, 5])
def test_shares_by_hand(n):
    """m^2 / (m^2 + s^2 / n) with NumPy's mean and sample deviation; of vectors by their squared lengths."""
    values = np.random.default_rng(0).normal(1.0, 1.0, (n, 4, 3))
    m, v = values.mean(axis=0), values.std(axis=0, ddof=1) ** 2 / n if n > 1 else np.zeros((4, 3))
    np.testing.assert_allclose(agreement(th.as_tensor(values)), m**2 / (m**2 + v), rtol=1e-9)
    of_vectors = (m**2).sum(axis=1) / ((m**2).sum(axis=1) + v.sum(axis=1))
    np.testing.assert_allclose(agreement(th.as_tensor(values), whole=1), of_vectors, rtol=1e-9)


def test_it_is_one_where_all_agree_and_where_nobody_says_anything():
    values = th.tensor([[2.0, 0.0, 1.0], [2.0, 0.0, -1.0]], dtype=th.float64)
    np.testing.assert_allclose(agreement(values), [1.0, 1.0, 0.0], atol=1e-9)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e15, 1e30, 1e37])
def test_large_values_have_shares_as_small_ones_have(size):
    """Squares of values of 1e20 are beyond float32: actions by such a critic were no numbers."""
    values = np.random.default_rng(0).normal(1.0, 1.0, (3, 4, 5))
    small, large = th.as_tensor(values), th.as_tensor(size * values, dtype=th.float32)
    for whole in (0, 1):
        np.testing.assert_allclose(agreement(large, whole), agreement(small, whole), rtol=1e-3)
    np.testing.assert_allclose(agreed(large).double() / size, agreed(small), rtol=1e-3)
    np.testing.assert_allclose(agreed(large[:1]).double() / size, agreed(small[:1]), rtol=1e-3)


@pytest.mark.parametrize("critic", ["onestep", "iql", OneStepCritic(n_critics=3, relative_actions=False)], ids=str)
def test_slopes_are_those_of_the_networks(critic):
    """Finite differences of every network's Q, in units of what it sees of an action."""
    model = pretrained(GMPG, critic=critic)
    model.policy.double()
    ensemble, batch = model.critic, batch_of(model)
    observations, actions = batch.observations.double(), batch.actions.double() * 0.5
    deviation = 1.0 if ensemble.usual_action is None else ensemble.usual_action.deviation.detach().double()
    slopes, step = th.zeros(ensemble.n_critics, *actions.shape, dtype=th.float64), 1e-5
    with th.no_grad():
        for i in range(actions.shape[1]):
            shift = step * th.eye(actions.shape[1], dtype=th.float64)[i]
            ahead, behind = (ensemble.values(observations, actions + way * shift)[..., 0] for way in (1.0, -1.0))
            slopes[:, :, i] = (ahead - behind) / (2.0 * step)
    expected = agreement(slopes * deviation, whole=1)
    np.testing.assert_allclose(ensemble.agreement_on_slopes(observations, actions), expected, rtol=1e-3, atol=1e-5)
    assert expected.min() < 0.99


@pytest.mark.parametrize("options", [{}, dict(weighting="softmax", n_actions=3)], ids=str)
@pytest.mark.parametrize("critic", ["onestep", "iql"])
def test_gmpo_clones_where_networks_contradict_each_other(critic, options):
    """Weights are then all the same; where networks agree, they are those of what all say."""
    model = pretrained(critic=critic, beta=5.0, **options)
    with th.no_grad():
        # Of iql the advantage is Q - V
        for parameter in model.value_net.value_net.parameters():
            parameter.zero_()

    def effective_sample_size(heed):
        model.heed_disagreement = heed
        return float(model.objective(batch_of(model)).means["effective_sample_size"])

    make_members(model, 1.0)
    alike = effective_sample_size(False)
    assert effective_sample_size(True) == pytest.approx(alike, rel=1e-4) and alike < 0.9999
    make_members(model, -1.0)
    assert effective_sample_size(True) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("gradient_estimator", ["pathwise", "adjoint", "reinforce"])
def test_gmpg_stays_where_networks_contradict_each_other(gradient_estimator):
    """The gradient is then that of beta 0; where networks agree, that of their mean."""
    model = pretrained(GMPG, gradient_estimator=gradient_estimator)

    def gradient(heed, beta):
        model.heed_disagreement, model.beta = heed, beta
        model.actor.zero_grad()
        model.policy_loss(batch_of(model)).loss.backward()
        return th.cat([parameter.grad.flatten() for parameter in model.actor.model.parameters()])

    make_members(model, 1.0)
    together, nothing = gradient(True, 50.0), gradient(False, 0.0)
    np.testing.assert_allclose(together, gradient(False, 50.0), rtol=1e-4, atol=1e-4)
    assert (together - nothing).norm() > 0.1 * nothing.norm()
    make_members(model, -1.0)
    np.testing.assert_allclose(gradient(True, 50.0), nothing, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("gradient_estimator", ["reinforce_softmax", "matching", "detached"])
def test_an_estimator_that_would_not_heed_it_is_refused(gradient_estimator):
    with pytest.raises(ValueError, match="heed_disagreement is for gradient_estimator 'pathwise', 'adjoint', 'reinforce'"):
        make(GMPG, gradient_estimator=gradient_estimator, heed_disagreement=True)


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [(GMPO, {}), (GMPO, dict(weighting="softmax", n_actions=2)), (GMPG, {}), (GMPG, dict(gradient_estimator="adjoint"))],
    ids=str,
)
def test_side_by_side_it_is_as_alone(algorithm, options):
    together, alone = (
        [make(algorithm, heed_disagreement=True, **{**options, "seed": seed}) for seed in (1, 2)] for _ in range(2)
    )
    learn_side_by_side(together, 4)
    for model in alone:
        model.learn(4)
    assert_same(together, alone, rtol=1e-3, atol=1e-5)
    changed = make(algorithm, **{**options, "seed": 1}).learn(4)
    assert not th.allclose(changed.actor.model.network.head.weight, alone[0].actor.model.network.head.weight, atol=1e-5)
