"""
Critics that are distilled from those of longer logged windows: their values are those that numpy computes from every sequence
of throws, they see what was logged and nothing beyond an episode, and they go wherever critics go.
"""

from itertools import product

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from scipy.stats import expectile

from sb3_genpolicy import (
    GMPG,
    GMPO,
    BestEpisodes,
    HeldOutEpisodes,
    IQLCritic,
    OneStepCritic,
    PolicyCritic,
    SupportCritic,
    learn_side_by_side,
    load_dataset,
)
from sb3_genpolicy.common.policies.critics import Critics
from sb3_genpolicy.common.policies.critics.options import changed_critic
from sb3_genpolicy.common.replay.arriving import Window
from sb3_genpolicy.common.replay.buffer import OfflineReplayBuffer
from sb3_genpolicy.common.updates.batch import Batch
from tests.helpers.arrays import make_arrays
from tests.helpers.critics import ACTIONS, DICE, STATES, dynamic_programming, every_throw, make_critics, train_critics
from tests.helpers.every_method import METHODS

GAMMA, LENGTH = 0.8, 3
TINY = dict(net_arch=[8])
OPTIONS = dict(policy_kwargs=TINY, batch_size=16, seed=0, device="cpu")


# Values


def every_window(length):
    """Every start and sequence of throws: (state, actions, sum of rewards, discount of what comes after, state it led to)."""
    rows = []
    for start, throws in product(range(len(DICE)), product(range(4), repeat=length)):
        state, actions, total, discount, ended = start, [], 0.0, 1.0, False
        for face in throws:
            if ended:
                # As plans have it: the last action again
                actions.append(actions[-1])
                continue
            step = DICE[state][face]
            actions.append(step.action)
            total += discount * step.reward
            discount *= GAMMA
            ended = step.to is None
            state = state if ended else step.to
        rows.append((start, tuple(actions), total, 0.0 if ended else discount, state))
    return rows


WINDOWS = every_window(LENGTH)


def batch_of(n_planned):
    starts, windows, rewards, discounts, ends = zip(*WINDOWS, strict=True)
    column = lambda values: th.tensor(values, dtype=th.float32)[:, None]  # noqa: E731
    actions = th.tensor(windows, dtype=th.float32)
    return Batch(
        th.as_tensor(STATES[list(starts)]),
        actions[:, :n_planned],
        th.as_tensor(STATES[list(ends)]),
        column([float(discount == 0.0) for discount in discounts]),
        column(rewards),
        column([discount or 1.0 for discount in discounts]),
        th.arange(len(starts)),
        logged_windows=actions,
    )


def by_hand(n_planned, continuation_expectile, value_expectile, sweeps=100):
    """
    Q of windows, Q of what is planned, and V, by going through all rows again and again.

    :return: the first two as dictionaries by state and actions
    """
    values = np.zeros(len(DICE))
    starts = np.array([row[0] for row in WINDOWS])
    for _ in range(sweeps):
        returns = {}
        for start, actions, total, discount, end in WINDOWS:
            returns.setdefault((start, actions), []).append(total + discount * values[end])
        of_windows = {key: np.mean(each) for key, each in returns.items()}
        followed = {}
        for start, actions, *_ in WINDOWS:
            followed.setdefault((start, actions[:n_planned]), []).append(of_windows[start, actions])
        of_plans = {key: expectile(each, continuation_expectile) for key, each in followed.items()}
        per_row = np.array([of_plans[row[0], row[1][:n_planned]] for row in WINDOWS])
        values = np.array([expectile(per_row[starts == state], value_expectile) for state in range(len(DICE))])
    return of_windows, of_plans, values


def said_by(network, keys):
    states, actions = zip(*keys, strict=True)
    with th.no_grad():
        return network.q_values(th.as_tensor(STATES[list(states)]), th.tensor(actions, dtype=th.float32))[:, 0].numpy()


# Plain networks, or what the defaults are
KINDS = [
    IQLCritic(expectile=0.7, aggregation="mean", distilled_from=LENGTH, continuation_expectile=0.9),
    OneStepCritic(distilled_from=LENGTH, continuation_expectile=0.9, return_lambda=0.0),
    OneStepCritic(
        distilled_from=LENGTH, continuation_expectile=0.9, return_lambda=0.0, advantage=False, relative_actions=False
    ),
]


@pytest.mark.parametrize("n_planned", [1, 2])
@pytest.mark.parametrize("options", KINDS, ids=["iql", "onestep", "no advantage"])
def test_values_are_expectiles_over_logged_continuations(options, n_planned):
    policy = train_critics(options, batch_of(n_planned), GAMMA, steps=400, net_arch=(32,))
    of_windows, of_plans, values = by_hand(n_planned, 0.9, options.value_expectile)
    np.testing.assert_allclose(said_by(policy.critic_target.teacher, of_windows), [*of_windows.values()], atol=0.05)
    np.testing.assert_allclose(said_by(policy.critic_target, of_plans), [*of_plans.values()], atol=0.05)
    with th.no_grad():
        np.testing.assert_allclose(policy.value_net(th.as_tensor(STATES))[:, 0], values, atol=0.05)
    # Which is not what their mean is, but where an episode may end
    _, means, _ = by_hand(n_planned, 0.5, options.value_expectile)
    assert np.median([of_plans[key] - means[key] for key in means]) > 0.3


def test_the_mean_over_continuations_is_the_behaviour_policys_value():
    """Of one step, by dynamic programming."""
    options = OneStepCritic(distilled_from=LENGTH, continuation_expectile=0.5, return_lambda=0.0)
    policy = train_critics(options, batch_of(1), GAMMA, steps=400, net_arch=(32,))
    expected = dynamic_programming(
        every_throw(),
        GAMMA,
        lambda q, rows: np.nan_to_num(q[rows.next_states, (np.nan_to_num(rows.next_actions) > 0).astype(int)]),
    )
    keys = [(state, (action,)) for state in range(len(DICE)) for action in ACTIONS]
    np.testing.assert_allclose(said_by(policy.critic_target, keys), expected.reshape(-1), atol=0.05)


def test_each_network_learns_from_the_one_of_its_number():
    """So that a minimum over networks is taken once."""
    options = IQLCritic(n_critics=2, distilled_from=LENGTH)
    policy = make_critics(options, len(DICE), window_dim=LENGTH)
    critics = Critics(policy, None)

    def gradients():
        policy.critic.zero_grad()
        critics.losses(batch_of(1), GAMMA).critic_loss.backward()
        return policy.critic.layers[0].weight.grad.clone(), policy.critic.teacher.layers[0].weight.grad.clone()

    (own, of_teacher), head = gradients(), policy.critic_target.teacher.layers[-1]
    head.bias.data[1] -= 5.0
    later, of_teacher_later = gradients()
    assert th.equal(own[0], later[0]) and not th.allclose(own[1], later[1], rtol=0.1)
    # Its own targets are of V alone
    assert th.equal(of_teacher, of_teacher_later)


# Rows


def windows_of(data, n_steps):
    """By going through the episodes."""
    ends = np.flatnonzero((data["terminals"] + data["timeouts"]) > 0)
    windows = []
    for row in range(len(data["rewards"])):
        last = ends[ends >= row][0]
        windows.append(data["actions"][[min(row + step, last) for step in range(n_steps)]].reshape(-1))
    return np.array(windows)


@pytest.fixture(scope="module")
def own_file(tmp_path_factory):
    data = make_arrays()
    path = tmp_path_factory.mktemp("data") / "own.npz"
    np.savez(path, **{key: column for key, column in data.items() if key != "action_space"})
    return path


@pytest.mark.parametrize("memory_map", [False, True])
def test_windows_are_the_logged_actions_up_to_an_episodes_end(own_file, memory_map):
    data, rows = make_arrays(), th.arange(26)
    source = load_dataset(own_file, memory_map=memory_map, action_space=data["action_space"])
    options = dict(OPTIONS, dataset=source, gamma=0.9, reward_transform=None)
    plans, n_planned = dict(policy_kwargs=dict(TINY, chunk_length=3, execute_length=2)), 3
    model = GMPO("FlowPolicy", None, critic=IQLCritic(distilled_from=5), **{**options, **plans})
    model.read_dataset()
    assert model.replay_buffer.streams == memory_map
    low, high = (np.reshape(end, -1) for end in model.policy.action_range.ends)
    windows = model.replay_buffer.logged_windows(rows, 5).numpy().reshape(26, 5, 2)
    np.testing.assert_allclose(low + 0.5 * (windows + 1.0) * (high - low), windows_of(data, 5).reshape(26, 5, 2), atol=1e-6)
    # What methods see is what it is without
    batch = model.replay_buffer.rows(rows)
    np.testing.assert_array_equal(batch.actions, windows[:, :n_planned].reshape(26, -1))
    assert model.critic.action_dim == 4 and model.critic.teacher.action_dim == 10
    # The first episode has five steps, the second is cut off after six
    assert float(batch.discounts[0]) == pytest.approx(0.9**5) and float(batch.dones[0]) == 1.0
    assert float(batch.rewards[0]) == pytest.approx(float(data["rewards"][:5] @ 0.9 ** np.arange(5)), rel=1e-5)
    assert float(batch.discounts[9]) == pytest.approx(0.9**2) and float(batch.dones[9]) == 0.0
    plain = GMPO("FlowPolicy", None, critic=IQLCritic(n_steps=5), **{**options, **plans})
    plain.read_dataset()
    for mine, theirs in zip(batch, plain.replay_buffer.rows(rows), strict=True):
        assert th.equal(mine, theirs)


def test_a_saved_buffer_has_the_same_windows(tmp_path):
    def read(critic):
        model = GMPO("FlowPolicy", None, dataset=make_arrays(), critic=critic, **OPTIONS)
        model.read_dataset()
        return model

    model, plain, rows = read(LAMBDA), read(OneStepCritic()), th.arange(26)
    windows = model.replay_buffer.logged_windows(rows, 4)
    for source in (model, plain):
        source.save_replay_buffer(tmp_path / "rows")
        loaded = read(LAMBDA)
        loaded.load_replay_buffer(tmp_path / "rows")
        if source is model:
            assert th.equal(loaded.replay_buffer.logged_windows(rows, 4), windows)
            continue
        with pytest.raises(ValueError, match="read for critics that are not distilled"):
            loaded.replay_buffer.logged_windows(rows, 4)
    assert not model.replay_buffer.share_rows(plain.replay_buffer)


def test_held_out_rows_have_their_windows():
    data, transforms = make_arrays(), [HeldOutEpisodes(0.3)]
    model = GMPO("FlowPolicy", None, dataset=data, critic=OneStepCritic(distilled_from=4), transforms=transforms, **OPTIONS)
    model.read_dataset()
    held_out = model.held_out
    windows = held_out.batch(model.device).logged_windows
    assert th.equal(windows, model.replay_buffer.logged_windows(held_out.rows, 4)) and len(windows) < 26


@pytest.mark.parametrize("plans", [{}, dict(chunk_length=2, history=2), dict(chunk_length=6, execute_length=3)])
@pytest.mark.parametrize("with_dataset", [True, False])
def test_rows_that_are_added_have_the_windows_that_a_dataset_of_them_has(plans, with_dataset):
    data = make_arrays()
    # Any range does, but the added actions are scaled already
    options = dict(OPTIONS, policy_kwargs=dict(TINY, normalize_actions=False, **plans))
    model = GMPO("FlowPolicy", None, dataset=data, critic=IQLCritic(distilled_from=4), reward_transform="none", **options)
    model.read_dataset()
    filled, horizon = model.replay_buffer, model.policy.horizon
    buffer = filled
    if not with_dataset:
        buffer = OfflineReplayBuffer(100, filled.observation_space, filled.action_space, device="cpu")
    n = buffer.n_from_dataset
    buffer.begin_episodes(Window(horizon.history, horizon.chunk_length, 4, 4), filled._gamma)
    for row in range(26):
        columns = (data[name][row : row + 1] for name in ("observations", "next_observations", "actions", "rewards"))
        done, cut = data["terminals"][row] + data["timeouts"][row] > 0, bool(data["timeouts"][row])
        buffer.add(*columns, np.array([done]), [{"TimeLimit.truncated": cut}])
    assert buffer.n_added == 26
    order = buffer.rows(th.arange(n, n + 26)).observations[:, -3].argsort()
    rows = th.cat([th.arange(n), n + order])
    windows = buffer.logged_windows(rows, 4).reshape(-1, 26, 8)
    for mine in windows:
        np.testing.assert_allclose(mine, filled.logged_windows(th.arange(26), 4), atol=1e-6)
    for mine, theirs in zip(buffer.rows(n + order), filled.rows(th.arange(26)), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="distilled from 7 logged actions, and rows that were added"):
        buffer.logged_windows(rows, 7)


# In models

LAMBDA, PLAIN = OneStepCritic(distilled_from=4), IQLCritic(distilled_from=5, continuation_expectile=0.8, dropout=0.1)


def same_networks(model, other, atol=0.0):
    state = other.policy.state_dict()
    assert model.policy.state_dict().keys() == state.keys()
    for name, value in model.policy.state_dict().items():
        np.testing.assert_allclose(value, state[name], rtol=0.0, atol=atol, err_msg=name)


@pytest.mark.parametrize(
    ("algorithm", "critic", "more"),
    [
        (GMPO, LAMBDA, dict(pretraining_steps=0)),
        (GMPO, PLAIN, dict(precision="bfloat16", pretraining_steps=5)),
        (GMPG, PLAIN, dict(pretraining_steps=5)),
        (GMPO, LAMBDA, dict(pretraining_steps=3, policy_kwargs=dict(TINY, chunk_length=3), transforms=[HeldOutEpisodes(0.3)])),
    ],
)
def test_a_resumed_run_is_the_whole_one(algorithm, critic, more, tmp_path):
    options = {**OPTIONS, **more, "critic": critic, "dataset": make_arrays()}
    whole = algorithm("FlowPolicy", None, **options).learn(9)
    algorithm("FlowPolicy", None, **options).learn(4).save(tmp_path / "model")
    resumed = algorithm.load(tmp_path / "model", device="cpu")
    assert resumed.critic_options == critic
    resumed.learn(5, reset_num_timesteps=False, dataset=make_arrays())
    same_networks(resumed, whole)


@pytest.mark.parametrize("critic", [LAMBDA, PLAIN])
def test_models_learn_side_by_side_as_alone(critic):
    options = dict(OPTIONS, dataset=make_arrays(), critic=critic, transforms=[BestEpisodes(share=0.8), HeldOutEpisodes(0.3)])
    together = [GMPO("FlowPolicy", None, **dict(options, seed=seed)) for seed in (0, 1)]
    learn_side_by_side(together, 6)
    same_networks(together[1], GMPO("FlowPolicy", None, **dict(options, seed=1)).learn(6), atol=1e-6)


def test_processes_see_the_windows_of_their_shares():
    model = GMPO("FlowPolicy", None, dataset=make_arrays(), critic=LAMBDA, **OPTIONS)
    model.read_dataset()
    buffer = model.replay_buffer
    whole = buffer.logged_windows(th.arange(26), 4)
    buffer.seed_rows(3)
    rows, _ = buffer.draw(16)
    for rank in (0, 1):
        buffer.seed_rows(3)
        share, _ = buffer.draw(16, part=slice(8 * rank, 8 * rank + 8))
        assert th.equal(buffer.logged_windows(share, 4), whole[rows[8 * rank : 8 * rank + 8]])


def test_both_critics_give_numbers_of_the_order_of_one():
    data = make_arrays()
    data["rewards"] *= 1000.0
    model = GMPO("FlowPolicy", None, dataset=data, critic=LAMBDA, reward_transform=None, **OPTIONS)
    model.read_dataset()
    for critic in (model.critic, model.critic_target):
        assert float(critic.teacher.scale) == float(critic.scale) == pytest.approx(float(data["rewards"].std()), rel=1e-4)


def test_losses_fall_on_teacher_and_critic_alike():
    """Both learn, V and the running averages too; frozen, neither does."""
    model = GMPO("FlowPolicy", None, dataset=make_arrays(), critic=LAMBDA, **OPTIONS)
    parts = dict(critic=model.critic, teacher=model.critic.teacher, average=model.critic_target.teacher, value=model.value_net)
    before = {name: [parameter.clone() for parameter in part.parameters()] for name, part in parts.items()}
    model.learn(3)
    for name, part in parts.items():
        assert all(not th.equal(*pair) for pair in zip(part.parameters(), before[name], strict=True)), name
    model.critics.freeze()
    assert not any(parameter.requires_grad for parameter in model.critic.teacher.parameters())
    model.critics.unfreeze()
    assert all(parameter.requires_grad for parameter in model.critic.teacher.parameters())
    assert not any(parameter.requires_grad for parameter in model.critic_target.teacher.parameters())


def test_shared_extractors_get_no_gradient_from_the_teacher():
    options = dict(OPTIONS, policy_kwargs=dict(TINY, share_features_extractor=True))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (27, 3, 36, 36), dtype=np.uint8)
    data = {**make_arrays(), "observations": images[:-1], "next_observations": images[1:]}
    model = GMPO("CnnPolicy", None, dataset=data, critic=OneStepCritic(distilled_from=3), **dict(options, batch_size=4)).learn(
        2
    )
    assert model.critic.teacher.features_extractor is model.critic.features_extractor is model.actor.features_extractor
    own = {id(parameter) for group in model.critic.optimizer.param_groups for parameter in group["params"]}
    assert own.isdisjoint(map(id, model.actor.features_extractor.parameters()))
    assert own.issuperset(map(id, model.critic.teacher.layers.parameters()))


@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"BC", "QGPO"}))
def test_every_method_that_takes_critics_learns_by_them(name):
    method, plans = METHODS[name], dict(chunk_length=3, execute_length=2, history=2)
    options = dict(OPTIONS, dataset=make_arrays(), critic=LAMBDA, policy_kwargs=dict(TINY, **plans))
    model = method(next(iter(method.policy_aliases)), None, **options)
    before = [parameter.clone() for parameter in model.critic.teacher.layers.parameters()]
    model.learn(6)
    assert all(not th.equal(*pair) for pair in zip(model.critic.teacher.layers.parameters(), before, strict=True))
    assert model.predict(np.zeros((1, 3), np.float32), None, np.array([True]))[0].shape == (1, 2)


def test_the_option_is_kept_and_the_expectile_may_change(tmp_path):
    options = dict(OPTIONS, dataset=make_arrays(), critic=LAMBDA)
    model = GMPG("FlowPolicy", None, pretraining_steps=3, **options).learn(3)
    model.save(tmp_path / "model")
    later = GMPG.load(tmp_path / "model", critic=OneStepCritic(distilled_from=4, continuation_expectile=0.9))
    assert later.critic_options.continuation_expectile == 0.9
    named = changed_critic(PLAIN, "onestep")
    assert (named.distilled_from, named.value_expectile, named.learns_advantage) == (5, 0.5, False)
    for given in (OneStepCritic(), OneStepCritic(distilled_from=5)):
        with pytest.raises(ValueError, match="keeps its networks, and distilled_from"):
            GMPG.load(tmp_path / "model", critic=given)
    for source in (model, tmp_path / "model"):
        second = GMPO("FlowPolicy", None, pretrained=source, policy_kwargs=TINY, device="cpu")
        assert second.critic_options == LAMBDA
        for mine, theirs in zip(second.critic.parameters(), model.critic.parameters(), strict=True):
            assert th.equal(mine, theirs)
    with pytest.raises(ValueError, match=r"another critic \(distilled_from\)"):
        GMPO("FlowPolicy", None, pretrained=model, policy_kwargs=TINY, critic=OneStepCritic(), device="cpu")


def test_only_the_distilled_critic_acts():
    kwargs = dict(TINY, guidance=1.0, n_candidates=3, sampling_steps=2)
    model = GMPO("FlowPolicy", None, dataset=make_arrays(), critic=LAMBDA, **dict(OPTIONS, policy_kwargs=kwargs)).learn(6)
    shown = np.random.default_rng(0).uniform(-1.0, 1.0, (5, 3)).astype(np.float32)

    def act():
        return model.predict(shown, deterministic=True)[0]

    before, head = act(), model.critic.layers[-1].weight
    with th.no_grad():
        for parameter in model.critic.teacher.parameters():
            parameter.add_(1.0)
        np.testing.assert_array_equal(act(), before)
        head.mul_(-1.0)
    assert np.abs(act() - before).max() > 1e-3


@pytest.mark.slow
def test_files_have_the_distilled_critic_alone(tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    kwargs = dict(net_arch=[16], guidance=1.0, n_candidates=3, sampling_steps=1, solver="euler")
    model = GMPO("FlowPolicy", None, dataset=make_arrays(), critic=LAMBDA, **dict(OPTIONS, policy_kwargs=kwargs)).learn(20)
    path, teacher = tmp_path / "policy.onnx", model.critic.teacher
    model.policy.export_onnx(path, deterministic=True)
    shown = np.random.default_rng(0).uniform(-1.0, 1.0, (5, 3)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(path))
    own, _ = model.predict(shown, deterministic=True)
    (action,) = session.run(None, {"observation": shown})[:1]
    np.testing.assert_allclose(action, own, rtol=1e-5, atol=1e-5)
    # Nothing of the other one is in it
    written = path.read_bytes()
    assert teacher.layers[1].weight[0].detach().numpy().tobytes() not in written
    assert model.critic.layers[1].weight[0].detach().numpy().tobytes() in written


# Refusals


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OneStepCritic(distilled_from=1), "distilled_from"),
        (lambda: OneStepCritic(distilled_from=2.5), "distilled_from"),
        (lambda: IQLCritic(distilled_from=4, continuation_expectile=1.0), "continuation_expectile"),
        (lambda: IQLCritic(continuation_expectile=0.8), "give both, as distilled_from=8"),
        (lambda: OneStepCritic(distilled_from=4, n_quantiles=8), "n_quantiles=8 says nothing"),
        (lambda: OneStepCritic(distilled_from=4, chunk_length=4), "not more than the 4 actions of a plan"),
        (lambda: PolicyCritic(distilled_from=4), "IQLCritic and OneStepCritic have it"),
        (lambda: SupportCritic(distilled_from=4), "SupportCritic: .* leave it out"),
        (lambda: changed_critic(LAMBDA, "policy"), "IQLCritic and OneStepCritic have it"),
    ],
)
def test_what_does_not_go_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_windows_are_longer_than_what_is_valued():
    for plans, valued in ((dict(chunk_length=5), 5), (dict(chunk_length=5, execute_length=4), 4)):
        with pytest.raises(ValueError, match=f"distilled_from=4 is not more than the {valued} actions"):
            GMPO("FlowPolicy", None, dataset=make_arrays(), critic=LAMBDA, **dict(OPTIONS, policy_kwargs=dict(TINY, **plans)))
    # Shorter than the plan, but longer than what is executed of it
    plans = dict(TINY, chunk_length=5, execute_length=2)
    GMPO("FlowPolicy", None, dataset=make_arrays(), critic=LAMBDA, **dict(OPTIONS, policy_kwargs=plans)).learn(2)
    with pytest.raises(TypeError, match="Did you mean 'distilled_from'"):
        OneStepCritic(distiled_from=4)


def test_it_goes_on_online():
    env = gym.make("Pendulum-v1", max_episode_steps=20)
    model = GMPO("FlowPolicy", env, dataset="pendulum-mixed", critic=LAMBDA, **OPTIONS).learn(2)
    before = [parameter.clone() for parameter in model.critic.teacher.parameters()]
    model.learn_online(26, offline_share=0.0)
    assert model.replay_buffer.n_added == 26 - 3 and model._n_updates == 28
    assert all(not th.equal(old, new) for old, new in zip(before, model.critic.teacher.parameters(), strict=True))


def test_losses_say_what_a_batch_lacks():
    model = GMPO("FlowPolicy", None, dataset=make_arrays(), critic=LAMBDA, **OPTIONS)
    model.read_dataset()
    rows = th.arange(6)
    with pytest.raises(ValueError, match="logged_windows=model.replay_buffer.logged_windows"):
        model.critics.losses(Batch.of(model.replay_buffer.rows(rows), rows), 0.9)
