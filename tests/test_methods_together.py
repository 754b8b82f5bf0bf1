"""
Every method trained in company, models side by side and one model in two processes: each is what it is alone.
"""

import pytest
import torch as th

from sb3_genpolicy import learn_side_by_side
from tests.helpers import every_method
from tests.test_data_parallel import start_warm


def left_out(name):
    return "spreads." in name or name == "energy.network.head.bias"


def assert_same_networks(ours, expected):
    # Units that `save` takes from the rows are no parameters, and no loss sees what is added to all energies of a state
    states = [model.policy.state_dict() for model in (ours, expected)]
    state, expected_state = ({name: value for name, value in each.items() if not left_out(name)} for each in states)
    assert state.keys() == expected_state.keys()
    for name, value in expected_state.items():
        of_largest = 1e-5 * max(1.0, float(value.double().abs().max())) if value.numel() else 0.0
        th.testing.assert_close(state[name], value, rtol=1e-4, atol=of_largest, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("name", every_method.METHODS)
def test_side_by_side_it_is_what_it_is_alone(name):
    def models():
        return [every_method.make(name, seed) for seed in (0, 1)]

    together = learn_side_by_side(models(), every_method.STEPS)
    for ours, alone in zip(together, models(), strict=True):
        assert_same_networks(ours, alone.learn(every_method.STEPS))


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    for process in start_warm("tests.helpers.every_method", folder, folder=folder):
        finished = process.finish()
        assert finished.returncode == 0, finished.stderr
    return folder


@pytest.mark.parametrize("name", every_method.METHODS)
def test_two_processes_train_the_model_of_one(of_two_processes, name):
    ours = every_method.METHODS[name].load(of_two_processes / name, device="cpu")
    assert ours.num_timesteps == every_method.STEPS
    assert_same_networks(ours, every_method.make(name).learn(every_method.STEPS))
