"""
Random combinations of small spaces, small datasets and options, as strategies of hypothesis; printed, they can be made again.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from hypothesis import strategies as st
from stable_baselines3.common.utils import LinearSchedule
from torch import nn

from sb3_genpolicy import GMPG, GMPO, IQLCritic, OneStepCritic, PolicyCritic
from sb3_genpolicy.common.policies.deterministic import DETERMINISTIC_ACTIONS
from sb3_genpolicy.common.transitions.rewards import AffineReward, ReturnRange
from sb3_genpolicy.common.transitions.transforms import (
    BestEpisodes,
    ClipActions,
    HeldOutEpisodes,
    NStepReturns,
    RescaleActions,
    WeightedEpisodes,
)
from sb3_genpolicy.common.utils import space_items
from sb3_genpolicy.generative import (
    COUPLINGS,
    MATCHING_LOSSES,
    PREDICTIONS,
    SOLVERS,
    TIME_FEATURES,
    TIME_GRIDS,
    CosinePath,
    DiscreteKL,
    Likelihood,
    LinearPath,
    OdeKL,
    PathKL,
    Sampler,
    VPPath,
)
from sb3_genpolicy.gmpg.losses import GRADIENT_ESTIMATORS
from tests.helpers.fuzz_spaces import ACTIONS, OBSERVATIONS, ODD_ACTIONS, ODD_OBSERVATIONS, SpacesEnv, kind_for, of

ALGORITHMS = dict(GMPO=GMPO, GMPG=GMPG)
RATES = ("learning_rate", "policy_learning_rate")


def falling(remaining):
    return 1e-2 * remaining


@dataclass(frozen=True)
class Case:
    """
    A combination.

    :param lengths: steps of the episodes, negative where an episode was cut off
    :param rewards: kind of the rewards
    :param with_env: whether an environment is given, from which the spaces come
    :param pretrained: whether behaviour model and critics come from an earlier model
    :param log_interval: of ``learn``
    :param seed: of the data
    """

    algorithm: str
    policy: str
    observation_space: spaces.Space
    action_space: spaces.Space
    lengths: tuple[int, ...]
    rewards: str
    with_env: bool
    pretrained: bool
    log_interval: int | None
    seed: int
    options: dict[str, Any]
    policy_kwargs: dict[str, Any]

    def arrays(self):
        """The dataset, a mapping of arrays."""
        rng = np.random.default_rng(self.seed)
        for space in (self.observation_space, self.action_space):
            space.seed(self.seed)
        steps = [abs(length) for length in self.lengths]
        states = [[self.observation_space.sample() for _ in range(n + 1)] for n in steps]
        ends = np.concatenate([np.arange(n) == n - 1 for n in steps])
        terminated = np.repeat([length > 0 for length in self.lengths], steps)
        arrays = dict(
            observations=_stacked([row for episode in states for row in episode[:-1]]),
            next_observations=_stacked([row for episode in states for row in episode[1:]]),
            actions=np.array([self.action_space.sample() for _ in ends]),
            rewards=REWARDS[self.rewards](rng, len(ends)),
            terminals=ends & terminated,
            timeouts=ends & ~terminated,
        )
        return dict(arrays, observation_space=self.observation_space, action_space=self.action_space)

    @property
    def extreme(self):
        """Whether training may well diverge."""
        options = self.options
        rates = [0.0 if callable(rate := options.get(name, 0.0)) else rate for name in RATES]
        # By the span of the returns, which a single episode has not
        scaled = options.get("reward_transform", "locomotion") in ("locomotion", ReturnRange(10.0), np.tanh)
        scaled = scaled and len(self.lengths) > 1
        large = (self.rewards in ("large", "huge") and not scaled) or options.get("reward_transform") == ReturnRange(1e30)
        tame = self.policy_kwargs.get("optimizer_class") not in (th.optim.SGD, th.optim.ASGD)
        # Whose exponentials nothing bounds
        tame = tame and options.get("weight_clamp", 1.0) < np.inf
        return large or max(rates) >= 0.1 or options.get("beta", 1.0) >= 20.0 or not tame

    @property
    def custom(self):
        """Whether there is something among the options that a file has to be trusted for."""
        return any(value is falling or value is np.tanh for value in self.options.values())

    def constructor_arguments(self):
        """What the algorithm is made with."""
        env = SpacesEnv(self.observation_space, self.action_space) if self.with_env else None
        given = dict(policy=self.policy, env=env, dataset=self.arrays(), policy_kwargs=dict(self.policy_kwargs))
        if not self.pretrained:
            return {**given, **self.options}
        options = {name: value for name, value in self.options.items() if name != "pretraining_steps"}
        return {**given, **options, "pretrained": self._pretrained(given)}

    def _pretrained(self, given):
        options = dict(GMPO=dict(beta=0.0), GMPG=dict(pretraining_steps=2))[self.algorithm]
        # Whose networks stay as they are
        options.update({name: self.options[name] for name in ("critic", "expectile") if name in self.options})
        return ALGORITHMS[self.algorithm](batch_size=4, **given, **options).learn(1)


REWARDS = dict(
    normal=lambda rng, n: rng.normal(size=n),
    constant=lambda rng, n: np.full(n, -2.0),
    large=lambda rng, n: 1e6 * rng.normal(size=n),
    huge=lambda rng, n: 1e30 * rng.normal(size=n),
    tiny=lambda rng, n: 1e-30 * rng.normal(size=n),
    whole=lambda rng, n: rng.integers(0, 2, n),
)


def _stacked(rows):
    if isinstance(rows[0], dict):
        return {key: np.array([row[key] for row in rows]) for key in rows[0]}
    return np.array(rows)


# Options


def _some(draw, strategies):
    """Values of some of them."""
    chosen = draw(st.lists(st.sampled_from(sorted(strategies)), unique=True, max_size=7))
    return {name: draw(strategies[name]) for name in chosen}


COMMON = dict(
    learning_rate=of(1e-3, 1e-2, 0.3, 0, np.float64(1e-3), 100.0, LinearSchedule(1e-2, 0.0, 1.0), falling),
    batch_size=of(1, 2, 5, 8, np.int64(4), 33),
    tau=of(0.0, 0.01, 1, 0.5),
    gamma=of(0.0, 0.99, 1.0, np.float32(0.5)),
    beta=of(0.0, 0.1, 1, 20.0, 1e6),
    critic=of(
        *("iql", "onestep", "policy", IQLCritic(aggregation="mean"), OneStepCritic(gamma=None, n_critics=3)),
        *(OneStepCritic(advantage=False), PolicyCritic(n_quantiles=3), OneStepCritic(distilled_from=4)),
    ),
    expectile=of(0.1, 0.5, 0.7, 0.999),
    actor_tau=of(0.001, 1.0, 0.5),
    weight_clamp=of(1e-3, 1.0, 100.0, float("inf")),
    episode_kl=of(None, 0.0, 0, 0.5, 1.0, 1e6),
    heed_disagreement=st.booleans(),
    pretraining_steps=of(None, 0, 1, 10, 19, 20, 100, 10.0),
    reward_transform=of(
        *("locomotion", "antmaze", "none", None, AffineReward(0.1, 1.0), ReturnRange(10.0), ReturnRange(1e30), np.tanh)
    ),
    transforms=st.lists(
        of(
            *(BestEpisodes(0.5), BestEpisodes(1.0), HeldOutEpisodes(0.3), NStepReturns(1), NStepReturns(3), NStepReturns(100)),
            *(ClipActions(), RescaleActions(-1.0, 1.0), WeightedEpisodes(), WeightedEpisodes(0.1)),
        ),
        max_size=3,
    ),
    precision=of("float32", "tf32", "bfloat16"),
    capture=st.booleans(),
    stats_window_size=of(1, 100),
    verbose=of(0, 1),
    seed=of(None, 0, 7, 2**32 - 1),
    device=of("auto", "cpu", th.device("cpu")),
)
OF_ALGORITHM = dict(
    GMPO=dict(
        weighting=of("advantage", "softmax"), n_actions=of(2, 3), redraw_actions=st.booleans(), target_kl=of(None, 0.01, 10.0)
    ),
    GMPG=dict(
        policy_learning_rate=of(1e-3, 0.1),
        gradient_estimator=of(*GRADIENT_ESTIMATORS),
        kl_estimator=of(
            *(None, "path", "discrete", "ode", PathKL(2), PathKL(3, "uniform"), DiscreteKL()),
            *(OdeKL(Likelihood(method, Sampler("euler", 2))) for method in ("continuous", "hutchinson")),
            OdeKL(Likelihood("continuous", Sampler("midpoint", 2), "adjoint")),
        ),
        adjoint=of("lean", "scalar"),
        n_actions=of(None, 1, 2, 3),
        target_kl=of(None, 0.01, 10.0),
        normalize_q=st.booleans(),
        max_grad_norm=of(None, 1.0, 1e-3, float("inf")),
    ),
)
_SMALL_WIDTHS = of([8], [8, 8], [8, 4], (6, 8), [1])
OF_POLICY = dict(
    activation_fn=of(nn.SiLU, nn.ReLU, nn.Tanh, nn.Mish, nn.Softplus, nn.Identity, nn.PReLU),
    critic_activation_fn=of(nn.ReLU, nn.ELU, nn.GELU, nn.Tanh, nn.PReLU),
    path=of(None, "linear", "vp", "cosine", LinearPath(0.1), VPPath(beta_max=10.0), CosinePath()),
    prediction=of(None, *PREDICTIONS),
    network=of("mlp", "mlp", "unet"),
    time_features=of(None, *TIME_FEATURES),
    matching_loss=of(None, *MATCHING_LOSSES),
    coupling=of(*COUPLINGS),
    solver=of(*SOLVERS, Sampler("euler", 1), Sampler("dopri5", rtol=1e-2, atol=1e-2)),
    sampling_steps=of(None, 1, 2, 3),
    time_grid=of(None, *TIME_GRIDS),
    n_candidates=of(1, 2, 3),
    candidate_temperature=of(0.0, 1.0),
    guidance=of(0.0, 0.0, 1.0),
    deterministic_action=of(*DETERMINISTIC_ACTIONS),
    deterministic_draws=of(2, 3),
    normalize_observations=st.booleans(),
    normalize_actions=st.booleans(),
    normalize_images=st.booleans(),
    features_extractor_kwargs=of(None, {}, {"features_dim": 8}, {"cnn_output_dim": 8}),
    optimizer_class=of(
        *(th.optim.Adam, th.optim.AdamW, th.optim.SGD, th.optim.RMSprop, th.optim.Adagrad, th.optim.Rprop, th.optim.NAdam),
        *(th.optim.Adafactor, th.optim.SparseAdam, th.optim.LBFGS, th.optim.ASGD),
    ),
    optimizer_kwargs=of(None, {}, {"weight_decay": 0.01}, {"eps": 1e-5}, {"foreach": True}, {"maximize": True}),
    n_critics=of(1, 2, 3),
    share_features_extractor=st.booleans(),
    behaviour_model=st.booleans(),
    chunk_length=of(1, 1, 3),
    execute_length=of(None, 1),
    history=of(1, 1, 2),
    plan_blending=of(None, 0.1),
)


def _lengths(least):
    return st.lists(of(1, 2, 3, 6, -1, -2, -5), min_size=least, max_size=4).map(tuple)


def _net_archs():
    return _SMALL_WIDTHS | st.fixed_dictionaries({key: _SMALL_WIDTHS for key in ("pi", "qf", "vf")})


@st.composite
def wild_cases(draw):
    """Combinations of valid options, of which some do not go together, and of spaces, of which some are none to learn in."""
    algorithm = draw(of("GMPO", "GMPG"))
    observation_space = draw(ODD_OBSERVATIONS)
    kind = draw(of(kind_for(observation_space), "", "Cnn", "MultiInput"))
    return Case(
        algorithm=algorithm,
        policy=draw(of("Flow", "Diffusion", "" if kind else "Mlp")) + f"{kind}Policy",
        observation_space=observation_space,
        action_space=draw(ODD_ACTIONS),
        lengths=draw(_lengths(1)),
        rewards=draw(of(*REWARDS)),
        with_env=draw(st.booleans()),
        pretrained=draw(of(False, False, True)),
        log_interval=draw(of(None, 1, 7)),
        seed=draw(st.integers(0, 100)),
        options={"batch_size": 4, **_some(draw, {**COMMON, **OF_ALGORITHM[algorithm]})},
        policy_kwargs={"net_arch": draw(_net_archs()), **_some(draw, OF_POLICY)},
    )


@st.composite
def sound_cases(draw):
    """Combinations of options that go together."""
    algorithm = draw(of("GMPO", "GMPG"))
    observation_space = draw(OBSERVATIONS)
    kind, prefix = kind_for(observation_space), draw(of("Flow", "Diffusion"))
    options = reconciled({"batch_size": 4, **_some(draw, {**COMMON, **OF_ALGORITHM[algorithm]})})
    holds_out = any(isinstance(transform, HeldOutEpisodes) for transform in options["transforms"])
    policy_kwargs = reconciled_of_policy({"net_arch": draw(_net_archs()), **_some(draw, OF_POLICY)}, prefix, kind)
    if any(len(space.shape or ()) == 3 and space.dtype != np.uint8 for _, space in space_items(observation_space, "")):
        # SB3 would take a part of three dimensions for an image then
        policy_kwargs.pop("normalize_images", None)
    return Case(
        algorithm=algorithm,
        policy=f"{prefix}{kind}Policy",
        observation_space=observation_space,
        action_space=draw(ACTIONS),
        lengths=draw(_lengths(2 if holds_out else 1)),
        rewards=draw(of("normal", "normal", *REWARDS)),
        with_env=draw(st.booleans()),
        pretrained=draw(of(False, False, True)),
        log_interval=draw(of(None, 1, 7)),
        seed=draw(st.integers(0, 100)),
        options=options,
        policy_kwargs=policy_kwargs,
    )


def reconciled(options):
    """Without what does not go together, by the documentation."""
    options = dict(options)
    estimator = options.get("gradient_estimator")
    if options.get("critic", "iql") != "iql":
        options.pop("expectile", None)
    kinds = {type(transform): transform for transform in options.get("transforms", ())}
    if BestEpisodes in kinds:
        # One episode may be left, of which none can be held out
        kinds.pop(HeldOutEpisodes, None)
    if RescaleActions in kinds:
        # Those at hand are in the environment's units already
        kinds.pop(ClipActions, None)
        kinds[ClipActions] = ClipActions()
    options["transforms"] = list(kinds.values())
    if estimator == "detached" and not isinstance(options.get("kl_estimator"), OdeKL):
        options["kl_estimator"] = "ode"
    if estimator == "adjoint" and not isinstance(options.get("kl_estimator"), PathKL):
        options["kl_estimator"] = "path"
    if estimator != "adjoint":
        options.pop("adjoint", None)
    if estimator not in (None, "pathwise", "adjoint", "reinforce"):
        options.pop("heed_disagreement", None)
    if estimator == "matching" or options.get("beta") == 0.0:
        options.pop("target_kl", None)
    if estimator == "reinforce_softmax" and options.get("n_actions") == 1:
        options.pop("n_actions")
    return options


def reconciled_of_policy(kwargs, prefix, kind):
    """Without what does not go together, by the documentation."""
    kwargs = dict(kwargs)
    paths = dict(Flow=(None, "linear", LinearPath), Diffusion=(None, "vp", "cosine", VPPath, CosinePath))[prefix]
    path = kwargs.get("path")
    if path not in paths and type(path) not in paths:
        kwargs.pop("path")
    if prefix == "Flow" and kwargs.get("prediction") in ("noise", "score"):
        kwargs.pop("prediction")
    if kwargs.get("prediction") == "score" or kwargs.get("matching_loss") == "likelihood":
        kwargs.pop("coupling", None)
    if kwargs.get("network") == "unet":
        kwargs["net_arch"] = [8, 4]
    if kwargs.get("optimizer_class") in (th.optim.SparseAdam, th.optim.LBFGS):
        kwargs.pop("optimizer_class")
    if "optimizer_class" in kwargs:
        kwargs.pop("optimizer_kwargs", None)
    allowed = {"": (None, {}), "Cnn": (None, {}, {"features_dim": 8}), "MultiInput": (None, {}, {"cnn_output_dim": 8})}[kind]
    if kwargs.get("features_extractor_kwargs") not in allowed:
        kwargs.pop("features_extractor_kwargs")
    return kwargs
