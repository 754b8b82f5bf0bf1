"""
Every setting of this package is stored as plain JSON and comes back as it was; what is the user's own asks for trust.
"""

import io
import json
import os
import re
import warnings
import zipfile
from collections import deque
from pathlib import Path

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from rl_zoo3.utils import ALGOS, SimpleLinearSchedule
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule
from torch import nn

from sb3_genpolicy import GMPG, GMPO
from sb3_genpolicy.common.files.plain_json import NotPlainError, decode, encode
from sb3_genpolicy.common.policies.named import FlowPolicy
from sb3_genpolicy.common.transitions import transforms
from sb3_genpolicy.common.transitions.rewards import AffineReward, ReturnRange
from sb3_genpolicy.generative import (
    CosinePath,
    DiscreteKL,
    IndependentCoupling,
    Likelihood,
    LinearPath,
    OdeKL,
    OptimalTransportCoupling,
    PathKL,
    Sampler,
    VPPath,
)
from sb3_genpolicy.generative.networks import ConditionalMLP, UShapedMLP
from sb3_genpolicy.generative.time_features import GaussianFourierTimeFeatures, SinusoidalTimeFeatures
from sb3_genpolicy.gmpg.policies import DiffusionPolicy
from sb3_genpolicy.zoo.algorithms import add_to_zoo, trusting_pickles
from tests.helpers.arrays import SMALL
from tests.helpers.model_zips import TENSORS, entries_of, pretrain, refusal, save_small_model, settings_of, write


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model") / "gmpo.zip")


def same(first, second):
    if type(first) is not type(second):
        return False
    if isinstance(first, np.ndarray):
        return first.dtype == second.dtype and np.array_equal(first, second, equal_nan=first.dtype.kind == "f")
    if isinstance(first, (list, tuple, deque)):
        sizes = getattr(first, "maxlen", None) == getattr(second, "maxlen", None) and len(first) == len(second)
        return sizes and all(map(same, first, second))
    if isinstance(first, dict):
        return list(first) == list(second) and all(same(first[key], second[key]) for key in first)
    if isinstance(first, spaces.Dict):
        return same(dict(first.spaces), dict(second.spaces))
    if isinstance(first, (float, np.floating)) and np.isnan(first):
        return bool(np.isnan(second))
    if hasattr(first, "__dict__") and not isinstance(first, (type, spaces.Space, Path)):
        return same(vars(first), vars(second))
    return first == second


VALUES = [
    *(None, True, 3, 10**30, 0.1, -np.inf, np.inf, np.nan, "text", ":text:", [], [1, [2.0, None]], (), (1, (2, "a")), {}),
    *({"a": {"b": (1,)}}, {":a": 1}, {1: 2, (1, 2): "x"}, {":serialized:": "x"}, deque([1, (2,)], maxlen=3), deque()),
    *(np.float32(0.1), np.int64(7), np.bool_(True), np.float64("nan").astype(np.float32), np.uint8(255), Path("logs/a")),
    *(np.zeros((0, 3)), np.array(5), np.arange(6, dtype=">i4").reshape(2, 3).astype("<i4"), np.array([np.nan, np.inf], "f4")),
    *(np.arange(6.0).reshape(2, 3).T, np.array([True, False]), np.array([2**63], np.uint64), np.dtype("float16")),
    *(
        spaces.Box(-1, 1, (2,)),
        spaces.Box(0, 255, (3, 4, 4), np.uint8),
        spaces.Box(-np.inf, np.array([1.0, np.inf]), (2,), float),
    ),
    *(spaces.Box(np.array([-1, 2]), np.array([3, 4]), dtype=np.int16), spaces.Box(-1.0, 1.0, ()), spaces.Discrete(4)),
    *(spaces.Discrete(4, start=-2), spaces.MultiDiscrete([2, 3]), spaces.MultiDiscrete([[2], [3]], start=[[1], [0]])),
    *(spaces.MultiBinary(3), spaces.MultiBinary([2, 2]), spaces.Tuple([spaces.Discrete(2), spaces.MultiBinary(1)])),
    spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Dict(x=spaces.Box(0, 1, (1,)))}),
    spaces.Dict([("b", spaces.Discrete(2)), ("a", spaces.Discrete(3))]),
    *(LinearPath(), LinearPath(0.1), CosinePath(), VPPath(0.2, 10.0), IndependentCoupling(), OptimalTransportCoupling(3.0)),
    *(Sampler("dpm++", 7, "angle"), Likelihood("hutchinson", Sampler("rk4", 3), "adjoint", 4), PathKL(20, "uniform")),
    *(DiscreteKL(), DiscreteKL(Sampler("heun", 4)), OdeKL(Likelihood(n_probes=2), detached=True)),
    *(AffineReward(0.3, -1.0), ReturnRange(10.0), transforms.ClipActions(), transforms.RescaleActions((0.0, 1), 2.0)),
    *(transforms.RescaleActions(np.zeros(2), np.ones(2)), transforms.BestEpisodes(0.1), transforms.HeldOutEpisodes(0.2, 3)),
    *(transforms.NStepReturns(5), ConstantSchedule(0.1), LinearSchedule(1.0, 0.1, 0.5), FloatSchedule(0.3)),
    *(
        FloatSchedule(LinearSchedule(1.0, 0.1, 0.5)),
        SimpleLinearSchedule(0.2),
        FlowPolicy,
        DiffusionPolicy,
        ConditionalMLP,
        UShapedMLP,
    ),
    *(SinusoidalTimeFeatures, GaussianFourierTimeFeatures, nn.SiLU, nn.Mish, th.optim.AdamW),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: re.sub(r"\s+", " ", str(value))[:60])
def test_every_kind_of_setting_survives(value):
    stored = json.loads(json.dumps(encode(value, "it"), allow_nan=False))
    assert same(decode(stored), value)
    # SB3 takes only a key of the setting itself for a pickle
    assert not isinstance(stored, dict) or ":serialized:" not in stored


class Strange(LinearPath):
    pass


def test_what_plain_json_cannot_hold_is_not_stored_as_something_else():
    altered = LinearPath()
    altered.t_max = 0.9
    own = [1]
    own.append(own)
    values = (lambda x: x, Strange, Strange(), altered, {1, 2}, b"bytes", object(), th.zeros(1), np.array([None]), os.system)
    for value in values:
        with pytest.raises(NotPlainError, match=r"^it\['a'\]\[0\]"):
            encode({"a": [value]}, "it")
    with pytest.raises(RecursionError):
        encode(own, "it")


SETTINGS = [
    dict(policy="FlowPolicy", learning_rate=LinearSchedule(1e-3, 1e-4, 0.5), reward_transform=AffineReward(2.0)),
    dict(policy="FlowPolicy", learning_rate=SimpleLinearSchedule(1e-3), tensorboard_log=Path("logs")),
    dict(
        policy="FlowPolicy",
        reward_transform=ReturnRange(10.0),
        transforms=[transforms.HeldOutEpisodes(0.3), transforms.ClipActions()],
    ),
    dict(policy="DiffusionPolicy", policy_kwargs=dict(SMALL, path=VPPath(0.2, 10.0), solver=Sampler("dpm++", 4))),
    dict(policy="DiffusionPolicy", policy_kwargs=dict(SMALL, path="cosine", prediction="noise", activation_fn=nn.Mish)),
    dict(
        policy=FlowPolicy,
        policy_kwargs=dict(
            net_arch=dict(pi=[16, 8], qf=[8]),
            path=LinearPath(0.1),
            network=UShapedMLP,
            time_features=SinusoidalTimeFeatures,
            coupling=OptimalTransportCoupling(1.0),
            optimizer_class=th.optim.AdamW,
            optimizer_kwargs=dict(weight_decay=0.1, betas=(0.8, 0.9)),
        ),
    ),
]
KL_ESTIMATORS = [PathKL(4), DiscreteKL(Sampler("euler", 3)), OdeKL(Likelihood("hutchinson", Sampler("rk4", 3)))]


def check_round_trip(model, path):
    """Everything comes back as it was, without a pickle and without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.save(path)
        loaded = type(model).load(path)
    text = entries_of(path)["data"]
    assert b":serialized:" not in text
    for name in json.loads(text):
        if name not in ("algorithm", "_row_seed", "_resume_random_state"):
            assert same(getattr(loaded, name), getattr(model, name)), name
    assert all(map(th.equal, model.policy.state_dict().values(), loaded.policy.state_dict().values()))
    return loaded


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: ",".join(settings))
@pytest.mark.parametrize("algorithm", [GMPO, GMPG])
def test_models_come_back_as_they_were(arrays, tmp_path, monkeypatch, algorithm, settings):
    monkeypatch.chdir(tmp_path)
    model = algorithm(**{"policy_kwargs": SMALL, **settings}, dataset=arrays, seed=0, pretraining_steps=2)
    loaded = check_round_trip(model.learn(2), tmp_path / "model.zip")
    assert loaded.lr_schedule(0.5) == model.lr_schedule(0.5)


@pytest.mark.parametrize("estimator", KL_ESTIMATORS, ids=repr)
def test_kl_estimators_come_back(arrays, tmp_path, estimator):
    schedule = FloatSchedule(LinearSchedule(1e-3, 0.0, 1.0))
    model = GMPG("FlowPolicy", dataset=arrays, policy_kwargs=SMALL, kl_estimator=estimator, policy_learning_rate=schedule)
    loaded = check_round_trip(model.learn(2), tmp_path / "model.zip")
    assert loaded.kl_estimator == estimator and loaded.policy_lr_schedule(0.3) == pytest.approx(3e-4)


@pytest.mark.parametrize("policy", ["FlowMultiInputPolicy", "DiffusionMultiInputPolicy"])
def test_dictionaries_of_observations_come_back(arrays, tmp_path, policy):
    for key in ("observations", "next_observations"):
        arrays[key] = {"b": arrays[key], "a": arrays[key][:, :2]}
    for algorithm in (GMPO, GMPG):
        check_round_trip(algorithm(policy, dataset=arrays, policy_kwargs=SMALL).learn(2), tmp_path / "model.zip")


def test_settings_that_were_gathered_online_come_back(arrays, tmp_path):
    model = GMPO("FlowPolicy", dataset=arrays, policy_kwargs=SMALL)
    model.ep_info_buffer = deque([{"r": 1.5, "l": 7, "t": np.float32(0.1)}], maxlen=5)
    model._last_obs = np.ones((2, 3))
    check_round_trip(model, tmp_path / "model.zip")


# What is the user's own


def test_a_function_among_the_settings_warns_on_saving_and_asks_for_trust(arrays, tmp_path):
    model = GMPO("FlowPolicy", dataset=arrays, policy_kwargs=SMALL, learning_rate=lambda remaining: 1e-3 * remaining).learn(2)
    with pytest.warns(
        UserWarning, match=r"learning_rate is a function.*'learning_rate' is pickled.*trust_pickle=True"
    ) as caught:
        model.save(tmp_path / "model.zip")
    assert len(caught) == 1 and caught[0].filename == __file__
    assert "'learning_rate' in its entry 'data' is a pickle" in refusal(tmp_path / "model.zip")
    assert GMPO.load(tmp_path / "model", trust_pickle=True).lr_schedule(0.5) == 5e-4
    assert GMPO.load(tmp_path / "model", custom_objects={"learning_rate": 0.2}).lr_schedule(0.5) == 0.2
    # Its tensors are no pickles, so that these need no trust
    GMPO("FlowPolicy", dataset=arrays, policy_kwargs=SMALL).set_parameters(tmp_path / "model")


class Network(ConditionalMLP):
    pass


def test_a_class_of_your_own_is_named_with_the_option_it_is_in(arrays, tmp_path):
    model = GMPO("FlowPolicy", dataset=arrays, policy_kwargs=dict(SMALL, network=Network))
    with pytest.warns(UserWarning, match=r"policy_kwargs\['network'\] is the class Network.*'policy_kwargs' is pickled"):
        model.save(tmp_path / "model.zip")
    assert "'policy_kwargs' in its entry 'data' is a pickle" in refusal(tmp_path / "model.zip")
    assert type(GMPO.load(tmp_path / "model", trust_pickle=True).actor.model.network) is Network
    add_to_zoo()
    with trusting_pickles():
        assert type(ALGOS["gmpo"].load(tmp_path / "model").actor.model.network) is Network
        refusal(tmp_path / "model.zip")
    assert ALGOS["gmpo"] is GMPO


def test_files_of_earlier_versions_ask_for_trust_and_are_plain_once_they_are_saved_again(arrays, tmp_path):
    model = GMPO("FlowPolicy", dataset=arrays, policy_kwargs=SMALL).learn(2)
    BaseAlgorithm.save(model, tmp_path / "old.zip")
    assert re.search(r"'policy_class'.* and \d more in its entry 'data' are pickles", refusal(tmp_path / "old.zip"))
    assert "load it and give the model" in refusal(tmp_path / "old.zip", pretrain)
    check_round_trip(GMPO.load(tmp_path / "old.zip", trust_pickle=True), tmp_path / "new.zip")


def test_a_policy_with_a_class_of_your_own_asks_for_trust(arrays, tmp_path):
    policy = GMPO("FlowPolicy", dataset=arrays, policy_kwargs=dict(SMALL, network=Network)).policy
    with pytest.warns(UserWarning, match="network is the class Network"):
        policy.save(tmp_path / "policy.pth")
    assert "trust_pickle=True" in refusal(tmp_path / "policy.pth", FlowPolicy.load)
    assert type(FlowPolicy.load(tmp_path / "policy.pth", trust_pickle=True).actor.model.network) is Network
    # As earlier versions and SB3 save it
    BaseModel.save(policy, tmp_path / "policy.pth")
    assert "trust_pickle=True" in refusal(tmp_path / "policy.pth", FlowPolicy.load)
    assert type(FlowPolicy.load(tmp_path / "policy.pth", trust_pickle=True).actor.model.network) is Network


def shift(rewards):
    return rewards - 1.0


def test_a_replay_buffer_with_a_function_of_your_own_asks_for_trust(arrays, tmp_path):
    model = GMPO("FlowPolicy", dataset=arrays, policy_kwargs=SMALL, reward_transform=shift).learn(2)
    model.save_replay_buffer(tmp_path / "buffer")
    with pytest.raises(ValueError, match=r"asks for '[\w.]+.shift'.*trust_pickle=True"):
        model.load_replay_buffer(tmp_path / "buffer")
    model.load_replay_buffer(tmp_path / "buffer", trust_pickle=True)
    assert model.replay_buffer.reward_function is shift and model.replay_buffer.size() == 26


def test_a_class_of_your_own_reads_files_of_its_base_and_the_other_way_round(saved, tmp_path):
    class Mine(GMPO):
        pass

    assert type(Mine.load(saved)) is Mine
    Mine.load(saved).save(tmp_path / "mine")
    assert settings_of(tmp_path / "mine.zip")["algorithm"] == ["Mine", "GMPO"]
    assert type(GMPO.load(tmp_path / "mine")) is GMPO


# SB3 and the zoo


def test_sb3_reads_the_file_as_its_own(saved):
    data, parameters, variables = load_from_zip_file(saved)
    assert data["gamma"] == 0.99 and data["num_timesteps"] == 3
    assert set(parameters) == {name.removesuffix(".pth") for name in TENSORS[:4]}
    assert set(variables) == {"random_state", "row_random_state"}
    assert {"_stable_baselines3_version", "system_info.txt"} <= set(entries_of(saved))


def test_the_zoo_loads_it_with_objects_of_its_own(saved):
    replaced = {"learning_rate": 0.0, "lr_schedule": lambda _: 0.0, "clip_range": lambda _: 0.0}
    model = GMPO.load(saved, custom_objects=replaced, device="cpu", seed=3, verbose=0)
    assert model.learning_rate == 0.0 and model.seed == 3


def test_file_objects_are_checked_too(saved, tmp_path):
    with saved.open("rb") as file:
        assert GMPO.load(file).num_timesteps == 3
    with pytest.raises(ValueError, match=r"^The file was not loaded: it is no zip file"):
        GMPO.load(io.BytesIO(b"x"))
    with pytest.raises(FileNotFoundError):
        GMPO.load(tmp_path / "nothing")


def test_a_deflated_copy_is_as_good(saved, tmp_path):
    path = write(tmp_path / "model.zip", entries_of(saved), zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < saved.stat().st_size
    assert GMPO.load(path).num_timesteps == 3
