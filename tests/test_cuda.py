"""
The same on a GPU, where there is one.
"""

import subprocess
import sys

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_genpolicy import GMPG, GMPO, OneStepCritic, learn_side_by_side, load_dataset
from sb3_genpolicy.common.algorithms import critic_hooks
from sb3_genpolicy.common.replay import buffer as buffers
from sb3_genpolicy.common.replay.buffer import OfflineReplayBuffer
from sb3_genpolicy.common.side_by_side.model_batch import ModelBatch
from sb3_genpolicy.common.transitions.rewards import AffineReward
from sb3_genpolicy.generative import SOLVERS, Likelihood, Sampler
from tests.helpers import data_parallel_runs, every_method
from tests.helpers.arrays import SMALL
from tests.helpers.data_formats import flat_columns, make_episodes, write_npz

pytestmark = pytest.mark.skipif(not th.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("policy", ["FlowPolicy", "DiffusionPolicy"])
def test_training_on_a_gpu_keeps_the_rows_there_and_predicts_alike_on_a_cpu(arrays, tmp_path, policy):
    model = GMPO(policy, dataset=arrays, policy_kwargs=SMALL, seed=0, device="cuda").learn(20)
    batch = model.replay_buffer.sample(4)
    assert all(tensor.is_cuda for tensor in (batch.observations, batch.actions, batch.rewards, batch.dones))
    model.save(tmp_path / "model")
    rows = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    on_cpu = GMPO.load(tmp_path / "model", device="cpu")
    expected, _ = model.predict(rows, deterministic=True)
    np.testing.assert_allclose(on_cpu.predict(rows, deterministic=True)[0], expected, atol=1e-4)
    # It goes on with fresh draws where the saved random state is of another kind of device
    assert on_cpu.learn(3, reset_num_timesteps=False, dataset=arrays).num_timesteps == 23


def test_a_resumed_run_goes_on_where_it_stopped_on_a_gpu(arrays, tmp_path):
    def run(steps):
        options = dict(policy_kwargs=SMALL, seed=0, device="cuda", pretraining_steps=0)
        return GMPO("FlowPolicy", dataset=arrays, **options).learn(steps)

    run(6).save(tmp_path / "model")
    resumed = GMPO.load(tmp_path / "model", device="cuda").learn(4, reset_num_timesteps=False, dataset=arrays)
    for mine, whole in zip(resumed.policy.parameters(), run(10).policy.parameters(), strict=True):
        th.testing.assert_close(mine, whole, rtol=1e-4, atol=1e-5)


def test_a_training_step_waits_for_nothing(arrays):
    """No synchronisation between host and device in a step: torch raises at one."""

    class Strict(BaseCallback):
        """From the third step on; the last one does wait, to see whether all numbers are finite."""

        def _on_step(self):
            if self.num_timesteps in (2, 8):
                th.cuda.set_sync_debug_mode("error" if self.num_timesteps == 2 else "default")
            return True

    try:
        # Between two phases it waits, too
        options = dict(policy_kwargs=SMALL, seed=0, device="cuda", pretraining_steps=0)
        model = GMPO("FlowPolicy", dataset=arrays, **options).learn(9, Strict())
    finally:
        th.cuda.set_sync_debug_mode("default")
    assert model.num_timesteps == 9


@pytest.mark.parametrize("policy", ["FlowPolicy", "DiffusionPolicy"])
def test_solvers_and_likelihoods_give_on_a_gpu_what_they_give_on_a_cpu(arrays, tmp_path, policy):
    GMPO(policy, dataset=arrays, policy_kwargs=SMALL, seed=0, device="cuda").learn(20).save(tmp_path / "model")
    there, here = (GMPO.load(tmp_path / "model", device=device).policy for device in ("cuda", "cpu"))
    rows = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    for solver in SOLVERS:
        actions = [model.predict(rows, deterministic=True, solver=solver, sampling_steps=8)[0] for model in (there, here)]
        # A rounding error may make an adaptive solver choose another step, and so another error of its own size
        np.testing.assert_allclose(*actions, atol=1e-2 if solver == "dopri5" else 1e-3)
    # At its own tolerance of 1e-4 an adaptive density of the diffusion is off by 0.1 where a rounding error changes its steps
    adaptive = Likelihood(sampler=Sampler("dopri5", rtol=1e-6, atol=1e-6))
    for likelihood in (None, Likelihood("discrete", Sampler("euler", 8)), adaptive):
        log_probs = [model.log_prob(rows, th.zeros(5, 2), likelihood).detach().cpu() for model in (there, here)]
        np.testing.assert_allclose(*log_probs, atol=3e-2 if likelihood is adaptive else 1e-2)
        there.sample_with_log_prob(rows, likelihood=likelihood)[1].sum().backward()
        assert all(parameter.grad.isfinite().all() for parameter in there.actor_ema.model.parameters())


def test_optimal_transport_trains_on_a_gpu(arrays):
    kwargs = dict(coupling="optimal_transport", network="unet", net_arch=dict(pi=[16, 8]))
    assert GMPO("FlowPolicy", dataset=arrays, policy_kwargs=kwargs, seed=0, device="cuda").learn(5).num_timesteps == 5


@pytest.mark.parametrize(
    "options",
    [
        *(dict(kl_estimator=name) for name in ("path", "discrete", "ode")),
        dict(gradient_estimator="reinforce_softmax", n_actions=3),
        dict(target_kl=0.1),
    ],
    ids=str,
)
def test_gmpg_trains_saves_and_resumes_on_a_gpu(arrays, tmp_path, options):
    def run(steps):
        model = GMPG("FlowPolicy", dataset=arrays, policy_kwargs=SMALL, pretraining_steps=5, seed=0, device="cuda", **options)
        return model.learn(steps)

    run(8).save(tmp_path / "model")
    resumed = GMPG.load(tmp_path / "model", device="cuda").learn(4, reset_num_timesteps=False, dataset=arrays)
    for mine, whole in zip(resumed.policy.parameters(), run(12).policy.parameters(), strict=True):
        th.testing.assert_close(mine, whole, rtol=1e-3, atol=1e-4)
    assert GMPG.load(tmp_path / "model", device="cpu").predict(np.zeros((2, 3), np.float32))[0].shape == (2, 2)


def test_rows_on_a_gpu_cost_their_bytes_once():
    """100,000 rows of 250 numbers: observations that follow each other are there once."""
    data = load_dataset(flat_columns(make_episodes((1000,) * 100, obs_dim=250)))
    buffer = OfflineReplayBuffer(1, data.observation_space, data.action_space, device="cuda")
    before = th.cuda.memory_allocated()
    buffer.fill(data, AffineReward())
    assert data.states.nbytes < th.cuda.memory_allocated() - before < 1.1 * data.states.nbytes


def test_rows_that_do_not_fit_on_a_gpu_or_lie_on_a_disk_are_streamed_to_it(tmp_path, monkeypatch):
    path = write_npz(tmp_path / "own.npz", flat_columns(make_episodes()))
    mapped = load_dataset(path, memory_map=True)
    expected = OfflineReplayBuffer(1, mapped.observation_space, mapped.action_space, device="cpu")
    expected.fill(mapped, AffineReward())
    expected.seed_rows(0)
    batches = [expected.sample(8) for _ in range(6)]
    monkeypatch.setattr(buffers, "_GPU_SHARE", 0.0)
    for data in (mapped, load_dataset(path)):
        buffer = OfflineReplayBuffer(1, data.observation_space, data.action_space, device="cuda")
        buffer.fill(data, AffineReward())
        buffer.seed_rows(0)
        assert buffer.streams and buffer.rows_device.type == "cpu"
        for theirs in batches:
            ours = buffer.sample(8)
            assert ours.observations.is_cuda and ours.actions.is_cuda
            for mine, his in zip(ours, theirs, strict=True):
                assert mine is his or th.equal(mine.cpu(), his)
    model = GMPO("FlowPolicy", dataset=path, policy_kwargs=SMALL, seed=0, device="cuda", batch_size=8).learn(20)
    assert model.replay_buffer.streams
    assert all(th.isfinite(parameter).all() for parameter in model.policy.parameters())


# Updates recorded as CUDA graphs


def train(algorithm, arrays, steps, capture, **options):
    options = dict(policy_kwargs=SMALL, seed=0, device="cuda", batch_size=32) | options
    return algorithm("FlowPolicy", dataset=arrays, capture=capture, **options).learn(steps, log_interval=None)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        (GMPO, dict(learning_rate=lambda left: 1e-3 * left)),
        (GMPO, dict(pretraining_steps=0)),
        (GMPO, dict(weighting="softmax", n_actions=3, pretraining_steps=12)),
        (GMPG, dict(pretraining_steps=12, policy_learning_rate=lambda left: 1e-3 * left)),
        (GMPG, dict(pretraining_steps=12, kl_estimator="ode", target_kl=0.1)),
    ],
    ids=["GMPO", "GMPO, one phase", "GMPO softmax", "GMPG", "GMPG ode"],
)
def test_a_recorded_update_gives_the_numbers_of_the_same_made_call_by_call(arrays, algorithm, options, precision):
    """Both phases: parameters, random states and the log's means."""
    recorded, plain = (train(algorithm, arrays, 24, capture, precision=precision, **options) for capture in (True, False))
    assert recorded.recorder.active
    for mine, expected in zip(recorded.policy.parameters(), plain.policy.parameters(), strict=True):
        th.testing.assert_close(mine, expected, rtol=1e-3, atol=1e-4)
    assert th.equal(recorded.generator.get_state(), plain.generator.get_state())
    assert th.equal(recorded.replay_buffer.random_state(), plain.replay_buffer.random_state())
    mine, expected = recorded.means.pop(), plain.means.pop()
    assert mine.keys() == expected.keys()
    for name in expected:
        assert mine[name].item() == pytest.approx(expected[name].item(), rel=1e-2, abs=1e-3), name


@pytest.mark.parametrize("name", every_method.METHODS)
def test_every_method_s_recorded_update_is_that_made_call_by_call(name):
    recorded, plain = (every_method.make(name, device="cuda", capture=capture).learn(24) for capture in (True, False))
    assert recorded.recorder.active
    for mine, expected in zip(recorded.policy.parameters(), plain.policy.parameters(), strict=True):
        th.testing.assert_close(mine, expected, rtol=1e-3, atol=1e-3)
    assert th.equal(recorded.generator.get_state(), plain.generator.get_state())


def test_critics_stop_in_a_recorded_run(arrays, monkeypatch):
    """After two passes over the rows, in the middle of a recording's replays."""
    monkeypatch.setattr(critic_hooks, "_LEAST_UPDATES", 0)
    stops = 12
    rows = len(arrays["rewards"])
    critic = OneStepCritic(passes=stops * 32 / rows)
    before, after = (train(GMPO, arrays, steps, True, critic=critic, pretraining_steps=0) for steps in (stops, 24))
    assert after.recorder.active
    for mine, expected in zip(after.critics.critic.parameters(), before.critics.critic.parameters(), strict=True):
        assert th.equal(mine, expected)
    assert not all(map(th.equal, after.actor.parameters(), before.actor.parameters()))


def test_the_adjoint_trains_on_a_gpu(arrays):
    made = [train(GMPG, arrays, 24, capture, pretraining_steps=12, gradient_estimator="adjoint") for capture in (True, False)]
    for mine, expected in zip(*(model.policy.parameters() for model in made), strict=True):
        th.testing.assert_close(mine, expected, rtol=1e-3, atol=1e-3)


def test_guidance_gives_on_a_gpu_what_it_gives_on_a_cpu(arrays, tmp_path):
    train(GMPG, arrays, 24, False, pretraining_steps=12).save(tmp_path / "model")
    there, here = (GMPG.load(tmp_path / "model", device=device).policy for device in ("cuda", "cpu"))
    rows = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    actions = [policy.predict(rows, deterministic=True, guidance=1.0)[0] for policy in (there, here)]
    np.testing.assert_allclose(*actions, atol=1e-3)
    assert np.abs(actions[0] - there.predict(rows, deterministic=True)[0]).max() > 1e-3


def test_a_recorded_model_saves_and_goes_on(arrays, tmp_path):
    train(GMPO, arrays, 10, capture=True, pretraining_steps=0).save(tmp_path / "model")
    resumed = GMPO.load(tmp_path / "model", device="cuda").learn(8, reset_num_timesteps=False, dataset=arrays)
    whole = train(GMPO, arrays, 18, capture=True, pretraining_steps=0)
    assert resumed.recorder.active
    for mine, expected in zip(resumed.policy.parameters(), whole.policy.parameters(), strict=True):
        th.testing.assert_close(mine, expected, rtol=1e-3, atol=1e-4)
    on_cpu = GMPO.load(tmp_path / "model", device="cpu").learn(2, reset_num_timesteps=False, dataset=arrays)
    assert on_cpu.num_timesteps == 12


@pytest.mark.parametrize("capture", [True, False])
def test_a_run_that_diverges_stops_with_the_last_good_parameters(arrays, capture):
    model = train(GMPO, arrays, 10, capture, critic="iql", pretraining_steps=0)
    before = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    model.replay_buffer._store.rewards.fill_(float("nan"))
    with pytest.raises(
        FloatingPointError, match="in gradient step 11, critic_loss = nan.* the steps since then changed nothing"
    ):
        model.train(150, 32)
    assert model._n_updates == 100
    for name, tensor in model.policy.state_dict().items():
        assert th.equal(tensor, before[name]), name


def test_what_cannot_be_recorded_trains_call_by_call_and_says_why(arrays, capsys):
    model = train(GMPO, arrays, 6, capture=True, policy_kwargs={**SMALL, "coupling": "optimal_transport"}, verbose=1)
    assert not model.recorder.active and model.num_timesteps == 6
    assert capsys.readouterr().out.count("not recorded (capture=True): OptimalTransportCoupling pairs noise") == 1


# Several models at once


@pytest.mark.parametrize("algorithm", [GMPO, GMPG])
@pytest.mark.parametrize("capture", [False, True])
def test_models_side_by_side_are_those_of_models_alone_on_a_gpu(arrays, algorithm, capture):
    options = dict(dataset=arrays, policy_kwargs=SMALL, device="cuda", pretraining_steps=8, batch_size=16, gamma=0.9)
    ours, alone = ([algorithm("FlowPolicy", seed=seed, **options) for seed in range(3)] for _ in range(2))
    for model in ours:
        model.capture = capture
    learn_side_by_side(ours, 14)
    for mine, expected in zip(ours, alone, strict=True):
        expected.learn(14)
        for parameter, other in zip(mine.policy.parameters(), expected.policy.parameters(), strict=True):
            th.testing.assert_close(parameter, other, rtol=1e-3, atol=1e-4)
        assert th.equal(mine.generator.get_state(), expected.generator.get_state())


@pytest.mark.parametrize("algorithm", [GMPO, GMPG])
def test_a_step_of_several_models_waits_for_nothing(arrays, algorithm):
    options = dict(dataset=arrays, policy_kwargs=SMALL, device="cuda", pretraining_steps=2, batch_size=16)
    models = [algorithm("FlowPolicy", seed=seed, **options) for seed in range(2)]
    learn_side_by_side(models, 4)
    batch = ModelBatch(models, ["one", "other"])
    batch.update()
    th.cuda.set_sync_debug_mode("error")
    try:
        batch.update()
    finally:
        th.cuda.set_sync_debug_mode("default")
    batch.release()


# One model in several processes


def test_processes_with_a_gpu_each_make_the_model_of_one(tmp_path):
    """Two of them where there are two GPUs; else one that makes the calls of several."""
    n_processes = min(th.cuda.device_count(), 2)
    started = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_processes)]
    ran = ["-m", "tests.helpers.data_parallel_runs", "trains_on_gpus", str(tmp_path)]
    finished = subprocess.run([sys.executable, *started, *ran], capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    for case in data_parallel_runs.ON_GPUS:
        expected = data_parallel_runs.make(case, device="cuda").learn(data_parallel_runs.STEPS).policy.state_dict()
        first, *others = (th.load(tmp_path / f"{case}.{rank}.pt") for rank in range(n_processes))
        for name, tensor in expected.items():
            th.testing.assert_close(first[name], tensor.cpu(), rtol=1e-3, atol=1e-4, msg=f"{case}: {name}")
            assert all(th.equal(other[name], first[name]) for other in others)
