"""
Losses and gradients that are not finite leave the model as it was.
"""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch as th

from sb3_genpolicy import GMPO, learn_side_by_side
from sb3_genpolicy.common.updates import guards
from sb3_genpolicy.common.updates.guards import check_gradients
from tests.helpers.arrays import SMALL
from tests.helpers.guarded_updates import GOOD_STEPS, GUARDED, assert_the_same, guarded
from tests.helpers.states import same_state

# Gradients


@pytest.mark.parametrize("network", ["actor", "critic", "value_net"])
def test_a_finite_loss_with_a_gradient_that_is_none_is_not_stepped_on(arrays, network):
    """A root at zero is zero, and its slope is infinite."""
    model = GMPO("FlowPolicy", dataset=arrays, policy_kwargs=SMALL, seed=0).learn(3)
    loss_of = dict(actor="actor_loss", critic="critic_loss", value_net="value_loss")[network]
    objective, broken = model.objective, next(getattr(model, network).parameters())

    def with_a_root(batch):
        made = objective(batch)
        return replace(made, losses={**made.losses, loss_of: made.losses[loss_of] + (0.0 * broken).sum().sqrt()})

    before = copy.deepcopy(model.policy.state_dict())
    model.objective = with_a_root
    with pytest.raises(FloatingPointError, match=f"in gradient step 4, the gradient of {network} is not finite"):
        model.learn(1, reset_num_timesteps=False)
    assert same_state(before, dict(model.policy.state_dict()))


def test_a_gradient_whose_norm_overflows_is_finite():
    parameter = th.nn.Parameter(th.ones(3))
    parameter.grad = th.full((3,), 1e30)
    assert parameter.grad.norm() == np.inf
    check_gradients(1, dict(actor=th.optim.SGD([parameter], lr=0.0)))
    parameter.grad[1] = np.inf
    with pytest.raises(FloatingPointError, match="the gradient of actor is not finite"):
        check_gradients(1, dict(actor=th.optim.SGD([parameter], lr=0.0)))


# Losses


@pytest.mark.parametrize("case", GUARDED)
def test_a_loss_that_is_not_finite_leaves_the_model_as_it_was(arrays, case):
    model = guarded(case, arrays, "loss")
    match = rf"in gradient step 6, {GUARDED[case][2]} = nan.* The parameters are those before this step"
    with pytest.raises(FloatingPointError, match=match):
        model.learn(20)
    assert model.num_timesteps == GOOD_STEPS
    assert_the_same(model, guarded(case, arrays).learn(GOOD_STEPS))


@pytest.mark.parametrize("case", GUARDED)
def test_where_looks_are_rare_nothing_changes_from_the_first_such_loss_on(arrays, case, rare_looks):
    """Networks, averages, moments, counts of steps and beta, at the end of a training that went on for a while."""
    model = guarded(case, arrays, "loss")
    match = rf"in gradient step 6, {GUARDED[case][2]} = nan.* those before that step, .* the steps since then changed nothing"
    with pytest.raises(FloatingPointError, match=match):
        model.learn(12)
    assert model.num_timesteps == 11
    assert_the_same(model, guarded(case, arrays).learn(GOOD_STEPS))


@pytest.mark.parametrize(
    ("case", "network"), [("advantage", "actor"), ("target_kl", "actor"), ("advantage, first phase", "value_net")]
)
def test_where_looks_are_rare_a_gradient_is_watched_too(arrays, case, network, rare_looks):
    model = guarded(case, arrays, "gradient")
    with pytest.raises(
        FloatingPointError, match=rf"in gradient step 6, the gradient of {network} = (nan|inf).* The parameters are those"
    ):
        model.learn(12)
    assert_the_same(model, guarded(case, arrays).learn(GOOD_STEPS))


def test_what_is_noted_on_the_device_is_looked_at_after_so_many_steps(arrays, rare_looks, monkeypatch):
    monkeypatch.setattr(guards, "_CHECK_EVERY_ON_GPU", 8)
    model = guarded("advantage", arrays, "loss")
    with pytest.raises(FloatingPointError, match="in gradient step 6, "):
        model.learn(20)
    assert model.num_timesteps == 7


def test_a_phase_does_not_end_on_parameters_that_were_kept(arrays, rare_looks):
    """The actor would become the average."""
    model = guarded("policy gradient, first phase", arrays, "loss", pretraining_steps=8)
    with pytest.raises(FloatingPointError, match="in gradient step 6, matching_loss = nan"):
        model.learn(20)
    assert model.num_timesteps == 8 and not model.pretraining_finished
    expected = guarded("policy gradient, first phase", arrays, pretraining_steps=8).learn(GOOD_STEPS)
    assert_the_same(model, expected)


@pytest.mark.parametrize("case", ["advantage", "target_kl"])
def test_rare_looks_change_no_number_of_a_training_that_goes_well(arrays, case, monkeypatch):
    expected = guarded(case, arrays).learn(10)
    monkeypatch.setattr(guards, "looks_at_every_step", lambda device: False)
    model = guarded(case, arrays).learn(10)
    assert model.descent.guard.on_device is not None
    assert_the_same(model, expected)
    # A model that goes on where every step is looked at has nothing of it left
    monkeypatch.undo()
    for goes_on in (model, expected):
        goes_on.learn(3, reset_num_timesteps=False)
    assert model.descent.guard.on_device is None
    assert all(optimizer.found_inf is None for optimizer in model.descent.optimizers().values())
    assert_the_same(model, expected)


@pytest.mark.parametrize(
    "optimizer", [dict(optimizer_class=th.optim.SGD), dict(optimizer_kwargs=dict(fused=False))], ids=["SGD", "not fused"]
)
def test_other_optimizers_keep_nothing_and_the_message_says_so(arrays, optimizer, rare_looks, monkeypatch):
    monkeypatch.setattr(guards, "_CHECK_EVERY_ON_GPU", 5)
    model = guarded("advantage", arrays, "loss", policy_kwargs=dict(SMALL, **optimizer))
    with pytest.raises(FloatingPointError, match=r"in gradient step 6, actor_loss = nan.* load a checkpoint"):
        model.learn(12)
    assert model.descent.guard.on_device is None


def test_models_side_by_side_are_looked_at_by_each_step_s_losses(arrays, rare_looks, monkeypatch):
    monkeypatch.setattr(guards, "_CHECK_EVERY_ON_GPU", 1)
    models = [GMPO("FlowPolicy", dataset=arrays, policy_kwargs=SMALL, seed=seed) for seed in range(2)]
    learn_side_by_side(models, 3)
    assert all(model.descent.guard.on_device is None for model in models)
    with th.no_grad():
        models[1].value_net.value_net[-1].bias.fill_(th.nan)
    with pytest.raises(
        FloatingPointError, match=r"model 1 .*: Training diverged: in gradient step 4, .*value_loss = nan.* load a"
    ):
        learn_side_by_side(models, 3, reset_num_timesteps=False)
