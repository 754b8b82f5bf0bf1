"""
Dropout in Q and V: the masks' statistics, nothing of it while acting, and what it cannot be combined with.
"""

import numpy as np
import pytest
import torch as th
from torch import nn

from sb3_genpolicy import GMPO, IQLCritic, OneStepCritic, learn_side_by_side
from sb3_genpolicy.common.policies.critics.layers import masks_from
from sb3_genpolicy.common.updates.batch import Batch
from sb3_genpolicy.generative.draws import Share
from tests.helpers.arrays import SMALL

WIDTH = 512


def model_of(arrays, **options):
    critic = OneStepCritic(**{"net_arch": (WIDTH,), "layer_norm": False, "relative_actions": False, **options})
    return GMPO("FlowPolicy", dataset=arrays, critic=critic, policy_kwargs=SMALL, seed=0, batch_size=16, device="cpu")


def count_hidden(layers):
    """Of two linear layers, the mean of the hidden units, all of which are 1."""
    first, last = layers
    with th.no_grad():
        first.weight.zero_()
        first.bias.fill_(1.0)
        last.weight.fill_(1.0 / WIDTH)
        last.bias.zero_()


# Networks of a critic are computed together up to 1024 rows, one by one beyond
@pytest.mark.parametrize("n_rows", [1000, 3000])
@pytest.mark.parametrize("dropout", [0.2, 0.5])
def test_so_large_a_share_is_left_out_of_every_row_and_network(arrays, dropout, n_rows):
    """Of n units, each with probability p, and the others are scaled up: the mean has the variance p / ((1 - p) n)."""
    policy = model_of(arrays, dropout=dropout).policy
    count_hidden(policy.critic.layers)
    count_hidden([layer for layer in policy.value_net.value_net if isinstance(layer, nn.Linear)])
    observations, actions = th.randn(n_rows, 3), th.zeros(n_rows, 2)
    deviation = np.sqrt(dropout / ((1.0 - dropout) * WIDTH))
    with th.no_grad(), masks_from(th.Generator().manual_seed(0), policy.critic, policy.value_net):
        outputs = [*policy.critic.advantages(observations, actions)[..., 0], policy.value_net(observations)[:, 0]]
    for each in outputs:
        assert each.mean().item() == pytest.approx(1.0, abs=5.0 * deviation / n_rows**0.5)
        assert each.std().item() == pytest.approx(deviation, rel=0.1)
    assert abs(np.corrcoef(outputs[0], outputs[1])[0, 1]) < 0.15
    # Nowhere else, in training mode either
    policy.set_training_mode(True)
    for each in (*policy.critic.advantages(observations, actions), policy.value_net(observations)):
        np.testing.assert_allclose(each.detach(), 1.0, rtol=1e-5)


@pytest.mark.parametrize("n_rows", [500, 1500])
def test_shares_of_a_batch_draw_the_masks_of_the_whole(arrays, n_rows):
    """Also where the whole is computed network by network, and its shares are not."""
    policy = model_of(arrays, dropout=0.5, layer_norm=True, relative_actions=True).policy
    observations, actions = th.randn(n_rows, 3), th.zeros(n_rows, 2)

    def outputs(source, rows):
        with th.no_grad(), masks_from(source, policy.critic, policy.value_net):
            return policy.critic.advantages(observations[rows], actions[rows]), policy.value_net(observations[rows])

    whole = outputs(th.Generator().manual_seed(1), slice(None))
    half = n_rows // 2
    first, second = (
        outputs(Share(th.Generator().manual_seed(1), index, 2), slice(index * half, (index + 1) * half)) for index in (0, 1)
    )
    np.testing.assert_allclose(whole[0], th.cat([first[0], second[0]], dim=1), atol=1e-5)
    np.testing.assert_allclose(whole[1], th.cat([first[1], second[1]]), atol=1e-5)


@pytest.mark.parametrize("critic", [OneStepCritic, IQLCritic])
def test_losses_leave_out_and_weights_and_held_out_rows_do_not(arrays, critic):
    options = critic(dropout=0.5, net_arch=(16,))
    model = GMPO("FlowPolicy", dataset=arrays, critic=options, policy_kwargs=SMALL, seed=0, device="cpu").learn(3)
    rows = th.arange(20)

    def losses(seed):
        generator = th.Generator().manual_seed(seed)
        return model.critic_losses(Batch.of(model.replay_buffer.rows(rows), rows, generator))

    model.set_training_mode()
    one, again, other = losses(0), losses(0), losses(1)
    for name in ("critic_loss", "value_loss"):
        assert getattr(one, name).item() == getattr(again, name).item() != getattr(other, name).item()
    np.testing.assert_array_equal(one.advantage, other.advantage)
    model.policy.set_training_mode(False)
    one, other = losses(0), losses(1)
    assert one.critic_loss.item() == other.critic_loss.item() and one.value_loss.item() == other.value_loss.item()


def test_training_saving_and_acting(arrays, tmp_path):
    model = model_of(arrays, dropout=0.3, layer_norm=True, relative_actions=True).learn(5)
    before = model.policy.critic.layers[0].weight.clone()
    model.save(tmp_path / "model")
    rows = arrays["observations"][:6]
    loaded = GMPO.load(tmp_path / "model", device="cpu", dataset=arrays)
    assert loaded.critic_options == model.critic_options and loaded.critic_options.dropout == 0.3
    np.testing.assert_array_equal(loaded.predict(rows, deterministic=True)[0], model.predict(rows, deterministic=True)[0])
    loaded.learn(5, reset_num_timesteps=False)
    assert not th.equal(loaded.policy.critic.layers[0].weight, before)


def test_models_side_by_side_draw_their_own_masks(arrays):
    """Parameters are those of models that learn alone."""

    def models():
        return [
            GMPO(
                "FlowPolicy", dataset=arrays, critic=OneStepCritic(dropout=0.4), policy_kwargs=SMALL, seed=seed, batch_size=16
            )
            for seed in (0, 1)
        ]

    alone, together = models(), models()
    for model in alone:
        model.learn(6)
    learn_side_by_side(together, 6)
    for one, other in zip(alone, together, strict=True):
        for ours, theirs in zip(one.policy.parameters(), other.policy.parameters(), strict=True):
            np.testing.assert_allclose(ours.detach(), theirs.detach(), atol=1e-5)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match="OneStepCritic: dropout must be a number"):
        OneStepCritic(dropout=share)
