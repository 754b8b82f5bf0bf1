"""
What is around a CUDA graph (tests/test_cuda.py), watched with one that runs what it was given.
"""

from typing import ClassVar

import numpy as np
import pytest
import torch as th

from sb3_genpolicy import GMPG, GMPO
from sb3_genpolicy.common.algorithms import prepare_updates
from sb3_genpolicy.common.updates import guards, recorded_update
from sb3_genpolicy.common.updates.guards import FiniteGuard
from sb3_genpolicy.common.updates.recorded_update import UpdateRecorder, make_ordinary, make_recordable
from sb3_genpolicy.common.utils import attributes
from tests.helpers.arrays import SMALL
from tests.helpers.guarded_updates import GOOD_STEPS, assert_the_same, guarded


class Replayed:
    """In place of a CUDA graph: notes an update without running it, then runs it at every replay."""

    made: ClassVar[list["Replayed"]] = []
    guard: ClassVar[FiniteGuard]

    def __init__(self, generators, means):
        self.means, self.replays = means, 0
        Replayed.made.append(self)

    def record(self, update):
        self.update = update

    def replay(self):
        with attributes(Replayed.guard, recording=True):
            self.update()
        self.replays += 1


class Refused(Replayed):
    def record(self, update):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")


@pytest.fixture
def recordable(monkeypatch):
    def make_recordable(optimizer, device):
        for group in optimizer.param_groups:
            group["lr"] = th.tensor(float(group["lr"]))

    def start(self, sources, means, guard, logger):
        Replayed.guard = guard
        plain_start(self, sources, means, guard, logger)

    plain_start = UpdateRecorder.start
    Replayed.made = []
    monkeypatch.setattr(UpdateRecorder, "start", start)
    monkeypatch.setattr(recorded_update, "RecordedUpdate", Replayed)
    monkeypatch.setattr(recorded_update, "on_side_stream", lambda update: update())
    monkeypatch.setattr(prepare_updates, "make_recordable", make_recordable)
    monkeypatch.setattr(prepare_updates, "recording_obstacle", lambda model: None)


def run(arrays, steps=12, capture=False, **options):
    rates = dict(policy_learning_rate=lambda left: 1e-3 * left, learning_rate=lambda left: 1e-3 * left)
    # A clamped row's gradient is 0: rounding may decide
    options = dict(pretraining_steps=6, weight_clamp=np.inf) | rates | options
    return GMPG("FlowPolicy", dataset=arrays, policy_kwargs=SMALL, seed=0, capture=capture, **options).learn(steps)


def test_replays_take_rates_from_outside_and_every_phase_has_its_own(arrays, recordable):
    replayed, plain = run(arrays, capture=True), run(arrays)
    # Three updates of each phase are made one by one
    assert [graph.replays for graph in Replayed.made] == [3, 3]
    for mine, expected in zip(replayed.policy.parameters(), plain.policy.parameters(), strict=True):
        th.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-6)
    assert replayed.logger.name_to_value["train/learning_rate"] == plain.logger.name_to_value["train/learning_rate"]


def test_a_replay_whose_loss_is_not_finite_is_found(arrays, recordable, monkeypatch):
    monkeypatch.setattr(guards, "_CHECK_EVERY_ON_GPU", 1)
    # IQL's critics take rewards row by row
    model = run(arrays, steps=5, capture=True, critic="iql")
    model.replay_buffer.rewards.fill_(np.nan)
    with pytest.raises(FloatingPointError, match="in gradient step 6, critic_loss = nan.* load a checkpoint"):
        model.train(1, model.batch_size)


def test_an_update_that_no_graph_can_hold_is_made_step_by_step_and_said_once(arrays, recordable, monkeypatch, capsys):
    monkeypatch.setattr(recorded_update, "RecordedUpdate", Refused)
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
        make_recordable(optimizers[0], th.device("cpu"))
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


def test_a_replay_keeps_the_parameters_before_its_first_bad_step(arrays, recordable, rare_looks):
    """The step is one that the host wrote before the replay."""
    model = guarded("target_kl", arrays, "loss", capture=True, pretraining_steps=0)
    with pytest.raises(FloatingPointError, match="in gradient step 6, policy_loss = nan"):
        model.learn(12)
    assert len(Replayed.made) == 1 and Replayed.made[0].replays == 9
    assert_the_same(model, guarded("target_kl", arrays, pretraining_steps=0).learn(GOOD_STEPS))
