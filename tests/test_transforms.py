"""
What is done to a dataset before it is learnt from, against SB3's own buffers, sums by hand and the saved model.
"""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure

from sb3_genpolicy import (
    GMPG,
    GMPO,
    AffineReward,
    BestEpisodes,
    ClipActions,
    HeldOutEpisodes,
    NStepReturns,
    RescaleActions,
    ReturnRange,
    load_dataset,
)
from sb3_genpolicy.common.algorithms.training_log import validation_losses
from sb3_genpolicy.common.replay.buffer import OfflineReplayBuffer
from sb3_genpolicy.common.transitions.transforms import prepare
from tests.helpers.arrays import SMALL
from tests.helpers.data_formats import fill_sb3_buffer, flat_columns, make_episodes, spaces_of, write_npz

EPISODES = make_episodes((5, 6, 7, 8, 4, 9))
OPTIONS = dict(policy_kwargs=SMALL, batch_size=8, seed=0, device="cpu")


def rows_drawn_by(model):
    """First observation entries, which number the rows, of all that is drawn."""
    drawn = model.replay_buffer.sample(3000).observations[:, 0]
    return set(drawn.int().tolist())


def numbers_of(episodes):
    return {int(number) for episode in episodes for number in episode.observations[:-1, 0]}


@pytest.mark.parametrize("n_steps", [1, 2, 3, 20])
def test_n_step_returns_are_those_of_sb3(n_steps):
    """SB3's own n-step buffer, filled step by step."""
    data = load_dataset(flat_columns(EPISODES))
    ours = OfflineReplayBuffer(10, data.observation_space, data.action_space, device="cpu")
    ours.fill(data, AffineReward(), n_steps=n_steps, gamma=0.9)
    theirs = NStepReplayBuffer(data.n_rows, *spaces_of(EPISODES), device="cpu", n_steps=n_steps, gamma=0.9)
    fill_sb3_buffer(EPISODES, theirs)
    rows = np.arange(data.n_rows)
    mine, his = ours._get_samples(rows), theirs._get_samples(rows)
    for name in ("observations", "actions", "next_observations", "dones", "rewards"):
        np.testing.assert_allclose(getattr(mine, name), getattr(his, name), rtol=1e-5, atol=1e-6, err_msg=name)
    if n_steps == 1:
        assert mine.discounts is None
    else:
        np.testing.assert_allclose(mine.discounts, his.discounts, rtol=1e-6)


def test_n_step_returns_sum_transformed_rewards():
    data = load_dataset(flat_columns(EPISODES))
    buffer = OfflineReplayBuffer(10, data.observation_space, data.action_space, device="cpu")
    buffer.fill(data, AffineReward(scale=2.0, shift=1.0), n_steps=2, gamma=0.5)
    r = EPISODES[0].rewards
    by_hand = [2 * r[k] + 1 + (0.5 * (2 * r[k + 1] + 1) if k < 4 else 0.0) for k in range(5)]
    np.testing.assert_allclose(buffer.rewards[:5, 0], by_hand, rtol=1e-5)


def test_n_step_returns_reach_the_critics_with_the_algorithms_discount():
    options = dict(transforms=[NStepReturns(3)], gamma=0.8, critic="iql", **OPTIONS)
    model = GMPO("FlowPolicy", dataset=flat_columns(EPISODES), **options).learn(2)
    discounts = {round(float(number), 4) for number in model.replay_buffer.sample(500).discounts}
    assert discounts == {0.8, 0.64, 0.512}


def test_the_best_episodes_are_kept():
    returns = [episode.rewards.sum() for episode in EPISODES]
    best = [EPISODES[k] for k in np.argsort(returns)[::-1][:2]]
    model = GMPO("FlowPolicy", dataset=flat_columns(EPISODES), transforms=[BestEpisodes(0.3)], **OPTIONS).learn(1)
    assert rows_drawn_by(model) == numbers_of(best)
    # Nothing of the others is on the device
    assert model.replay_buffer.size() == sum(episode.steps for episode in best)
    # The scale of the rewards is the whole dataset's
    assert model.reward_function.scale == pytest.approx(1000.0 / (max(returns) - min(returns)), rel=1e-5)
    assert prepare(load_dataset(flat_columns(EPISODES)), [BestEpisodes(1.0)]).learnt is None


@pytest.mark.parametrize("memory_map", [False, True])
def test_held_out_episodes_are_not_drawn_and_their_losses_are_logged(memory_map, tmp_path):
    path = write_npz(tmp_path / "own.npz", flat_columns(EPISODES))
    transforms = [HeldOutEpisodes(0.3, seed=1), BestEpisodes(0.5)]
    model = GMPO("FlowPolicy", dataset=load_dataset(path, memory_map=memory_map), transforms=transforms, **OPTIONS)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(4, log_interval=2)
    held_out = {int(number) for number in model.held_out.samples.observations[:, 0].tolist()}
    drawn = rows_drawn_by(model)
    assert drawn and held_out and not drawn & held_out
    whole = [e for e in EPISODES if numbers_of([e]) <= held_out]
    assert numbers_of(whole) == held_out and len(whole) == 2
    assert sum(numbers_of([e]) <= drawn for e in EPISODES) == 2  # half of the other four
    log = np.genfromtxt(tmp_path / "progress.csv", delimiter=",", names=True)
    for name in ("critic_loss", "value_loss", "matching_loss"):
        assert np.isfinite(log[f"validation{name}"]).all()
    # The same episodes in every run of a seed
    again = GMPO("FlowPolicy", dataset=path, transforms=transforms, **{**OPTIONS, "seed": 5}).learn(1)
    assert {int(number) for number in again.held_out.samples.observations[:, 0].tolist()} == held_out


def test_validation_losses_are_those_of_the_training_on_the_same_rows():
    """Deterministic where nothing is random: V and Q on all held-out rows, by the definition of IQL."""
    options = dict(transforms=[HeldOutEpisodes(0.5)], critic="iql", **OPTIONS)
    model = GMPO("FlowPolicy", dataset=flat_columns(EPISODES), **options).learn(3)
    batch = model.held_out.samples
    losses = validation_losses(model)
    with th.no_grad():
        target = th.min(*model.critic_target(batch.observations, batch.actions))
        u = target - model.value_net(batch.observations)
        value_loss = (th.abs(model.expectile - (u < 0).float()) * u**2).mean()
        regressand = batch.rewards + model.gamma * (1 - batch.dones) * model.value_net(batch.next_observations)
        critic_loss = sum(((q - regressand) ** 2).mean() for q in model.critic(batch.observations, batch.actions))
    assert losses["value_loss"].item() == pytest.approx(value_loss.item(), rel=1e-5)
    assert losses["critic_loss"].item() == pytest.approx(critic_loss.item(), rel=1e-5)
    # Looking changes nothing: the same number twice, and the same training with and without a look
    assert validation_losses(model)["matching_loss"] == losses["matching_loss"]


class _Look(BaseCallback):
    def _on_step(self):
        validation_losses(self.model)
        return True


def test_looking_at_held_out_rows_does_not_change_the_training():
    def train(callback):
        model = GMPO("FlowPolicy", dataset=flat_columns(EPISODES), transforms=[HeldOutEpisodes(0.5)], **OPTIONS)
        return list(model.learn(5, callback=callback).policy.parameters())

    assert all(th.equal(one, other) for one, other in zip(train(None), train(_Look()), strict=True))


def test_actions_are_rescaled_and_clipped_to_the_environments_units(tmp_path):
    """Logged in percent by a recorder that overshot; the environment takes -2 to 2."""
    columns = flat_columns(make_episodes(action_dim=1))
    scaled = columns["actions"].copy()
    columns["actions"] = 50.0 * (scaled + 1.0)  # 0 to 100
    columns["actions"][3] = 130.0
    path = write_npz(tmp_path / "percent.npz", columns)
    rescale, clip = RescaleActions(0.0, 100.0), ClipActions()
    bounds = spaces.Box(-2, 2, (1,), np.float32)
    with pytest.raises(ValueError, match="actions has values outside the bounds .* row 3"):
        load_dataset(path, action_space=bounds, action_transforms=[rescale])
    expected = 2.0 * scaled
    expected[3] = 2.0
    for memory_map in (False, True):
        data = load_dataset(path, action_space=bounds, action_transforms=[rescale, clip], memory_map=memory_map)
        np.testing.assert_allclose(data.actions, expected, atol=1e-5)
    model = GMPO("FlowPolicy", "Pendulum-v1", dataset=path, transforms=[rescale, clip], **OPTIONS).learn(1)
    np.testing.assert_allclose(model.replay_buffer.actions, expected / 2.0, atol=1e-5)
    # Without an environment, actions are from -1 to 1 afterwards
    model = GMPO("FlowPolicy", dataset=path, transforms=[rescale, clip], **OPTIONS).learn(1)
    np.testing.assert_allclose(model.replay_buffer.actions, expected / 2.0, atol=1e-5)
    # A record that was read before is transformed, too
    data = load_dataset(flat_columns(make_episodes()))
    halved = load_dataset(data, action_transforms=[RescaleActions(-2.0, 2.0)])
    np.testing.assert_allclose(halved.actions, data.actions / 2.0, atol=1e-6)


def test_rewards_by_objects(arrays):
    data = load_dataset(arrays)
    scale = ReturnRange(span=10.0).fit(data)
    assert np.ptp(np.add.reduceat(scale(data.rewards), data.episode_starts[:-1])) == pytest.approx(10.0, rel=1e-4)
    model = GMPO("FlowPolicy", dataset=arrays, reward_transform=ReturnRange(10.0), **OPTIONS).learn(1)
    assert model.reward_function == scale
    model = GMPO("FlowPolicy", dataset=arrays, reward_transform=AffineReward(3.0, -1.0), **OPTIONS).learn(1)
    np.testing.assert_allclose(model.replay_buffer.rewards[:, 0], 3.0 * arrays["rewards"] - 1.0, rtol=1e-5)


@pytest.mark.parametrize("algorithm", [GMPO, GMPG])
def test_transforms_are_saved_with_the_model(algorithm, arrays, tmp_path):
    transforms = [HeldOutEpisodes(0.25), NStepReturns(2), ClipActions()]
    model = algorithm("FlowPolicy", dataset=arrays, transforms=transforms, reward_transform=ReturnRange(5.0), **OPTIONS)
    model.learn(2).save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model")
    assert loaded.transforms == tuple(transforms) and loaded.reward_transform == ReturnRange(5.0)
    loaded.learn(1, reset_num_timesteps=False, dataset=arrays)
    assert loaded.held_out is not None and loaded.replay_buffer.sample(3).discounts is not None


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: BestEpisodes(0.0), ValueError, r"BestEpisodes: share must be a number > 0"),
        (lambda: HeldOutEpisodes(2.0), ValueError, r"HeldOutEpisodes: share must be a number > 0.0 and <= 1"),
        (lambda: NStepReturns(0), ValueError, r"NStepReturns: n_steps must be a number >= 1"),
        (lambda: NStepReturns(n_step=2), TypeError, r"NStepReturns has no option 'n_step'. Did you mean 'n_steps'"),
        (lambda: RescaleActions(1.0, 1.0), ValueError, r"high=1.0 has to be above low=1.0"),
        (lambda: ReturnRange(0.0), ValueError, r"ReturnRange: span must be a number > 0"),
        (
            lambda: GMPO("FlowPolicy", transforms=["best"]),
            TypeError,
            r"holds 'best', which is no transform. There are: BestEpisodes",
        ),
        (lambda: GMPO("FlowPolicy", transforms=[NStepReturns(), NStepReturns(2)]), ValueError, "holds NStepReturns twice"),
        (
            lambda: GMPO("FlowPolicy", transforms=NStepReturns()),
            TypeError,
            r"takes a list: transforms=\[NStepReturns\(n_steps=3\)\]",
        ),
        (lambda: GMPO("FlowPolicy", reward_transform=3), ValueError, "reward_transform must be one of 'antmaze', .* not 3"),
    ],
)
def test_wrong_options_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_one_episode_cannot_be_held_out():
    data = load_dataset(flat_columns(EPISODES[:1]))
    with pytest.raises(ValueError, match="needs a dataset of two episodes or more"):
        prepare(data, [HeldOutEpisodes()])
