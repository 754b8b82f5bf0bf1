"""
The units in which a policy is guided, taken from the rows that it learnt from.
"""

from typing import Any

import torch as th

from sb3_genpolicy.common.policies.sampling_policy import SamplingPolicy
from sb3_genpolicy.common.transitions.outliers import evenly

# Rows that are looked at, evenly spaced
_ROWS = 64


def fit_spreads(model: Any) -> None:
    """
    Let the policy note how much its actions, and Q, differ in a state. No random numbers are drawn. Nothing is noted where
    there are no rows, or training diverged.

    :param model: a model
    """
    observations = _some_states(model)
    if observations is None:
        return
    was_training = model.policy.training
    model.policy.set_training_mode(False)
    try:
        model.policy.spreads.fit(model.policy.actor_ema, model.policy.critic, observations)
    except ValueError:
        # Networks that are not finite, of which acting says more
        pass
    if was_training:
        model.set_training_mode()


def forget_spreads(model: Any) -> None:
    """
    Let the policy take these units anew when it is asked for them: its networks change, or have changed.

    :param model: a model
    """
    observations = _some_states(model)
    if observations is not None:
        model.policy.forget_spreads(observations)


def _some_states(model: Any) -> Any:
    """Observations of some rows; None where there are no rows, or nothing to guide."""
    buffer = model.replay_buffer
    if not isinstance(model.policy, SamplingPolicy) or buffer is None or buffer.size() == 0:
        return None
    return spaced_observations(model, _ROWS)


def spaced_observations(model: Any, n_rows: int) -> Any:
    """
    :param model: a model with rows
    :param n_rows: how many are wanted at most
    :return: observations of so many rows, evenly spaced
    """
    rows = th.as_tensor(evenly(model.replay_buffer.size(), n_rows))
    return model.replay_buffer.rows(rows, model.get_vec_normalize_env()).observations
