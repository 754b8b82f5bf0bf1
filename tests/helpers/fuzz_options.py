"""
Every option of GMPO and GMPG with values that are none of its own, as strategies of hypothesis.
"""

import numpy as np
import torch as th
from hypothesis import strategies as st
from torch import nn

from sb3_genpolicy import OneStepCritic
from sb3_genpolicy.generative import Sampler, VPPath

NAN, INF = float("nan"), float("inf")
# Of no option, but for those that take a text, a mapping, a list or None
WRONG = (None, "text", "", [], [1], {}, {"a": 1}, (), object, 1j, b"1", np.array([1.0, 2.0]), lambda x: x)


def wrong(*others, but=()):
    """Values of wrong types, without those in ``but``, and some more."""
    kinds = tuple(type(value) for value in but)
    return st.sampled_from([*others, *(value for value in WRONG if not isinstance(value, kinds) or callable(value))])


def outside(low, high=INF, *, low_open=False, high_open=False, whole=False, infinite=False, but=()):
    values = [NAN, -INF, low - 1, -1e300, True, np.float64("nan"), *([] if infinite else [INF])]
    values += [low] if low_open else []
    values += [high] if high_open else []
    values += [high + 1, high * 2 + 0.1] if high < INF else []
    values += [low + 1.5, 0.5, "3", 2.0000001] if whole else ["0.5", th.ones(2)]
    return wrong(*values, but=but)


def name_of_one(*known, but=()):
    """Misspelt names and what is no name."""
    spoilt = st.sampled_from(known).flatmap(
        lambda name: st.sampled_from([name[:-1], name.upper() + "x", f" {name}", name * 2])
    )
    return spoilt | wrong(0, 1.0, True, but=but).filter(lambda value: value not in known if isinstance(value, str) else True)


FLAG = wrong(0, 1, 2.0, "True", "no", NAN)
RATE = outside(0.0).filter(lambda value: value is not WRONG[-1]) | st.sampled_from(
    [lambda remaining: "fast", lambda: 1.0, "lin_1e-3"]
)
CRITIC = name_of_one("iql", "onestep", "policy", but=(None,)) | st.sampled_from([OneStepCritic, Sampler(), VPPath])
TRANSFORMS = st.sampled_from([5, "BestEpisodes", None, [None], ["ClipActions"], {"a": 1}, [5], [[]], True, object])

OPTIONS = dict(
    policy=name_of_one("FlowPolicy", "DiffusionMultiInputPolicy") | st.sampled_from([nn.Module, object, 3, None]),
    env=st.sampled_from([5, [], "NoSuchEnvironment-v0", "no such", object(), True, nn.Module]),
    learning_rate=RATE,
    batch_size=outside(1, whole=True),
    tau=outside(0.0, 1.0),
    gamma=outside(0.0, 1.0),
    beta=outside(0.0, but=(None,)),
    expectile=outside(0.0, 1.0, low_open=True, high_open=True, but=(None,)),
    critic=CRITIC,
    actor_tau=outside(0.0, 1.0, low_open=True),
    weight_clamp=outside(0.0, low_open=True, infinite=True, but=(None,)),
    episode_kl=outside(0.0, but=(None,)),
    heed_disagreement=FLAG,
    pretraining_steps=outside(0, whole=True, but=(None,)),
    pretrained=st.sampled_from([5, 1.5, {}, [], object, True]),
    reward_transform=name_of_one("locomotion", "antmaze", "none", but=(None,)).filter(lambda value: not callable(value)),
    transforms=TRANSFORMS,
    dataset=st.sampled_from([5, 1.5, True, object(), {}, [], [5], "no-such-dataset", "no-such.hdf5", {"observations": [1]}]),
    precision=name_of_one("float32", "bfloat16", "tf32"),
    capture=FLAG,
    stats_window_size=outside(1, whole=True),
    tensorboard_log=wrong(5, 1.5, True, but=(None, "text")).filter(lambda value: value is not None),
    policy_kwargs=wrong(5, "net_arch", [("net_arch", [8])], but=(None, {})).filter(lambda value: value is not None),
    verbose=outside(0, whole=True).filter(lambda value: value is not True),
    seed=outside(0, whole=True, but=(None,)) | st.sampled_from([2**32, -5]),
    device=st.sampled_from(["gpu", "cud", "", 1.5, [], {}, "cpu:x", object(), True, "no device"]),
)
OF_GMPO = dict(
    weighting=name_of_one("advantage", "softmax"),
    n_actions=outside(2, whole=True),
    redraw_actions=FLAG,
    target_kl=outside(0.0, low_open=True, but=(None,)),
)
OF_GMPG = dict(
    policy_learning_rate=RATE,
    gradient_estimator=name_of_one("pathwise", "adjoint", "reinforce", "reinforce_softmax", "matching", "detached"),
    kl_estimator=name_of_one("path", "discrete", "ode", but=(None,)) | st.sampled_from([Sampler(), VPPath()]),
    adjoint=name_of_one("lean", "scalar"),
    n_actions=outside(1, whole=True, but=(None,)),
    target_kl=outside(0.0, low_open=True, but=(None,)),
    normalize_q=FLAG,
    max_grad_norm=outside(0.0, low_open=True, infinite=True, but=(None,)),
)
WIDTHS = st.sampled_from(
    [8, "8", [0], [-8], [8.5], ["8"], [None], [NAN], [True], [[8]], [8, 0], {"pi": 8}, {"qf": [0]}, {"vf": "8"}, object, 1.5]
)
ACTIVATION = st.sampled_from(["relu", nn.ReLU(), 5, object, None, th.relu, nn.Linear, nn.Module, [nn.ReLU], th.optim.Adam])
POLICY_OPTIONS = dict(
    net_arch=WIDTHS | st.sampled_from([{"pi": [8], "q": [8]}]),
    activation_fn=ACTIVATION,
    critic_activation_fn=ACTIVATION,
    path=name_of_one("linear", "cosine", "vp", but=(None,)) | st.sampled_from([VPPath]),
    prediction=name_of_one("velocity", "data", but=(None,)),
    network=name_of_one("mlp", "unet") | st.sampled_from([nn.Linear(1, 1), object, Sampler]),
    time_features=name_of_one("sinusoidal", "gaussian_fourier", but=(None,)) | st.sampled_from([object, Sampler]),
    matching_loss=name_of_one("flow", "score", "data", "likelihood", but=(None,)),
    coupling=name_of_one("independent", "optimal_transport") | st.sampled_from([VPPath(), Sampler]),
    solver=name_of_one("euler", "midpoint", "dpm++") | st.sampled_from([VPPath(), Sampler]),
    sampling_steps=outside(1, whole=True, but=(None,)),
    time_grid=name_of_one("tapered", "uniform", "log_snr", but=(None,)),
    n_candidates=outside(1, whole=True),
    candidate_temperature=outside(0.0),
    candidate_expectile=outside(0.0, 1.0, low_open=True, high_open=True, but=(None,)),
    guidance=outside(0.0),
    deterministic_action=name_of_one("zero_noise", "mean", "best_q", "auto"),
    deterministic_draws=outside(2, whole=True),
    normalize_observations=FLAG,
    normalize_actions=FLAG,
    features_extractor_class=st.sampled_from([5, "flatten", object, nn.Module, nn.Linear, nn.Flatten(), [], True]),
    features_extractor_kwargs=st.sampled_from([5, "a", [1], {"features_dimension": 8}, {1: 2}, True]),
    normalize_images=FLAG,
    optimizer_class=st.sampled_from([5, "adam", object, nn.ReLU, th.optim.lr_scheduler.StepLR, [], True, th.optim.LBFGS]),
    optimizer_kwargs=st.sampled_from([5, "a", [1], {"weight_deca": 0.1}, {"eps": -1.0}, {"lr": 1e-3}, {"betas": 0.9}, {1: 2}]),
    critic=CRITIC,
    n_critics=outside(1, whole=True, but=(None,)),
    share_features_extractor=FLAG,
    behaviour_model=FLAG,
    chunk_length=outside(1, whole=True),
    execute_length=outside(1, 3, whole=True, but=(None,)),
    history=outside(1, whole=True),
    plan_blending=outside(0.0, but=(None,)),
)
OF_CRITICS = dict(
    distilled_from=outside(2, whole=True, but=(None,)),
    continuation_expectile=outside(0.0, 1.0, low_open=True, high_open=True),
)
OPTIONS_OF = dict(GMPO={**OPTIONS, **OF_GMPO}, GMPG={**OPTIONS, **OF_GMPG})
