"""
Policies that plan several actions and see several observations: what they see and execute step by step, what their critics
value, and that they learn what a policy of one step cannot.
"""

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_genpolicy import BC, GMPG, GMPO, IQLCritic, ReBRAC, SafeHands, fit_action_limits, learn_side_by_side
from sb3_genpolicy.common.policies.critics import PolicyCritic
from sb3_genpolicy.common.policies.named import FlowPolicy
from sb3_genpolicy.common.policies.planning import Memory, blended
from sb3_genpolicy.common.updates.batch import Batch
from sb3_genpolicy.evaluation.acting import Acting
from sb3_genpolicy.evaluation.judges import read_for
from sb3_genpolicy.reporting.looked_at import look_at
from tests.helpers.arrays import make_arrays
from tests.helpers.every_method import METHODS

TINY = dict(net_arch=[8])


def make_policy(seed=0, obs_shape=(3,), action_shape=(2,), **options):
    th.manual_seed(seed)
    action_space = spaces.Box(
        np.full(action_shape, -1.0, np.float32),
        np.linspace(0.5, 3.0, int(np.prod(action_shape)), dtype=np.float32).reshape(action_shape),
    )
    return FlowPolicy(spaces.Box(-5.0, 5.0, obs_shape), action_space, lambda _: 1e-3, **{**TINY, **options})


def observations_of(n_steps, n_envs=1, seed=0, shape=(3,)):
    return np.random.default_rng(seed).uniform(-1.0, 1.0, (n_steps, n_envs, *shape)).astype(np.float32)


def plan_for(policy, stack):
    """The plan of a policy for stacks, by its network alone."""
    with th.no_grad():
        scaled = policy.actor_ema(th.as_tensor(stack), True).numpy()
    low, high = policy.action_range.ends
    steps = scaled.reshape(len(stack), policy.horizon.chunk_length, -1)
    return (low + 0.5 * (steps + 1.0) * (high - low)).clip(low, high)


# Acting


def test_it_sees_the_last_observations_of_its_episode_in_every_environment():
    policy = make_policy(history=3)
    shown, starts = observations_of(9, n_envs=2), np.zeros((9, 2), dtype=bool)
    starts[0] = True
    # The second environment begins anew twice
    starts[[4, 5], 1] = True
    state, since = None, [[], []]
    for step in range(9):
        action, state = policy.predict(shown[step], state, starts[step], deterministic=True)
        stacks = []
        for env in (0, 1):
            since[env] = [shown[step, env]] if starts[step, env] else [*since[env], shown[step, env]]
            stacks.append(np.concatenate(([since[env][0]] * 2 + since[env])[-3:]))
        np.testing.assert_allclose(action, plan_for(policy, np.array(stacks))[:, 0], atol=1e-6)


def test_a_plan_is_executed_as_far_as_asked_and_dropped_when_an_episode_begins():
    policy = make_policy(chunk_length=5, execute_length=3)
    shown = observations_of(9, n_envs=2)
    starts = np.zeros((9, 2), dtype=bool)
    starts[0] = True
    starts[4, 1] = True
    made_at = [[0, 0, 0, 3, 3, 3, 6, 6, 6], [0, 0, 0, 3, 4, 4, 4, 7, 7]]
    state = None
    for step in range(9):
        action, state = policy.predict(shown[step], state, starts[step], deterministic=True)
        for env in (0, 1):
            made = made_at[env][step]
            np.testing.assert_allclose(action[env], plan_for(policy, shown[made, env : env + 1])[0, step - made], atol=1e-6)


def test_overlapping_plans_are_blended_as_a_table_of_all_of_them_says():
    chunk_length, blending, n_steps = 4, 0.3, 9
    policy = make_policy(chunk_length=chunk_length, execute_length=1, plan_blending=blending)
    shown = observations_of(n_steps)
    table = np.full((n_steps, n_steps + chunk_length, 2), np.nan)
    state = None
    for step in range(n_steps):
        table[step, step : step + chunk_length] = plan_for(policy, shown[step])[0]
        known = table[:, step][~np.isnan(table[:, step, 0])]
        # The oldest plan weighs most
        weights = np.exp(-blending * np.arange(len(known)))
        action, state = policy.predict(shown[step, 0], state, np.array([step == 0]), deterministic=True)
        np.testing.assert_allclose(action, weights @ known / weights.sum(), atol=1e-6)
    policy.plan_blending = None
    action, _ = policy.predict(shown[0, 0], state, np.array([False]), deterministic=True)
    np.testing.assert_allclose(action, plan_for(policy, shown[0])[0, 0], atol=1e-6)
    with pytest.raises(ValueError, match="plan_blending"):
        policy.plan_blending = -0.1


def test_plans_of_several_steps_blend_where_they_overlap():
    plans = np.arange(2 * 3 * 4, dtype=np.float64).reshape(2, 3, 4, 1)
    # The oldest of the first environment is over, and the second has one plan alone
    memory = Memory(np.zeros((2, 1, 1)), plans, np.array([[4, 2, 0], [-1, -1, 1]]))
    expected = (plans[0, 1, 2] + np.exp(-0.5) * plans[0, 2, 0]) / (1.0 + np.exp(-0.5))
    np.testing.assert_allclose(blended(memory, 0.5), [expected, plans[1, 2, 1]])


def test_the_state_of_a_call_is_all_that_the_next_one_needs():
    policy = make_policy(history=2, chunk_length=3, execute_length=2)
    shown = observations_of(7)
    starts = np.array([[step == 0] for step in range(7)])
    handed, kept, state = [], [], None
    for step in range(7):
        action, state = policy.predict(shown[step], state, starts[step], deterministic=True)
        handed.append(action)
        # Somebody else acts in between
        policy.predict(-shown[step], None, np.array([True]), deterministic=True)
    policy.reset_memory()
    for step in range(7):
        kept.append(policy.predict(shown[step], None, starts[step], deterministic=True)[0])
    np.testing.assert_array_equal(handed, kept)
    with pytest.raises(ValueError, match="state= has 2 arrays, not 3"):
        policy.predict(shown[0], state[:2], starts[0])
    with pytest.raises(ValueError, match="of 2 environments .* there are 1"):
        policy.predict(shown[0], state, np.array([True, False]))


def test_it_says_once_that_it_goes_on_without_being_told_where_episodes_begin():
    policy = make_policy(chunk_length=3)
    shown = observations_of(4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy.predict(shown[0, 0], deterministic=True)
    with pytest.warns(UserWarning, match="goes on as if the episode of its last call did"):
        second, _ = policy.predict(shown[1, 0], deterministic=True)
    np.testing.assert_allclose(second, plan_for(policy, shown[0])[0, 1], atol=1e-6)
    policy.reset_memory()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        anew, _ = policy.predict(shown[1, 0], deterministic=True)
    np.testing.assert_allclose(anew, plan_for(policy, shown[1])[0, 0], atol=1e-6)


def test_the_whole_plan_can_be_had():
    policy = make_policy(chunk_length=3, history=2)
    shown = observations_of(3, n_envs=2)
    start, goes_on = np.array([True, True]), np.array([False, False])
    _, state = policy.predict(shown[0], None, start, deterministic=True)
    plan, state = policy.predict_chunk(shown[1], state, goes_on, deterministic=True)
    stacks = np.concatenate([shown[0], shown[1]], axis=1)
    np.testing.assert_allclose(plan, plan_for(policy, stacks), atol=1e-6)
    action, _ = policy.predict(shown[2], state, goes_on, deterministic=True)
    np.testing.assert_array_equal(action, plan[:, 1])
    assert policy.predict_chunk(shown[0, 0], None, np.array([True]))[0].shape == (3, 2)
    single = make_policy()
    assert single.predict_chunk(shown[0, 0])[0].shape == (1, 2)


def test_one_step_policies_hand_a_state_through():
    policy = make_policy()
    state = (np.zeros(3),)
    assert policy.predict(observations_of(1)[0, 0], state)[1] is state


# Values and densities


def test_critics_value_what_is_executed_alone():
    policy = make_policy(chunk_length=4, execute_length=3, critic="onestep").double()
    states, plans = th.rand(5, 3, dtype=th.float64), 2.0 * th.rand(5, 8, dtype=th.float64) - 1.0
    with th.no_grad():
        # From zero, a fresh network of advantages differs too little between actions
        for parameter in policy.critic.parameters():
            parameter.add_(0.1 * th.randn_like(parameter))
    other = plans.clone()
    other[:, 6:] = 0.7
    values = policy.critic.q_values(states, plans)
    assert th.equal(values, policy.critic.q_values(states, other))
    slopes = policy.critic.slopes(policy.critic.features_of(states), plans)
    for entry in range(8):
        step = th.zeros(8, dtype=th.float64)
        step[entry] = 1e-5
        with th.no_grad():
            difference = (policy.critic.q_values(states, plans + step) - policy.critic.q_values(states, plans - step))[
                :, 0
            ] / 2e-5
        np.testing.assert_allclose(slopes[:, entry], difference, atol=1e-6)
    assert slopes[:, :6].abs().min() > 1e-6
    assert th.equal(slopes[:, 6:], th.zeros(5, 2, dtype=th.float64))


def test_a_penalty_is_of_what_is_executed():
    options = dict(policy_kwargs=dict(**TINY, chunk_length=3, execute_length=2), seed=0, device="cpu")
    model = GMPO("FlowPolicy", None, dataset=make_arrays(), critic=PolicyCritic(penalty=1.0), **options)
    model.read_dataset()
    rows = th.arange(6)
    following = model.replay_buffer.next_actions(rows)
    assert following[0].isfinite().all()

    def loss(next_actions):
        batch = Batch.of(model.replay_buffer.rows(rows), rows, th.Generator().manual_seed(0), next_actions=next_actions)
        return float(model.critics.losses(batch, 0.9).critic_loss.detach())

    tail, head = following.clone(), following.clone()
    tail[:, 4:] += 0.5
    head[:, :4] += 0.5
    assert loss(tail) == loss(following)
    assert abs(loss(head) - loss(following)) > 1e-3


@pytest.mark.parametrize(("name", "reach"), [("FlowPolicy", 3.0), ("GaussianPolicy", 1.0)])
def test_densities_of_plans_integrate_to_one(name, reach):
    data = make_arrays(action_dim=1)
    # In units of the environment that are not those of scaled actions
    data["actions"] = 0.3 * data["actions"] + 0.2
    model = BC(name, None, dataset=data, policy_kwargs=dict(**TINY, chunk_length=2), seed=0, device="cpu").learn(5)
    low, high = (float(np.squeeze(end)) for end in model.policy.action_range.ends)
    # A flow's density goes beyond the range
    middle, half = 0.5 * (low + high), 0.5 * reach * (high - low)
    n = 160
    line = middle + half * (2.0 * (np.arange(n) + 0.5) / n - 1.0)
    grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2, 1)
    with th.no_grad():
        density = model.policy.log_prob(th.zeros(len(grid), 3), th.as_tensor(grid, dtype=th.float32)).exp()
    assert float(density.sum()) * (2.0 * half / n) ** 2 == pytest.approx(1.0, abs=0.02)


def test_returns_have_the_steps_of_a_plan_that_are_executed():
    options = dict(policy_kwargs=dict(**TINY, chunk_length=4, execute_length=3), gamma=0.9, device="cpu", seed=0)
    data = make_arrays()
    model = GMPO("FlowPolicy", None, dataset=data, critic="iql", reward_transform=None, **options)
    model.read_dataset()
    batch = model.replay_buffer.rows(th.tensor([0]))
    assert float(batch.rewards) == pytest.approx(float(data["rewards"][:3] @ [1.0, 0.9, 0.81]), rel=1e-5)
    assert float(batch.discounts) == pytest.approx(0.9**3)
    longer = GMPO("FlowPolicy", None, dataset=data, critic=IQLCritic(n_steps=4), reward_transform=None, **options)
    longer.read_dataset()
    assert float(longer.replay_buffer.rows(th.tensor([0])).discounts) == pytest.approx(0.9**4)
    whole = GMPO("FlowPolicy", None, dataset=data, critic=IQLCritic(chunk_length=4), reward_transform=None, **options)
    whole.read_dataset()
    assert whole.critic.action_dim == 8
    assert float(whole.replay_buffer.rows(th.tensor([0])).discounts) == pytest.approx(0.9**4)
    with pytest.raises(ValueError, match="chunk_length=5 is more than the 4 actions that the policy plans"):
        GMPO("FlowPolicy", None, dataset=data, critic=IQLCritic(chunk_length=5), **options)
    # By default returns go on at random, but not before the third step
    goes_on = GMPO("FlowPolicy", None, dataset=data, reward_transform=None, **options)
    goes_on.read_dataset()
    rows, buffer = th.zeros(50, dtype=th.long), goes_on.replay_buffer
    samples, _ = buffer.with_lambda_returns(rows, buffer.rows(rows), th.rand(50))
    assert float(samples.discounts.max()) == pytest.approx(0.9**3)


# Learning


def alternating(n_episodes=40, length=12, seed=0):
    """The action is what was seen one step before."""
    rng = np.random.default_rng(seed)
    seen = rng.choice([-1.0, 1.0], (n_episodes, length + 1))
    before = np.concatenate([seen[:, :1], seen[:, :-2]], axis=1)
    timeouts = np.zeros((n_episodes, length))
    timeouts[:, -1] = 1.0
    flat = lambda array: array.reshape(-1, *array.shape[2:])  # noqa: E731
    return dict(
        observations=flat(seen[:, :-1, None]).astype(np.float32),
        next_observations=flat(seen[:, 1:, None]).astype(np.float32),
        actions=flat(0.5 * before[:, :, None]).astype(np.float32),
        rewards=flat(np.ones((n_episodes, length))).astype(np.float32),
        terminals=np.zeros(n_episodes * length, np.float32),
        timeouts=flat(timeouts).astype(np.float32),
    )


def error_of(model, n_steps=30):
    seen = np.random.default_rng(1).choice([-1.0, 1.0], n_steps).astype(np.float32)
    state, errors = None, []
    for step in range(n_steps):
        action, state = model.predict(seen[step : step + 1], state, np.array([step == 0]), deterministic=True)
        errors.append(abs(float(action[0]) - 0.5 * seen[max(step - 1, 0)]))
    return np.mean(errors)


def test_what_was_seen_before_is_remembered():
    options = dict(dataset=alternating(), seed=0, device="cpu", learning_rate=3e-3, batch_size=128)
    errors = [
        error_of(BC("DeterministicPolicy", None, policy_kwargs=dict(net_arch=[32], history=history), **options).learn(300))
        for history in (1, 2)
    ]
    # Half of the guesses of a policy that sees no past are off by 1, or all by 0.5
    assert errors[0] > 0.4
    assert errors[1] < 0.1


def two_ways(n_episodes=60, length=8, seed=0):
    """Every episode goes left or right throughout, and nothing seen says which."""
    rng = np.random.default_rng(seed)
    side = rng.choice([-1.0, 1.0], n_episodes)
    timeouts = np.zeros((n_episodes, length))
    timeouts[:, -1] = 1.0
    observations = rng.uniform(-1.0, 1.0, (n_episodes * length + 1, 1)).astype(np.float32)
    return dict(
        observations=observations[:-1],
        next_observations=observations[1:],
        actions=(0.8 * np.repeat(side, length))[:, None].astype(np.float32),
        rewards=np.ones(n_episodes * length, np.float32),
        terminals=np.zeros(n_episodes * length, np.float32),
        timeouts=timeouts.reshape(-1).astype(np.float32),
    )


def test_a_plan_keeps_to_one_way():
    model = BC(
        "FlowPolicy",
        None,
        dataset=two_ways(),
        policy_kwargs=dict(net_arch=[32, 32], chunk_length=4),
        learning_rate=3e-3,
        seed=0,
        device="cpu",
    ).learn(600)
    th.manual_seed(0)
    plans, _ = model.predict_chunk(np.zeros((200, 1), np.float32), None, np.ones(200, dtype=bool))
    signs = np.sign(plans[:, :, 0])
    assert np.mean(np.abs(signs.mean(axis=1)) == 1.0) > 0.9
    # Both ways, about as often
    assert 0.3 < np.mean(signs[:, 0] > 0) < 0.7


@pytest.mark.parametrize(
    ("algorithm", "policy", "more"),
    [(GMPO, "FlowPolicy", {}), (GMPG, "DiffusionPolicy", dict(pretraining_steps=6)), (ReBRAC, "MlpPolicy", {})],
)
def test_it_learns_acts_and_is_saved(algorithm, policy, more, tmp_path):
    horizon = dict(chunk_length=4, execute_length=2, history=2)
    options = dict(
        dataset="pendulum-mixed", policy_kwargs=dict(**TINY, **horizon), batch_size=16, seed=0, device="cpu", **more
    )
    env = DummyVecEnv([lambda: gym.make("Pendulum-v1")] * 2)
    model = algorithm(policy, env, **options).learn(12)
    assert model.policy.observation_space.shape == (6,)
    assert model.policy.action_space.shape == (4, 1)
    assert model.action_space.shape == (1,)
    _, lengths = evaluate_policy(model, env, n_eval_episodes=2, return_episode_rewards=True)
    assert lengths == [200, 200]
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model")
    shown, starts = observations_of(5, n_envs=2), np.array([[True] * 2] + [[False] * 2] * 4)
    model.policy.save(str(tmp_path / "policy"))
    alone = type(model.policy).load(str(tmp_path / "policy"))
    states = [None, None, None]
    for step in range(5):
        acted = []
        for number, actor in enumerate((model, loaded, alone)):
            action, states[number] = actor.predict(shown[step], states[number], starts[step], deterministic=True)
            acted.append(action)
        np.testing.assert_array_equal(acted[0], acted[1])
        np.testing.assert_array_equal(acted[0], acted[2])
    loaded.set_env(env)
    loaded.learn(2, dataset="pendulum-mixed", reset_num_timesteps=False)


def test_networks_of_other_horizons_are_not_taken_over():
    options = dict(dataset="pendulum-mixed", batch_size=16, seed=0, device="cpu")
    pretrained = GMPO("FlowPolicy", None, policy_kwargs=dict(**TINY, chunk_length=4), **options).learn(2)
    same = GMPO("FlowPolicy", None, policy_kwargs=dict(**TINY, chunk_length=4), pretrained=pretrained, **options)
    assert same.policy.horizon == pretrained.policy.horizon
    with pytest.raises(ValueError, match="horizon"):
        GMPO(
            "FlowPolicy", None, policy_kwargs=dict(**TINY, chunk_length=4, execute_length=2), pretrained=pretrained, **options
        )


def test_dictionaries_and_images_are_stacked():
    rng = np.random.default_rng(0)
    n = 30
    images = rng.integers(0, 255, (n + 1, 3, 36, 36), dtype=np.uint8)
    vectors = rng.uniform(-1.0, 1.0, (n + 1, 2)).astype(np.float32)
    timeouts = np.zeros(n, np.float32)
    timeouts[9::10] = 1.0
    data = dict(
        observations=dict(camera=images[:-1], joints=vectors[:-1]),
        next_observations=dict(camera=images[1:], joints=vectors[1:]),
        actions=rng.uniform(-1.0, 1.0, (n, 2)).astype(np.float32),
        rewards=np.ones(n, np.float32),
        terminals=np.zeros(n, np.float32),
        timeouts=timeouts,
    )
    options = dict(policy_kwargs=dict(**TINY, history=3, chunk_length=2), batch_size=8, seed=0, device="cpu")
    model = GMPO("MultiInputPolicy", None, dataset=data, **options).learn(2)
    assert {key: part.shape for key, part in model.policy.observation_space.items()} == dict(camera=(9, 36, 36), joints=(6,))
    batch = model.replay_buffer.rows(th.tensor([0, 14]))
    np.testing.assert_array_equal(batch.observations["camera"][0], np.concatenate([images[0]] * 3))
    np.testing.assert_array_equal(batch.observations["camera"][1], np.concatenate(images[12:15]))
    np.testing.assert_array_equal(batch.next_observations["joints"][1], np.concatenate(vectors[13:16]))
    # As an environment shows them, and with the channels last as a camera has them
    state, start = None, True
    for step in range(3):
        shown = dict(camera=images[step].transpose(1, 2, 0), joints=vectors[step])
        action, state = model.predict(shown, state, np.array([start]), deterministic=True)
        start = False
    assert action.shape == (2,)
    np.testing.assert_array_equal(state[0][0], images[:3])
    np.testing.assert_array_equal(state[1][0], vectors[:3])


def test_a_policy_of_stacked_frames_is_one_of_an_environment_that_stacks_them():
    """The same numbers by gymnasium's wrapper and a policy that sees one observation."""
    remembers = make_policy(history=3)
    sees = make_policy(obs_shape=(9,))
    sees.load_state_dict(remembers.state_dict())
    env = FrameStackObservation(gym.make("Pendulum-v1"), 3, padding_type="reset")
    observation, _ = env.reset(seed=0)
    state = None
    for step in range(6):
        one, state = remembers.predict(observation[-1], state, np.array([step == 0]), deterministic=True)
        other, _ = sees.predict(observation.reshape(-1), deterministic=True)
        np.testing.assert_array_equal(one, other)
        observation, *_ = env.step(one[:1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(chunk_length=0), "chunk_length"),
        (dict(chunk_length=2.5), "chunk_length"),
        (dict(chunk_length=2, execute_length=3), "execute_length"),
        (dict(history=0), "history"),
        (dict(plan_blending=-1.0), "plan_blending"),
    ],
)
def test_horizons_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_policy(**options)
    with pytest.raises(TypeError, match="Did you mean 'chunk_length'"):
        make_policy(chunk_lenght=2)


# Elsewhere


def test_a_policy_that_remembers_is_judged_by_stacks():
    model = BC("MlpPolicy", None, dataset=make_arrays(), policy_kwargs=dict(**TINY, history=2), seed=0, device="cpu").learn(3)
    record = read_for([model], None)
    actions = Acting(model, deterministic=True).predict(record.observations)
    state, starts = None, set(record.episode_starts)
    single = record.observations[:, 3:]
    for row in range(record.n_rows):
        action, state = model.predict(single[row], state, np.array([row in starts]), deterministic=True)
        np.testing.assert_allclose(action, actions[row], atol=1e-6)


def test_what_cannot_be_told_of_plans_is_refused():
    options = dict(dataset=make_arrays(), seed=0, device="cpu")
    plans = BC("MlpPolicy", None, policy_kwargs=dict(**TINY, chunk_length=3), **options).learn(2)
    remembers = BC("MlpPolicy", None, policy_kwargs=dict(**TINY, history=2), **options).learn(2)
    one_step = BC("MlpPolicy", None, policy_kwargs=TINY, **options).learn(2)
    with pytest.raises(ValueError, match="plans 3 actions is not drawn beside single logged ones"):
        look_at(plans, make_arrays(), 0)
    assert "plans 3 actions is not drawn" in look_at(plans, None, 0)
    with pytest.raises(ValueError, match="different numbers of observations"):
        read_for([one_step, remembers], None)
    with pytest.raises(ValueError, match="with chunk_length=1 and history=1"):
        fit_action_limits(make_arrays(), plans)
    # The one that acts may plan
    hands = SafeHands(plans, fit_action_limits(make_arrays()))
    observation = np.zeros((1, 3), np.float32)
    first, state = hands.predict(observation, None, np.array([True]), deterministic=True)
    second, _ = hands.predict(observation, state, np.array([False]), deterministic=True)
    assert first.shape == second.shape == (1, 2)
    assert state is not None


@pytest.mark.parametrize("name", METHODS)
def test_every_method_plans(name):
    method, horizon = METHODS[name], dict(chunk_length=3, execute_length=2, history=2)
    options = dict(dataset=make_arrays(), policy_kwargs=dict(**TINY, **horizon), batch_size=16, seed=0, device="cpu")
    model = method(next(iter(method.policy_aliases)), None, **options).learn(6)
    shown, state, executed = observations_of(3, seed=1), None, []
    plan, _ = model.predict_chunk(shown[0], None, np.array([True]), deterministic=True)
    for step in range(3):
        action, state = model.predict(shown[step], state, np.array([step == 0]), deterministic=True)
        executed.append(action[0])
    np.testing.assert_array_equal(executed[:2], plan[0, :2])
    # The third is of a new plan, from what was seen by then
    stack = np.concatenate([shown[1], shown[2]], axis=1)
    np.testing.assert_allclose(executed[2], model.policy.plan(stack, deterministic=True)[0, 0], atol=1e-6)


def test_models_that_plan_learn_side_by_side_as_alone():
    options = dict(dataset=make_arrays(), policy_kwargs=dict(**TINY, chunk_length=3, history=2), batch_size=16, device="cpu")
    together = [GMPO("FlowPolicy", None, seed=seed, **options) for seed in (0, 1)]
    learn_side_by_side(together, 6)
    alone = GMPO("FlowPolicy", None, seed=1, **options).learn(6)
    for name, parameter in together[1].policy.state_dict().items():
        np.testing.assert_allclose(parameter, alone.policy.state_dict()[name], atol=1e-6, err_msg=name)
