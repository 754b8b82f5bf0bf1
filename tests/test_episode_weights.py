"""
Episodes of higher return are drawn more often: how much more, of which, and what is drawn then.
"""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch as th
from scipy import stats
from stable_baselines3.common.utils import LinearSchedule

from sb3_genpolicy import (
    BC,
    GMPG,
    GMPO,
    BestEpisodes,
    HeldOutEpisodes,
    OneStepCritic,
    WeightedEpisodes,
    learn_side_by_side,
    load_dataset,
)
from sb3_genpolicy.common.algorithms.critic_hooks import rows_for_policy
from sb3_genpolicy.common.replay.buffer import OfflineReplayBuffer
from sb3_genpolicy.common.replay.drawing import RowDraws
from sb3_genpolicy.common.transitions.episode_weights import tilted
from sb3_genpolicy.common.transitions.initial_values import initial_values
from sb3_genpolicy.common.transitions.rewards import AffineReward
from sb3_genpolicy.common.transitions.transforms import prepare
from sb3_genpolicy.common.updates.batch import Batch

OPTIONS = dict(policy_kwargs=dict(net_arch=[16]), batch_size=64, device="cpu", seed=0)
RNG = np.random.default_rng(0)
RETURNS, LENGTHS = RNG.normal(size=60), RNG.integers(3, 30, size=60)


def columns(returns, lengths, first=None, actions=None):
    """Episodes with these returns: observation 0 numbers the episode, 1 is what it begins with, 2 counts its steps."""
    numbers = np.repeat(np.arange(len(returns)), lengths)
    steps = np.concatenate([np.arange(length) for length in lengths])
    first = np.zeros(len(returns)) if first is None else first
    observations = np.stack([numbers, first[numbers], steps], axis=1).astype(np.float32)
    led_to = observations + np.array([0.0, 0.0, 1.0], np.float32)
    ends = (steps == np.asarray(lengths)[numbers] - 1).astype(np.float32)
    rewards = (returns / lengths)[numbers].astype(np.float32)
    actions = np.zeros((len(numbers), 1), np.float32) if actions is None else actions[numbers].astype(np.float32)
    return dict(
        observations=observations,
        next_observations=led_to,
        actions=actions,
        rewards=rewards,
        terminals=ends,
        timeouts=0 * ends,
    )


def two_agents():
    """The better one acts by 0.6, the other by -0.6, in the same states."""
    is_better = np.arange(60) % 2 == 0
    source = columns(np.where(is_better, 2.0, 1.0), np.full(60, 10), actions=np.where(is_better, 0.6, -0.6)[:, None])
    source["observations"][:, 0] = source["next_observations"][:, 0] = 0.0
    better = np.linspace(0.5, 1.0, 100_001)[:-1]
    divergence = np.log(2.0) + better * np.log(better) + (1.0 - better) * np.log(1.0 - better)
    return source, better[np.argmin(np.abs(divergence - 0.3))]


def filled(transforms, episode_kl=0.0, source=None):
    data = load_dataset(columns(RETURNS, LENGTHS) if source is None else source)
    buffer = OfflineReplayBuffer(10, data.observation_space, data.action_space, device="cpu")
    chosen = prepare(data, transforms, episode_kl)
    buffer.fill(chosen.data, AffineReward(), chosen.learnt, drawn=chosen.drawn, matched=chosen.matched)
    return buffer, chosen


@pytest.mark.parametrize("kl", [0.05, 0.2, 0.4])
def test_the_divergence_is_what_was_asked_and_weights_are_exponentials_of_returns(kl):
    """By scipy's entropy of one share from the other; log weights lie on a straight line."""
    weights = tilted(RETURNS, LENGTHS, kl)
    share = LENGTHS / LENGTHS.sum()
    assert stats.entropy(share * weights, share) == pytest.approx(kl, rel=1e-6)
    line = stats.linregress(RETURNS, np.log(weights))
    assert line.slope > 0.0 and line.rvalue == pytest.approx(1.0, abs=1e-12)
    assert share @ weights == pytest.approx(1.0)


def test_twenty_episodes_stay_in_force():
    """Kish's effective number of what is drawn."""
    weights = tilted(RETURNS, np.full(60, 7), kl=10.0)
    assert weights.sum() ** 2 / (weights**2).sum() == pytest.approx(20.0, rel=1e-6)


@pytest.mark.parametrize(
    "returns, lengths",
    [(RETURNS[:20], LENGTHS[:20]), (np.ones(60), np.full(60, 4)), (RETURNS, np.ones(60, int))],
    ids=["few", "equal", "single steps"],
)
def test_where_returns_cannot_choose_all_rows_are_drawn_alike(returns, lengths):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert prepare(load_dataset(columns(returns, lengths)), [], episode_kl=1.0).matched is None


def test_torn_episodes_are_named_where_weights_were_asked_for(recwarn):
    data = load_dataset(dict(columns(RETURNS, np.ones(60, int)), terminals=np.zeros(60), timeouts=np.ones(60)))
    recwarn.clear()
    prepare(data, [], episode_kl=1.0)
    assert not recwarn.list
    with pytest.warns(UserWarning, match="WeightedEpisodes weighs by returns, but 60 of 60 episodes"):
        assert prepare(data, [WeightedEpisodes()]).drawn is None


def test_what_a_beginning_explains_is_no_merit():
    """Returns are a sine of the first observation and a merit: the weights are those of the merit alone, nearly."""
    rng = np.random.default_rng(1)
    first, merit = rng.uniform(-3.0, 3.0, 300), rng.normal(size=300)
    returns = 20.0 * np.sin(first) + merit
    weights = prepare(load_dataset(columns(returns, np.full(300, 5), first)), [WeightedEpisodes()]).drawn
    assert stats.spearmanr(weights, merit)[0] > 0.9
    assert abs(stats.spearmanr(weights, np.sin(first))[0]) < 0.2


def test_a_goal_in_a_dictionary_is_no_merit_either():
    """Weights are those of the same numbers in one array; frames beside them change nothing, and frames alone say nothing."""
    rng = np.random.default_rng(5)
    first, merit = rng.uniform(-3.0, 3.0, 200), rng.normal(size=200)
    flat = columns(20.0 * np.sin(first) + merit, np.full(200, 3), first)
    frames = rng.integers(0, 255, size=(603, 8, 8, 3)).astype(np.uint8)

    def weights(*names):
        source = dict(flat)
        for shift, key in enumerate(("observations", "next_observations")):
            goal, rest = flat[key][:, 1:2], flat[key][:, [0, 2]]
            source[key] = dict(desired_goal=goal, observation=rest, image=frames[shift : 600 + shift])
            source[key] = {name: source[key][name] for name in names}
        return prepare(load_dataset(source), [WeightedEpisodes()]).drawn

    expected = prepare(load_dataset(flat), [WeightedEpisodes()]).drawn
    # The kernel is of all numbers, in whichever order keys come
    np.testing.assert_allclose(weights("desired_goal", "observation"), expected, rtol=1e-6)
    np.testing.assert_allclose(weights("desired_goal", "image", "observation"), expected, rtol=1e-6)
    assert stats.spearmanr(weights("image"), np.sin(first))[0] > 0.8


def test_what_a_beginning_does_not_explain_is_not_taken_for_it():
    """Where nothing depends on it, the regression gives the mean."""
    rng = np.random.default_rng(2)
    returns = rng.normal(size=400)
    assert initial_values(rng.normal(size=(400, 11)), returns).std() < 0.25


def test_an_episode_is_not_expected_to_return_what_it_did():
    """Left out: its own return moves what is expected of it by its part of the mean alone."""
    rng = np.random.default_rng(3)
    first = rng.normal(size=(80, 1))
    returns = 5.0 * first[:, 0] + rng.normal(size=80)
    moved = returns.copy()
    moved[7] += 1e-4
    change = (initial_values(first, moved) - initial_values(first, returns)) / 1e-4
    assert abs(change[7]) < 3.0 / 80 and np.abs(np.delete(change, 7)).max() < 0.5


def test_of_many_episodes_some_tell_what_to_expect_of_all():
    rng = np.random.default_rng(4)
    first = rng.uniform(-2.0, 2.0, size=(9000, 1))
    expected = initial_values(first, np.cos(first[:, 0]) + 0.1 * rng.normal(size=9000))
    np.testing.assert_allclose(expected, np.cos(first[:, 0]), atol=0.05)


def test_rows_are_drawn_as_often_as_the_weights_say():
    """A chi-squared test of the episodes drawn, and of the steps within them; what weighs nothing is never drawn."""
    weights = np.where(np.arange(60) % 5 == 0, 0.0, tilted(RETURNS, LENGTHS, 0.5))
    starts = np.concatenate([[0], LENGTHS.cumsum()])
    draws = RowDraws(int(starts[-1]), None, starts, weights)
    rows = draws.draw(200_000, th.device("cpu"), th.Generator().manual_seed(0)).numpy()
    expected = np.repeat(weights, LENGTHS)
    counts = np.bincount(rows, minlength=starts[-1])
    assert not counts[expected == 0.0].any()
    drawn = expected > 0.0
    assert stats.chisquare(counts[drawn], 200_000 * expected[drawn] / expected.sum()).pvalue > 0.01


def test_episodes_that_are_held_out_or_left_out_are_not_drawn():
    held_out = HeldOutEpisodes(0.3)
    for transforms in (
        [held_out, WeightedEpisodes()],
        [WeightedEpisodes(), held_out],
        [WeightedEpisodes(), BestEpisodes(0.4)],
    ):
        buffer, chosen = filled(transforms)
        drawn = set(buffer.sample(20_000).observations[:, 0].int().tolist())
        learnt = np.unique(chosen.data.observations[chosen.learnt if chosen.learnt is not None else slice(None)][:, 0])
        assert drawn <= set(learnt.astype(int).tolist()) and len(drawn) < 60
        assert buffer.n_drawn_from == len(np.arange(chosen.data.n_rows) if chosen.learnt is None else chosen.learnt)


def test_the_default_gives_way_to_what_was_asked_for():
    data = load_dataset(columns(RETURNS, LENGTHS))
    asked, default = prepare(data, [WeightedEpisodes(0.2)], episode_kl=1.0), prepare(data, [], episode_kl=0.2)
    assert asked.matched is None and default.drawn is None
    np.testing.assert_array_equal(asked.drawn, default.matched)


def test_a_saved_buffer_draws_the_same(tmp_path):
    transforms = [WeightedEpisodes(0.2)]
    model = GMPO("FlowPolicy", dataset=columns(RETURNS, LENGTHS), transforms=transforms, **OPTIONS).learn(1)
    model.save_replay_buffer(tmp_path / "rows")
    model.replay_buffer.seed_rows(5)
    drawn = model.replay_buffer.draw_rows(100)
    model.load_replay_buffer(tmp_path / "rows")
    model.replay_buffer.seed_rows(5)
    assert th.equal(model.replay_buffer.draw_rows(100), drawn) and drawn.unique().numel() > 20


def test_only_models_with_equal_weights_share_rows():
    for make in (lambda kl: filled([WeightedEpisodes(kl)])[0], lambda kl: filled([], kl)[0]):
        one, same, other = (make(kl) for kl in (1.0, 1.0, 0.5))
        assert one.share_rows(same) and not one.share_rows(other)


def test_a_clone_of_weighted_episodes_acts_as_those_are_drawn():
    """Two agents, one of which does better: a deterministic clone's action is the mean of theirs, as they are drawn."""
    source, share = two_agents()
    policy_kwargs = dict(net_arch=[32], normalize_actions=False)
    model = BC(
        "DeterministicPolicy",
        dataset=source,
        transforms=[WeightedEpisodes(0.3)],
        policy_kwargs=policy_kwargs,
        seed=0,
        device="cpu",
    ).learn(600)
    action = model.predict(np.array([0.0, 0.0, 5.0], np.float32), deterministic=True)[0]
    assert action[0] == pytest.approx(0.6 * (2.0 * share - 1.0), abs=0.08)


def test_where_beta_is_found_it_is_the_default(capsys):
    source = columns(RETURNS, LENGTHS)
    for algorithm in (GMPO, GMPG):
        found, given = (algorithm("FlowPolicy", dataset=source, **options) for options in ({}, dict(beta=1.0)))
        assert (found.episode_kl, given.episode_kl) == (1.0, 0.0)
        assert algorithm("FlowPolicy", dataset=source, episode_kl=0.3, beta=1.0).episode_kl == 0.3
    with pytest.raises(ValueError, match="episode_kl must be a number >= 0"):
        GMPO("FlowPolicy", dataset=source, episode_kl=-1.0)
    model = GMPO("FlowPolicy", dataset=source, verbose=1, **OPTIONS).learn(1)
    assert model.replay_buffer.has_matched_rows
    assert "Episodes of higher return count for more: the best tenth has" in capsys.readouterr().out


def test_a_file_keeps_its_own(tmp_path):
    """Those of before there was one drew all rows alike."""
    assert GMPO.load(Path(__file__).parent / "files_of_0_1" / "gmpo_flow").episode_kl == 0.0
    GMPO("FlowPolicy", dataset=columns(RETURNS, LENGTHS), episode_kl=0.4, **OPTIONS).save(tmp_path / "model")
    assert GMPO.load(tmp_path / "model").episode_kl == 0.4
    assert GMPO.load(tmp_path / "model", episode_kl=0.1).episode_kl == 0.1


def test_the_policy_s_rows_are_drawn_by_returns_and_the_critics_rows_alike():
    """A chi-squared test of the episodes; the critics' rows are those that are drawn without."""
    (buffer, chosen), (alike, _) = filled([], 0.5), filled([])
    uniform = th.rand(100_000, dtype=th.float64, generator=th.Generator().manual_seed(0))
    counts = np.bincount(chosen.data.observations[buffer.matched_rows(uniform)][:, 0].astype(int), minlength=60)
    expected = chosen.matched * LENGTHS
    assert stats.chisquare(counts, 100_000 * expected / expected.sum()).pvalue > 0.01
    assert not alike.has_matched_rows
    for each in (buffer, alike):
        each.seed_rows(0)
    assert th.equal(buffer.draw_rows(100), alike.draw_rows(100))


def test_critics_are_those_of_all_episodes_alike():
    """Bit for bit: with other rows for the policy, their batches are the same (one step, which draws no random returns)."""
    options = dict(OPTIONS, critic=OneStepCritic(return_lambda=0.0, passes=None), target_kl=0.2)
    source, _ = two_agents()
    one, other = (GMPO("FlowPolicy", dataset=source, episode_kl=kl, **options).learn(9) for kl in (0.5, 0.0))
    for name in ("critic", "value_net"):
        for mine, theirs in zip(getattr(one.policy, name).parameters(), getattr(other.policy, name).parameters(), strict=True):
            assert th.equal(mine, theirs)
    assert not all(map(th.equal, one.policy.actor.parameters(), other.policy.actor.parameters()))


@pytest.mark.parametrize("coupling", ["independent", "optimal_transport"])
@pytest.mark.parametrize("pretraining_steps", [0, 300])
def test_a_clone_by_weights_acts_as_often_as_they_say(pretraining_steps, coupling):
    """In the first phase, and in the second with beta 0; and where rows are resampled, since noise is paired with them."""
    source, share = two_agents()
    policy_kwargs = dict(net_arch=[32], normalize_actions=False, coupling=coupling)
    options = dict(beta=0.0, episode_kl=0.3, pretraining_steps=pretraining_steps, policy_kwargs=policy_kwargs)
    options.update(learning_rate=LinearSchedule(1e-2, 0.0, 1.0), actor_tau=0.02)
    model = GMPO("FlowPolicy", dataset=source, **(OPTIONS | options)).learn(300)
    observations = np.tile(np.array([0.0, 0.0, 5.0], np.float32), (2000, 1))
    assert (model.predict(observations)[0] > 0.0).mean() == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("frozen", [False, True])
def test_weights_are_of_the_rows_that_the_policy_is_matched_to(frozen, monkeypatch):
    """Whether critics are trained on other rows at the time, or were before."""
    source, _ = two_agents()
    model = GMPO("FlowPolicy", dataset=source, episode_kl=0.3, target_kl=0.2, pretraining_steps=2 * frozen, **OPTIONS)
    model.learn(3)
    seen = []
    monkeypatch.setattr(
        model.actor, "weighted_matching_loss", lambda *arguments: seen.append(arguments) or (th.zeros(()),) * 2
    )
    rows, matched = th.arange(0, 40), th.arange(300, 340)
    batch = Batch.of(model.replay_buffer.rows(rows), rows, matched=Batch.of(model.replay_buffer.rows(matched), matched))
    model.objective(batch)
    ((observations, actions, weights, _),) = seen
    assert th.equal(observations, batch.matched.observations) and th.equal(actions, batch.matched.actions)
    advantage = model.policy.critic_target.preferences(observations, actions)
    th.testing.assert_close(weights, (model.current_beta * advantage).exp().clamp(max=10.0).flatten().detach())


def test_online_what_was_collected_counts_as_it_is_and_the_dataset_by_its_episodes():
    source, _ = two_agents()
    model = GMPO("FlowPolicy", dataset=source, **OPTIONS).learn(1)
    buffer, n = model.replay_buffer, model.replay_buffer.n_from_dataset
    zeros = np.zeros((1, 3), np.float32)
    for number in range(5):
        buffer.add(zeros + number, zeros, np.zeros((1, 1)), np.zeros(1), np.zeros(1), [{}])
    rows = th.arange(n + 5)
    model.online = True
    samples, matched = rows_for_policy(model, rows, [th.Generator().manual_seed(0)])
    assert th.equal(matched[n:], rows[n:]) and th.equal(samples.observations[n:, 0], th.arange(5.0))
    model.online = False
    _, offline = rows_for_policy(model, rows[:n], [th.Generator().manual_seed(0)])
    # The better agent's, as often as offline
    assert len(offline.unique()) < n and (matched[:n] < n).all()
    better = th.as_tensor(source["rewards"])[matched[:n]].mean(), th.as_tensor(source["rewards"])[offline].mean()
    assert float(better[0]) == pytest.approx(float(better[1]), rel=0.2) and better[0] > source["rewards"].mean() + 0.03


@pytest.mark.parametrize("dictionary", [False, True])
def test_models_side_by_side_weigh_rows_as_each_alone(dictionary):
    source, _ = two_agents()
    if dictionary:
        for name in ("observations", "next_observations"):
            source[name] = {"one": source[name][:, :1], "rest": source[name][:, 1:]}
    options = dict(OPTIONS, pretraining_steps=3)
    policy = "FlowMultiInputPolicy" if dictionary else "FlowPolicy"
    alone = [GMPO(policy, dataset=source, **(options | dict(seed=seed))).learn(6) for seed in (0, 1)]
    together = [GMPO(policy, dataset=source, **(options | dict(seed=seed))) for seed in (0, 1)]
    learn_side_by_side(together, 6)
    for one, other in zip(alone, together, strict=True):
        for mine, theirs in zip(one.policy.parameters(), other.policy.parameters(), strict=True):
            th.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


def test_streamed_rows_are_those_of_memory(tmp_path):
    """Two models, one of which reads its rows from files as it needs them: the same bit for bit."""
    source, _ = two_agents()
    np.savez(tmp_path / "rows.npz", **source)
    models = []
    for memory_map in (False, True):
        data = load_dataset(str(tmp_path / "rows.npz"), memory_map=memory_map)
        models.append(GMPO("FlowPolicy", dataset=data, **(OPTIONS | dict(pretraining_steps=3))).learn(6))
    one, other = models
    assert other.replay_buffer.streams and not one.replay_buffer.streams and other.replay_buffer.has_matched_rows
    assert all(map(th.equal, one.policy.parameters(), other.policy.parameters()))
