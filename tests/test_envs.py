"""
Environments that are only named, that a dataset names, or that are wrapped in an order that does not do.
"""

import json
import os
import warnings
from pathlib import Path

import gymnasium as gym
import minari
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.classic_control import PendulumEnv
from gymnasium.wrappers import RescaleAction, TimeAwareObservation, TimeLimit
from minari.data_collector.episode_buffer import EpisodeBuffer
from minari.storage.datasets_root_dir import get_dataset_path
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecCheckNan,
    VecEnvWrapper,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)

from sb3_genpolicy import GMPO, load_dataset, make_offline_env
from sb3_genpolicy.common.datasets import local_datasets_for
from sb3_genpolicy.common.datasets.vec_wrappers import check_normalized_last
from sb3_genpolicy.zoo.environments import register_env
from tests.helpers.arrays import SMALL
from tests.helpers.sentences import fault_of

# Named environments


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.zip"
    model = GMPO("FlowPolicy", "Pendulum-v1", dataset="pendulum-mixed", policy_kwargs=SMALL)
    model.save(path)
    return path, model


WAYS = {
    "load": lambda saved, env: GMPO.load(saved[0], env=env).get_env(),
    "set_env": lambda saved, env: saved[1].set_env(env) or saved[1].get_env(),
    "constructor": lambda saved, env: GMPO("FlowPolicy", env, policy_kwargs=SMALL).get_env(),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "env", ["Pendulum-v1", gym.spec("Pendulum-v1"), "gymnasium:Pendulum-v1"], ids=["id", "spec", "module"]
)
def test_an_environment_that_is_named_is_made(way, env, saved):
    made = WAYS[way](saved, env)
    assert isinstance(made.envs[0], Monitor) and made.get_attr("spec")[0].id == "Pendulum-v1"
    # As SB3's constructors do
    assert made.render_mode == "rgb_array"


def test_a_model_that_was_loaded_with_a_name_learns_and_is_evaluated(saved):
    model = GMPO.load(saved[0], env="Pendulum-v1").learn(2)
    assert model.num_timesteps == 2
    assert model.predict(model.get_env().reset())[0].shape == (1, 1)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("Pendulm-v1", r"'Pendulm-v1' cannot be made: .* Did you mean: `Pendulum`\?$"),
        ("Pendulum-v9", "'Pendulum-v9' cannot be made: .*`v1`"),
        ("Pendulum v1", "'Pendulum v1' cannot be made: Malformed"),
        ("nowhere:Nix-v0", "'nowhere:Nix-v0' cannot be made: No module named 'nowhere'"),
        (PendulumEnv, "not PendulumEnv: call it"),
        (lambda: gym.make("Pendulum-v1"), "not a function: call it"),
        (3, "env must be an environment, the id of one or None, not 3"),
        (gym.make_vec("Pendulum-v1", 2), "make_vec_env"),
    ],
    ids=["name", "version", "malformed", "module", "class", "function", "number", "gymnasium's vector"],
)
def test_what_is_no_environment_is_said_in_a_sentence(way, env, message, saved):
    with pytest.raises(ValueError, match=message) as caught:
        WAYS[way](saved, env)
    assert fault_of(caught.value) is None


def test_setting_no_environment(saved):
    with pytest.raises(ValueError, match="There is no environment: give one") as caught:
        saved[1].set_env(None)
    assert fault_of(caught.value) is None


# The order of wrappers


def pendulum():
    return DummyVecEnv([lambda: gym.make("Pendulum-v1")])


class FirstTwo(VecEnvWrapper):
    def __init__(self, venv):
        super().__init__(venv, spaces.Box(-9, 9, (2,), np.float32))

    def reset(self):
        return self.venv.reset()[:, :2]

    def step_wait(self):
        observations, *rest = self.venv.step_wait()
        return observations[:, :2], *rest


class Parts(gym.Env):
    observation_space = spaces.Dict(
        image=spaces.Box(0, 255, (36, 36, 3), np.uint8), place=spaces.Box(-np.inf, np.inf, (2,), np.float32)
    )
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


def parts():
    return DummyVecEnv([Parts])


def columns_of(space):
    rng = np.random.default_rng(0)
    return dict(
        observations=rng.normal(size=(40, *space.shape)),
        actions=rng.uniform(-1, 1, size=(40, 1)),
        rewards=rng.normal(size=40),
        terminals=np.arange(40) % 8 == 7,
        timeouts=np.zeros(40),
        action_space=spaces.Box(-2, 2, (1,), np.float32),
    )


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: VecFrameStack(VecNormalize(pendulum()), 2), "VecFrameStack"),
        (lambda: VecMonitor(VecFrameStack(VecCheckNan(VecNormalize(pendulum())), 2)), "VecFrameStack"),
        (lambda: FirstTwo(VecNormalize(pendulum())), "FirstTwo"),
        (lambda: VecNormalize(VecFrameStack(VecNormalize(pendulum()), 2)), "VecFrameStack"),
        (lambda: VecExtractDictObs(VecNormalize(parts(), norm_obs_keys=["place"]), "place"), "VecExtractDictObs"),
    ],
)
def test_what_changes_normalised_observations_is_refused_as_soon_as_a_model_has_it(make, name, saved):
    for way in WAYS.values():
        with pytest.raises(ValueError, match=rf"put VecNormalize outermost, `VecNormalize\({name}\(env, ...\)\)`") as caught:
            way(saved, make())
        assert fault_of(caught.value) is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: VecNormalize(VecFrameStack(pendulum(), 2)),
        lambda: VecFrameStack(VecNormalize(pendulum(), norm_obs=False), 2),
        lambda: VecMonitor(VecCheckNan(VecNormalize(pendulum()))),
        lambda: VecNormalize(FirstTwo(pendulum())),
    ],
)
def test_other_orders_go_on_working(make):
    env = make()
    assert GMPO("FlowPolicy", env, dataset=columns_of(env.observation_space), policy_kwargs=SMALL).learn(2).num_timesteps == 2


def test_images_are_turned_above_what_is_normalised_beside_them():
    env = VecTransposeImage(VecNormalize(parts(), norm_obs_keys=["place"]))
    check_normalized_last(env)
    # SB3 puts it there itself
    wrapped = GMPO._wrap_env(VecNormalize(parts(), norm_obs_keys=["place"]))
    assert isinstance(wrapped, VecTransposeImage) and wrapped.observation_space["image"].shape == (3, 36, 36)


# What datasets say of their environment


class Unrecorded(gym.Wrapper):
    """Keeps no record of how it was made."""


def write(name, env, change=None, **metadata):
    """A dataset of ten steps, whose metadata are then as another program might have written them."""
    env_space = env.observation_space
    buffer = EpisodeBuffer(
        observations=np.zeros((11, *env_space.shape), np.float32),
        actions=np.zeros((10, 1), np.float32),
        rewards=np.zeros(10),
        terminations=np.zeros(10, bool),
        truncations=np.arange(10) == 9,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(name, [buffer], env=env)
    path = Path(get_dataset_path(name)) / "data/metadata.json"
    written = json.loads(path.read_text())
    spec = json.loads(written["env_spec"])
    written["env_spec"] = json.dumps((change(spec) or spec) if change is not None else spec)
    path.write_text(json.dumps({**written, **metadata}))
    return path


def pendulum_v1():
    return gym.make("Pendulum-v1")


def wrappers_of(env):
    found = []
    while isinstance(env, gym.Wrapper):
        # rl_zoo3 puts a `PatchedTimeLimit` in gymnasium's place, as soon as anything imports it
        found.append(type(env).__name__.removeprefix("Patched"))
        env = env.env
    return found


@pytest.mark.parametrize(
    ("wrap", "kept", "lost"),
    [
        (Monitor, set(), None),
        (lambda env: Monitor(TimeAwareObservation(Monitor(env))), {"TimeAwareObservation"}, None),
        (Unrecorded, set(), "Unrecorded"),
        (lambda env: RescaleAction(Unrecorded(env), -1.0, 1.0), {"RescaleAction"}, "Unrecorded"),
        (lambda env: TimeLimit(Monitor(env), 7), {"TimeLimit"}, None),
    ],
    ids=["Monitor", "between", "own", "own between", "limit"],
)
def test_wrappers_that_cannot_be_made_again_are_left_out(wrap, kept, lost, minari_root):
    write("test/wrapped-v0", wrap(pendulum_v1()))
    for make in (lambda: make_offline_env("test/wrapped-v0"), lambda: gym.make(register_env("test/wrapped-v0"))):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            made = make()
        assert kept <= set(wrappers_of(made)) and not {"Monitor", "Unrecorded"} & set(wrappers_of(made))
        # Others may come of what earlier tests left behind
        messages = [str(warning.message) for warning in caught if "is recovered without" in str(warning.message)]
        assert len(messages) == (lost is not None) and all(f"without {lost}, which" in message for message in messages)
        made.reset()
        assert made.step(made.action_space.sample())[4] is not None


#: Another version's fields -> the change of a specification
OTHER_VERSIONS = {
    "compatibility": lambda spec: spec.update(apply_api_compatibility=False),
    "autoreset": lambda spec: spec.update(autoreset=True),
    "several": lambda spec: spec.update(
        apply_api_compatibility=None, autoreset=False, namespace=None, name="Pendulum", version=1
    ),
    "a later one": lambda spec: spec.update(frame_rate=30, vector_kwargs={"a": [1]}),
    "no wrappers": lambda spec: spec.pop("additional_wrappers") and None,
    "no arguments": lambda spec: spec.update(kwargs=None),
    "moved": lambda spec: spec.update(entry_point="gymnasium.envs.moved:PendulumEnv"),
}


@pytest.mark.parametrize("name", OTHER_VERSIONS)
def test_specifications_of_other_versions_of_gymnasium(name, minari_root):
    path = write("test/other-v0", pendulum_v1(), OTHER_VERSIONS[name])
    before = path.read_bytes()
    for source in ("test/other-v0", str(path.parent.parent)):
        data = load_dataset(source)
        assert data.n_rows == 10 and data.env_id == "Pendulum-v1"
    env = make_offline_env("test/other-v0")
    assert isinstance(env.unwrapped, PendulumEnv) and env.spec.max_episode_steps == 200
    np.testing.assert_array_equal(env.get_dataset().rewards, 0.0)
    assert gym.make(register_env("test/other-v0")).spec.max_episode_steps == 200
    assert local_datasets_for("Pendulum-v1") == ["pendulum-mixed", "test/other-v0"]
    assert path.read_bytes() == before


def test_wrappers_written_by_another_version(minari_root):
    change = lambda spec: spec["additional_wrappers"][0].update(version=2)  # noqa: E731
    write("test/other-v0", RescaleAction(pendulum_v1(), -1.0, 1.0), change)
    assert load_dataset("test/other-v0").n_rows == 10
    assert "RescaleAction" in wrappers_of(make_offline_env("test/other-v0"))


@pytest.mark.parametrize(
    ("change", "metadata", "env_id", "message"),
    [
        (
            lambda spec: spec.update(id="Nowhere-v0", entry_point="nowhere.envs:Nowhere"),
            dict(requirements=["nowhere>=3"]),
            "Nowhere-v0",
            r"Nowhere-v0 of dataset 'test/far-v0' cannot be made .*No module named 'nowhere'.*install nowhere>=3, or ",
        ),
        (
            lambda spec: spec.update(id="far/Nowhere-v0", entry_point="gymnasium.envs:Nowhere"),
            {},
            "far/Nowhere-v0",
            "far/Nowhere-v0 of dataset 'test/far-v0' cannot be made .*: install the package that has it, or ",
        ),
        (lambda spec: spec.update(id="My env, v0"), {}, "My env, v0", "dataset 'test/far-v0' .* 'My env, v0', cannot be read"),
        (lambda spec: "no specification", {}, None, "What dataset 'test/far-v0' says of its environment cannot be read"),
        (lambda spec: [1, 2], {}, None, "What dataset 'test/far-v0' says of its environment cannot be read"),
    ],
    ids=["package", "class", "id", "text", "list"],
)
def test_data_of_an_environment_that_is_not_here_are_read(change, metadata, env_id, message, minari_root):
    write("test/far-v0", pendulum_v1(), change, **metadata)
    data = load_dataset("test/far-v0")
    assert data.n_rows == 10 and data.env_id == env_id
    assert GMPO("FlowPolicy", dataset="test/far-v0", policy_kwargs=SMALL).learn(1).num_timesteps == 1
    with pytest.raises(ValueError, match=message + ".*make the environment yourself and pass the dataset") as caught:
        make_offline_env("test/far-v0")
    assert fault_of(caught.value) is None
    with pytest.raises(ValueError, match=message + ".*add --env") as caught:
        register_env("test/far-v0")
    assert fault_of(caught.value) is None


def test_an_environment_that_takes_other_arguments_today(minari_root):
    write("test/arguments-v0", pendulum_v1(), lambda spec: spec.update(kwargs={"gravity": 3}))
    with pytest.raises(ValueError, match="Pendulum-v1 of dataset 'test/arguments-v0' cannot be made .*'gravity'") as caught:
        make_offline_env("test/arguments-v0")
    assert fault_of(caught.value) is None


def test_an_environment_of_another_version_of_its_package(minari_root):
    write("test/early-v0", pendulum_v1(), None, requirements=["numpy<1", "gymnasium>=0.1", "no such-thing ?"])
    with pytest.warns(UserWarning, match="'test/early-v0' was recorded with numpy<1, and here is another") as caught:
        make_offline_env("test/early-v0")
    assert len(caught) == 1


def test_what_has_no_environment(tmp_path, minari_root):
    path = tmp_path / "rows.NPZ"
    path.touch()
    for source in (path, str(path)):
        with pytest.raises(ValueError, match=r"rows\.NPZ, does not say what environment .*make the environment yourself"):
            make_offline_env(source)


def test_other_datasets_may_be_damaged(minari_root):
    write("test/whole-v0", pendulum_v1())
    odd = {
        "test/cut-v0": "{",
        "test/list-v0": "[]",
        "no version": "{}",
        "test/no_version": '{"dataset_id": "test/no_version"}',
        ".hidden/x-v0": '{"dataset_id": ".hidden/x-v0"}',
        "test/moved-v0": '{"dataset_id": "test/before-v0"}',
    }
    for name, text in odd.items():
        folder = minari_root / name / "data"
        folder.mkdir(parents=True)
        (folder / "metadata.json").write_text(text)
    (minari_root / "test/empty-v0/data").mkdir(parents=True)
    os.symlink(minari_root / "nowhere", minari_root / "link-v0")
    os.symlink(minari_root / "test/empty-v0", minari_root / "loop")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert local_datasets_for("Pendulum-v1") == ["pendulum-mixed", "test/whole-v0"]
        assert local_datasets_for(None) == ["pendulum-mixed", "test/whole-v0"]
        with pytest.raises(ValueError, match=r"no dataset 'test/other-v0' .* has pendulum-mixed, test/whole-v0\."):
            load_dataset("test/other-v0")
        with pytest.raises(ValueError, match="Dataset 'test/cut-v0' cannot be opened"):
            load_dataset("test/cut-v0")
