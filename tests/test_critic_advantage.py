"""
Critics whose Q is V plus an advantage: what they converge to, what their values are made of, the scales of their networks, and
that V is no part of Q.
"""

import copy

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from scipy import stats
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from sb3_genpolicy import GMPG, GMPO, HeldOutEpisodes, IQLCritic, OneStepCritic, PolicyCritic, load_dataset
from sb3_genpolicy.common.datasets.envs import SpacesVecEnv
from sb3_genpolicy.common.policies.candidates import choose_candidates
from sb3_genpolicy.common.replay.buffer import OfflineReplayBuffer
from sb3_genpolicy.common.transitions.rewards import AffineReward
from sb3_genpolicy.common.updates.batch import Batch
from tests.helpers import critics as chains
from tests.helpers.arrays import make_arrays, one_step_data
from tests.helpers.returns import by_hand

GAMMA = 0.8
OPTIONS = dict(policy_kwargs=dict(net_arch=[8]), batch_size=16, seed=0, device="cpu", reward_transform=None)
SCALES = ("value_net.shift", "value_net.scale", "critic.scale", "critic_target.scale")


def model_of(arrays, critic=None, algorithm=GMPO, **options):
    return algorithm("FlowPolicy", dataset=arrays, critic=critic or OneStepCritic(), **{**OPTIONS, **options})


def scales_of(model):
    return [model.policy.state_dict()[name].item() for name in SCALES]


# Fixed points


def one_step():
    return chains.every_throw().batch()


def two_steps_with_lambda():
    """Every second throw. Of five draws, evenly spaced, one ends after a step and four go on to the end, as 0.8 has it."""
    data = load_dataset(chains.every_episode(length=2))
    buffer = OfflineReplayBuffer(10, data.observation_space, data.action_space, device="cpu")
    buffer.fill(data, AffineReward(), gamma=GAMMA, return_lambda=0.8)
    rows = th.arange(data.n_rows).repeat_interleave(5)
    uniform = th.tensor([0.1, 0.3, 0.5, 0.7, 0.9]).repeat(data.n_rows)
    samples, _ = buffer.with_lambda_returns(rows, buffer.rows(rows), uniform)
    assert {round(float(each), 2) for each in samples.discounts} == {0.8, 0.64}
    return Batch.of(samples, rows)


def of_behaviour(q, rows):
    return chains.q_over_faces(q).mean(axis=1)[rows.next_states]


@pytest.mark.parametrize(
    ("batch", "scales"),
    [(one_step, (0.0, 1.0, 1.0)), (one_step, (3.0, 5.0, 0.5)), (two_steps_with_lambda, (0.0, 1.0, 1.0))],
)
def test_v_and_the_advantage_are_those_of_dynamic_programming(batch, scales, monkeypatch):
    """Whatever networks' outputs are multiplied by. The mean of A over what the behaviour does is zero."""
    make = chains.make_critics

    def scaled(*arguments):
        policy = make(*arguments)
        for buffer, scale in zip((policy.value_net.shift, policy.value_net.scale), scales, strict=False):
            buffer.fill_(scale)
        for critic in (policy.critic, policy.critic_target):
            critic.scale.fill_(scales[2])
        return policy

    monkeypatch.setattr(chains, "make_critics", scaled)
    q = chains.dynamic_programming(chains.every_throw(), GAMMA, of_behaviour)
    v = chains.q_over_faces(q).mean(axis=1)
    policy = chains.train_critics(OneStepCritic(), batch(), GAMMA)
    np.testing.assert_allclose(chains.learnt_q(policy.critic), [q] * 2, atol=0.02)
    with th.no_grad():
        np.testing.assert_allclose(policy.value_net(th.as_tensor(chains.STATES))[:, 0], v, atol=0.01)
        observations = th.as_tensor(chains.STATES).repeat_interleave(2, dim=0)
        actions = th.tensor(chains.ACTIONS, dtype=th.float32).repeat(3)[:, None]
        advantages = policy.critic.advantages(observations, actions).reshape(2, 3, 2).numpy()
    np.testing.assert_allclose(advantages, [q - v[:, None]] * 2, atol=0.02)
    for member in advantages:
        np.testing.assert_allclose(chains.q_over_faces(member).mean(axis=1), 0.0, atol=0.02)


def test_quantiles_are_those_of_what_the_return_is_above_v():
    """Rewards of one distribution for each state and action, all large beside 1, below which errors count squared."""
    distributions = [stats.uniform(-30, 60), stats.uniform(0, 50), stats.uniform(-40, 40), stats.uniform(10, 20)]
    shares, midpoints = (np.arange(80) + 0.5) / 80, (np.arange(8) + 0.5) / 8
    rewards = [each.ppf(shares) for each in distributions]
    states, actions = np.repeat([0, 1], 160), np.tile(np.repeat([-1.0, 1.0], 80), 2)
    columns = states, actions, np.concatenate(rewards), np.zeros(320, int), np.ones(320), np.full(320, np.nan)
    batch = chains.Rows(*columns).batch()
    policy = chains.train_critics(OneStepCritic(n_quantiles=8), batch, GAMMA, steps=300, learning_rate=0.05)
    with th.no_grad():
        advantages = policy.critic.advantages(batch.observations[::80], batch.actions[::80])
        quantiles = policy.critic.quantiles(batch.observations[::80], batch.actions[::80])
    expected = np.array([each.ppf(midpoints) for each in distributions])
    v = np.array([np.mean(rewards[:2])] * 2 + [np.mean(rewards[2:])] * 2)[:, None]
    np.testing.assert_allclose(quantiles, [expected] * 2, atol=1.0)
    np.testing.assert_allclose(advantages, [expected - v] * 2, atol=1.0)


# Values


def smallest(outputs, dropped):
    """Of all networks' quantiles, (n_rows,)."""
    pooled = np.sort(outputs.transpose(1, 0, 2).reshape(outputs.shape[1], -1), axis=1)
    return pooled[:, : len(outputs) * (outputs.shape[2] - dropped)].mean(axis=1)


def mean_of(outputs):
    return outputs.mean(axis=(0, 2))


def minimum_of(outputs):
    return outputs.mean(axis=2).min(axis=0)


def bound_of(outputs):
    means = outputs.mean(axis=2)
    return means.mean(axis=0) - 2.0 * means.std(axis=0)


@pytest.mark.parametrize("n_rows", [7, 3000])
@pytest.mark.parametrize(
    ("options", "aggregated"),
    [
        (dict(), mean_of),
        (dict(aggregation="minimum"), minimum_of),
        (dict(aggregation="lower_bound", rho=2.0), bound_of),
        (dict(aggregation="lower_bound", rho=2.0, n_quantiles=4), bound_of),
        (dict(n_quantiles=4, dropped_quantiles=1), lambda outputs: smallest(outputs, 1)),
    ],
)
def test_q_is_v_and_the_aggregated_advantage(options, aggregated, n_rows):
    """Of networks of torch's own layers, in numpy."""
    options = OneStepCritic(n_critics=3, layer_norm=False, relative_actions=False, **options)
    th.manual_seed(0)
    policy = chains.make_critics(options, 5, 2)
    n_out = options.n_quantiles or 1
    networks = [nn.Sequential(nn.Linear(7, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, n_out)) for _ in range(3)]
    critic, value_net = chains.copy_into(policy.critic, networks), policy.value_net
    critic.scale.fill_(2.5)
    value_net.shift.fill_(-40.0)
    value_net.scale.fill_(7.0)
    observations, actions = th.randn(n_rows, 5), 2.0 * th.rand(n_rows, 2) - 1.0
    with th.no_grad():
        outputs = 2.5 * th.stack([network(th.cat([observations, actions], dim=1)) for network in networks]).numpy()
        v = -40.0 + 7.0 * value_net.value_net(observations).numpy()
        np.testing.assert_allclose(critic.advantages(observations, actions), outputs, atol=1e-5)
        np.testing.assert_allclose(critic.quantiles(observations, actions), v + outputs, atol=2e-5)
        np.testing.assert_allclose(critic.values(observations, actions)[..., 0], v[:, 0] + outputs.mean(axis=2), atol=2e-5)
        advantage = aggregated(outputs)
        np.testing.assert_allclose(critic.preferences(observations, actions)[:, 0], advantage, atol=1e-5)
        np.testing.assert_allclose(critic.q_values(observations, actions)[:, 0], v[:, 0] + advantage, atol=2e-5)
        np.testing.assert_allclose(value_net(observations), v, atol=1e-5)


def test_preferences_rank_the_actions_of_a_state_as_q_does():
    th.manual_seed(0)
    policy = chains.make_critics(OneStepCritic(aggregation="minimum"), 5, 2)
    states, candidates = th.randn(20, 5), 2.0 * th.rand(20, 6, 2) - 1.0
    repeated = states.repeat_interleave(6, dim=0)
    with th.no_grad():
        preferences = policy.critic.preferences(repeated, candidates.flatten(0, 1)).reshape(20, 6)
        q_values = policy.critic.q_values(repeated, candidates.flatten(0, 1)).reshape(20, 6)
    assert th.equal(preferences.argsort(dim=1), q_values.argsort(dim=1)) and not th.allclose(preferences, q_values)
    best = choose_candidates(policy.critic, states, candidates)
    assert th.equal(best, candidates[th.arange(20), q_values.argmax(dim=1)])
    # A large V, whose digits the advantage would be lost among
    policy.value_net.shift.fill_(1e9)
    assert th.equal(choose_candidates(policy.critic, states, candidates), best)
    plain = chains.make_critics(OneStepCritic(advantage=False), 5, 2).critic
    assert th.equal(plain.preferences(repeated, repeated[:, :2]), plain.q_values(repeated, repeated[:, :2]))


# Scales


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
def test_outputs_are_of_the_order_of_one(arrays, held_out, wrapped):
    """V begins with mean and deviation of the returns that are learnt from, and A with the rewards' deviation."""
    data = load_dataset(arrays)
    env = VecNormalize(SpacesVecEnv(data.observation_space, data.action_space), norm_obs=False) if wrapped else None
    transforms = [HeldOutEpisodes(0.5)] if held_out else []
    model = model_of(arrays, env=env, transforms=transforms, reward_transform=AffineReward(30.0, 5.0), gamma=0.9)
    model.read_dataset()
    rewards = 30.0 * data.rewards + 5.0
    if wrapped:
        rewards = np.clip(rewards / np.sqrt(env.ret_rms.var + env.epsilon), -10.0, 10.0)
        assert env.ret_rms.var > 100.0
    data.rewards[:] = rewards
    returns = np.array([by_hand(data, row, model.critic_gamma)[0] for row in range(data.n_rows)])
    learnt = np.setdiff1d(np.arange(26), model.held_out.rows) if held_out else np.arange(26)
    assert (len(learnt) < 26) == held_out
    v, v_spread, a, target = scales_of(model)
    assert v == pytest.approx(returns[learnt].mean(), rel=1e-4)
    assert v_spread == pytest.approx(returns[learnt].std(), rel=1e-4)
    assert a == target == pytest.approx(rewards[learnt].std(), rel=1e-4)
    observations = th.as_tensor(arrays["observations"])
    with th.no_grad():
        plain = model.value_net.value_net(model.value_net.extract_features(observations, model.value_net.features_extractor))
        np.testing.assert_allclose(model.value_net(observations), v + v_spread * plain, rtol=1e-5)
    assert 0.01 < plain.abs().max() < 10.0


@pytest.mark.filterwarnings("ignore:The dataset", "ignore:Q is", "ignore:V")
@pytest.mark.parametrize(("reward", "rounded"), [(0.1, False), (-1.1, False), (0.0, False), (0.1, True)])
def test_constant_rewards_have_no_scale(reward, rounded):
    """Nor have those that are the same but for rounding."""
    arrays, rewards = make_arrays(), np.full(26, reward, np.float32)
    if rounded:
        rewards[::2] = np.nextafter(rewards[::2], np.float32(1.0))
        assert len(set(rewards.tolist())) == 2
    model = model_of({**arrays, "rewards": rewards}).learn(5)
    assert scales_of(model)[2:] == [1.0, 1.0] and (reward == 0.0) == (scales_of(model)[1] == 1.0)
    assert all(value.isfinite().all() for value in model.policy.state_dict().values())
    ended = one_step_data(np.linspace(-1.0, 1.0, 26, dtype=np.float32)[:, None], rewards)
    model = model_of({**ended, "action_space": spaces.Box(-1, 1, (1,))}).learn(5)
    assert scales_of(model) == [pytest.approx(reward), 1.0, 1.0, 1.0]
    assert all(value.isfinite().all() for value in model.policy.state_dict().values())


def test_critics_without_an_advantage_have_no_scales(arrays):
    for critic in (OneStepCritic(advantage=False), IQLCritic(), PolicyCritic()):
        model = model_of(arrays, critic)
        model.read_dataset()
        assert not [name for name in model.policy.state_dict() if name.endswith((".shift", ".scale")) and "value" in name]
        assert not set(SCALES) & set(model.policy.state_dict())


def other_arrays():
    """In other units."""
    arrays = make_arrays(seed=1)
    return {**arrays, "rewards": 100.0 * arrays["rewards"] + 7.0}


def test_scales_are_saved_and_loaded(arrays, tmp_path):
    model = model_of(arrays).learn(2)
    before = scales_of(model)
    assert before[1] != 1.0 and before[2] != 1.0
    model.save(tmp_path / "model")
    model.policy.save(tmp_path / "policy")
    loaded = GMPO.load(tmp_path / "model", device="cpu")
    assert scales_of(loaded) == before
    observations, actions = th.as_tensor(arrays["observations"]), th.as_tensor(arrays["actions"])
    with th.no_grad():
        for policy in (loaded.policy, type(model.policy).load(tmp_path / "policy", device="cpu")):
            for name in ("critic", "critic_target"):
                theirs, ours = (getattr(each, name).q_values(observations, actions) for each in (policy, model.policy))
                assert th.equal(theirs, ours)
    # Another dataset does not change what the networks were trained with
    assert scales_of(loaded.learn(1, dataset=other_arrays())) == before


def test_a_second_dataset_changes_nothing(arrays):
    model = model_of(arrays)
    model.read_dataset()
    before = scales_of(model)
    # Neither before nor after the first update
    for _ in range(2):
        assert scales_of(model.learn(1, dataset=other_arrays())) == before
    assert scales_of(model_of(other_arrays()).learn(0)) != before


@pytest.mark.parametrize("algorithm", [GMPO, GMPG])
def test_pretrained_critics_keep_their_scales_on_another_dataset(algorithm, arrays):
    pretrained = model_of(arrays, algorithm=GMPG, pretraining_steps=3).learn(3)
    before = scales_of(pretrained)
    model = algorithm("FlowPolicy", dataset=other_arrays(), pretrained=pretrained, **OPTIONS)
    assert model.critic_options == OneStepCritic() and scales_of(model) == before
    model.learn(2)
    assert scales_of(model) == before
    observations, actions = th.as_tensor(arrays["observations"]), th.as_tensor(arrays["actions"])
    with th.no_grad():
        ours, theirs = (each.critic_target.q_values(observations, actions) for each in (model, pretrained))
    assert th.equal(ours, theirs)


# In an algorithm


@pytest.mark.parametrize("pretraining_steps", [0, 2])
def test_policies_are_weighted_by_the_aggregated_advantage(arrays, pretraining_steps, monkeypatch):
    """By hand, while the critics are trained and when they are frozen."""
    critic = OneStepCritic(n_critics=3, aggregation="minimum", gamma="auto", return_lambda=0.8)
    model = model_of(arrays, critic, beta=2.0, weight_clamp=1.5, pretraining_steps=pretraining_steps).learn(3)
    assert model.critics_are_frozen == (pretraining_steps > 0)
    with th.no_grad():
        # So that some weights are clamped and others are not
        observations, actions = th.as_tensor(arrays["observations"]), th.as_tensor(arrays["actions"])
        model.critic_target.layers[-1].bias.sub_(model.critic_target.preferences(observations, actions).median())
        model.critic.layers[-1].bias.add_(1.0)
    seen, loss = [], model.actor.weighted_matching_loss

    def noted(observations, actions, weights, generator):
        by_each = model.critic_target.values(observations, actions) - model.value_net(observations)
        seen.append((weights.detach().numpy(), by_each.detach().numpy()[..., 0].min(axis=0)))
        return loss(observations, actions, weights, generator)

    monkeypatch.setattr(model.actor, "weighted_matching_loss", noted)
    model.learn(1, reset_num_timesteps=False)
    (weights, advantage), *_ = seen
    # The critics look ahead so much less far than gamma=0.99, in episodes of this mean length
    times = np.divide(*[(1.0 - gamma**model.fitted_length) / (1.0 - gamma) for gamma in (0.99, model.critic_gamma)])
    assert 1.0 < times < (1.0 - model.critic_gamma) / 0.01
    np.testing.assert_allclose(weights, np.minimum(np.exp(2.0 * times * advantage), 1.5), rtol=1e-3)
    assert 0 < (weights == 1.5).sum() < 16


def test_v_is_no_part_of_q(arrays, tmp_path):
    """Neither of what it saves, nor of what its optimizer trains and its slow copy follows."""
    model = model_of(arrays).learn(2)
    model.save(tmp_path / "model")
    loaded = GMPO.load(tmp_path / "model", device="cpu").learn(1, dataset=arrays)
    for policy in (model.policy, loaded.policy, copy.deepcopy(model.policy)):
        of_v = {id(parameter) for parameter in policy.value_net.parameters()}
        of_networks = {f"{layer}.{name}" for layer in ("layers.0", "norms.0", "layers.1") for name in ("weight", "bias")}
        usual = {f"usual_action.layers.{place}.{name}" for place in (0, 2, 3) for name in ("weight", "bias")}
        of_networks |= {*usual, "usual_action.log_deviation"}
        for network in (policy.critic, policy.critic_target):
            names = {name for name in network.state_dict() if not name.startswith("normalizer.")}
            assert names == of_networks | {"scale"}
            assert {name for name, _ in network.named_parameters()} == of_networks
            assert not of_v & {id(parameter) for parameter in network.parameters()}
        assert sum(name.endswith("value_net.0.weight") for name in policy.state_dict()) == 1
        parameters = list(policy.parameters())
        assert len({parameter.data_ptr() for parameter in parameters}) == len(parameters)
        average = policy.polyak_averages()["critic_target"][1]
        assert len(average.parameters) == len(average.averages) == 13 and not of_v & {id(p) for p in average.parameters}
        # Q stands on the V that is trained beside it
        observations, actions = th.as_tensor(arrays["observations"]), th.as_tensor(arrays["actions"])
        with th.no_grad():
            before = policy.critic_target.q_values(observations, actions)
            policy.value_net.shift.add_(1.0)
            th.testing.assert_close(policy.critic_target.q_values(observations, actions), before + 1.0)
    for each in (model, loaded):
        (group,) = each.critic.optimizer.param_groups
        assert {id(parameter) for parameter in group["params"]} == {id(parameter) for parameter in each.critic.parameters()}


def test_a_name_keeps_the_form_of_a_saved_critic(arrays, tmp_path):
    for saved, name, expected in (
        (OneStepCritic(advantage=False, n_critics=3), "onestep", OneStepCritic(advantage=False, n_critics=3)),
        (OneStepCritic(n_critics=3), "onestep", OneStepCritic(n_critics=3)),
        (IQLCritic(), "onestep", OneStepCritic(advantage=False, layer_norm=False, relative_actions=False)),
    ):
        model_of(arrays, saved).learn(1).save(tmp_path / "model")
        assert GMPO.load(tmp_path / "model", device="cpu", critic=name).critic_options == expected
    model_of(arrays).learn(1).save(tmp_path / "model")
    for other in ("iql", "policy", OneStepCritic(advantage=False)):
        with pytest.raises(ValueError, match="keeps its networks, and .*advantage of .* would change them"):
            GMPO.load(tmp_path / "model", device="cpu", critic=other)
