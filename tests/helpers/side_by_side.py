"""
Models of several seeds and betas, trained one by one, and what is compared of them.
"""

import pytest
import torch as th
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.utils import LinearSchedule

from sb3_genpolicy import GMPG
from tests.helpers.arrays import SMALL

SEEDS_AND_BETAS = ((0, 1.0), (1, 1.0), (0, 3.0))
STEPS = 14


def build(algorithm, data, seeds_and_betas=SEEDS_AND_BETAS, **options):
    defaults = dict(
        policy="FlowPolicy",
        policy_kwargs=SMALL,
        dataset=data,
        batch_size=16,
        learning_rate=LinearSchedule(1e-3, 0.0, 1.0),
        gamma=0.9,
        # Whose gradients are of the order of 1; the default critic's are of that of returns
        critic="iql",
    )
    options = defaults | (dict(pretraining_steps=8) if algorithm is GMPG else {}) | options
    return [algorithm(seed=seed, beta=beta, **options) for seed, beta in seeds_and_betas]


def learn_alone(models, steps=STEPS, callbacks=None, **options):
    for model, callback in zip(models, callbacks or [None] * len(models), strict=True):
        model.learn(steps, callback, **options)
    return models


def optimizer_tensors(model):
    for optimizer in model.descent.optimizers().values():
        for parameter in optimizer.param_groups[0]["params"]:
            for name, value in optimizer.state.get(parameter, {}).items():
                yield name, th.as_tensor(value)


def assert_same(ours, expected, rtol=1e-4, atol=1e-5):
    """Networks, optimizers, random states and counters. The absolute tolerance is of a tensor's largest entry, if above 1."""

    def check(name, value, expected):
        largest = float(expected.double().abs().max()) if expected.numel() else 0.0
        th.testing.assert_close(value, expected, rtol=rtol, atol=atol * max(1.0, largest), msg=name)

    for mine, other in zip(ours, expected, strict=True):
        state, expected_state = mine.policy.state_dict(), other.policy.state_dict()
        assert state.keys() == expected_state.keys()
        for name in state:
            check(name, state[name], expected_state[name])
        tensors, expected_tensors = list(optimizer_tensors(mine)), list(optimizer_tensors(other))
        assert [name for name, _ in tensors] == [name for name, _ in expected_tensors]
        for (name, value), (_, expected_value) in zip(tensors, expected_tensors, strict=True):
            check(name, value, expected_value)
        assert th.equal(mine.generator.get_state(), other.generator.get_state())
        assert th.equal(mine.replay_buffer.random_state(), other.replay_buffer.random_state())
        for name in ("num_timesteps", "_n_updates", "_current_progress_remaining", "phase", "pretraining_finished"):
            assert getattr(mine, name) == getattr(other, name), name


class Lines(KVWriter):
    def __init__(self):
        self.lines = []

    def write(self, key_values, key_excluded, step=0):
        kept = {key: value for key, value in key_values.items() if not key.startswith("time/")}
        self.lines.append((step, kept))


def with_lines(models):
    for model in models:
        model.set_logger(Logger(None, [Lines()]))
    return [model.logger.output_formats[0].lines for model in models]


def assert_same_lines(ours, expected, rel=1e-4):
    for mine, others in zip(ours, expected, strict=True):
        assert [step for step, _ in mine] == [step for step, _ in others]
        for (_, line), (_, expected_line) in zip(mine, others, strict=True):
            assert line.keys() == expected_line.keys()
            for name, value in expected_line.items():
                assert line[name] == (value if isinstance(value, str) else pytest.approx(value, rel=rel, abs=1e-5)), name
