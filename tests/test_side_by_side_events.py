"""
What happens while models learn side by side, and afterwards: files, checkpoints, callbacks, interruptions.
"""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from torch import nn

from sb3_genpolicy import GMPG, GMPO, learn_side_by_side
from tests.helpers.side_by_side import STEPS, assert_same, assert_same_lines, build, learn_alone, optimizer_tensors, with_lines


def test_files_go_on_as_those_of_models_alone(arrays, tmp_path):
    ours, alone = build(GMPG, arrays), build(GMPG, arrays)
    learn_side_by_side(ours, STEPS)
    learn_alone(alone)
    for kind, models in (("ours", ours), ("alone", alone)):
        for k, model in enumerate(models):
            model.save(tmp_path / f"{kind}_{k}")
    loaded = [[GMPG.load(tmp_path / f"{kind}_{k}") for k in range(3)] for kind in ("ours", "alone")]
    for models in loaded:
        learn_alone(models, 4, reset_num_timesteps=False, dataset=arrays)
    assert_same(*loaded)
    # So do loaded models side by side
    again = [GMPG.load(tmp_path / f"ours_{k}") for k in range(3)]
    learn_side_by_side(again, 4, reset_num_timesteps=False, dataset=arrays)
    assert_same(again, loaded[1])


@pytest.mark.parametrize("save_freq", [1, 5])
def test_a_checkpoint_on_the_way_is_that_of_the_model_alone(arrays, tmp_path, save_freq):
    def callbacks(kind):
        return [CheckpointCallback(save_freq, str(tmp_path / kind), f"model_{k}") for k in range(3)]

    ours, alone = build(GMPG, arrays), build(GMPG, arrays)
    learn_side_by_side(ours, STEPS, callbacks("ours"))
    learn_alone(alone, STEPS, callbacks("alone"))
    for k in range(3):
        step = STEPS // save_freq * save_freq
        for at in {save_freq, step}:
            files = [tmp_path / kind / f"model_{k}_{at}_steps.zip" for kind in ("ours", "alone")]
            mine, expected = (GMPG.load(file) for file in files)
            for model in (mine, expected):
                model.learn(0, reset_num_timesteps=False, dataset=arrays)
            assert_same([mine], [expected])
            # Not that of three models
            assert os.path.getsize(files[0]) == pytest.approx(os.path.getsize(files[1]), rel=0.02)


class Watch(BaseCallback):
    """Acts at every step, and notes what it did; stops or breaks down at one."""

    def __init__(self, stop_at=None, break_at=None):
        super().__init__()
        self.stop_at, self.break_at = stop_at, break_at
        self.actions, self.ended = [], 0

    def _on_step(self):
        self.actions.append(self.model.predict(np.ones((2, 3), np.float32), deterministic=True)[0])
        assert self.locals["self"] is self.model and self.num_timesteps == self.model.num_timesteps
        if self.num_timesteps == self.break_at:
            raise KeyboardInterrupt
        return self.num_timesteps != self.stop_at

    def _on_training_end(self):
        self.ended += 1


def test_callbacks_act_with_the_model_of_their_step_and_may_stop_it(arrays):
    stops = (None, 4, 9)
    ours, alone = build(GMPG, arrays), build(GMPG, arrays)
    lines, expected_lines = with_lines(ours), with_lines(alone)
    watches, expected = ([Watch(stop) for stop in stops] for _ in range(2))
    learn_side_by_side(ours, STEPS, watches, log_interval=3)
    learn_alone(alone, STEPS, expected, log_interval=3)
    assert [model.num_timesteps for model in ours] == [STEPS, 4, 9]
    assert_same(ours, alone)
    assert_same_lines(lines, expected_lines, rel=1e-3)
    for mine, other in zip(watches, expected, strict=True):
        np.testing.assert_allclose(mine.actions, other.actions, atol=1e-4)
        assert mine.ended == 1


def test_an_interrupted_training_leaves_ordinary_models(arrays, tmp_path):
    ours, alone = build(GMPO, arrays), build(GMPO, arrays)
    with pytest.raises(KeyboardInterrupt):
        learn_side_by_side(ours, STEPS, [None, None, Watch(break_at=6)])
    learn_alone(alone, STEPS, [Watch(stop_at=6) for _ in alone])
    assert_same(ours, alone)
    for model in ours:
        assert type(model.generator) is th.Generator and model.beta in (1.0, 3.0)
        tensors = [*model.policy.state_dict().values(), *(value for _, value in optimizer_tensors(model))]
        assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in tensors)
        assert all(parameter.is_leaf and isinstance(parameter, nn.Parameter) for parameter in model.policy.parameters())
    ours[0].learn(3, reset_num_timesteps=False)
    assert_same(ours[1:], alone[1:])
    assert_same(ours[:1], learn_alone(alone[:1], 3, reset_num_timesteps=False))


def test_a_loss_that_is_not_finite_names_its_model_and_changes_none(arrays):
    ours, alone = build(GMPO, arrays), build(GMPO, arrays)
    for models in (ours, alone):
        learn_alone(models, 3)
    broken = ours[2].value_net.value_net[-1].bias
    with th.no_grad():
        broken.fill_(np.nan)
    pattern = r"model 2 \(seed=0, beta=3\.0\): Training diverged: in gradient step 4, .*value_loss = nan"
    with pytest.raises(FloatingPointError, match=pattern):
        learn_side_by_side(ours, 3, reset_num_timesteps=False)
    for mine, expected in zip(ours[:2], alone[:2], strict=True):
        for parameter, other in zip(mine.policy.parameters(), expected.policy.parameters(), strict=True):
            assert th.equal(parameter, other)


def test_a_finite_loss_with_a_gradient_that_is_none_names_its_model(arrays):
    """The root of a square has no slope at zero, where the second model alone is."""
    ours = build(GMPO, arrays)
    objective, network = ours[0].objective, ours[0].actor.model.network
    with th.no_grad():
        ours[1].actor.model.network.head.bias.zero_()

    def with_a_root(batch):
        made = objective(batch)
        root = network.head.bias.square().sum().sqrt()
        return replace(made, losses={**made.losses, "actor_loss": made.losses["actor_loss"] + root})

    ours[0].objective = with_a_root
    with pytest.raises(FloatingPointError, match=r"model 1 \(seed=1, beta=1\.0\): .* step 1, the gradient of actor is not"):
        learn_side_by_side(ours, 3)


def test_rows_are_in_memory_once_and_one_model_is_a_batch_too(arrays):
    ours, alone = build(GMPO, arrays), build(GMPO, arrays)
    learn_side_by_side(ours[:1], STEPS)
    assert_same(ours[:1], learn_alone(alone[:1]))
    learn_side_by_side(ours[1:], 1)
    assert ours[1].replay_buffer.observations_are_at == ours[2].replay_buffer.observations_are_at
    assert ours[0].replay_buffer.observations_are_at != ours[2].replay_buffer.observations_are_at


def test_capture_is_left_aside_and_one_line_says_so(arrays, capsys):
    models = build(GMPO, arrays, capture=True, verbose=1)
    learn_side_by_side(models, 2)
    said = capsys.readouterr().out
    assert said.count("not recorded (capture=True)") == said.count("(capture=True): models are trained side by side.") == 3
    assert all(model.capture for model in models)


def test_tensorboard_runs_have_folders_of_their_own(arrays, tmp_path):
    models = build(GMPO, arrays, tensorboard_log=str(tmp_path / "logs"))
    for reset in (True, False):
        learn_side_by_side(models, 2, log_interval=1, reset_num_timesteps=reset, tb_log_name="both")
    assert sorted(os.listdir(tmp_path / "logs")) == ["both_0_1", "both_1_1", "both_2_1"]
