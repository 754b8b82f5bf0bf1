"""
Environments of a few steps, registered when this module is imported, and datasets of them.
"""

import gymnasium as gym
import minari
import numpy as np
from gymnasium import spaces
from minari.data_collector.episode_buffer import EpisodeBuffer

EPISODE_STEPS = 8


class TinyEnv(gym.Env):
    """
    A point that the action pushes; the reward is the first action.

    :param slope: what the reward is multiplied by
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, slope=1.0, render_mode=None):
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        self.slope, self.render_mode = slope, render_mode

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.point = self.np_random.normal(size=3).astype(np.float32)
        return self.observation, {}

    @property
    def observation(self):
        return self.point

    def step(self, action):
        self.point = self.point + np.array([action[0], action[1], 0.0], np.float32)
        return self.observation, self.slope * float(action[0]), False, False, {}

    def render(self):
        return np.full((64, 64, 3), 100, np.uint8)


class TinyGoalEnv(TinyEnv):
    """With AntMaze's dictionaries of observations."""

    def __init__(self, render_mode=None):
        super().__init__(render_mode=render_mode)
        goal = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.observation_space = spaces.Dict(observation=self.observation_space, achieved_goal=goal, desired_goal=goal)

    @property
    def observation(self):
        goal = self.point[:2].astype(np.float64)
        return dict(observation=self.point, achieved_goal=goal, desired_goal=np.zeros(2))


class TinySuiteEnv(TinyEnv):
    """With single numbers and matrices, as tasks of the DeepMind Control suite have them."""

    def __init__(self, render_mode=None):
        super().__init__(render_mode=render_mode)
        shapes = {"height": (), "pose": (2, 3), "velocity": (2,)}
        self.observation_space = spaces.Dict(
            {key: spaces.Box(-np.inf, np.inf, shape, np.float64) for key, shape in shapes.items()}
        )

    @property
    def observation(self):
        pose = np.stack([self.point, 10.0 - self.point]).astype(np.float64)
        return dict(height=np.array(self.point[0], np.float64), pose=pose, velocity=pose[0, :2])


for name in ("Tiny", "TinyGoal", "TinySuite"):
    gym.register(f"{name}-v0", f"tests.helpers.tiny_envs:{name}Env", max_episode_steps=EPISODE_STEPS)


def play(env_id, n_episodes=4, seed=0):
    """Columns of random episodes, a list of episodes of dictionaries."""
    env = gym.make(env_id)
    rng = np.random.default_rng(seed)
    episodes = []
    for number in range(n_episodes):
        observations, actions, rewards = [env.reset(seed=seed + number)[0]], [], []
        for _ in range(EPISODE_STEPS):
            actions.append(rng.uniform(-1, 1, 2).astype(np.float32))
            observation, reward, _, _, _ = env.step(actions[-1])
            observations.append(observation)
            rewards.append(reward)
        episodes.append(dict(observations=observations, actions=np.array(actions), rewards=np.array(rewards)))
    return episodes


def make_minari(name, env_id="Tiny-v0", reference_scores=(-4.0, 4.0), seed=0, eval_env=None):
    """A Minari dataset of that name, in the folder that the test has chosen."""
    env = gym.make(env_id)
    buffers = [
        EpisodeBuffer(
            observations=stacked(episode["observations"]),
            actions=episode["actions"],
            rewards=episode["rewards"],
            terminations=np.zeros(EPISODE_STEPS, bool),
            truncations=np.arange(EPISODE_STEPS) == EPISODE_STEPS - 1,
        )
        for episode in play(env_id, seed=seed)
    ]
    dataset = minari.create_dataset_from_buffers(name, buffers, env=env, eval_env=eval_env)
    if reference_scores is not None:
        dataset.storage.update_metadata(dict(zip(("ref_min_score", "ref_max_score"), reference_scores, strict=True)))
    return name


def stacked(observations):
    if isinstance(observations[0], dict):
        return {key: np.array([observation[key] for observation in observations]) for key in observations[0]}
    return np.array(observations)


def rows_of_rl_unplugged(n_episodes=4, seed=0):
    """Columns of :class:`TinySuiteEnv` as RL Unplugged has them: flat rows, and in the last of an episode nothing is done."""
    played = play("TinySuite-v0", n_episodes, seed)
    n_rows = n_episodes * (EPISODE_STEPS + 1)
    observations = [stacked(episode["observations"]) for episode in played]
    columns = {
        f"observation/{key}": np.concatenate([each[key] for each in observations]).reshape(n_rows, -1).astype(np.float32)
        for key in observations[0]
    }
    for key, column in (("action", "actions"), ("reward", "rewards")):
        columns[key] = np.concatenate([np.concatenate([each[column], 0 * each[column][:1]]) for each in played])
    columns["step_type"] = np.tile([0, *[1] * (EPISODE_STEPS - 1), 2], n_episodes)
    return columns | dict(discount=np.ones(n_rows), episodic_reward=np.zeros(n_rows))


class SpacesEnv(gym.Env):
    """
    Any spaces: observations are drawn at random, every step pays ``reward``, a number or a function of the action.

    :param observation_space: of the observations
    :param action_space: of the actions, which have to be in it
    """

    def __init__(self, observation_space, action_space, reward=0.0, steps=EPISODE_STEPS):
        self.observation_space, self.action_space = observation_space, action_space
        self.reward, self.steps = reward, steps
        self.actions = []

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self.actions.append(action)
        self.t += 1
        reward = self.reward(action) if callable(self.reward) else self.reward
        return self.observation_space.sample(), float(reward), False, self.t >= self.steps, {}
