"""
The DeepMind Control suite: dictionaries with single numbers and matrices, environments that a function makes, returns from 0
to 1000, and RL Unplugged's rows of its tasks.
"""

import functools
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_genpolicy import GMPG, GMPO, load_dataset, make_offline_env, record_dataset
from sb3_genpolicy.common.datasets.suites import register_suite, suite_scores
from sb3_genpolicy.zoo.__main__ import main
from sb3_genpolicy.zoo.tasks import published_task
from tests.helpers import tiny_envs
from tests.helpers.arrays import SMALL
from tests.helpers.data_formats import write_hdf5, write_npz

POSE = spaces.Box(-np.inf, np.inf, (2, 3), np.float64)


def assert_is_the_point(data):
    """Of TinySuite: the action pushes two of three coordinates, and the reward is the first action."""
    np.testing.assert_array_equal(np.diff(data.episode_starts), [tiny_envs.EPISODE_STEPS] * 4)
    np.testing.assert_allclose(data.rewards, data.actions[:, 0], rtol=1e-6)
    before, after = data.observations, data.next_observations
    np.testing.assert_allclose(before["velocity"] + data.actions, after["velocity"], atol=1e-5)
    np.testing.assert_allclose(before["height"].reshape(-1), before["velocity"][:, 0])
    pose = before["pose"].reshape(-1, 2, 3)
    np.testing.assert_allclose(pose[:, 0, :2], before["velocity"])
    np.testing.assert_allclose(pose[:, 1], 10.0 - pose[:, 0], rtol=1e-5)


# RL Unplugged


@pytest.mark.parametrize("kind", ["mapping", "npz", "hdf5"])
def test_rows_of_rl_unplugged(kind, tmp_path):
    source = tiny_envs.rows_of_rl_unplugged()
    if kind != "mapping":
        source = (write_npz if kind == "npz" else write_hdf5)(tmp_path / f"steps.{kind}", source)
    with pytest.warns(UserWarning, match="RLDS's steps: a row's action was taken there, .*4 episodes") as caught:
        data = load_dataset(source)
    # Of the returns beside nothing is said
    assert len(caught) == 1
    assert_is_the_point(data)
    assert not data.terminals.any() and data.timeouts.sum() == 4


def test_an_episode_of_rl_unplugged_that_was_terminated():
    columns = tiny_envs.rows_of_rl_unplugged()
    # Of the step that led to the last row of the second episode
    columns["discount"][2 * (tiny_envs.EPISODE_STEPS + 1) - 2] = 0.0
    with pytest.warns(UserWarning, match="RLDS's steps"):
        data = load_dataset(columns)
    assert_is_the_point(data)
    assert np.flatnonzero(data.terminals).tolist() == [2 * tiny_envs.EPISODE_STEPS - 1] and data.timeouts.sum() == 3


def test_pairs_of_rl_unplugged():
    """As its reader gives them: what was seen, what was done, its reward and discount, what was seen next."""
    columns = tiny_envs.rows_of_rl_unplugged()
    first = np.flatnonzero(columns["step_type"] < 2)
    pairs = {key: columns[key][first] for key in ("action", "reward", "discount")}
    for key in ("height", "pose", "velocity"):
        pairs[f"observation/{key}"] = columns[f"observation/{key}"][first]
        pairs[f"next_observation/{key}"] = columns[f"observation/{key}"][first + 1]
    data = load_dataset(pairs)
    assert data.n_rows == 4 * tiny_envs.EPISODE_STEPS and not data.terminals.any()
    np.testing.assert_allclose(data.observations["velocity"] + data.actions, data.next_observations["velocity"], atol=1e-5)


def test_flat_rows_are_the_matrices_of_the_space_that_was_asked_for():
    space = spaces.Dict(height=spaces.Box(-99, 99, (), np.float64), pose=POSE, velocity=spaces.Box(-99, 99, (2,), np.float64))
    with pytest.warns(UserWarning) as caught:
        data = load_dataset(tiny_envs.rows_of_rl_unplugged(), observation_space=space)
    said = [str(warning.message) for warning in caught if "last index" in str(warning.message)]
    assert said == [
        "The dataset: observations['pose']: rows of 6 numbers are read as the arrays of shape (2, 3) that its space has, "
        "whose last index runs fastest."
    ]
    assert data.observations["pose"].shape == (32, 2, 3) and data.observations["height"].shape == (32,)
    assert_is_the_point(data)
    space = spaces.Dict(space.spaces | {"pose": spaces.Box(-99, 99, (2, 4), np.float64)})
    with pytest.raises(ValueError, match=r"observations\['pose'\] has rows of shape \(6,\), but its space .* \(2, 4\)"):
        load_dataset(tiny_envs.rows_of_rl_unplugged(), observation_space=space)


@pytest.mark.parametrize("memory_map", [False, True])
@pytest.mark.parametrize(("algorithm", "policy"), [(GMPO, "DiffusionMultiInputPolicy"), (GMPG, "FlowMultiInputPolicy")])
@pytest.mark.filterwarnings("ignore:.*taken for RLDS's steps")
def test_rows_of_rl_unplugged_are_learnt_in_the_spaces_of_the_environment(algorithm, policy, memory_map, tmp_path):
    path = write_npz(tmp_path / "steps.npz", tiny_envs.rows_of_rl_unplugged())
    data = load_dataset(path, memory_map=memory_map)
    model = algorithm(policy, "TinySuite-v0", dataset=data, policy_kwargs=SMALL, batch_size=16, seed=0)
    with pytest.warns(
        UserWarning, match=r"observations\['pose'\]: rows of 6 numbers are read as the arrays of shape \(2, 3\)"
    ):
        model.learn(3)
    # The very observations that the environment gave are met again, in its shapes
    batch = model.replay_buffer.sample(16).observations
    assert {key: tuple(rows.shape[1:]) for key, rows in batch.items()} == {"height": (), "pose": (2, 3), "velocity": (2,)}
    given = tiny_envs.stacked([row for episode in tiny_envs.play("TinySuite-v0") for row in episode["observations"]])
    for height, pose in zip(batch["height"], batch["pose"], strict=True):
        row = np.argmin(np.abs(given["height"] - float(height)))
        np.testing.assert_allclose(pose, given["pose"][row], rtol=1e-5)
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model")
    observation = model.observation_space.sample()
    action, _ = loaded.predict(observation, deterministic=True)
    np.testing.assert_array_equal(action, model.predict(observation, deterministic=True)[0])
    evaluate_policy(loaded, model.get_env(), 1)


# The environments


@pytest.fixture
def tiny_suite(monkeypatch):
    """An environment under a name of the suite's, made by a function, as shimmy's are."""
    env_id = "dm_control/tiny-walk-v0"
    gym.register(env_id, functools.partial(tiny_envs.TinySuiteEnv), max_episode_steps=tiny_envs.EPISODE_STEPS)
    yield env_id
    del gym.registry[env_id]


def test_what_was_recorded_says_its_environment_and_its_scores(tiny_suite, minari_root):
    rng = np.random.default_rng(0)
    record_dataset(lambda observation: rng.uniform(-1, 1, 2), tiny_suite, "me/tiny-v0", n_episodes=4, seed=0)
    data = load_dataset("me/tiny-v0")
    assert_is_the_point(data)
    assert data.env_id == tiny_suite and data.reference_scores == (0.0, 1000.0)
    env = make_offline_env("me/tiny-v0")
    assert env.spec.id == tiny_suite and isinstance(env.unwrapped, tiny_envs.TinySuiteEnv)
    model = GMPO("DiffusionMultiInputPolicy", env, policy_kwargs=SMALL, batch_size=8).learn(2)
    assert model.reference_scores == (0.0, 1000.0)
    # What somebody says goes first
    record_dataset(lambda _: [0.5, 0.5], tiny_suite, "me/scaled-v0", n_episodes=1, reference_scores=(1.0, 9.0))
    assert load_dataset("me/scaled-v0").reference_scores == (1.0, 9.0)


@pytest.mark.filterwarnings("ignore:.*taken for RLDS's steps", "ignore:.*rows of 6 numbers")
def test_a_file_has_the_scores_of_the_suite_in_its_environment(tiny_suite, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = write_npz(tmp_path / "steps.npz", tiny_envs.rows_of_rl_unplugged())
    model = GMPO("FlowMultiInputPolicy", tiny_suite, dataset=str(path), policy_kwargs=SMALL, batch_size=8).learn(1)
    assert model.reference_scores == (0.0, 1000.0)
    small = ["policy:FlowMultiInputPolicy", "batch_size:8", "policy_kwargs:dict(net_arch=[8])"]
    arguments = ["--algo", "gmpo", "--env", tiny_suite, "--dataset", "steps.npz", "-n", "2", "--eval-episodes", "2"]
    assert main(["train", *arguments, "-params", *small]) == 0
    capsys.readouterr()
    assert main(["results", "-f", "logs", "--eval-episodes", "2"]) == 0
    output = capsys.readouterr().out
    # The returns are a few units of 1000
    assert "Normalised scores" in output and "Returns, not scores" not in output
    returns = [episode["actions"][:, 0].sum() for episode in tiny_envs.play("TinySuite-v0")]
    assert f"| `steps.npz` | {100 * np.mean(returns) / 1000:.1f} |" in output


@pytest.mark.parametrize(
    ("env_id", "scores"),
    [
        ("dm_control/finger-turn_hard-v0", (0.0, 1000.0)),
        ("dm_control/humanoid_CMU-run-v0", (0.0, 1000.0)),
        # Without a limit of steps, of another length, and another's
        ("dm_control/lqr-lqr_2_1-v0", None),
        ("dm_control/RodentRunGaps-v0", None),
        ("dm_control/stack_2_bricks_features-v0", None),
        ("Hopper-v5", None),
        (None, None),
    ],
)
def test_scores_of_the_suite(env_id, scores):
    assert suite_scores(env_id) == scores


class BrokenSuite:
    @staticmethod
    def load(domain, task):
        raise AttributeError("'MjModel' object has no attribute 'flex_vertedge'")


def test_a_suite_that_is_not_here(monkeypatch, minari_root, capsys):
    monkeypatch.setitem(sys.modules, "dm_control.suite", None)
    absent = "dm_control/absent-task-v0"
    message = r"'dm_control/absent-task-v0' is one of the DeepMind Control suite, which does not work here .*: pip install"
    for ask in (register_suite, lambda env_id: GMPO("FlowMultiInputPolicy", env_id)):
        with pytest.raises(ValueError, match=message) as caught:
            ask(absent)
        assert "\n" not in str(caught.value)
    # As with mujoco 4.0.0
    monkeypatch.setitem(sys.modules, "dm_control.suite", BrokenSuite)
    with pytest.raises(ValueError, match="does not work here \\('MjModel' object has no attribute 'flex_vertedge'\\)"):
        register_suite(absent)
    assert main(["train", "--algo", "gmpo", "--env", absent, "--dataset", "pendulum-mixed"]) == 1
    assert "pip install 'shimmy" in capsys.readouterr().err
    register_suite("Absent-v0")


def test_files_with_rl_unplugged_s_rows_are_known_by_their_folders():
    assert published_task("data/dm_control_suite/finger_turn_hard.npz").env_id == "dm_control/finger-turn_hard-v0"
    assert published_task("dm_control_suite/swim.hdf5").name == published_task("dm_control_suite/fish_swim.npz").name
    assert published_task("/x/dm_locomotion/rodent_gaps.npz").reference_scores is None
    for name in (
        "cartpole_swingup.npz",
        "me/cartpole-swingup-v0",
        "dm_control_suite/reacher_easy.npz",
        "/data/cartpole-swingup",
    ):
        assert published_task(name) is None


@pytest.mark.parametrize(("task", "matrix"), [("walker-walk", None), ("manipulator-insert_ball", "arm_pos")])
def test_the_suite_itself(task, matrix, minari_root):
    """Recorded, read, learnt from and played in the real one."""
    pytest.importorskip("dm_control")
    pytest.importorskip("shimmy")
    env_id = f"dm_control/{task}-v0"
    register_suite(env_id)
    space = gym.spec(env_id).make().action_space
    rng = np.random.default_rng(0)
    record_dataset(lambda _: rng.uniform(space.low, space.high), env_id, "me/suite-v0", n_steps=40, seed=0)
    data = load_dataset("me/suite-v0")
    assert data.env_id == env_id and data.reference_scores == (0.0, 1000.0) and data.timeouts.sum() == 1
    # RL Unplugged's rows of the same steps
    rows = {f"observation/{key}": array.reshape(len(array), -1) for key, array in data.observations.items()}
    rows |= {f"next_observation/{key}": array.reshape(len(array), -1) for key, array in data.next_observations.items()}
    rows |= dict(action=data.actions, reward=data.rewards, discount=np.ones(data.n_rows))
    models = [
        GMPO("DiffusionMultiInputPolicy", env_id, dataset=s, policy_kwargs=SMALL, seed=0, batch_size=8)
        for s in ("me/suite-v0", rows)
    ]
    for model in models:
        model.learn(2)
    observation, _ = gym.make(env_id).reset(seed=1)
    assert matrix is None or observation[matrix].shape == (8, 2)
    first, second = (model.predict(observation, deterministic=True)[0] for model in models)
    np.testing.assert_allclose(first, second, atol=1e-5)
    assert space.contains(first)
