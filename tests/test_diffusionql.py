"""
Diffusion-QL: one loss of matching and Q, by critics of the policy's own actions.
"""

import numpy as np
import pytest
import torch as th

from sb3_genpolicy import GMPG, DiffusionQL, PolicyCritic, learn_side_by_side
from sb3_genpolicy.common.updates.batch import Batch
from sb3_genpolicy.generative.draws import Tape
from tests.helpers.arrays import SMALL, make_arrays, one_step_data


def options(**others):
    return dict(dict(policy_kwargs=dict(SMALL, sampling_steps=2), seed=0, batch_size=8, dataset=make_arrays()), **others)


def batch_of(model, generator):
    model.read_dataset()
    rows = th.arange(8)
    return Batch.of(model.replay_buffer.rows(rows), rows, generator)


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_the_loss_is_gmpg_s_of_that_form(eta):
    """Value and gradient, of the same networks and the same draws."""
    ours = DiffusionQL("FlowPolicy", eta=eta, **options())
    form = dict(gradient_estimator="matching", normalize_q=True, pretraining_steps=0)
    theirs = GMPG("FlowPolicy", beta=eta, critic=ours.critic_options, **form, **options())
    theirs.policy.load_state_dict({**theirs.policy.state_dict(), **ours.policy.state_dict()})
    source = th.Generator().manual_seed(0)
    tape = Tape(source)
    ours.objective(batch_of(ours, tape))
    # Times and noise of the matching loss, noise of the actions (which GMPG draws first), then that of the critics' actions
    times, of_matching, of_actions, *rest = (draw.make(source) for draw in tape.draws)
    loss = ours.objective(batch_of(ours, Tape(ahead=[times, of_matching, of_actions, *rest]))).losses["actor_loss"]
    expected = theirs.policy_loss(batch_of(theirs, Tape(ahead=[of_actions, times, of_matching]))).loss
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = [
        th.autograd.grad(value, list(model.actor.model.parameters())) for value, model in ((loss, ours), (expected, theirs))
    ]
    for mine, other in zip(*gradients, strict=True):
        th.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def test_critics_get_no_gradient_from_the_policy_s_loss():
    model = DiffusionQL("DiffusionPolicy", **options())
    model.objective(batch_of(model, th.Generator().manual_seed(0))).losses["actor_loss"].backward()
    assert all(parameter.grad is None for parameter in model.critic.parameters())
    assert all(parameter.grad is not None for parameter in model.actor.model.parameters())


def test_critics_bootstrap_from_the_policy_s_own_actions():
    model = DiffusionQL("FlowPolicy", **options())
    assert model.critic_options == PolicyCritic(aggregation="minimum", layer_norm=False)
    seen = []
    actions = model.policy_actions
    model.policy_actions = lambda *arguments: seen.append(1) or actions(*arguments)
    model.learn(3)
    assert len(seen) == 3 and not model.critics_are_frozen


def test_more_of_q_moves_it_to_the_action_that_pays():
    actions = np.random.default_rng(0).choice([-0.6, 0.6], size=(400, 1))
    data = one_step_data(actions, (actions[:, 0] > 0).astype(float))
    paid = options(dataset=data, batch_size=64, reward_transform=None, learning_rate=3e-3)
    shares = []
    for eta in (0.0, 3.0):
        model = DiffusionQL("FlowPolicy", eta=eta, **paid).learn(250)
        th.manual_seed(0)
        shares.append((model.predict(np.zeros((500, 1), np.float32))[0] > 0.0).mean())
    assert abs(shares[0] - 0.5) < 0.15 and shares[1] > 0.8


def test_gradients_are_clipped():
    model = DiffusionQL("FlowPolicy", max_grad_norm=1e-3, **options()).learn(1)
    norm = th.stack([p.grad.norm() for p in model.actor.parameters() if p.grad is not None]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)


def test_files_resume_bit_for_bit(tmp_path):
    model = DiffusionQL("DiffusionPolicy", eta=0.5, **options()).learn(3)
    model.save(tmp_path / "model")
    loaded = DiffusionQL.load(tmp_path / "model")
    assert loaded.eta == 0.5 and loaded.critic_options == model.critic_options
    for goes_on in (model, loaded):
        goes_on.learn(3, reset_num_timesteps=False, dataset=make_arrays())
    for mine, expected in zip(loaded.policy.parameters(), model.policy.parameters(), strict=True):
        assert th.equal(mine, expected)


def test_it_goes_on_online():
    model = DiffusionQL("FlowPolicy", "Pendulum-v1", **options(dataset="pendulum-mixed")).learn(3).learn_online(12)
    assert model.num_timesteps == 15 and model.replay_buffer.n_added == 12


def test_models_side_by_side_may_differ_in_eta():
    models = [DiffusionQL("FlowPolicy", eta=eta, **options()) for eta in (0.3, 1.0)]
    alone = [DiffusionQL("FlowPolicy", eta=eta, max_grad_norm=None, **options()).learn(3) for eta in (0.3, 1.0)]
    for mine, expected in zip(learn_side_by_side(models, 3), alone, strict=True):
        for parameter, other in zip(mine.policy.parameters(), expected.policy.parameters(), strict=True):
            th.testing.assert_close(parameter, other, rtol=1e-4, atol=1e-6)
