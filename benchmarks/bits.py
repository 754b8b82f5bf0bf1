"""
Whether two trees of the source compute the same numbers, to the last bit: every variant trained for a few steps, and a hash of
all that came of it.

    python -m benchmarks.bits --against TREE                  # another tree beside this one: which variants differ
    python -m benchmarks.bits --against TREE --only softmax online
    python -m benchmarks.bits -o before.csv                   # of this tree alone
    python -m benchmarks.bits --compare before.csv

Hashed are, each by its name, the parameters, buffers and optimizer states of the saved file, its random states and those of
torch, numpy and Python, the lines of the log, and what the model predicts once it is loaded again. Hashes hold for one machine
and one version of the libraries; what was computed elsewhere is no reference. Both sides are run here, at once, each in
processes of one thread. The exit status is 1 where any differs. Only what the package offers its users is called, so that this
file runs on either tree.
"""

import argparse
import csv
import hashlib
import io
import os
import random
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecNormalize

import sb3_genpolicy
from sb3_genpolicy import (
    GMPG,
    GMPO,
    BestEpisodes,
    ClipActions,
    HeldOutEpisodes,
    NStepReturns,
    data_parallel,
    learn_side_by_side,
    load_dataset,
)
from sb3_genpolicy.generative import METHODS, SOLVERS, Likelihood, LinearPath, OdeKL, OptimalTransportCoupling, Sampler

PENDULUM = "pendulum-mixed"
SMALL = dict(net_arch=[32, 32])
# Steps of a training, of its first phase where it has two, and between two lines of its log
STEPS, FIRST, LOG_EVERY = 14, 7, 4
FEW_STEPS = Sampler("euler", 4)
FILES_OF_0_1 = Path(__file__).parent.parent / "tests" / "files_of_0_1"

#: Name of what is hashed -> its hash
State = dict[str, str]


class Row(NamedTuple):
    """
    :param variant: what was trained
    :param phase: how far it had come
    :param name: of a tensor, or of what else is hashed
    :param sha256: of it, in hexadecimal digits
    """

    variant: str
    phase: str
    name: str
    sha256: str


# What is hashed


def sha256(thing: Any) -> str:
    """
    :param thing: a tensor, an array, or something whose ``repr`` has every digit
    :return: its hash, in hexadecimal digits
    """
    if isinstance(thing, (th.Tensor, np.ndarray)):
        array = thing.detach().cpu().numpy() if isinstance(thing, th.Tensor) else thing
        return hashlib.sha256(f"{array.dtype} {array.shape} ".encode() + array.tobytes()).hexdigest()
    return hashlib.sha256(repr(thing).encode()).hexdigest()


def flat(tree: Any, name: str) -> Iterator[tuple[str, Any]]:
    """
    :param tree: nested dictionaries
    :param name: of the whole
    :return: each leaf with its path
    """
    if isinstance(tree, dict):
        for key, branch in tree.items():
            yield from flat(branch, f"{name}/{key}")
    else:
        yield name, tree


def saved(model: GMPO | GMPG) -> io.BytesIO:
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    return file


def state_of(model: GMPO | GMPG) -> State:
    """Of all tensors and optimizer settings in the model's file, and how many steps it has made."""
    state = {"num_timesteps": sha256(model.num_timesteps)}
    with zipfile.ZipFile(saved(model)) as archive:
        for name in archive.namelist():
            if name.endswith(".pth"):
                tensors = th.load(io.BytesIO(archive.read(name)), weights_only=True)
                state |= {path: sha256(leaf) for path, leaf in flat(tensors, name.removesuffix(".pth"))}
    return state


def random_states() -> State:
    """Of the generators that all share."""
    numpy_state = np.random.get_state()
    states = dict(torch=th.get_rng_state(), numpy=tuple(map(repr, numpy_state)), python=random.getstate())
    return {f"random state of {name}": sha256(state) for name, state in states.items()}


def observations_of(space: spaces.Space, n_rows: int = 6) -> Any:
    """
    :param space: an observation space
    :param n_rows: how many
    :return: always the same observations, batch first
    """
    if isinstance(space, spaces.Dict):
        return {key: observations_of(part, n_rows) for key, part in space.spaces.items()}
    rng = np.random.default_rng(0)
    if isinstance(space, spaces.Discrete):
        return rng.integers(0, space.n, n_rows)
    assert space.shape is not None and space.dtype is not None
    numbers = rng.normal(size=(n_rows, *space.shape))
    return (100 * np.abs(numbers)).astype(space.dtype) if space.dtype.kind in "iu" else numbers.astype(space.dtype)


def predictions_of(model: GMPO | GMPG, **options: Any) -> State:
    """
    :param model: a model
    :param options: of ``predict``
    :return: actions, deterministic and sampled, and their log-probabilities
    """
    set_random_seed(0)
    observations = observations_of(model.observation_space)
    actions, _ = model.predict(observations, deterministic=True, **options)
    sampled, _ = model.predict(observations, **options)
    # The default's 16 rk4 steps would take half of all time
    log_prob = model.policy.log_prob(observations, th.as_tensor(sampled), Likelihood(sampler=FEW_STEPS))
    values = dict(deterministic=actions, sampled=sampled, log_prob=log_prob)
    return {name: sha256(value) for name, value in values.items()}


class Lines(KVWriter):
    """Keeps what is logged, but for times."""

    def __init__(self) -> None:
        self.columns: dict[str, list[Any]] = {}

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        for key, value in key_values.items():
            if not key.startswith("time/"):
                self.columns.setdefault(key, []).append((step, value if isinstance(value, str) else float(value)))

    def close(self) -> None:
        pass

    @property
    def state(self) -> State:
        return {f"log of {key}": sha256(values) for key, values in self.columns.items()}


class AtStep(BaseCallback):
    """
    Looks at a model as it learns, at one step.

    :param step: of its timesteps
    :param look: what is kept of the model
    """

    def __init__(self, step: int, look: Callable[[Any], Any]):
        super().__init__()
        self.step, self.look = step, look
        self.seen: Any = None

    def _on_step(self) -> bool:
        if self.num_timesteps == self.step:
            self.seen = self.look(self.model)
        return True


# What is trained

#: How far a training has come, and what there is then
Phases = Iterator[tuple[str, State]]


def make(algorithm: type[GMPO] | type[GMPG] = GMPO, **options: Any) -> GMPO | GMPG:
    policy_kwargs = {**SMALL, **options.pop("policy_kwargs", {})}
    defaults: dict[str, Any] = dict(policy="FlowPolicy", dataset=PENDULUM, batch_size=64, seed=0, device="cpu")
    return algorithm(**(defaults | options), policy_kwargs=policy_kwargs)


def with_lines(model: GMPO | GMPG) -> Lines:
    lines = Lines()
    model.set_logger(Logger(None, [lines]))
    return lines


def training(algorithm: type[GMPO] | type[GMPG] = GMPO, later: Callable[[], dict[str, Any]] = dict, **options: Any) -> Phases:
    """
    :param algorithm: whose model
    :param later: options that are made anew for every run
    :param options: of its constructor
    :return: what there is after the first phase, if there is one, at the end, and what the saved model predicts
    """
    model = make(algorithm, **options, **later())
    lines, watch = with_lines(model), AtStep(options.get("pretraining_steps", -1), state_of)
    model.learn(STEPS, watch, log_interval=LOG_EVERY)
    if watch.seen is not None:
        yield "first phase", watch.seen
    yield "end", {**state_of(model), **lines.state, **random_states()}
    yield "loaded", predictions_of(type(model).load(saved(model), device="cpu", trust_pickle=True))


def two_phases(**options: Any) -> Callable[[], Phases]:
    return partial(training, GMPG, pretraining_steps=FIRST, **options)


def pretrained(algorithm: type[GMPO] | type[GMPG], **options: Any) -> Phases:
    first = make(GMPO, beta=0.0)
    first.learn(FIRST, log_interval=None)
    yield "first phase", state_of(first)
    yield from training(algorithm, later=lambda: dict(pretrained=first, seed=1), **options)


def resumed(algorithm: type[GMPO] | type[GMPG], **options: Any) -> Phases:
    """Both ends are hashed, and :func:`unequal_ends` looks whether they are equal."""
    model, watch = make(algorithm, **options), AtStep(FIRST - 1, saved)
    model.learn(STEPS, watch, log_interval=None)
    yield "uninterrupted", state_of(model)
    again = algorithm.load(watch.seen, device="cpu")
    again.learn(STEPS - FIRST + 1, reset_num_timesteps=False, log_interval=None)
    yield "resumed", state_of(again)


def online(algorithm: type[GMPO] | type[GMPG], **options: Any) -> Phases:
    model = make(algorithm, env=gym.make("Pendulum-v1", max_episode_steps=12), **options)
    lines = with_lines(model)
    model.learn(STEPS, log_interval=LOG_EVERY)
    yield "offline", state_of(model)
    model.learn_online(40, log_interval=1)
    yield "online", {**state_of(model), **lines.state, **random_states()}
    model.learn(3, reset_num_timesteps=False, log_interval=None)
    yield "and offline again", state_of(model)


def side_by_side(algorithm: type[GMPO] | type[GMPG], **options: Any) -> Phases:
    models = [make(algorithm, seed=seed, beta=beta, **options) for seed, beta in ((0, 1.0), (1, 3.0))]
    lines = [with_lines(model) for model in models]
    learn_side_by_side(models, STEPS, log_interval=LOG_EVERY)
    for index, model in enumerate(models):
        yield f"model {index}", {**state_of(model), **lines[index].state, **predictions_of(model)}
    models[0].learn(3, reset_num_timesteps=False, log_interval=None)
    yield "model 0 goes on alone", state_of(models[0])


def by_solvers(**options: Any) -> Phases:
    model = make(**options)
    model.learn(STEPS, log_interval=None)
    for solver in SOLVERS:
        yield solver, predictions_of(model, solver=solver, **({} if solver == "dopri5" else {"sampling_steps": 4}))
    likelihoods: dict[str, Likelihood | None] = {
        "default": None,
        **{method: Likelihood(method, Sampler("midpoint", 4)) for method in METHODS},
    }
    for method, likelihood in likelihoods.items():
        set_random_seed(0)
        observations = observations_of(model.observation_space)
        actions, _ = model.predict(observations)
        found = model.policy.log_prob(observations, th.as_tensor(actions), likelihood)
        model.policy.zero_grad()
        found.sum().backward()
        gradients = {n: p.grad for n, p in model.policy.actor_ema.named_parameters() if p.grad is not None}
        yield f"log_prob, {method}", {name: sha256(value) for name, value in {"log_prob": found, **gradients}.items()}
    model.policy.n_candidates = 4
    yield "best of 4 candidates", predictions_of(model)


def of_release_0_1(path: Path) -> Phases:
    model = (GMPG if path.name.startswith("gmpg") else GMPO).load(path, device="cpu")
    yield "loaded", predictions_of(model)
    with np.load(path.with_suffix(".npz")) as file:
        observations = {key.removeprefix("obs/"): file[key] for key in file if key.startswith("obs/")}
        log_prob = model.policy.log_prob(observations.get("observations", observations), file["actions"])
    yield "loaded", {"log_prob of its own actions": sha256(log_prob)}
    yield "saved again", state_of(model)


# Several processes

TOGETHER: dict[str, tuple[type[GMPO] | type[GMPG], dict[str, Any]]] = {
    "two processes, GMPO": (GMPO, {}),
    "two processes, GMPO softmax": (GMPO, dict(weighting="softmax", n_actions=4, pretraining_steps=FIRST)),
    "two processes, GMPG target_kl": (GMPG, dict(pretraining_steps=FIRST, target_kl=0.1, normalize_q=True)),
}


def one_of_several(folder: Path) -> None:
    """
    What each process of ``torchrun`` does. Only the first one writes files while they are together, so that each hashes its
    models afterwards.
    """

    def end(model: GMPO | GMPG, more: State) -> Phases:
        yield "end", {**state_of(model), **more}

    trained: dict[str, Callable[[], Phases]] = {}
    with data_parallel("cpu", timeout=60.0):
        for variant, (algorithm, options) in TOGETHER.items():
            set_random_seed(0)
            model = make(algorithm, **options)
            lines = with_lines(model)
            model.learn(STEPS, log_interval=LOG_EVERY)
            trained[variant] = partial(end, model, {**lines.state, **random_states()})
    write(folder / f"{os.environ['RANK']}.csv", rows_of(trained))


def several_processes(names: Sequence[str]) -> list[Row]:
    """
    :param names: which of :data:`TOGETHER` are wanted; if there are none, no process is started
    :return: their rows, of both processes
    """
    if not names:
        return []
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        # Names that do not lead to this machine are asked for otherwise
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        started = subprocess.Popen(
            [*command, os.path.abspath(__file__), "--process", folder],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            said, _ = started.communicate(timeout=150)
        except subprocess.TimeoutExpired:
            # Told so, and not killed, torchrun ends those that it has started
            started.terminate()
            said, _ = started.communicate(timeout=60)
        if started.returncode:
            sys.exit(said)
        return [
            row._replace(phase=f"{row.phase}, process {rank}")
            for rank in range(2)
            for row in read(Path(folder, f"{rank}.csv"))
            if row.variant in names
        ]


# Data and networks of our own


class Linear(BaseFeaturesExtractor):
    """An extractor with parameters, which may be shared."""

    def __init__(self, observation_space: spaces.Space, features_dim: int = 8):
        super().__init__(observation_space, features_dim)
        assert observation_space.shape is not None
        self.linear = th.nn.Linear(observation_space.shape[0], features_dim)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.linear(observations)


def arrays(space: spaces.Space, rows: int = 60) -> dict[str, Any]:
    """
    :param space: an observation space
    :param rows: steps, in episodes of ten, half of them terminated
    :return: a dataset
    """
    rng, observations = np.random.default_rng(1), observations_of(space, rows + 1)
    before, after = (
        (
            {key: part[rows_of_side] for key, part in observations.items()}
            if isinstance(observations, dict)
            else observations[rows_of_side]
        )
        for rows_of_side in (slice(None, -1), slice(1, None))
    )
    ends, terminated = np.arange(rows) % 10 == 9, np.arange(rows) % 20 == 9
    return dict(
        observations=before,
        next_observations=after,
        actions=rng.uniform(-1, 1, (rows, 2)).astype(np.float32),
        rewards=rng.normal(size=rows).astype(np.float32),
        terminals=terminated,
        timeouts=ends & ~terminated,
        observation_space=space,
        action_space=spaces.Box(-1, 1, (2,)),
    )


DICT = spaces.Dict(a=spaces.Box(-np.inf, np.inf, (3,)), b=spaces.Discrete(4))
IMAGES = spaces.Box(0, 255, (3, 36, 36), np.uint8)
FLAT = spaces.Box(-np.inf, np.inf, (3,))


def streamed() -> dict[str, Any]:
    data = arrays(FLAT)
    with tempfile.NamedTemporaryFile(suffix=".npz", delete=False) as file:
        np.savez(file, **{key: value for key, value in data.items() if not key.endswith("_space")})
    try:
        return dict(dataset=load_dataset(file.name, memory_map=True, action_space=data["action_space"]))
    finally:
        os.unlink(file.name)


def vec_normalized() -> dict[str, Any]:
    return dict(env=VecNormalize(make_vec_env("Pendulum-v1", seed=0)))


# Which variants there are


def matchings() -> dict[str, Callable[[], Phases]]:
    """Each prediction of a path with each loss that goes with it."""
    kinds: list[tuple[str, str, tuple[str, ...]]] = [("FlowPolicy", "linear", ("velocity", "data"))]
    kinds += [("DiffusionPolicy", path, ("velocity", "noise", "score", "data")) for path in ("vp", "cosine")]
    return {
        f"GMPO {path}, {prediction} by {loss or 'its own'} loss": partial(
            training, policy=policy, policy_kwargs=dict(path=path, prediction=prediction, matching_loss=loss)
        )
        for policy, path, predictions in kinds
        for prediction in predictions
        for loss in ((None,) if path == "linear" else (None, "flow", "likelihood"))
    }


def gradients() -> dict[str, Callable[[], Phases]]:
    """GMPG by each gradient with each KL estimator that goes with it."""
    # The default's 16 steps take seconds: once
    estimators = dict(path="path", ode=OdeKL(Likelihood(sampler=FEW_STEPS)), discrete="discrete")
    kinds: dict[tuple[str, str], dict[str, Any]] = {
        (gradient, name): dict(kl_estimator=estimator, **({"n_actions": 3} if gradient == "reinforce_softmax" else {}))
        for gradient in ("pathwise", "reinforce", "reinforce_softmax")
        for name, estimator in estimators.items()
    }
    kinds |= {("pathwise", "ode by default"): dict(kl_estimator="ode")}
    kinds |= {("adjoint", name): dict(adjoint=name) for name in ("lean", "scalar")}
    kinds |= {("matching", "no KL"): {}, ("detached", "ode"): dict(kl_estimator=estimators["ode"])}
    return {
        f"GMPG {gradient}, {kl}": two_phases(gradient_estimator=gradient, **options)
        for (gradient, kl), options in kinds.items()
    }


VP: dict[str, Any] = dict(policy="DiffusionPolicy", policy_kwargs=dict(path="vp"))
COSINE: dict[str, Any] = dict(policy="DiffusionPolicy", policy_kwargs=dict(path="cosine"))

SOFTMAX: dict[str, dict[str, Any]] = {
    "drawn anew": dict(redraw_actions=True),
    "drawn once": dict(redraw_actions=False),
    "sde": dict(policy="DiffusionPolicy", policy_kwargs=dict(solver="sde")),
}

VARIANTS: dict[str, Callable[[], Phases]] = {
    "GMPO flow": training,
    "GMPO vp": partial(training, **VP),
    "GMPO cosine": partial(training, **COSINE),
    "GMPO linear with noise": partial(training, policy_kwargs=dict(path=LinearPath(extra_noise=0.1))),
    "GMPO first phase": partial(training, pretraining_steps=FIRST),
    "GMPO beta=0": partial(training, beta=0.0),
    "GMPO optimal_transport": partial(training, policy_kwargs=dict(coupling="optimal_transport")),
    "GMPO optimal_transport, condition": partial(training, policy_kwargs=dict(coupling=OptimalTransportCoupling(1.0))),
    "GMPO normalize_observations=False": partial(training, policy_kwargs=dict(normalize_observations=False)),
    "GMPO normalize_actions=False": partial(training, policy_kwargs=dict(normalize_actions=False)),
    "GMPO bfloat16": partial(training, precision="bfloat16"),
    "GMPO NStepReturns": partial(training, transforms=[NStepReturns(3)]),
    "GMPO HeldOutEpisodes": partial(training, transforms=[HeldOutEpisodes(0.3)]),
    "GMPO BestEpisodes": partial(training, transforms=[BestEpisodes(0.5)]),
    "GMPO ClipActions": partial(training, transforms=[ClipActions()]),
    "GMPO reward_transform=none": partial(training, reward_transform="none"),
    "GMPO VecNormalize": partial(training, later=vec_normalized),
    "GMPO n_critics=3": partial(training, policy_kwargs=dict(n_critics=3)),
    "GMPO unet": partial(training, policy_kwargs=dict(network="unet", time_features="gaussian_fourier")),
    "GMPO extractor": partial(training, policy_kwargs=dict(features_extractor_class=Linear)),
    "GMPO share_features_extractor": partial(
        training, policy_kwargs=dict(features_extractor_class=Linear, share_features_extractor=True)
    ),
    "GMPO dictionaries": partial(training, policy="FlowMultiInputPolicy", dataset=arrays(DICT)),
    "GMPO images": partial(
        training,
        policy="FlowCnnPolicy",
        dataset=arrays(IMAGES),
        policy_kwargs=dict(features_extractor_kwargs=dict(features_dim=8), share_features_extractor=True),
    ),
    "GMPO lists of datasets": partial(training, dataset=[arrays(FLAT), arrays(FLAT, 40)]),
    "GMPO streamed": partial(training, later=streamed),
    **matchings(),
    **{
        f"GMPO softmax, {how}": partial(training, weighting="softmax", n_actions=4, pretraining_steps=FIRST, **options)
        for how, options in SOFTMAX.items()
    },
    **gradients(),
    "GMPG vp": two_phases(**VP),
    "GMPG cosine, dopri5": two_phases(policy="DiffusionPolicy", policy_kwargs=dict(path="cosine", solver="dopri5")),
    "GMPG target_kl": two_phases(target_kl=0.1),
    "GMPG normalize_q": two_phases(normalize_q=True),
    "GMPG n_actions=3": two_phases(n_actions=3),
    "GMPG clipped": two_phases(max_grad_norm=0.01),
    "GMPG hutchinson": two_phases(kl_estimator=OdeKL(Likelihood("hutchinson", FEW_STEPS, n_probes=2))),
    "GMPG adjoint": two_phases(kl_estimator=OdeKL(Likelihood(sampler=FEW_STEPS, gradient="adjoint"))),
    "GMPG bfloat16": two_phases(precision="bfloat16"),
    "GMPG dictionaries": two_phases(policy="FlowMultiInputPolicy", dataset=arrays(DICT)),
    "GMPG share_features_extractor": two_phases(
        policy_kwargs=dict(features_extractor_class=Linear, share_features_extractor=True)
    ),
    "GMPG pretrained": partial(pretrained, GMPG),
    "GMPO pretrained": partial(pretrained, GMPO),
    "resumed GMPO": partial(resumed, GMPO),
    "resumed GMPO softmax": partial(resumed, GMPO, weighting="softmax", n_actions=4, pretraining_steps=FIRST),
    "resumed GMPG target_kl": partial(resumed, GMPG, pretraining_steps=FIRST, target_kl=0.1),
    "online GMPO": partial(online, GMPO),
    "online GMPO softmax": partial(online, GMPO, weighting="softmax", n_actions=4, pretraining_steps=FIRST),
    "online GMPG": partial(online, GMPG, pretraining_steps=FIRST, target_kl=0.1),
    "side by side GMPO": partial(side_by_side, GMPO),
    "side by side GMPO softmax": partial(side_by_side, GMPO, weighting="softmax", n_actions=4, pretraining_steps=FIRST),
    "side by side GMPG": partial(side_by_side, GMPG, pretraining_steps=FIRST, target_kl=0.1),
    "solvers flow": by_solvers,
    "solvers cosine": partial(by_solvers, **COSINE),
    **{
        f"release 0.1 {path.stem}": partial(of_release_0_1, path.with_suffix(".zip"))
        for path in sorted(FILES_OF_0_1.glob("*.npz"))
    },
}


def rows_of(variants: dict[str, Callable[[], Phases]]) -> list[Row]:
    """
    :param variants: name -> its phases
    :return: what was hashed, sorted by name within a phase. Each variant begins with the same random states.
    """
    rows = []
    for variant, phases in variants.items():
        set_random_seed(0)
        for phase, state in phases():
            rows += [Row(variant, phase, name, state[name]) for name in sorted(state)]
    return rows


# Tables


def write(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([Row._fields, *rows])


def read(path: Path) -> list[Row]:
    with path.open(newline="") as file:
        return [Row(**line) for line in csv.DictReader(file)]


def table(rows: Sequence[Row]) -> str:
    """One line for each phase, whose hash is that of all names and hashes in it."""
    phases: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        phases.setdefault((row.variant, row.phase), []).append(f"{row.name} {row.sha256}")
    lines = [f"| {variant} | {phase} | {sha256(sorted(state))} |" for (variant, phase), state in phases.items()]
    return "\n".join(["| variant | phase | sha256 |", "|---|---|---|", *lines])


def comparison(ours: Sequence[Row], theirs: Sequence[Row]) -> tuple[str, int]:
    """
    :param ours: rows of one run
    :param theirs: rows of another
    :return: a table with a line for each variant, and how many differ
    """
    sides: list[dict[str, dict[str, str]]] = [{}, {}]
    for side, rows in zip(sides, (ours, theirs), strict=True):
        for row in rows:
            side.setdefault(row.variant, {})[f"{row.phase}: {row.name}"] = row.sha256
    lines, n_different = ["| variant | | hashes | first that differ |", "|---|---|---|---|"], 0
    for variant in dict.fromkeys([*sides[0], *sides[1]]):
        mine, other = (side.get(variant, {}) for side in sides)
        names = list(dict.fromkeys([*mine, *other]))
        different = [name for name in names if mine.get(name) != other.get(name)]
        n_different += bool(different)
        what = f"{len(different)} different" if different else "equal"
        lines.append(f"| {variant} | {what} | {len(names)} | {'; '.join(different[:3])} |")
    return "\n".join(lines), n_different


def unequal_ends(rows: Sequence[Row]) -> list[str]:
    """
    :param rows: of a run
    :return: variants that a save in the middle makes another model of
    """
    ends: dict[str, dict[str, dict[str, str]]] = {}
    for row in rows:
        if row.phase in ("uninterrupted", "resumed"):
            ends.setdefault(row.variant, {}).setdefault(row.phase, {})[row.name] = row.sha256
    return [variant for variant, phases in ends.items() if phases["uninterrupted"] != phases["resumed"]]


# Runs


def run(only: Sequence[str]) -> list[Row]:
    """
    :param only: parts of the names of the variants that are wanted, none for all
    :return: what this tree computes
    """
    th.set_num_threads(1)

    def wanted(name: str) -> bool:
        return not only or any(part in name for part in only)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = rows_of({name: phases for name, phases in VARIANTS.items() if wanted(name)})
    return rows + several_processes([name for name in TOGETHER if wanted(name)])


def start(tree: Path, path: Path, only: Sequence[str]) -> subprocess.Popen[str]:
    """
    :param tree: a folder with ``sb3_genpolicy``
    :param path: where its rows are to be written
    :param only: which variants
    :return: this program, which runs with that tree
    """
    # A safe path has neither the current folder nor this file's, whose neighbours have names of libraries
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    environment["SB3_GENPOLICY_CACHE"] = str(path.with_suffix(".cache"))
    command = [sys.executable, os.path.abspath(__file__), "-o", str(path), "--tree", str(tree), "--quiet"]
    command += ["--only", *only] if only else []
    return subprocess.Popen(command, env=environment, cwd=path.parent, text=True, stderr=subprocess.PIPE)


def rows_of_trees(trees: Sequence[Path], only: Sequence[str]) -> list[list[Row]]:
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{index}.csv") for index in range(len(trees))]
        started = [start(tree, path, only) for tree, path in zip(trees, paths, strict=True)]
        # Both write little
        said = [process.communicate()[1] for process in started]
        for tree, process, errors in zip(trees, started, said, strict=True):
            if process.returncode:
                sys.exit(f"{tree}:\n{errors}")
        return [read(path) for path in paths]


def check_tree(tree: Path) -> None:
    found = Path(sb3_genpolicy.__file__).resolve().parent
    if found.parent != tree.resolve():
        sys.exit(f"sb3_genpolicy was to be that of {tree}, and is {found}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, metavar="TREE", help="a folder with another sb3_genpolicy")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write every hash to this csv file")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="such a file of this machine")
    parser.add_argument("--only", nargs="+", default=[], metavar="TEXT", help="variants with one of these in their names")
    parser.add_argument("--quiet", action="store_true", help="print no table of hashes")
    parser.add_argument("--tree", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--process", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.tree is not None:
        check_tree(args.tree)
    if args.process is not None:
        th.set_num_threads(1)
        return one_of_several(args.process)
    others: list[Row] | None
    if args.against is not None:
        rows, others = rows_of_trees([Path(sb3_genpolicy.__file__).parent.parent, args.against.resolve()], args.only)
    else:
        rows, others = run(args.only), None if args.compare is None else read(args.compare)
    if args.output is not None:
        write(args.output, rows)
    if others is not None:
        if args.only:
            others = [row for row in others if row.variant in {mine.variant for mine in rows}]
        said, n_different = comparison(rows, others)
        print(said)
        print(f"\n{n_different} of {len(said.splitlines()) - 2} variants differ, of {len(rows)} hashes.")
    else:
        n_different = 0
        if not args.quiet:
            print(table(rows))
    unequal = unequal_ends(rows)
    if unequal:
        print(f"Resumed from the middle, these end elsewhere: {', '.join(unequal)}.")
    sys.exit(1 if n_different or unequal else 0)


if __name__ == "__main__":
    main()
