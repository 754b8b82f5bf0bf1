"""
What the processes of a data-parallel training do, as a user's script would, started by torchrun or several times:
``python -m tests.helpers.data_parallel_runs <run> <folder>``. Every process writes what it came to into the folder.
"""

import importlib
import os
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_genpolicy import (
    GMPG,
    GMPO,
    HeldOutEpisodes,
    IQLCritic,
    OfflineEvalCallback,
    OneStepCritic,
    PolicyCritic,
    data_parallel,
    learn_side_by_side,
    load_dataset,
)
from sb3_genpolicy.common.algorithms import learning
from sb3_genpolicy.common.datasets.envs import SpacesVecEnv
from sb3_genpolicy.common.updates.processes import _CURRENT, SeveralProcesses, batch_mean, processes, world_size
from sb3_genpolicy.generative import ConditionalMLP, Likelihood, OdeKL, Sampler
from tests.helpers import tiny_envs  # noqa: F401
from tests.helpers.arrays import SMALL, make_arrays

STEPS = 14
ARRAYS = make_arrays()
#: Models that are trained again when the processes have parted
LEARNT = []
# Without a floor, Adam makes as much of a rounding error as of a gradient, where these vanish
FLOOR = dict(SMALL, optimizer_kwargs=dict(eps=1e-4))
QUANTILES = PolicyCritic(penalty=0.5, n_quantiles=4, dropped_quantiles=1)
# Beside which a penalty counts, and the optimizers keep little of a rounding error
SMALL_REWARDS = dict(reward_transform=None)
HUTCHINSON = OdeKL(Likelihood("hutchinson", Sampler("euler", 4), n_probes=2))


def vec_normalize():
    return VecNormalize(SpacesVecEnv(spaces.Box(-np.inf, np.inf, (3,)), ARRAYS["action_space"]))


CASES = {
    "advantage": (GMPO, lambda: {}),
    "default critic": (GMPO, lambda: dict(critic=None)),
    "first phase, diffusion": (GMPO, lambda: dict(policy="DiffusionPolicy", pretraining_steps=6)),
    "lambda-returns": (GMPO, lambda: dict(critic=OneStepCritic(), reward_transform=None)),
    "held out": (GMPO, lambda: dict(transforms=[HeldOutEpisodes(0.3)])),
    "vec_normalize": (GMPO, lambda: dict(env=vec_normalize())),
    "streamed": (GMPO, lambda: dict(dataset=load_dataset(os.environ["FLAT_FILE"], memory_map=True))),
    "softmax, sde": (GMPO, lambda: dict(weighting="softmax", n_actions=4, policy_kwargs=dict(FLOOR, solver="sde"))),
    "softmax, drawn once": (GMPO, lambda: dict(weighting="softmax", n_actions=4, redraw_actions=False)),
    "clipped": (GMPG, lambda: dict(target_kl=0.1, normalize_q=True, max_grad_norm=0.1, n_actions=2)),
    "hutchinson": (GMPG, lambda: dict(kl_estimator=HUTCHINSON)),
    "adjoint": (GMPG, lambda: dict(gradient_estimator="adjoint", target_kl=0.1, normalize_q=True)),
    "reinforce": (GMPG, lambda: dict(gradient_estimator="reinforce")),
    "reinforce_softmax": (GMPG, lambda: dict(gradient_estimator="reinforce_softmax", n_actions=3)),
    "matching": (GMPG, lambda: dict(gradient_estimator="matching")),
    "detached": (GMPG, lambda: dict(gradient_estimator="detached", kl_estimator=HUTCHINSON)),
    "onestep": (GMPO, lambda: dict(critic=OneStepCritic(n_critics=3, n_steps=2), **SMALL_REWARDS)),
    "distilled": (GMPO, lambda: dict(critic=IQLCritic(distilled_from=3))),
    "policy's quantiles": (GMPG, lambda: dict(critic=QUANTILES, **SMALL_REWARDS)),
}


def make(case="advantage", **more):
    algorithm, options = CASES[case]
    defaults = dict(policy="FlowPolicy", policy_kwargs=FLOOR, dataset=ARRAYS, batch_size=16, gamma=0.9, seed=0, device="cpu")
    # Whose gradients are of the order of 1; the default critic's are of that of returns
    defaults |= dict(critic="iql")
    defaults |= dict(learning_rate=LinearSchedule(1e-3, 0.0, 1.0), **(dict(pretraining_steps=8) if algorithm is GMPG else {}))
    return algorithm(**(defaults | options() | more))


class Lines(KVWriter):
    def __init__(self):
        self.lines = []

    def write(self, key_values, key_excluded, step=0):
        kept = {key: value for key, value in key_values.items() if not key.startswith("time/")}
        self.lines.append((step, {key: value if isinstance(value, str) else float(value) for key, value in kept.items()}))


def learnt(case):
    """A model and the lines of its log."""
    model, lines = make(case), Lines()
    model.set_logger(Logger(None, [lines]))
    return model.learn(STEPS, log_interval=5), lines.lines


def everything_of(model):
    """Networks, optimizers and random states, and how far it has come."""
    tensors = dict(model.policy.state_dict(), row_state=model.replay_buffer.random_state(), state=model.generator.get_state())
    for number, optimizer in enumerate(model.descent.optimizers().values()):
        for index, parameter in enumerate(optimizer.param_groups[0]["params"]):
            for name, value in optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer {number} {index} {name}"] = th.as_tensor(value)
    counts = {name: th.tensor(getattr(model, name)) for name in ("num_timesteps", "_n_updates", "pretraining_finished")}
    return {**tensors, **counts, "log_beta": th.as_tensor(getattr(model, "log_beta", 0.0))}


def keep(folder, name, thing):
    th.save(thing, folder / f"{name}.{processes().rank}.pt")


# What is the same


def trains(folder):
    for case in CASES:
        model, lines = learnt(case)
        keep(folder, case, dict(model=everything_of(model), lines=lines))


def begins_with_the_first_one_s(folder):
    """Processes whose seeds are None, and whose torch has come elsewhere."""
    th.manual_seed(processes().rank)
    for case in ("advantage", "clipped"):
        keep(folder, f"unseeded {case}", everything_of(make(case, seed=None).learn(STEPS)))


def goes_on(folder):
    for case in ("advantage", "clipped"):
        # Only the first one finds the checkpoint's folder made
        model = make(case).learn(STEPS, CheckpointCallback(6, str(folder / case)))
        keep(folder, f"whole {case}", everything_of(model))
        th.distributed.barrier()
        resumed = type(model).load(folder / case / "rl_model_6_steps.zip", device="cpu", verbose=1)
        resumed.learn(STEPS - 6, reset_num_timesteps=False, dataset=ARRAYS)
        keep(folder, f"resumed {case}", everything_of(resumed))


# What the first one does


class Watch(BaseCallback):
    def __init__(self, name, stop_at=None, break_at=None):
        super().__init__()
        self.name, self.stop_at, self.break_at, self.steps = name, stop_at, break_at, []

    def _on_step(self):
        self.steps.append(self.num_timesteps)
        assert self.locals["self"] is self.model
        # Whatever it computes for itself, the others do not wait for
        assert abs(batch_mean(th.arange(3.0)) - 1.0) < 1e-6
        if self.num_timesteps == self.break_at:
            raise KeyError("the callback's own error")
        return self.num_timesteps != self.stop_at


class Bar(Watch):
    def __init__(self):
        super().__init__("bar")
        bars.append(self)


bars = []


def logs_once(folder):
    learning.GradientStepProgressBar = Bar
    watch = Watch("watch")
    evaluation = OfflineEvalCallback(
        DummyVecEnv([lambda: gym.make("Tiny-v0")]), eval_freq=4, n_eval_episodes=1, log_path=str(folder / "evaluated")
    )
    model = make(verbose=1, capture=True, tensorboard_log=str(folder / "board"))
    model.learn(10, [watch, CheckpointCallback(5, str(folder / "checkpoints")), evaluation], log_interval=5, progress_bar=True)
    rank = processes().rank
    model.save(folder / "saved" / f"by_{rank}")
    model.save_replay_buffer(folder / "saved" / f"buffer_by_{rank}")
    keep(folder, "watched", dict(watch=watch.steps, bars=[bar.steps for bar in bars], evaluations=evaluation.n_calls // 4))


def stops(folder):
    model = make().learn(STEPS, Watch("stop", stop_at=4))
    keep(folder, "stopped", dict(model=everything_of(model)))


def fails(folder):
    try:
        make().learn(STEPS, Watch("break", break_at=3))
    except Exception as error:
        keep(folder, "failed", f"{type(error).__name__}: {error}")


# What ends all


def diverges(folder):
    """By numbers of the second process alone."""
    said = []
    for case in ("advantage", "clipped"):
        model = make(case).learn(10)
        before = everything_of(model)
        if not processes().is_first:
            model.replay_buffer.rewards.fill_(th.nan)
            model.actor.model.network.head.weight.register_hook(lambda gradient: gradient * th.inf)
        try:
            model.train(2, 16)
        except FloatingPointError as error:
            after = everything_of(model)
            kept = [*model.policy.state_dict(), "log_beta", "_n_updates"]
            said.append((str(error), all(th.equal(before[name], after[name]) for name in kept)))
    keep(folder, "diverged", said)


class DropoutMLP(ConditionalMLP):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.activation = th.nn.Sequential(self.activation, th.nn.Dropout(0.1))


class BatchNormMLP(ConditionalMLP):
    def __init__(self, dim, condition_dim, net_arch, *args, **kwargs):
        super().__init__(dim, condition_dim, net_arch, *args, **kwargs)
        self.activation = th.nn.Sequential(self.activation, th.nn.BatchNorm1d(net_arch[0], track_running_stats=False))


ADAPTIVE = dict(SMALL, solver="dopri5")
REFUSED = {
    "batch_size": ("advantage", dict(batch_size=17)),
    "dropout": ("advantage", dict(policy_kwargs=dict(SMALL, network=DropoutMLP))),
    "batch norm": ("advantage", dict(policy_kwargs=dict(SMALL, network=BatchNormMLP))),
    "coupling": ("advantage", dict(policy_kwargs=dict(SMALL, coupling="optimal_transport"))),
    "softmax": ("advantage", dict(weighting="softmax", policy_kwargs=ADAPTIVE)),
    "matching": ("clipped", dict(gradient_estimator="matching", target_kl=None, policy_kwargs=ADAPTIVE)),
    "ode": ("clipped", dict(kl_estimator=OdeKL(Likelihood(sampler=Sampler("dopri5"))))),
    "detached": ("clipped", dict(gradient_estimator="detached", kl_estimator=HUTCHINSON, policy_kwargs=ADAPTIVE)),
    "discrete": ("clipped", dict(kl_estimator="discrete")),
}
#: Of the second process
OTHERS = {
    "learning_rate": dict(learning_rate=LinearSchedule(2e-3, 0.0, 1.0)),
    "policy_kwargs": dict(policy_kwargs=dict(net_arch=[16])),
    "seed": dict(seed=1),
    "rows": dict(dataset=make_arrays(5)),
    "rewards": dict(dataset=dict(ARRAYS, rewards=ARRAYS["rewards"] * np.arange(len(ARRAYS["rewards"])))),
    "class": dict(case="clipped"),
}


def sentence_of(action):
    try:
        action()
    except ValueError as error:
        return str(error)


def refuses(folder):
    said, rank = {}, processes().rank
    for name, (case, options) in REFUSED.items():
        model = make(case, **options)
        said[name] = sentence_of(lambda model=model: model.learn(1))
        assert model.replay_buffer.size() == 0
    for name, options in OTHERS.items():
        said[f"other {name}"] = sentence_of(make(**(options if rank else {})).learn)
    model = make(pretraining_steps=0)
    said["other steps"] = sentence_of(lambda: model.learn(3 + rank))
    model.policy.set_sampler("euler" if rank else "heun")
    said["other sampler"] = sentence_of(lambda: model.learn(3))
    model, ours = make(env=(env := vec_normalize())), np.ones(3)
    env.obs_rms.update(np.random.default_rng(rank).normal(size=(4, 3)) * ours)
    said["other VecNormalize"] = sentence_of(lambda: model.learn(3))
    said["side by side"] = sentence_of(lambda: learn_side_by_side([make()], 1))
    said["acting"] = sentence_of(lambda: make().learn_online(1))
    model = make()
    model.online = True
    said["online"] = sentence_of(lambda: model.learn(3))
    said["nested"] = sentence_of(data_parallel().__enter__)
    # Which only act
    make("clipped", policy_kwargs=ADAPTIVE).learn(10)
    th.save(said, folder / f"refused.{rank}.pt")


RUNS = (trains, begins_with_the_first_one_s, goes_on, logs_once, stops, fails, diverges, refuses)


def everything(folder):
    assert world_size() == 2
    for run in RUNS:
        run(folder)
    LEARNT.append(make().learn(3))


# On GPUs

ON_GPUS = ("advantage", "softmax, sde", "clipped", "reinforce")


def trains_on_gpus(folder):
    """A process with the only GPU makes the calls of several, of a group of one."""
    device, alone = th.device("cuda", th.cuda.current_device()), world_size() == 1
    if alone:
        # As `data_parallel` does, and why
        importlib.import_module("torch.distributed.nn.functional")
        th.distributed.init_process_group("cpu:gloo,cuda:nccl", device_id=device)
        before = _CURRENT.set(SeveralProcesses())
    for case in ON_GPUS:
        model = make(case, device=device).learn(STEPS, Watch("watch"))
        keep(folder, case, {name: tensor.cpu() for name, tensor in model.policy.state_dict().items()})
    if alone:
        _CURRENT.reset(before)
        th.distributed.destroy_process_group()


# What ends by itself


def breaks(folder):
    """An error in the first one's callback that nobody catches, in a process group of the user's."""
    make().learn(STEPS, Watch("break", break_at=3))


class Dies(BaseCallback):
    def _on_step(self):
        if self.num_timesteps == 3:
            os._exit(9)
        return True


def dies(folder):
    make().learn(STEPS, Dies())


if __name__ == "__main__":
    th.set_num_threads(1)
    if sys.argv[1] == "breaks":
        th.distributed.init_process_group("gloo")
    with data_parallel("cuda" if sys.argv[1] == "trains_on_gpus" else "cpu") as device:
        globals()[sys.argv[1]](Path(sys.argv[2]))
    assert world_size() == 1 and not th.distributed.is_initialized()
    for model in LEARNT:
        # It goes on alone, by `train` too, with whole batches of its own
        model.train(1, 17)
    # Threads of the group that outlive it may end the interpreter with an error
    assert not [name for file in Path("/proc/self/task").glob("*/comm") if "gloo" in (name := file.read_text())]
    Path(sys.argv[2], f"ended.{os.environ['RANK']}").write_text(str(device))
