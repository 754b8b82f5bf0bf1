"""
Policies that plan several actions or see several observations go on online: what they execute, which rows their steps become,
and that they learn from them.
"""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import VecNormalize

from sb3_genpolicy import GMPG, GMPO, load_dataset
from sb3_genpolicy.common.algorithms.value_watch import ValueWatch
from sb3_genpolicy.common.replay import added_rows
from sb3_genpolicy.common.replay.arriving import Window
from sb3_genpolicy.common.replay.buffer import OfflineReplayBuffer
from sb3_genpolicy.common.transitions.rewards import AffineReward
from tests.helpers.arrays import make_arrays
from tests.helpers.every_method import METHODS
from tests.helpers.tiny_envs import EPISODE_STEPS, make_minari

TINY = dict(net_arch=[8])
SPACE = spaces.Box(-np.inf, np.inf, (3,), np.float32)
PLANS = dict(chunk_length=4, execute_length=2, history=3)


def tiny(n_envs=1, algorithm=GMPO, policy="FlowPolicy", plans=PLANS, **options):
    env = make_vec_env("Tiny-v0", n_envs=n_envs)
    options = dict(dataset="test/tiny-v0", batch_size=16, seed=0, device="cpu") | options
    return algorithm(policy, env, policy_kwargs=dict(**TINY, **plans), **options)


@pytest.fixture
def dataset(minari_root):
    return make_minari("test/tiny-v0")


# The rows


def added_to(buffer, arrays, order):
    """Rows of a record, one by one, those of an episode by the environment of its number's parity."""
    n_envs = buffer.n_envs
    for rows in order:
        rows = np.asarray(rows)
        buffer.add(
            *(arrays[name][rows] for name in ("observations", "next_observations", "actions", "rewards")),
            (arrays["terminals"] + arrays["timeouts"])[rows] > 0,
            [{"TimeLimit.truncated": bool(arrays["timeouts"][row])} for row in rows],
        )
        assert len(rows) == n_envs
    return buffer


def by_number(samples):
    """In the order of what observation 0 counts, its newest."""
    order = th.argsort(samples.observations[:, -3])
    return [None if column is None else column[order] for column in samples]


@pytest.mark.parametrize("window", [Window(3, 1, 1), Window(1, 4, 2), Window(1, 2, 4), Window(3, 4, 3), Window(9, 20, 20)])
def test_steps_become_the_rows_that_a_dataset_of_them_has(window, monkeypatch):
    monkeypatch.setattr(added_rows, "_FIRST_ROOM", 4)
    arrays = make_arrays(n_episodes=4)
    filled = OfflineReplayBuffer(1000, SPACE, arrays["action_space"], device="cpu")
    data = load_dataset(arrays)
    filled.fill(
        data, AffineReward(2.0, 0.5), None, window.n_steps, 0.9, history=window.history, chunk_length=window.chunk_length
    )
    added = OfflineReplayBuffer(1000, SPACE, arrays["action_space"], device="cpu", n_envs=2)
    added.reward_function = AffineReward(2.0, 0.5)
    added.begin_episodes(window, 0.9)
    # Episodes of 5 and 7 steps in one environment, of 6 and 8 in the other, of which the last two steps are not taken
    one, other = [*range(5), *range(11, 18)], [*range(5, 11), *range(18, 24)]
    added_to(added, arrays, list(zip(one, other, strict=True)))
    # As many steps as there is to wait for are no rows yet
    n_waiting = min(window.n_awaited - 1, 6)
    assert added.n_added == 24 - n_waiting
    n_rows = 24 - n_waiting
    ours, theirs = by_number(added._get_samples(range(n_rows))), filled._get_samples(range(n_rows))
    for mine, his in zip(ours, theirs, strict=True):
        if his is not None:
            np.testing.assert_allclose(mine, his, rtol=1e-5, atol=1e-6)


def test_what_is_cut_off_becomes_rows_too_and_goes_no_further():
    """Steps that were on their way when an environment is reset are those of an episode that was cut off."""
    arrays = make_arrays(n_episodes=1)
    buffer = OfflineReplayBuffer(1000, SPACE, arrays["action_space"], device="cpu")
    window = Window(2, 3, 3)
    buffer.begin_episodes(window, 0.5)
    added_to(buffer, arrays, [[0], [1], [2], [3]])
    assert buffer.n_added == 2
    buffer.begin_episodes(window, 0.5)
    assert buffer.n_added == 4
    last = buffer.rows(th.tensor([3]))
    assert last.dones == 0 and last.discounts == 0.5
    np.testing.assert_array_equal(last.actions[0], np.tile(arrays["actions"][3], 3))
    np.testing.assert_allclose(last.rewards[0], arrays["rewards"][3])
    np.testing.assert_array_equal(last.next_observations[0], arrays["observations"][[3, 4]].reshape(-1))
    added_to(buffer, arrays, [[1], [2], [3]])
    # Not of the episode before
    first = buffer.rows(th.tensor([4]))
    np.testing.assert_array_equal(first.observations[0], np.tile(arrays["observations"][1], 2))
    with pytest.raises(ValueError, match="do not go together"):
        buffer.begin_episodes(Window(1, 3, 3), 0.5)


def test_what_rewards_allow_does_not_grow_with_the_steps_that_are_summed():
    """Whoever earns 2 in every step has 20, at a discount of 0.9, however many rewards a row is the sum of."""
    arrays = make_arrays(n_episodes=2)
    buffer = OfflineReplayBuffer(1000, SPACE, arrays["action_space"], device="cpu")
    buffer.begin_episodes(Window(1, 4, 4), 0.9)
    added_to(buffer, arrays | dict(rewards=np.full(11, 2.0, np.float32)), [[row] for row in range(11)])
    watch = ValueWatch()
    watch._bounds = th.tensor([0.0, 1.0])
    assert watch._allowed(buffer, None, 0.9) == pytest.approx((0.0, 20.0))


# Acting


class Seen(BaseCallback):
    """What the environments were given, and how many plans were made before each step."""

    def _on_training_start(self):
        self.actions, self.dones, self.n_plans = [], [], []
        self._plan, self._n = self.model.policy._predict, 0
        self.model.policy._predict = self._counted

    def _counted(self, observations, **options):
        self._n += len(observations)
        return self._plan(observations, **options)

    def _on_step(self):
        self.actions.append(self.locals["actions"].copy())
        self.dones.append(self.locals["dones"].copy())
        self.n_plans.append(self._n)
        return True

    def _on_training_end(self):
        del self.model.policy._predict


def test_it_plans_where_an_episode_begins_and_when_a_plan_is_executed(dataset):
    model = tiny(n_envs=2).learn(4)
    seen = Seen()
    model.learn_online(4 * EPISODE_STEPS + 2, seen)
    # Episodes of eight steps, in step: plans of two actions each, in both environments
    np.testing.assert_array_equal(seen.n_plans, 2 * (1 + np.arange(17) // 2))
    assert model.replay_buffer.n_added == 4 * EPISODE_STEPS
    # What was executed is what is kept: the space is that of scaled actions
    kept = model.replay_buffer.added_rows().actions.reshape(-1, 2)
    executed = np.concatenate([np.concatenate([actions[[env]] for actions in seen.actions]) for env in range(2)])
    low = model.policy.action_range.scale_array(executed)
    assert {tuple(row) for row in np.round(kept.numpy(), 4)} <= {tuple(row) for row in np.round(low, 4)}


def test_the_second_action_of_a_plan_is_executed_as_it_was_planned(dataset):
    model = tiny(plans=dict(chunk_length=3)).learn(4)
    plans = []
    plan = model.policy._predict

    def remembered(observations, **options):
        plans.append(plan(observations, **options))
        return plans[-1]

    model.policy._predict = remembered
    model.learn_online(EPISODE_STEPS, learning_starts=100)
    expected = th.cat([each.reshape(3, 2) for each in plans])[:EPISODE_STEPS]
    # Three plans, of the last of which two actions are executed
    assert len(plans) == 3
    rows = model.replay_buffer.rows(th.arange(32, 40))
    np.testing.assert_allclose(rows.actions[:, :2], expected, atol=1e-5)
    np.testing.assert_allclose(rows.actions[0], expected[:3].reshape(-1), atol=1e-5)
    np.testing.assert_allclose(rows.discounts[[0, 6, 7], 0], model.critic_gamma ** np.array([3.0, 2.0, 1.0]), rtol=1e-5)


def test_who_evaluates_meanwhile_does_not_disturb(dataset):
    kept = []
    for callback in (None, EvalCallback(make_vec_env("Tiny-v0", seed=1), n_eval_episodes=1, eval_freq=3, verbose=0)):
        model = tiny(plans=dict(chunk_length=4)).learn(4)
        model.env.seed(5)
        th.manual_seed(0)
        model.learn_online(2 * EPISODE_STEPS, callback)
        kept.append(model.replay_buffer.actions[32:])
    assert len(kept[0]) == 2 * EPISODE_STEPS
    np.testing.assert_array_equal(*kept)


def test_noise_is_added_to_what_is_executed(dataset):
    model = tiny(plans=dict(chunk_length=4)).learn(4)
    model.action_noise = NormalActionNoise(np.full(2, 3.0), np.zeros(2))
    model.learn_online(EPISODE_STEPS)
    assert (model.replay_buffer.actions[32:] == 1.0).all()


# Learning


@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"BC"}))
def test_every_method_learns_from_both(dataset, name):
    method = METHODS[name]
    own = dict(redraw_actions=True) if name == "QGPO" else {}
    model = tiny(2, method, next(iter(method.policy_aliases)), plans=dict(chunk_length=2, history=2), **own).learn(4)
    before = [parameter.clone() for parameter in model.actor.parameters()]
    model.learn_online(2 * EPISODE_STEPS)
    assert model.replay_buffer.n_added == 2 * EPISODE_STEPS and model._n_updates > 4
    assert any(not th.equal(old, new) for old, new in zip(before, model.actor.parameters(), strict=True))
    assert all(th.isfinite(parameter).all() for parameter in model.policy.parameters())


def test_without_a_share_no_dataset_is_needed_and_learning_waits_for_a_row(dataset, tmp_path):
    tiny(2).learn(4).save(tmp_path / "model")
    model = GMPO.load(tmp_path / "model", make_vec_env("Tiny-v0", n_envs=2))
    model.dataset_name = None
    model.learn_online(12, offline_share=0.0)
    # Four actions are planned: the first rows are there after four steps of both
    assert model.replay_buffer.size() == 6 and model._n_updates == 4 + 3


def test_it_goes_on_where_it_was_saved_within_an_episode(dataset, tmp_path):
    model = tiny(2).learn(4)
    model.learn_online(10)
    n_rows = model.replay_buffer.n_added
    assert n_rows == 4
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = GMPO.load(tmp_path / "model", make_vec_env("Tiny-v0", n_envs=2))
    loaded.load_replay_buffer(tmp_path / "buffer")
    loaded.learn_online(16)
    # Ten of before, of which six were on their way, and a whole episode
    assert loaded.replay_buffer.n_added == 10 + 2 * EPISODE_STEPS


def test_dictionaries_and_scaled_rewards(minari_root):
    make_minari("test/goal-v0", env_id="TinyGoal-v0")
    env = VecNormalize(make_vec_env("TinyGoal-v0", n_envs=2), norm_obs_keys=["observation"])
    options = dict(dataset="test/goal-v0", batch_size=16, seed=0, device="cpu")
    model = GMPG("FlowMultiInputPolicy", env, policy_kwargs=dict(**TINY, **PLANS), pretraining_steps=3, **options).learn(5)
    model.learn_online(2 * EPISODE_STEPS)
    samples = model.replay_buffer.rows(th.arange(32, 40))
    assert {key: value.shape[1] for key, value in samples.observations.items()} == dict(
        observation=9, achieved_goal=6, desired_goal=6
    )
    assert model.replay_buffer.observations["observation"].shape == (48, 3)


class Row(gym.Env):
    """Two steps, whose number is seen; best are the actions 0.6 and -0.6."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.step_number = 0
        return self._seen(), {}

    def _seen(self):
        return np.full(1, self.step_number / 2, np.float32)

    def step(self, action):
        target = 0.6 if self.step_number == 0 else -0.6
        self.step_number += 1
        return self._seen(), -float((action[0] - target) ** 2), self.step_number == 2, False, {}


def test_plans_that_no_dataset_row_has_are_found():
    """Logged actions end at 0.3; the environment's best are 0.6 and -0.6."""
    rng = np.random.default_rng(0)
    n = 600
    actions = rng.uniform(-0.3, 0.3, (n, 1)).astype(np.float32)
    step = np.arange(n) % 2
    rewards = -((actions[:, 0] - np.where(step == 0, 0.6, -0.6)) ** 2)
    seen, following = (((step + more) / 2).astype(np.float32)[:, None] for more in (0, 1))
    arrays = dict(observations=seen, next_observations=following, actions=actions, rewards=rewards)
    arrays.update(terminals=step == 1, timeouts=np.zeros(n), action_space=Row.action_space)
    model = GMPO(
        "FlowPolicy", Row(), dataset=arrays, beta=30.0, critic="iql", seed=0, batch_size=64, tau=0.05,
        actor_tau=0.05, reward_transform="none",
        policy_kwargs=dict(net_arch=[32, 32], sampling_steps=2, chunk_length=2),
    )  # fmt: skip
    model.learn(100)

    def plan():
        return model.policy.plan(np.zeros((300, 1), np.float32)).mean(axis=0)[:, 0]

    assert np.abs(plan()).max() < 0.4
    model.learn_online(600, offline_share=0.25)
    found = plan()
    np.testing.assert_allclose(found, [0.6, -0.6], atol=0.3)
