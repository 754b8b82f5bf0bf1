"""
Fitted Q evaluation and importance sampling beside exact values: of a finite chain, and of a linear-Gaussian system.
"""

import numpy as np
import pytest

from sb3_genpolicy.evaluation.evaluate import evaluate_offline
from sb3_genpolicy.evaluation.fitted_q import FittedQOptions
from tests.helpers.chain import ChainPolicy, discounted_value, log_chain, total_value

GAMMA, N_STEPS = 0.8, 12
LOGGED, ASKED = np.full(5, 0.5), np.array([0.7, 0.7, 0.6, 0.6, 0.5])
START = np.array([0.5, 0.5, 0.0, 0.0, 0.0])
QUICK = FittedQOptions(net_arch=(32,), steps=600, first_steps=200, batch_size=128, learning_rate=3e-3, tau=0.05)


@pytest.fixture(scope="module", params=[False, True], ids=["time limit", "terminal"])
def on_chain(request):
    arrays, log_probs = log_chain(LOGGED, START, 150, N_STEPS, 0, request.param)
    found = evaluate_offline(
        ChainPolicy(ASKED),
        arrays,
        gamma=GAMMA,
        behaviour=ChainPolicy(LOGGED),
        behaviour_log_probs=log_probs,
        options=QUICK,
        level=0.95,
    )
    return found, request.param


@pytest.mark.parametrize("method", ["fitted Q", "fitted Q, initial states", "weighted importance", "doubly robust"])
def test_every_estimate_of_a_chain_has_its_exact_value_in_its_interval(on_chain, method):
    found, terminal = on_chain
    exact = {
        "discounted": discounted_value(ASKED, START, GAMMA, terminal),
        "undiscounted": total_value(ASKED, START, N_STEPS, terminal=terminal),
    }
    for kind, value in exact.items():
        estimate = found.estimate(kind, "policy", method)
        assert estimate.low < value < estimate.high, kind
        # No interval so wide that it says nothing: the behaviour is further off
        assert estimate.high - estimate.low < 0.35 * value


def test_the_behaviours_own_value_and_the_difference(on_chain):
    found, terminal = on_chain
    own = discounted_value(LOGGED, START, GAMMA, terminal)
    behaviour = found.estimate("discounted", "behaviour", "logged returns")
    assert behaviour.low < own < behaviour.high
    difference = found.estimate("discounted", "difference")
    assert 0.0 < difference.low < discounted_value(ASKED, START, GAMMA, terminal) - own < difference.high
    assert found.verdict.word == "better"
