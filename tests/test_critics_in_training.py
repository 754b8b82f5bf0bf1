"""
Every critic in training: over several steps, side by side, in half the precision, and online.
"""

import copy
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch as th

from sb3_genpolicy import (
    GMPG,
    GMPO,
    HeldOutEpisodes,
    IQLCritic,
    NStepReturns,
    OneStepCritic,
    PolicyCritic,
    learn_side_by_side,
    load_dataset,
)
from sb3_genpolicy.common.algorithms import critic_hooks, doubt
from sb3_genpolicy.common.updates.objective import Objective
from tests.helpers import tiny_envs  # noqa: F401
from tests.helpers.arrays import make_arrays
from tests.helpers.data_formats import flat_columns, make_episodes, write_npz
from tests.helpers.side_by_side import assert_same, assert_same_lines, build, learn_alone, with_lines

TINY = dict(net_arch=[8])
ARRAYS = make_arrays()
CRITICS = {
    "iql": IQLCritic(),
    "onestep": OneStepCritic(n_critics=4, aggregation="lower_bound"),
    "policy": PolicyCritic(penalty=0.5),
    "quantiles": PolicyCritic(penalty=0.5, n_quantiles=4, dropped_quantiles=1, n_steps=2),
    "densities": PolicyCritic(density_penalty=0.5),
}


def make(algorithm=GMPO, **options):
    own = dict(pretraining_steps=2) if algorithm is GMPG else {}
    # Rewards near 1, beside which a penalty counts
    defaults = dict(dataset=ARRAYS, policy_kwargs=TINY, seed=0, batch_size=8, reward_transform=None)
    return algorithm("FlowPolicy", **{**defaults, **own, **options})


# Over several steps


@pytest.mark.parametrize("algorithm", [GMPO, GMPG])
@pytest.mark.parametrize("critic", ["iql", "onestep", "policy"])
def test_steps_of_the_critic_are_those_of_the_transform(algorithm, critic):
    kind = dict(iql=IQLCritic, onestep=OneStepCritic, policy=PolicyCritic)[critic]
    models = [
        make(algorithm, critic=kind(n_steps=3)).learn(4),
        make(algorithm, critic=kind(), transforms=[NStepReturns(3)]).learn(4),
        make(algorithm, critic=kind(n_steps=3), transforms=[NStepReturns(3)]).learn(4),
        make(algorithm, critic=kind()).learn(4),
    ]
    assert_same(models[:1], models[1:2], rtol=0.0, atol=0.0)
    assert_same(models[:1], models[2:3], rtol=0.0, atol=0.0)
    assert not th.equal(models[0].critic.layers[0].weight, models[3].critic.layers[0].weight)


@pytest.mark.parametrize("n_steps", [1, 3])
def test_logged_next_actions_are_those_where_the_value_counts(n_steps):
    """Of episodes of 5, 6, ... steps: that of n steps later, and nothing where the episode ends before."""
    model = make(critic=PolicyCritic(n_steps=n_steps, penalty=0.5))
    model.read_dataset()
    following = model.replay_buffer.next_actions(th.arange(11))
    own = model.replay_buffer.actions
    for row in range(11):
        end = 5 if row < 5 else 11
        expected = own[row + n_steps] if row + n_steps < end else th.full((2,), th.nan)
        th.testing.assert_close(following[row], expected, rtol=0.0, atol=0.0, equal_nan=True)


def test_rows_that_are_streamed_from_files_give_the_same_critics(tmp_path):
    path = str(write_npz(tmp_path / "own.npz", flat_columns(make_episodes())))
    critic = CRITICS["quantiles"]
    streamed, held = (
        make(GMPG, dataset=load_dataset(path, memory_map=mapped), critic=critic).learn(4) for mapped in (True, False)
    )
    assert streamed.replay_buffer.streams and not held.replay_buffer.streams
    assert_same([streamed], [held], rtol=0.0, atol=0.0)


# Side by side

SIDE_BY_SIDE = [
    *((GMPO, name, {}) for name in ("iql", "onestep", "policy", "quantiles")),
    *((GMPG, name, {}) for name in ("iql", "onestep", "policy", "quantiles", "densities")),
    (GMPO, "policy", dict(weighting="softmax", n_actions=2, pretraining_steps=3)),
    (GMPO, "policy", dict(policy_kwargs=dict(TINY, solver="sde"))),
    (GMPG, "policy", dict(gradient_estimator="matching", transforms=[HeldOutEpisodes(0.3)])),
]


@pytest.mark.parametrize(("algorithm", "name", "options"), SIDE_BY_SIDE, ids=lambda part: getattr(part, "__name__", str(part)))
def test_side_by_side_each_critic_is_the_one_that_it_would_be_alone(algorithm, name, options):
    """In the second phase too, where the policy's loss trains no critic that learns beside it."""
    options = dict(dict(critic=CRITICS[name], policy_kwargs=TINY, reward_transform=None), **options)
    if algorithm is GMPG:
        options["pretraining_steps"] = 3
    steps, seeds = 7, ((0, 1.0), (1, 3.0))
    ours, alone = (build(algorithm, ARRAYS, seeds, **options) for _ in range(2))
    lines, expected_lines = with_lines(ours), with_lines(alone)
    learn_side_by_side(ours, steps, log_interval=3)
    learn_alone(alone, steps, log_interval=3)
    assert_same(ours, alone)
    assert_same_lines(lines, expected_lines, rel=1e-3)
    assert not th.allclose(ours[0].critic.layers[0].weight, ours[1].critic.layers[0].weight, rtol=1e-3)


@pytest.mark.parametrize("estimator", ["pathwise", "matching"])
@pytest.mark.parametrize("together", [False, True])
def test_the_policy_s_loss_trains_no_critic_that_learns_beside_it(together, estimator):
    """After one step of the second phase, critics are the same whatever weight Q has in the policy's loss."""
    options = dict(critic=CRITICS["policy"], policy_kwargs=TINY, gradient_estimator=estimator, pretraining_steps=3)
    one, other = build(GMPG, ARRAYS, ((0, 1.0), (0, 30.0)), **options)
    if together:
        learn_side_by_side([one, other], 4)
    else:
        learn_alone([one, other], 4)
    for mine, theirs in ((one.critic, other.critic), (one.value_net, other.value_net)):
        for parameter, expected in zip(mine.parameters(), theirs.parameters(), strict=True):
            th.testing.assert_close(parameter, expected, rtol=1e-6, atol=1e-8)
    # The policies learnt from other gradients
    assert one.means.pop()["gradient_norm"] != other.means.pop()["gradient_norm"]


def test_models_with_other_critics_do_not_learn_side_by_side():
    for critic in (IQLCritic(expectile=0.9), OneStepCritic(n_critics=3)):
        with pytest.raises(
            ValueError, match=r"but policy_kwargs is .*OneStepCritic\(\).* in model 0 .*'critic': .*=.* in model 1"
        ):
            learn_side_by_side([make(), make(critic=critic, seed=1)], 1)


def test_a_solver_that_looks_at_the_batch_is_in_the_way_of_critics_that_sample():
    """As of any policy that is sampled in training: alone it learns."""
    kwargs = dict(TINY, solver="dopri5")
    for algorithm in (GMPO, GMPG):
        alone = [make(algorithm, critic=name, policy_kwargs=kwargs) for name in ("policy", "onestep")]
        with pytest.raises(ValueError, match="dopri5 chooses its steps by the errors of a whole batch"):
            learn_side_by_side(alone[:1], 1)
        learn_side_by_side(alone[1:], 1)
        assert alone[0].learn(1).num_timesteps == 1


# Precision


@pytest.mark.parametrize(("algorithm", "name"), [(GMPO, "iql"), (GMPO, "onestep"), (GMPG, "policy"), (GMPG, "quantiles")])
def test_bfloat16_follows_float32(algorithm, name):
    seen = {}

    def learnt(precision):
        model = make(algorithm, critic=CRITICS[name], precision=precision, gamma=0.9, pretraining_steps=10)
        for layer in model.critic.layers:
            layer.register_forward_hook(lambda layer, x, out: seen.setdefault(precision, []).append(out.dtype))
        return model.learn(20, log_interval=None)

    half, exact = learnt("bfloat16"), learnt("float32")
    assert all(value.isfinite().all() for value in half.policy.state_dict().values())
    # Layers in 8 bits, but for the heads
    assert seen["bfloat16"][:2] == [th.bfloat16, th.float32] and set(seen["float32"]) == {th.float32}
    means, expected = half.means.pop(), exact.means.pop()
    assert means.keys() == expected.keys()
    for key in ("critic_loss", "value_loss", "q_value"):
        assert means[key].item() == pytest.approx(expected[key].item(), rel=0.05) and means[key] != expected[key], key
    assert all(parameter.dtype == th.float32 for parameter in half.policy.parameters())


# Online


@pytest.mark.parametrize("name", CRITICS)
@pytest.mark.parametrize("algorithm", [GMPO, GMPG])
def test_every_critic_learns_online(algorithm, name, tmp_path):
    """From both kinds of rows, and when it was loaded, from those of the environment alone."""
    options = dict(weighting="softmax", n_actions=2, pretraining_steps=2) if algorithm is GMPO else {}
    model = make(algorithm, env="Tiny-v0", critic=CRITICS[name], **options).learn(4)
    before = model.critic.layers[0].weight.clone()
    model.learn_online(8)
    assert model.replay_buffer.n_added == 8 and not th.equal(model.critic.layers[0].weight, before)
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env="Tiny-v0")
    assert loaded.critic_options == CRITICS[name] and th.equal(loaded.critic.layers[0].weight, model.critic.layers[0].weight)
    loaded.learn_online(8, offline_share=0.0)
    assert loaded.replay_buffer.n_from_dataset == 0 and loaded.num_timesteps == 20
    assert not th.equal(loaded.critic.layers[0].weight, model.critic.layers[0].weight)
    assert all(value.isfinite().all() for value in loaded.policy.state_dict().values())


def test_rows_of_the_environment_have_no_logged_next_action():
    model = make(env="Tiny-v0", critic=CRITICS["policy"]).learn(2).learn_online(5)
    rows = th.tensor([0, 26, 3, 30])
    known = model.replay_buffer.next_actions(rows).isfinite().all(dim=1)
    assert known.tolist() == [True, False, True, False]
    observation, _ = gym.make("Tiny-v0").reset(seed=0)
    assert np.isfinite(model.predict(observation)[0]).all()


# What is held out


@pytest.mark.parametrize(("sign", "warned"), [(1.0, False), (-1.0, True)])
def test_an_advantage_that_foretells_nothing_is_said_at_the_end(monkeypatch, sign, warned):
    """Critics whose advantage is, up to a sign, what followed."""
    monkeypatch.setattr(doubt, "_ENOUGH_UPDATES", 2)
    model = make(transforms=[HeldOutEpisodes(0.5)], beta=1.0).learn(1)
    foretell(model, sign, monkeypatch)
    said = said_by(lambda: model.learn(1, reset_num_timesteps=False))
    assert len(said) == warned and all("their correlation is -1.000" in message for message in said)


@pytest.mark.parametrize("algorithm", [GMPO, GMPG])
@pytest.mark.parametrize(
    ("sign", "target_kl", "held", "said"),
    [(1.0, None, 1.0, None), (-1.0, None, 0.1, "stays near cloning"), (-1.0, 0.3, 1.0, "target_kl=0.3 was asked for")],
)
def test_where_it_foretells_nothing_the_default_stays_near_cloning(
    monkeypatch, tmp_path, algorithm, sign, target_kl, held, said
):
    """Before the first step of the second phase, once, and in the file; a divergence that was given is held."""
    monkeypatch.setattr(doubt, "_ENOUGH_UPDATES", 2)
    transforms = [HeldOutEpisodes(0.5)]
    model = make(algorithm, transforms=transforms, target_kl=target_kl, pretraining_steps=2).learn(1)
    foretell(model, sign, monkeypatch)
    messages = said_by(lambda: model.learn(2, reset_num_timesteps=False))
    assert model.held_kl == pytest.approx(held * model.target_kl) and len(messages) == (said is not None)
    assert all(said in message for message in messages)
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model")
    assert loaded.held_kl == model.held_kl
    assert algorithm.load(tmp_path / "model", target_kl=0.2).held_kl == 0.2
    # Beta falls above the held divergence, and grows below
    extras = {"weight_kl" if algorithm is GMPO else "kl": th.tensor(0.5 * model.target_kl)}
    before = float(loaded.log_beta)
    if algorithm is GMPG:
        loaded.actor.optimizer.zero_grad()
    loaded.before_step(Objective({}, (), {}, extras))
    assert float(loaded.log_beta) - before == pytest.approx(0.005 if held == 1.0 else -0.01, abs=1e-6)


def foretell(model, sign, monkeypatch):
    """Give a model's critics, on held-out rows, an advantage that is what followed, or its contrary."""

    def q_values(obs, actions):
        held_out, values = model.held_out, model.policy.value_net(obs)
        if len(values) != len(held_out.rows):
            return values
        last_values = model.policy.value_net(held_out._last_observations)[held_out._episodes]
        followed = held_out._rewards + held_out._discounts * last_values - values
        return values + sign * followed

    monkeypatch.setattr(model.policy.critic_target, "q_values", q_values)


def said_by(learn):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        learn()
    return [str(warning.message) for warning in caught if "foretells nothing" in str(warning.message)]


# How long they learn


def test_after_their_passes_critics_stay_and_the_policy_goes_on(monkeypatch, tmp_path):
    monkeypatch.setattr(critic_hooks, "_LEAST_UPDATES", 3)
    rows, batch_size = len(ARRAYS["rewards"]), 8
    # Six updates are one pass and a little
    critic = OneStepCritic(passes=6 * batch_size / rows)
    model = make(critic=critic, pretraining_steps=0).learn(6)
    at_the_end = copy.deepcopy(model.policy.state_dict())
    stopped = make(critic=critic, pretraining_steps=0).learn(4)
    stopped.save(tmp_path / "model")
    resumed = GMPO.load(tmp_path / "model", dataset=ARRAYS).learn(6, reset_num_timesteps=False)
    model.learn(4, reset_num_timesteps=False)
    for goes_on in (model, resumed):
        for name, value in goes_on.policy.state_dict().items():
            learns = name.startswith(("critic.", "value_net."))
            if learns:
                assert th.equal(value, at_the_end[name]), name
        moved = [name for name, value in goes_on.policy.state_dict().items() if not th.equal(value, at_the_end[name])]
        assert any(name.startswith("actor.") for name in moved)
    for name, value in resumed.policy.state_dict().items():
        assert th.equal(value, model.policy.state_dict()[name]), name


def test_side_by_side_critics_stop_when_they_would_alone(monkeypatch):
    monkeypatch.setattr(critic_hooks, "_LEAST_UPDATES", 4)

    def models():
        return [make(critic=OneStepCritic(passes=0.1), seed=seed) for seed in (0, 1)]

    for ours, alone in zip(learn_side_by_side(models(), 9), models(), strict=True):
        alone.learn(9)
        for name, value in alone.policy.state_dict().items():
            if "spreads." not in name:
                th.testing.assert_close(ours.policy.state_dict()[name], value, rtol=1e-4, atol=1e-5, msg=name)


def rates_of(passes, n_updates):
    """Learning rates of actor, Q and V at each update."""
    model, rates = make(critic=OneStepCritic(passes=passes), learning_rate=0.01, pretraining_steps=0), []

    def note(*scopes):
        rates.append(
            [float(getattr(model, name).optimizer.param_groups[0]["lr"]) for name in ("actor", "critic", "value_net")]
        )
        return True

    model.learn(n_updates, note)
    return np.array(rates)


def test_their_learning_rate_falls_to_zero_while_they_learn(monkeypatch):
    monkeypatch.setattr(critic_hooks, "_LEAST_UPDATES", 4)
    rates = rates_of(1e-6, 6)
    np.testing.assert_allclose(rates[:, 0], 0.01)
    for column in (1, 2):
        np.testing.assert_allclose(rates[:, column], [0.01, 0.0075, 0.005, 0.0025, 0.0, 0.0], rtol=1e-6)
    # Ten passes of 26 rows by batches of 8
    rows = len(ARRAYS["rewards"])
    np.testing.assert_allclose(rates_of(10.0, 3)[:, 1], [0.01 * (1 - n / (10 * rows / 8)) for n in range(3)], rtol=1e-6)


def test_few_rows_are_learnt_from_for_a_while_and_without_passes_for_ever():
    np.testing.assert_allclose(rates_of(1.0, 3)[:, 1], [0.01, 0.01 * 7999 / 8000, 0.01 * 7998 / 8000], rtol=1e-6)
    np.testing.assert_allclose(rates_of(None, 3), 0.01)
    with pytest.raises(ValueError, match="leave passes out"):
        PolicyCritic(passes=3.0)
    with pytest.raises(ValueError, match="OneStepCritic: passes must be a number > 0"):
        OneStepCritic(passes=0.0)


def test_online_critics_go_on_learning(monkeypatch):
    monkeypatch.setattr(critic_hooks, "_LEAST_UPDATES", 1)
    model = make(env="Pendulum-v1", dataset="pendulum-mixed", critic=OneStepCritic(passes=1e-6)).learn(3)
    before = copy.deepcopy(model.policy.critic.state_dict())
    model.learn(2, reset_num_timesteps=False)
    assert all(th.equal(value, before[name]) for name, value in model.policy.critic.state_dict().items())
    model.learn_online(5)
    assert not all(th.equal(value, before[name]) for name, value in model.policy.critic.state_dict().items())
