"""
What a gradient step consists of gives the same numbers as the plain way to write it.
"""

import copy
from typing import ClassVar

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.utils import polyak_update
from torch import nn

from sb3_genpolicy import GMPG, GMPO, learn_side_by_side
from sb3_genpolicy.common.algorithms import gradient_steps
from sb3_genpolicy.common.policies.twin_critic import TwinCritic
from sb3_genpolicy.common.updates import precision
from sb3_genpolicy.common.updates.averages import follow
from sb3_genpolicy.common.updates.device_means import DeviceMeans
from sb3_genpolicy.common.updates.guards import check_gradients
from sb3_genpolicy.common.updates.precision import matmul_precision, onednn_keeps_float32
from sb3_genpolicy.common.updates.recorded_update import make_ordinary, make_recordable
from tests.helpers.arrays import SMALL, make_arrays
from tests.test_save_load import same_state

OBSERVATIONS, ACTIONS = spaces.Box(-1, 1, (5,)), spaces.Box(-1, 1, (2,))
CPU = th.device("cpu")


# Twin critics


def make_critic(critic_class, seed, **kwargs):
    th.manual_seed(seed)
    extractor = FlattenExtractor(OBSERVATIONS)
    return critic_class(OBSERVATIONS, ACTIONS, [16, 8], extractor, 5, share_features_extractor=False, **kwargs)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("n_critics", [1, 2, 3])
@pytest.mark.parametrize("n_rows", [1, 7, 3000])
def test_a_batch_of_critics_is_sb3_s_critic_of_the_same_seed(activation, n_critics, n_rows):
    """Values, and the gradient of every parameter."""
    options = dict(activation_fn=activation, n_critics=n_critics)
    ours, theirs = make_critic(TwinCritic, 3, **options), make_critic(ContinuousCritic, 3, **options)
    obs, actions = th.randn(n_rows, 5), th.randn(n_rows, 2)
    expected = theirs(obs, actions)
    th.testing.assert_close(ours(obs, actions), expected)
    th.testing.assert_close(ours.q1_forward(obs, actions), expected[0])
    th.testing.assert_close(ours.values(obs, actions), th.stack(expected))
    for values in (ours(obs, actions), expected):
        sum((n + 1) * value.square().mean() for n, value in enumerate(values)).backward()
    for n, q_network in enumerate(theirs.q_networks):
        for layer, linear in zip(ours.layers, q_network[::2], strict=True):
            th.testing.assert_close(layer.weight.grad[n].T, linear.weight.grad)
            th.testing.assert_close(layer.bias.grad[n, 0], linear.bias.grad)


# Averages


@pytest.mark.parametrize("rate", [0.0, 0.005, 0.3, 1.0])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_averages_follow_as_sb3_s_targets_do(rate, as_tensor):
    networks = [nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)) for _ in range(2)]
    ours, theirs = (copy.deepcopy(networks) for _ in range(2))
    follow(list(ours[0].parameters()), list(ours[1].parameters()), th.tensor(rate) if as_tensor else rate)
    polyak_update(theirs[1].parameters(), theirs[0].parameters(), rate)
    for mine, expected in zip(ours[0].parameters(), theirs[0].parameters(), strict=True):
        th.testing.assert_close(mine, expected)
    follow([], [], rate)


# Means for the log


def test_means_are_over_what_was_added_since_the_last_look():
    means = DeviceMeans()
    for value in (1.0, 3.0):
        means.add(loss=th.tensor(value), many=th.tensor([value, -value]))
    means.add(late=th.tensor(5.0))
    popped = means.pop()
    assert popped["loss"] == 2.0 and popped["many"].tolist() == [2.0, -2.0] and popped["late"] == 5.0
    assert means.pop() == {}
    means.add(loss=th.tensor(7.0))
    assert means.pop() == {"loss": 7.0}


def test_what_was_added_stays_as_it_was():
    """A sum begins as a copy: the first value may be overwritten by the next step."""
    means, value = DeviceMeans(), th.tensor(2.0)
    means.add(loss=value)
    means.add(loss=th.tensor(4.0))
    assert value == 2.0 and means.pop() == {"loss": 3.0}


# Precision


def settings():
    """What the whole process sees: the new settings and the old one, which torch does not let one mix."""
    return th.backends.mkldnn.matmul.fp32_precision, th.backends.cuda.matmul.fp32_precision, th.is_autocast_enabled("cpu")


@pytest.mark.parametrize("name", precision.PRECISIONS)
def test_a_precision_lasts_as_long_as_training(arrays, name):
    before, seen = settings(), []

    class Stopped(GMPO):
        def _objective(self, rows, batch):
            seen.append(settings())
            raise KeyError

    with pytest.raises(KeyError):
        Stopped("FlowPolicy", dataset=arrays, policy_kwargs=SMALL, precision=name).learn(1)
    assert settings() == before
    assert (seen[0][0] != before[0]) == onednn_keeps_float32() and seen[0][2] == (name == "bfloat16")
    # What users set with torch's older functions can still be read and set
    assert th.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("name", ["float32", "tf32"])
def test_float32_products_on_a_cpu_keep_their_digits(name):
    left, right = th.randn(64, 256), th.randn(256, 128)
    expected = left.double() @ right.double()
    with matmul_precision(name, CPU):
        product = left @ right
    assert product.dtype == th.float32 and (product - expected).abs().max() < 1e-4


def test_where_onednn_would_round_it_is_left_alone(monkeypatch):
    """As on processors that have units for bfloat16: the probe's product is off by far more than float32 is."""

    def rounding_product(left, right):
        return (
            (left.bfloat16().double() @ right.bfloat16().double()).float() if left.dtype == th.float32 else plain(left, right)
        )

    plain = th.Tensor.__matmul__
    onednn_keeps_float32.cache_clear()
    monkeypatch.setattr(th.Tensor, "__matmul__", rounding_product)
    try:
        assert not onednn_keeps_float32()
        before = settings()
        with matmul_precision("float32", CPU):
            assert settings() == before
    finally:
        onednn_keeps_float32.cache_clear()


@pytest.mark.parametrize("algorithm", [GMPO, GMPG])
def test_bfloat16_follows_the_curve_of_float32(arrays, algorithm):
    options = dict(pretraining_steps=100) if algorithm is GMPG else {}

    def curve(name):
        model = algorithm(
            "FlowPolicy", dataset=arrays, policy_kwargs=SMALL, seed=0, batch_size=32, precision=name, gamma=0.9, **options
        )
        losses = []
        for steps in (50, 100, 150):
            model.learn(50, reset_num_timesteps=False, log_interval=None)
            assert model.num_timesteps == steps and all(p.dtype == th.float32 for p in model.policy.parameters())
            losses.append({key: value.item() for key, value in model.means.pop().items()})
        return losses

    for ours, expected in zip(curve("bfloat16"), curve("float32"), strict=True):
        assert ours.keys() == expected.keys()
        for name in expected.keys() & {"critic_loss", "value_loss", "matching_loss", "actor_loss", "q_value"}:
            assert ours[name] == pytest.approx(expected[name], rel=0.1, abs=0.02), name
            # Nor is it the same run
            assert ours[name] != expected[name], name


def test_every_step_in_bfloat16_sees_the_parameters_of_the_last(arrays):
    """Rounded copies of parameters are kept no longer than a step: two at once are as two."""

    def trained(calls):
        model = GMPO("FlowPolicy", dataset=arrays, policy_kwargs=SMALL, seed=0, precision="bfloat16").learn(1)
        for steps in calls:
            model.train(steps, 32)
        return model

    at_once, apart = trained([6]), trained([1] * 6)
    for mine, expected in zip(at_once.policy.parameters(), apart.policy.parameters(), strict=True):
        th.testing.assert_close(mine, expected, rtol=0, atol=0)


def test_actions_do_not_depend_on_the_precision_of_training(arrays):
    """`predict` is float32 always."""
    model = GMPO("FlowPolicy", dataset=arrays, policy_kwargs=SMALL, seed=0, precision="bfloat16").learn(5)
    plain = GMPO("FlowPolicy", dataset=arrays, policy_kwargs=SMALL, seed=0)
    plain.policy.load_state_dict(model.policy.state_dict())
    rows = np.ones((4, 3), dtype=np.float32)
    np.testing.assert_array_equal(*(m.predict(rows, deterministic=True)[0] for m in (model, plain)))


def test_an_unknown_precision_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"precision='bfloat6' is unknown\. Did you mean 'bfloat16'\?"):
        GMPO("FlowPolicy", dataset=make_arrays(), precision="bfloat6")


# Recording: the graph itself is CUDA's (tests/test_cuda.py); what is around it is watched with one that runs what it was given


class Replayed:
    """In place of a CUDA graph: notes an update without running it, then runs it at every replay."""

    made: ClassVar[list["Replayed"]] = []

    def __init__(self, generators, means):
        self.recording, self.means, self.replays = False, means, 0
        Replayed.made.append(self)

    def record(self, update):
        self.update = update

    def replay(self):
        self.recording = True
        self.update()
        self.recording = False
        self.replays += 1


class Refused(Replayed):
    def record(self, update):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")


@pytest.fixture
def recordable(monkeypatch):
    def make_recordable(optimizer, device):
        for group in optimizer.param_groups:
            group["lr"] = th.tensor(float(group["lr"]))

    Replayed.made = []
    monkeypatch.setattr(gradient_steps, "RecordedUpdate", Replayed)
    monkeypatch.setattr(gradient_steps, "on_side_stream", lambda update: update())
    monkeypatch.setattr(gradient_steps, "make_recordable", make_recordable)
    monkeypatch.setattr(gradient_steps.GradientSteps, "_capture_obstacle", lambda self: None)


def run(arrays, steps=12, capture=False, **options):
    options = (
        dict(pretraining_steps=6, policy_learning_rate=lambda left: 1e-3 * left, learning_rate=lambda left: 1e-3 * left)
        | options
    )
    return GMPG("FlowPolicy", dataset=arrays, policy_kwargs=SMALL, seed=0, capture=capture, **options).learn(steps)


def test_replays_take_rates_from_outside_and_every_phase_has_its_own(arrays, recordable):
    replayed, plain = run(arrays, capture=True), run(arrays)
    # Three updates of each phase are made one by one
    assert [graph.replays for graph in Replayed.made] == [3, 3]
    for mine, expected in zip(replayed.policy.parameters(), plain.policy.parameters(), strict=True):
        th.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-6)
    assert replayed.logger.name_to_value["train/learning_rate"] == plain.logger.name_to_value["train/learning_rate"]


def test_a_replay_whose_loss_is_not_finite_is_found(arrays, recordable, monkeypatch):
    monkeypatch.setattr(gradient_steps, "_CHECK_EVERY_ON_GPU", 1)
    model = run(arrays, steps=5, capture=True)
    model.replay_buffer.rewards.fill_(np.nan)
    with pytest.raises(FloatingPointError, match="in gradient step 6, critic_loss = nan.* load a checkpoint"):
        model.train(1, model.batch_size)


def test_an_update_that_no_graph_can_hold_is_made_step_by_step_and_said_once(arrays, recordable, monkeypatch, capsys):
    monkeypatch.setattr(gradient_steps, "RecordedUpdate", Refused)
    refused, plain = run(arrays, capture=True, verbose=1), run(arrays)
    assert capsys.readouterr().out.count("step by step, not recorded (capture=True): operation not permitted") == 1
    for mine, expected in zip(refused.policy.parameters(), plain.policy.parameters(), strict=True):
        th.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-6)
    assert len(Replayed.made) == 1


@pytest.mark.parametrize("capture", [True, False])
def test_on_a_cpu_there_is_nothing_to_record_and_one_line_says_so(arrays, capture, capsys):
    model = GMPO("FlowPolicy", dataset=arrays, policy_kwargs=SMALL, seed=0, capture=capture, verbose=1).learn(2)
    said = capsys.readouterr().out.count("not recorded (capture=True): the model is on the device 'cpu'")
    assert said == capture and model.num_timesteps == 2


def test_an_optimizer_made_recordable_and_ordinary_again_steps_as_if_nothing_had_been():
    parameters = [th.nn.Parameter(th.ones(3)) for _ in range(2)]
    optimizers = [th.optim.Adam([parameter], lr=0.125, fused=True) for parameter in parameters]
    for _ in range(2):
        for parameter, optimizer in zip(parameters, optimizers, strict=True):
            parameter.grad = th.arange(3.0)
            optimizer.step()
        make_recordable(optimizers[0], CPU)
        assert optimizers[0].param_groups[0]["capturable"] and isinstance(optimizers[0].param_groups[0]["lr"], th.Tensor)
        make_ordinary(optimizers[0])
    assert optimizers[0].state_dict()["param_groups"] == optimizers[1].state_dict()["param_groups"]
    assert isinstance(optimizers[0].param_groups[0]["lr"], float)
    th.testing.assert_close(*parameters, rtol=0, atol=0)


def test_a_recorded_model_s_file_goes_on_without_recording(arrays, recordable, tmp_path, monkeypatch):
    run(arrays, capture=True).save(tmp_path / "model")
    monkeypatch.undo()
    resumed = GMPG.load(tmp_path / "model", trust_pickle=True).learn(3, reset_num_timesteps=False, dataset=arrays)
    assert isinstance(resumed.actor.optimizer.param_groups[0]["lr"], float)
    plain = run(arrays)
    plain.save(tmp_path / "plain")
    expected = GMPG.load(tmp_path / "plain", trust_pickle=True).learn(3, reset_num_timesteps=False, dataset=arrays)
    for mine, other in zip(resumed.policy.parameters(), expected.policy.parameters(), strict=True):
        th.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


# Gradients


@pytest.mark.parametrize("network", ["actor", "critic", "value_net"])
def test_a_finite_loss_with_a_gradient_that_is_none_is_not_stepped_on(arrays, network):
    """A root at zero is zero, and its slope is infinite."""
    model = GMPO("FlowPolicy", dataset=arrays, policy_kwargs=SMALL, seed=0).learn(3)
    loss_of = dict(actor="actor_loss", critic="critic_loss", value_net="value_loss")[network]
    objective, broken = model._objective, next(getattr(model, network).parameters())

    def with_a_root(rows, batch):
        made = objective(rows, batch)
        return made._replace(losses={**made.losses, loss_of: made.losses[loss_of] + (0.0 * broken).sum().sqrt()})

    before = copy.deepcopy(model.policy.state_dict())
    model._objective = with_a_root
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


# Numbers that are not finite

SECOND = dict(pretraining_steps=2)
GUARDED = {
    "advantage": (GMPO, {}, "actor_loss"),
    "advantage, first phase": (GMPO, dict(pretraining_steps=20), "value_loss"),
    "softmax": (GMPO, dict(weighting="softmax", n_actions=3, **SECOND), "actor_loss"),
    "policy gradient, first phase": (GMPG, dict(pretraining_steps=20), "matching_loss"),
    "target_kl": (GMPG, dict(target_kl=0.1, **SECOND), "policy_loss"),
    "discrete": (GMPG, dict(kl_estimator="discrete", **SECOND), "policy_loss"),
    "reinforce": (GMPG, dict(gradient_estimator="reinforce", **SECOND), "policy_loss"),
    "reinforce_softmax": (GMPG, dict(gradient_estimator="reinforce_softmax", n_actions=2, **SECOND), "policy_loss"),
    "matching": (GMPG, dict(gradient_estimator="matching", **SECOND), "policy_loss"),
    "detached": (GMPG, dict(gradient_estimator="detached", **SECOND), "policy_loss"),
}
GOOD_STEPS = 5


def guarded(case, arrays, broken=None, **more):
    """A model; from update ``GOOD_STEPS`` on it has a loss that is no number, or a gradient, and so has the KL divergence."""
    algorithm, options, term = GUARDED[case]
    options = dict(policy_kwargs=SMALL, seed=0, batch_size=8) | options | more
    model = algorithm("FlowPolicy", dataset=arrays, **options)
    plain = model._objective

    def objective(rows, batch):
        result = plain(rows, batch)
        # Afterwards numbers are finite again
        if broken == "loss" and model._n_updates == GOOD_STEPS:
            losses = {**result.losses, term: result.losses[term] * th.nan}
            return result._replace(losses=losses, kl=None if result.kl is None else result.kl * th.nan)
        if broken == "gradient" and model._n_updates == GOOD_STEPS:
            result.losses[term].register_hook(lambda gradient: gradient * th.inf)
        return result

    model._objective = objective
    return model


def everything_of(model):
    optimizers = [
        (number, *pair) for number, optimizer in enumerate(model._optimizers(True)) for pair in optimizer.state.items()
    ]
    moments = {(n, k, name): value for k, (n, _, state) in enumerate(optimizers) for name, value in state.items()}
    return {**model.policy.state_dict(), **moments, "log_beta": th.as_tensor(getattr(model, "log_beta", 0.0))}


def assert_the_same(mine, expected):
    mine, expected = everything_of(mine), everything_of(expected)
    assert mine.keys() == expected.keys()
    for name in expected:
        th.testing.assert_close(mine[name], expected[name], rtol=1e-4, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


@pytest.fixture
def rare_looks(monkeypatch):
    """As on a GPU."""
    monkeypatch.setattr(gradient_steps.GradientSteps, "_looks_at_every_step", False)


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
    monkeypatch.setattr(gradient_steps, "_CHECK_EVERY_ON_GPU", 8)
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
    monkeypatch.setattr(gradient_steps.GradientSteps, "_looks_at_every_step", False)
    model = guarded(case, arrays).learn(10)
    assert model._keeper is not None
    assert_the_same(model, expected)
    # A model that goes on where every step is looked at has nothing of it left
    monkeypatch.undo()
    for goes_on in (model, expected):
        goes_on.learn(3, reset_num_timesteps=False)
    assert model._keeper is None and all(optimizer.found_inf is None for optimizer in model._optimizers(True))
    assert_the_same(model, expected)


@pytest.mark.parametrize(
    "optimizer", [dict(optimizer_class=th.optim.SGD), dict(optimizer_kwargs=dict(fused=False))], ids=["SGD", "not fused"]
)
def test_other_optimizers_keep_nothing_and_the_message_says_so(arrays, optimizer, rare_looks, monkeypatch):
    monkeypatch.setattr(gradient_steps, "_CHECK_EVERY_ON_GPU", 5)
    model = guarded("advantage", arrays, "loss", policy_kwargs=dict(SMALL, **optimizer))
    with pytest.raises(FloatingPointError, match=r"in gradient step 6, actor_loss = nan.* load a checkpoint"):
        model.learn(12)
    assert model._keeper is None


def test_a_replay_keeps_the_parameters_before_its_first_bad_step(arrays, recordable, rare_looks):
    """The step is one that the host wrote before the replay."""
    model = guarded("target_kl", arrays, "loss", capture=True, pretraining_steps=0)
    with pytest.raises(FloatingPointError, match="in gradient step 6, policy_loss = nan"):
        model.learn(12)
    assert len(Replayed.made) == 1 and Replayed.made[0].replays == 9
    assert_the_same(model, guarded("target_kl", arrays, pretraining_steps=0).learn(GOOD_STEPS))


def test_models_side_by_side_are_looked_at_by_each_step_s_losses(arrays, rare_looks, monkeypatch):
    monkeypatch.setattr(gradient_steps, "_CHECK_EVERY_ON_GPU", 1)
    models = [GMPO("FlowPolicy", dataset=arrays, policy_kwargs=SMALL, seed=seed) for seed in range(2)]
    learn_side_by_side(models, 3)
    assert all(model._keeper is None for model in models)
    with th.no_grad():
        models[1].value_net.value_net[-1].bias.fill_(th.nan)
    with pytest.raises(
        FloatingPointError, match=r"model 1 .*: Training diverged: in gradient step 4, .*value_loss = nan.* load a"
    ):
        learn_side_by_side(models, 3, reset_num_timesteps=False)
