"""
Offline evaluation of policies that execute several actions of a plan, beside exact values.
"""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy

from sb3_genpolicy import (
    BC,
    GMPO,
    FittedQOptions,
    Guards,
    HeldOutEpisodes,
    OfflineSelectionCallback,
    choose_policy,
    evaluate_offline,
    load_dataset,
)
from sb3_genpolicy.evaluation.acting import Acting, policy_actions
from sb3_genpolicy.evaluation.fitted_q import FittedQ
from sb3_genpolicy.evaluation.judges import read_for
from sb3_genpolicy.evaluation.plans import Plans, on_path
from sb3_genpolicy.evaluation.question import DISCOUNTED, Question, find_horizon
from sb3_genpolicy.evaluation.support import measure_support, whole_windows
from sb3_genpolicy.evaluation.values import episode_values
from sb3_genpolicy.reporting.behaviour import find_behaviour
from sb3_genpolicy.reporting.looked_at import look_at
from tests.helpers import chain
from tests.helpers.arrays import make_arrays
from tests.helpers.chain import N_STATES, REWARDS, log_chain, moves
from tests.helpers.committed import Committed, Windows, discounted_value, total_value

GAMMA, N_STEPS, LENGTH = 0.8, 11, 3
# Who logged looks at every state
LOGGED, ASKED = np.array([0.8, 0.35, 0.65, 0.3, 0.5]), np.array([0.8, 0.8, 0.7, 0.7, 0.7])
START = np.array([0.5, 0.5, 0.0, 0.0, 0.0])
QUICK = FittedQOptions(n_members=3, net_arch=(64, 64), steps=600, first_steps=150, learning_rate=4e-3, tau=0.05)
TINY = FittedQOptions(n_members=2, net_arch=(16,), steps=20, first_steps=20, batch_size=32)


@pytest.fixture(scope="module")
def logged():
    return log_chain(LOGGED, START, 300, N_STEPS, 1)[0]


@pytest.fixture(scope="module")
def on_chain(logged):
    behaviour = Windows(LOGGED, LENGTH)
    return evaluate_offline(Committed(ASKED, LENGTH), logged, gamma=GAMMA, behaviour=behaviour, options=QUICK, level=0.95)


@pytest.mark.parametrize("method", ["fitted Q", "fitted Q, initial states"])
def test_who_commits_himself_is_worth_what_that_is_worth(on_chain, method):
    exact = discounted_value(ASKED, START, GAMMA, LENGTH), total_value(ASKED, START, N_STEPS, LENGTH)
    for kind, value in zip(("discounted", "undiscounted"), exact, strict=True):
        estimate = on_chain.estimate(kind, "policy", method)
        # Apart from caution: one plan in twenty is of three actions that hardly anybody took in a row
        low = estimate.low + on_chain.cautions[kind].shortfall
        assert low < value < estimate.high, kind
        assert estimate.high - low < 0.3 * value, kind
    # Who would go right as often, and chooses at every step, is worth less
    low = on_chain.estimate(method=method).low + on_chain.cautions["discounted"].shortfall
    assert chain.discounted_value(ASKED, START, GAMMA) < low
    assert on_chain.verdict.word == "better"


def test_rows_are_not_weighed(on_chain):
    line = on_chain.estimate(method="weighted importance")
    assert line.value is None and "commits itself to 3 actions at a time" in line.withheld


# With the right Q, by the table: whatever is wrong is not the networks'


@pytest.fixture(scope="module", params=[False, True], ids=["time limit", "terminal"])
def asked(request):
    # Most episodes end within a plan
    terminal = request.param
    data = load_dataset(log_chain(LOGGED, START, 3000, 5, 5, terminal)[0])
    question = Question(data, GAMMA, find_horizon(data))
    states = th.as_tensor(np.asarray(data.states)).argmax(dim=1)
    drawn = th.as_tensor(policy_actions(Acting(Committed(ASKED, LENGTH)), np.asarray(data.states), 2, 0))
    return question, Plans(question, th.as_tensor(np.asarray(data.actions)), drawn), states, terminal


def worth(rights, inputs, states, terminal):
    """Of states, when these actions are executed and then plans are made, by what Q gets: (n,)."""
    v = np.array([discounted_value(rights, one, GAMMA, LENGTH, terminal) for one in np.eye(N_STATES)])
    n_left = LENGTH - inputs[:, LENGTH:].argmax(dim=1)
    table = {}
    for which in range(2**LENGTH):
        signs = [bool(which >> place & 1) for place in range(LENGTH)]
        for left in range(1, LENGTH + 1):
            value = v
            for is_right in reversed(signs[:left]):
                step = moves(np.full(N_STATES, float(is_right)))
                goes_on = value * (np.arange(N_STATES) < N_STATES - 1) if terminal else value
                value = step @ (REWARDS + GAMMA * goes_on)
            table[which, left] = value
    which = ((inputs[:, :LENGTH] > 0) * 2 ** th.arange(LENGTH)).sum(dim=1)
    return np.array([table[w, k][s] for w, k, s in zip(which.tolist(), n_left.tolist(), states.tolist(), strict=True)])


def test_what_follows_is_worth_what_bellmans_equation_says(asked):
    question, plans, states, terminal = asked
    rows = th.arange(question.data.n_rows)
    generator = th.Generator().manual_seed(0)
    held = plans.draw(rows, generator)
    # Plans are of the same episode, and at each of their actions
    np.testing.assert_array_equal(held.origins + held.positions, rows)
    np.testing.assert_array_equal(question.episodes[held.origins], question.episodes)
    late = question.steps >= LENGTH - 1
    np.testing.assert_allclose(np.bincount(held.positions[late]) / late.sum(), 1.0 / LENGTH, atol=0.03)
    inputs = plans.logged(rows, held)
    np.testing.assert_array_equal(inputs[:, 0], question.data.actions[:, 0])
    # What was executed is not told
    assert not inputs[:, :LENGTH][th.arange(LENGTH) >= LENGTH - held.positions[:, None]].any()
    following, planned = plans.following(rows, held, generator)
    goes_on = GAMMA * ~question.terminals
    targets = question.rewards + goes_on * worth(ASKED, planned, states[following], terminal)
    residuals = targets - worth(ASKED, inputs, states[rows], terminal)
    # Also where the rest of the plan is known to go right or left
    for position in range(LENGTH):
        for is_right in (False, True) if position < LENGTH - 1 else (False,):
            own = residuals[((held.positions == position) & ((inputs[:, 1] > 0) == is_right)).numpy()]
            assert len(own) > 200 and abs(own.mean()) < 3.5 * own.std() / np.sqrt(len(own)), (position, is_right)


def test_plans_along_episodes_and_windows_of_them():
    timeouts, terminals = np.eye(9, dtype=np.float32)[[4, 8]]
    # Six and five observations
    seen = np.arange(11, dtype=np.float32)[:, None]
    before = [0, 1, 2, 3, 4, 6, 7, 8, 9]
    arrays = dict(observations=seen[before], next_observations=seen[1:][before], timeouts=timeouts, terminals=terminals)
    data = load_dataset({**arrays, "actions": np.zeros((9, 1), np.float32), "rewards": np.zeros(9)})
    origins, positions = on_path(Question(data, GAMMA, find_horizon(data)), 3)
    np.testing.assert_array_equal(positions[:9], [0, 1, 2, 0, 1, 0, 1, 2, 0])
    np.testing.assert_array_equal(origins[:9], [0, 0, 0, 3, 3, 5, 5, 5, 8])
    # What the episodes ended with, after five steps and after four
    ends = np.asarray(data.next_rows)[[4, 8]]
    np.testing.assert_array_equal(positions[ends], [2, 1])
    np.testing.assert_array_equal(origins[ends], [3, 8])
    np.testing.assert_array_equal(whole_windows(data, 3), [0, 1, 2, 5, 6])
    np.testing.assert_array_equal(whole_windows(data, 6), np.arange(9))


def test_differences_along_episodes_sum_up_to_the_value(asked):
    question, plans, states, terminal = asked
    data = question.data
    every = th.arange(len(states))

    def mean(of):
        return np.mean([of(th.full_like(every, draw)) for draw in range(plans.n_draws)], axis=0)

    v = mean(lambda draws: worth(ASKED, plans.planned(plans.along(every, draws)), states, terminal))
    rows = every[: data.n_rows]
    q = mean(lambda draws: worth(ASKED, plans.logged(rows, plans.along(rows, draws[: len(rows)])), states[rows], terminal))
    own = np.array([chain.discounted_value(LOGGED, one, GAMMA, terminal) for one in np.eye(N_STATES)])
    sides = [moves(np.full(N_STATES, side)) for side in (0.0, 1.0)]
    of_logged = np.stack([step @ (REWARDS + GAMMA * own * ((np.arange(N_STATES) < 4) | (not terminal))) for step in sides])
    last = question.last_rows
    tails = of_logged[(np.asarray(data.actions)[last, 0] > 0).astype(int), states[last]] * question.is_cut
    fitted = FittedQ(q[None, None], v[None, None], tails[None, None], [], np.zeros(data.n_episodes, bool), "")
    values = episode_values(question, fitted, DISCOUNTED)
    exact = discounted_value(ASKED, START, GAMMA, LENGTH, terminal)
    for found, value in (
        (values.policy, exact),
        (values.initial, exact),
        (values.behaviour, chain.discounted_value(LOGGED, START, GAMMA, terminal)),
    ):
        assert abs(found.mean() - value) < 3.5 * found.std() / np.sqrt(data.n_episodes)


def test_support_is_of_what_is_executed_together(logged):
    data = load_dataset(logged)
    question = Question(data, GAMMA, find_horizon(data))
    behaviour = Windows(LOGGED, LENGTH)
    found = measure_support(question, Acting(Committed(ASKED, LENGTH)), behaviour, 0)
    # Of rows from which on three steps are of one episode
    starts = np.asarray(data.observations).reshape(300, N_STEPS, N_STATES)[:, : N_STEPS - LENGTH + 1].mean(axis=(0, 1))
    every = th.eye(N_STATES)
    sides = [behaviour.log_prob(every, th.full((N_STATES, LENGTH), sign)).numpy() for sign in (1.0, -1.0)]
    shares = np.stack([ASKED, 1.0 - ASKED])
    exact = starts @ (shares * (np.log(shares) - np.stack(sides))).sum(axis=0)
    assert found.kl == pytest.approx(exact, abs=0.1)
    # Of a part of a plan nobody knows the density, but what the behaviour's is
    part = measure_support(question, Acting(Committed(ASKED, 4, LENGTH)), behaviour, 0)
    assert part.kl is None and part.quantile == pytest.approx(found.quantile, abs=0.05)


# As users meet it


class FirstOfPlan(BasePolicy):
    """A policy of single actions: the first of each plan."""

    def __init__(self, planner):
        super().__init__(planner.planning.observation_space, planner.planning.action_space)
        self.planner = planner

    def _predict(self, observation, deterministic=False):
        return th.as_tensor(self.planner.plan(observation.numpy(), deterministic)[:, 0])


def clone(**horizon):
    kwargs = dict(net_arch=[8], **horizon)
    return BC("MlpPolicy", None, dataset=make_arrays(), policy_kwargs=kwargs, seed=0, device="cpu").learn(3)


def test_who_plans_anew_at_every_step_is_a_policy_of_single_actions():
    model = clone(chunk_length=3, execute_length=1)
    options = dict(options=TINY, behaviour=clone_with_density(), deterministic=True, gamma=0.9)
    found = evaluate_offline(model.policy, make_arrays(), **options)
    same = evaluate_offline(FirstOfPlan(model.policy), make_arrays(), **options)
    for one, other in zip(found.estimates, same.estimates, strict=True):
        assert one[:6] == other[:6]


def clone_with_density(**horizon):
    kwargs = dict(net_arch=[8], **horizon)
    return BC("FlowPolicy", None, dataset=make_arrays(), policy_kwargs=kwargs, seed=0, device="cpu").learn(3)


@pytest.mark.parametrize("horizon", [dict(chunk_length=3), dict(chunk_length=4, execute_length=2, history=2)])
def test_models_that_plan_are_evaluated(horizon):
    kwargs = dict(net_arch=[8], **horizon)
    options = dict(dataset=make_arrays(), policy_kwargs=kwargs, seed=0, device="cpu", transforms=[HeldOutEpisodes(share=0.5)])
    model = GMPO("FlowPolicy", None, **options).learn(6)
    found = evaluate_offline(model, options=TINY, behaviour_steps=2)
    assert np.isfinite(found.estimate().value) and np.isfinite(found.support.matching_loss)
    assert (found.support.kl is None) == ("execute_length" in horizon)
    # The policy alone, which sees and plans the same
    alone = evaluate_offline(model.policy, make_arrays(), options=TINY, behaviour_steps=2)
    assert np.isfinite(alone.estimate().value)


def test_policies_of_different_plans_are_compared():
    models = {"one": clone_with_density(), "three": clone_with_density(chunk_length=3)}
    choice = choose_policy(models, make_arrays(), options=TINY, behaviour_steps=2, guards=Guards(fewest_episodes=0))
    assert set(choice.evaluations) == {"one", "three"}
    behaviours = {found.estimate(of="behaviour", method="logged returns").value for found in choice.evaluations.values()}
    assert np.ptp(list(behaviours)) < 0.5 * abs(max(behaviours))
    with pytest.raises(ValueError, match=r"executes 3 of the shape \(2,\) together: train it with .*chunk_length=3"):
        choose_policy(models, make_arrays(), options=TINY, behaviour=models["one"])


def test_a_behaviour_model_of_plans_says_nothing_of_single_actions():
    looked = look_at(clone_with_density(), make_arrays(), 0)
    with pytest.raises(ValueError, match=r"densities of actions of the shape \(3, 2\), but the policy executes 1"):
        find_behaviour(looked, clone_with_density(chunk_length=3), 0)


def test_the_best_checkpoint_of_a_model_that_plans_is_kept():
    callback = OfflineSelectionCallback(eval_freq=3, options=TINY, behaviour_steps=2, max_rows=1000, verbose=0)
    kwargs = dict(net_arch=[8], chunk_length=3, execute_length=2)
    options = dict(policy_kwargs=kwargs, transforms=[HeldOutEpisodes(share=0.5)], seed=0, device="cpu")
    BC("FlowPolicy", None, dataset=make_arrays(), **options).learn(6, callback=callback)
    assert callback.evaluations_timesteps == [3, 6]
    assert np.isfinite(callback.evaluations_values).all()


def test_plans_that_are_averaged_are_refused():
    model = clone(chunk_length=3, execute_length=1, plan_blending=0.1)
    with pytest.raises(ValueError, match=r"averaged where they overlap \(plan_blending=0.1\)"):
        evaluate_offline(model, options=TINY)
    model.policy.plan_blending = None
    read_for([model], None)
    # There is nothing to average where plans do not overlap
    model = clone(chunk_length=3, plan_blending=0.1)
    assert isinstance(read_for([model], None).action_space, spaces.Box)
