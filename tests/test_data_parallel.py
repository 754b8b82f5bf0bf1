"""
One model in several processes is the one that a process alone makes of the joint batch.
"""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch as th
from stable_baselines3.common.callbacks import CheckpointCallback

from sb3_genpolicy import GMPO, data_parallel
from sb3_genpolicy.common.updates.processes import world_size
from tests.helpers import data_parallel_runs as runs
from tests.helpers.data_formats import flat_columns, make_episodes, write_npz
from tests.helpers.warm_processes import WarmProcess

RUN = ["-m", "tests.helpers.data_parallel_runs"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def environment(**more):
    # Names that do not lead to this machine are asked for otherwise
    return {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "TORCH_DISTRIBUTED_DEBUG": "OFF", **more}


def start(*arguments, **more):
    started = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=Path(__file__).parent.parent,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, errors = started.communicate(timeout=150)
    except subprocess.TimeoutExpired:
        # Told so, and not killed, torchrun ends those that it has started
        started.terminate()
        started.communicate(timeout=60)
        raise
    return subprocess.CompletedProcess(arguments, started.returncode, out, errors)


def start_warm(module, *arguments, folder, **more):
    """Without torchrun, by the variables that it sets: two processes."""
    with socket.socket() as chosen:
        chosen.bind(("localhost", 0))
        port = str(chosen.getsockname()[1])
    address = dict(WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT=port)
    return [
        WarmProcess(module, *arguments, folder=folder, environment=environment(RANK=str(rank), **address, **more))
        for rank in (0, 1)
    ]


@pytest.fixture(scope="module")
def flat_file(tmp_path_factory):
    return str(write_npz(tmp_path_factory.mktemp("data") / "own.npz", flat_columns(make_episodes())))


@pytest.fixture(scope="module")
def ran(tmp_path_factory, flat_file):
    """All that two processes do for the tests of this file, at once: they take seconds to start."""
    folder = tmp_path_factory.mktemp("ran")
    finished = [process.finish() for process in start_warm(RUN[-1], "everything", folder, folder=folder, FLAT_FILE=flat_file)]
    for process in finished:
        assert process.returncode == 0, process.stderr
    return folder, "".join(process.stdout for process in finished)


def both(ran, name):
    return [th.load(ran[0] / f"{name}.{rank}.pt") for rank in (0, 1)]


def assert_close(mine, expected, rtol, atol):
    """The absolute tolerance is of a tensor's largest entry, if that is above 1."""
    assert mine.keys() == expected.keys()
    for name, value in expected.items():
        of_largest = atol * max(1.0, float(value.double().abs().max())) if atol else 0.0
        th.testing.assert_close(mine[name], value, rtol=rtol, atol=of_largest, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("case", runs.CASES)
def test_two_processes_make_the_model_of_one_on_the_joint_batch(ran, case, flat_file, monkeypatch):
    """
    Networks, optimizers, random states and every line of the log, through both phases. Means of two halves are those of the
    whole up to float32's rounding, 1e-7, which fourteen steps of Adam make more of.
    """
    monkeypatch.setenv("FLAT_FILE", flat_file)
    expected, lines = runs.learnt(case)
    first, second = both(ran, case)
    assert_close(first["model"], runs.everything_of(expected), rtol=1e-5, atol=4e-6)
    # The other has the same, to the last bit
    assert_close(second["model"], first["model"], rtol=0.0, atol=0.0)
    assert second["lines"] == [] and [step for step, _ in first["lines"]] == [step for step, _ in lines] == [5, 10]
    for (_, line), (_, expected_line) in zip(first["lines"], lines, strict=True):
        assert line.keys() == expected_line.keys() and len(line) >= 7
        for name, value in expected_line.items():
            assert line[name] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-4, abs=1e-5)), name


@pytest.mark.parametrize("case", ["advantage", "clipped"])
def test_processes_begin_with_what_the_first_one_has(ran, case):
    first, second = both(ran, f"unseeded {case}")
    assert_close(second, first, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("case", ["advantage", "clipped"])
def test_a_run_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(ran, case):
    for whole, resumed in zip(both(ran, f"whole {case}"), both(ran, f"resumed {case}"), strict=True):
        assert_close(resumed, whole, rtol=0.0, atol=0.0)


def test_a_file_of_several_processes_is_that_of_one(ran, tmp_path):
    runs.make().learn(runs.STEPS, CheckpointCallback(6, str(tmp_path)))
    models = [GMPO.load(folder / "rl_model_6_steps.zip") for folder in (tmp_path, ran[0] / "advantage")]
    for model in models:
        model.learn(runs.STEPS - 6, reset_num_timesteps=False, dataset=runs.ARRAYS)
    assert_close(*(runs.everything_of(model) for model in reversed(models)), rtol=1e-5, atol=1e-6)


def test_the_first_process_alone_logs_evaluates_and_saves(ran):
    folder, said = ran
    (first, second), steps = both(ran, "watched"), list(range(1, 11))
    assert first == dict(watch=steps, bars=[steps], evaluations=2) and second == dict(watch=[], bars=[], evaluations=0)
    assert sorted(os.listdir(folder / "saved")) == ["buffer_by_0.pkl", "by_0.zip"]
    assert sorted(os.listdir(folder / "checkpoints")) == ["rl_model_10_steps.zip", "rl_model_5_steps.zip"]
    assert os.listdir(folder / "board") == ["GMPO_1"] and len(os.listdir(folder / "board" / "GMPO_1")) == 1
    assert said.count("Using cpu device") == said.count("| time/               ") // 2 == said.count("n_updates") // 2 == 1
    # Of the models that go on in another test, too
    assert said.count("Dataset without a name: 26 steps") == 3
    assert said.count("step by step, not recorded (capture=True): 2 processes train the model together.") == 1
    assert os.listdir(folder / "evaluated") == ["evaluations.npz"]
    assert [(folder / f"ended.{rank}").read_text() for rank in (0, 1)] == ["cpu", "cpu"]


def test_a_callback_that_ends_the_training_ends_it_in_all(ran):
    first, second = both(ran, "stopped")
    assert first["model"]["num_timesteps"] == 4
    assert_close(second["model"], first["model"], rtol=0.0, atol=0.0)


def test_a_callback_s_error_is_the_first_one_s_and_the_others_hear_of_it(ran):
    first, second = both(ran, "failed")
    assert "the callback's own error" in first
    assert second.startswith("RuntimeError: The first process's callback ended with an error, which its output shows")


def test_a_number_that_is_not_finite_ends_all_at_the_same_step(ran):
    """In rows, or in the gradient, of the second process alone: the parameters are those before."""
    first, second = both(ran, "diverged")
    assert first == second
    (loss, kept), (gradient, kept_too) = first
    assert re.match(
        r"Training diverged: in gradient step 11, critic_loss = nan\. The parameters are those before this step", loss
    )
    assert re.match(r"Training diverged: in gradient step 11, the gradient of actor is not finite\. The param", gradient)
    assert kept and kept_too


SENTENCES = {
    "batch_size": r"batch_size=17 is the joint batch of 2 processes, .* take a multiple of 2, as 18\.",
    "dropout": r"has a Dropout \(policy\.actor\.model.*, whose masks every process would draw for itself\. Leave it out\.",
    "batch norm": r"has a BatchNorm1d \(policy\.actor.*whose statistics would be of a share of the batch\. Take LayerNorm\.",
    "coupling": "OptimalTransportCoupling pairs noise with the actions of a whole batch, on the host. Take coupling=",
    "softmax": "dopri5 chooses its steps by the errors of a whole batch",
    "matching": "dopri5 chooses its steps by the errors of a whole batch",
    "ode": "dopri5 chooses its steps by the errors of a whole batch",
    "detached": "dopri5 chooses its steps by the errors of a whole batch",
    "discrete": "kl_estimator='discrete' inverts a sampler for a whole batch, from starts that it draws for all of it",
    "other learning_rate": r"differ in learning_rate: it is LinearSchedule\(.* in process 0 and Linear.* in process 1\.",
    "other policy_kwargs": r"differ in policy_kwargs: .* in process 0 and {'net_arch': \[16\], .*} in process 1",
    "other seed": "differ in seed: it is 0 in process 0 and 1 in process 1",
    "other rows": r"the number of rows: it is 26 \(26 drawn from\) in process 0 and 35 \(35 drawn from\) in process 1",
    "other rewards": "differ in the sum of all rewards: ",
    "other class": "differ in the class: it is GMPO in process 0 and GMPG in process 1",
    "other steps": "differ in total_timesteps: it is 3 in process 0 and 4 in process 1",
    "other sampler": r"differ in the policy's sampler: it is Sampler\(solver='heun'.* and Sampler\(solver='euler'",
    "other VecNormalize": "differ in the statistics of VecNormalize: it is mean",
    "side by side": "2 processes train one model here .*, and learn_side_by_side is of one process: leave the context",
    "acting": "2 processes train it together, of which each would see rows of its own. Take one process",
    "online": r"it has gone on online, where every process would see rows of its own\. Or train it in one process\.",
    "nested": r"These processes train together already: one data_parallel\(\) is enough\.",
}


@pytest.mark.parametrize("case", SENTENCES)
def test_what_cannot_be_is_answered_with_a_sentence_in_all_processes(ran, case):
    first, second = both(ran, "refused")
    assert first.keys() == SENTENCES.keys()
    assert first[case] == second[case] and first[case] is not None
    assert re.search(SENTENCES[case], first[case]), first[case]


# By torchrun


@pytest.mark.slow
def test_torchrun_starts_them(ran, tmp_path):
    finished = start(*TORCHRUN, *RUN, "stops", str(tmp_path))
    assert finished.returncode == 0, finished.stderr
    for mine, expected in zip(both((tmp_path, None), "stopped"), both(ran, "stopped"), strict=True):
        assert_close(mine["model"], expected["model"], rtol=0.0, atol=0.0)


# Where a process ends before its time


@pytest.mark.slow
def test_an_error_in_one_process_ends_torchrun(tmp_path):
    """Also in a process group that the script has made."""
    finished = start(*TORCHRUN, *RUN, "breaks", str(tmp_path))
    assert finished.returncode == 1
    assert 'KeyError: "the callback\'s own error"' in finished.stderr


def test_a_process_that_dies_is_not_waited_for_by_the_others(tmp_path):
    """Without torchrun, which would end them."""
    started = start_warm(RUN[-1], "dies", tmp_path, folder=tmp_path)
    first, second = (process.finish(timeout=60) for process in started)
    assert (first.returncode, second.returncode) == (9, 1)
    assert "RuntimeError: Another process of this training has ended, or was waited for longer than" in second.stderr


# One process


def test_without_torchrun_there_is_one_process_and_nothing_changes():
    with data_parallel("cpu") as device:
        assert device == th.device("cpu") and world_size() == 1 and not th.distributed.is_initialized()
        model = runs.make(device=device, capture=True).learn(5)
    assert_close(runs.everything_of(model), runs.everything_of(runs.make().learn(5)), rtol=0.0, atol=0.0)


def test_a_process_group_that_is_there_stays():
    th.distributed.init_process_group("gloo", store=th.distributed.HashStore(), rank=0, world_size=1)
    try:
        with data_parallel("cpu"):
            assert world_size() == 1
        assert th.distributed.is_initialized()
    finally:
        th.distributed.destroy_process_group()


def test_options_are_checked():
    with pytest.raises(ValueError, match="device='gpu' is unknown"), data_parallel("gpu"):
        pass
    with pytest.raises(ValueError, match="timeout"), data_parallel(timeout=0.0):
        pass
    with pytest.raises(TypeError, match="no option 'devise'. Did you mean 'device'"):
        data_parallel(devise="cpu")
