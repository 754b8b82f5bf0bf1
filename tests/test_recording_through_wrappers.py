"""
What is recorded is the environment's, whatever wrappers an agent sees it through. The environment pays -7 at every step, and
its observations say which episode and step it is.
"""

import json
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import NormalizeObservation, NormalizeReward, TimeAwareObservation, TransformReward
from minari.storage.datasets_root_dir import get_dataset_path
from stable_baselines3 import SAC
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecCheckNan,
    VecEnvWrapper,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)

from sb3_genpolicy import load_dataset, make_offline_env, record_dataset
from tests.helpers.sentences import fault_of

STEPS = 6


class Paying(gym.Env):
    """Pays -7; ends after six steps, by a time limit in every other episode."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-2, 2, (1,), np.float32)
    episode = -1

    def reset(self, *, seed=None, options=None):
        self.episode, self.count = self.episode + 1, 0
        return self.observation(), {}

    def step(self, action):
        self.got = action
        self.count += 1
        end, cut = self.count == STEPS, self.episode % 2 == 1
        return self.observation(), -7.0, end and not cut, end and cut, {}

    def observation(self):
        return np.array([self.episode, self.count], np.float32)


class PayingDict(Paying):
    observation_space = spaces.Dict(where=Paying.observation_space, other=spaces.Box(0, 1, (3,), np.float32))

    def observation(self):
        return {"where": super().observation(), "other": np.full(3, 0.5, np.float32)}


class InPlace(VecEnvWrapper):
    """Doubles everything in place, and halves actions."""

    def reset(self):
        return self._doubled(self.venv.reset())

    def step_async(self, actions):
        actions *= 0.5
        self.venv.step_async(actions)

    def step_wait(self):
        observations, rewards, dones, infos = self.venv.step_wait()
        for info in infos:
            if "terminal_observation" in info:
                info["terminal_observation"] *= 2.0
            info["TimeLimit.truncated"] = False
        rewards *= 2.0
        return self._doubled(observations), rewards, dones, infos

    def _doubled(self, observations):
        observations *= 2.0
        return observations


class Skipping(InPlace):
    """Repeats every action three times."""

    def reset(self):
        return self.venv.reset()

    def step_async(self, actions):
        self.actions = actions

    def step_wait(self):
        for _ in range(3):
            self.venv.step_async(self.actions)
            step = self.venv.step_wait()
        return step


def vec(cls=Paying, n=2):
    return DummyVecEnv([lambda: Monitor(cls())] * n)


def trained(env):
    """A normaliser that has seen other observations and rewards."""
    normalizer = VecNormalize(env)
    normalizer.reset()
    for _ in range(40):
        normalizer.step([normalizer.action_space.sample()] * normalizer.num_envs)
    return normalizer


def normalizers_of(env):
    while isinstance(env, VecEnvWrapper):
        if isinstance(env, VecNormalize):
            yield env
        env = env.venv


def chain_of(env):
    found = [env]
    while isinstance(env, VecEnvWrapper):
        env = env.venv
        found.append(env)
    return found


WRAPPED = {
    "none": lambda: vec(),
    "normalised": lambda: trained(vec()),
    "stacked": lambda: VecFrameStack(trained(vec()), 2),
    "normalised last": lambda: trained(VecFrameStack(vec(), 3)),
    "monitored": lambda: VecMonitor(VecCheckNan(trained(vec()))),
    "twice": lambda: trained(VecFrameStack(trained(vec()), 2)),
    "in place": lambda: InPlace(vec()),
    "in place, stacked": lambda: VecFrameStack(InPlace(trained(vec())), 2),
    "skipping": lambda: Skipping(trained(vec())),
    "extracted": lambda: VecExtractDictObs(trained(vec(PayingDict)), "where"),
}


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("amount", [dict(n_steps=31), dict(n_episodes=5)], ids=str)
def test_rows_are_the_environments(name, amount, minari_root):
    env = WRAPPED[name]()
    before = [(n.training, n.returns.copy(), n.ret_rms.mean.copy(), n.ret_rms.count) for n in normalizers_of(env)]
    chain = chain_of(env)
    record_dataset(lambda observation: np.array([1.0]), env, "test/rows-v0", **amount)
    data = load_dataset("test/rows-v0")
    assert (data.n_rows if "n_steps" in amount else data.n_episodes) == next(iter(amount.values()))
    np.testing.assert_array_equal(data.rewards, -7.0)
    where, led_to = (x["where"] if name == "extracted" else x for x in (data.observations, data.next_observations))
    np.testing.assert_array_equal(led_to, where + np.array([0.0, 1.0]))
    # Whole episodes end by their own account or by the time limit, whatever a wrapper says
    ends = data.episode_starts[1:] - 1
    whole = led_to[ends, 1] == STEPS
    np.testing.assert_array_equal(data.terminals[ends][whole], where[ends, 0][whole] % 2 == 0)
    assert data.terminals[ends][~whole].sum() == 0 and whole.sum() >= 4
    # Actions are those that the environment got
    np.testing.assert_array_equal(data.actions, 0.5 if "in place" in name else 1.0)
    # And nothing has changed
    after = [(n.training, n.returns.copy(), n.ret_rms.mean.copy(), n.ret_rms.count) for n in normalizers_of(env)]
    np.testing.assert_equal(after, before)
    assert [id(layer) for layer in chain_of(env)] == [id(layer) for layer in chain]


def test_an_agent_sees_what_it_was_trained_on(minari_root):
    """SB3's own way to act in the same wrappers, with the same seed and statistics, gives the same actions."""
    env = VecFrameStack(trained(DummyVecEnv([lambda: gym.make("Pendulum-v1")])), 3)
    agent = SAC("MlpPolicy", env, seed=0)
    record_dataset(agent, None, "test/agent-v0", n_steps=30, seed=5, deterministic=True)
    actions = load_dataset("test/agent-v0").actions
    env.venv.training = False
    env.seed(5)
    observations, expected = env.reset(), []
    for _ in range(30):
        expected.append(agent.predict(observations, deterministic=True)[0])
        observations = env.step(expected[-1])[0]
    np.testing.assert_allclose(actions, np.concatenate(expected), atol=1e-6)


def test_statistics_and_wrappers_are_as_before_after_an_error_too(minari_root):
    env = VecFrameStack(trained(vec()), 2)
    chain, count = chain_of(env), env.venv.obs_rms.count
    calls = []

    def policy(observation):
        calls.append(observation)
        if len(calls) > 9:
            raise RuntimeError("the agent is gone")
        return np.zeros(1)

    with pytest.raises(RuntimeError, match="the agent is gone"):
        record_dataset(policy, env, "test/error-v0", n_steps=100)
    assert env.venv.training and env.venv.obs_rms.count == count
    assert [id(layer) for layer in chain_of(env)] == [id(layer) for layer in chain]
    assert load_dataset("test/error-v0").n_rows == 8


def test_images_below_other_wrappers(minari_root):
    class Picture(Paying):
        observation_space = spaces.Box(0, 255, (36, 36, 3), np.uint8)

        def observation(self):
            return np.full((36, 36, 3), self.count, np.uint8)

    shapes = []
    policy = lambda observation: shapes.append(observation.shape) or np.zeros(1)  # noqa: E731
    env = VecMonitor(VecTransposeImage(VecFrameStack(vec(Picture, 1), 2)))
    record_dataset(policy, env, "test/turned-v0", n_steps=8)
    data = load_dataset("test/turned-v0")
    assert data.observations.shape == (8, 36, 36, 3) and set(shapes) == {(6, 36, 36)}
    np.testing.assert_array_equal(data.observations[:, 0, 0, 0], [0, 1, 2, 3, 4, 5, 0, 1])
    np.testing.assert_array_equal(data.next_observations[:, 0, 0, 0], [1, 2, 3, 4, 5, 6, 1, 2])


def normalised_below(wrapper, n=1):
    return DummyVecEnv([lambda: Monitor(wrapper(Paying()))] * n)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: NormalizeReward(Paying()), "NormalizeReward"),
        (lambda: TimeAwareObservation(NormalizeObservation(gym.make("Pendulum-v1"))), "NormalizeObservation"),
        (lambda: normalised_below(NormalizeReward, 2), "NormalizeReward"),
        (lambda: VecFrameStack(VecNormalize(normalised_below(NormalizeObservation)), 2), "NormalizeObservation"),
        (lambda: SubprocVecEnv([lambda: NormalizeObservation(gym.make("Pendulum-v1"))]), "NormalizeObservation"),
    ],
)
def test_what_changes_inside_the_environment_is_refused(make, name, minari_root):
    env = make()
    with pytest.raises(ValueError, match=f"gymnasium's {name}, whose statistics change") as caught:
        record_dataset(lambda observation: np.zeros(1), env, "test/refused-v0", n_steps=3)
    env.close()
    assert fault_of(caught.value) is None
    assert not Path(get_dataset_path("test/refused-v0")).exists()


def test_what_does_not_change_is_a_part_of_the_environment(minari_root):
    """A reward that is always halved is what the environment pays; how, cannot be written down."""
    env = TransformReward(TimeAwareObservation(gym.make("Pendulum-v1")), lambda reward: 0.0 * reward + 3.5)
    with pytest.warns(UserWarning, match="recovered without TransformReward, which cannot be made again") as caught:
        record_dataset(lambda observation: np.zeros(1), Monitor(env), "test/halved-v0", n_steps=5)
    assert len(caught) == 1
    data = load_dataset("test/halved-v0")
    np.testing.assert_array_equal(data.rewards, 3.5)
    assert data.observations.shape == (5, 4)
    assert isinstance(make_offline_env("test/halved-v0").env, TimeAwareObservation)


@pytest.fixture
def made_by_a_function():
    gym.register("Unwritten-v0", lambda render_mode=None: Paying(), max_episode_steps=4)
    yield "Unwritten-v0"
    gym.registry.pop("Unwritten-v0", None)


def test_an_environment_of_which_nothing_can_be_written_down(minari_root, made_by_a_function):
    env = gym.make(made_by_a_function)
    gym.registry.pop(made_by_a_function)
    with pytest.warns(UserWarning, match="how its environment Unwritten-v0 was made cannot be written down"):
        record_dataset(lambda observation: np.zeros(1), env, "test/unwritten-v0", n_steps=5)
    data = load_dataset("test/unwritten-v0")
    assert data.n_rows == 5 and data.env_id is None
    metadata = json.loads((Path(get_dataset_path("test/unwritten-v0")) / "data/metadata.json").read_text())
    assert metadata.get("env_spec") is None


def test_an_environment_that_a_function_makes_is_found_by_its_id_where_that_is_known(minari_root, made_by_a_function):
    record_dataset(lambda observation: np.zeros(1), made_by_a_function, "test/unwritten-v0", n_steps=5)
    assert load_dataset("test/unwritten-v0").env_id == made_by_a_function
    assert isinstance(make_offline_env("test/unwritten-v0").unwrapped, Paying)
    gym.registry.pop(made_by_a_function)
    assert load_dataset("test/unwritten-v0").n_rows == 5
    with pytest.raises(ValueError, match="Unwritten-v0 of dataset 'test/unwritten-v0' cannot be made on this machine"):
        make_offline_env("test/unwritten-v0")


def test_a_monitor_is_left_out_in_silence(minari_root):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = VecNormalize(DummyVecEnv([lambda: Monitor(gym.make("Pendulum-v1"))]))
        record_dataset(lambda observation: np.zeros(1), env, "test/monitored-v0", n_steps=5)
        assert make_offline_env("test/monitored-v0").spec.id == "Pendulum-v1"


def test_a_wrapper_that_steps_nothing(minari_root):
    class Dreaming(VecEnvWrapper):
        def reset(self):
            return self.venv.reset()

        def step_async(self, actions):
            pass

        def step_wait(self):
            return np.zeros((1, 2), np.float32), np.zeros(1), np.zeros(1, bool), [{}]

    with pytest.raises(ValueError, match="Dreaming does not step the environment") as caught:
        record_dataset(lambda observation: np.zeros(1), Dreaming(vec(n=1)), "test/dream-v0", n_steps=3)
    assert fault_of(caught.value) is None


@pytest.mark.parametrize("scores", [(1.0, 1.0), (np.nan, 1.0), (0,), (5.0, -5.0), "01", (0.0, np.inf)], ids=str)
def test_reference_scores_are_looked_at_before_anything_is_recorded(scores, minari_root):
    with pytest.raises(ValueError, match="reference_scores") as caught:
        record_dataset(lambda observation: np.zeros(1), vec(), "test/scores-v0", n_steps=3, reference_scores=scores)
    assert fault_of(caught.value) is None and not Path(get_dataset_path("test/scores-v0")).exists()
