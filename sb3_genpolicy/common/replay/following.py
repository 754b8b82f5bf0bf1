"""
What followed the rows of a dataset along their episodes: the next logged actions, and returns of random length.
"""

import math
from typing import Any, NamedTuple

import torch as th

from sb3_genpolicy.common.replay.row_store import RowStore
from sb3_genpolicy.common.utils import tree_map


class Followed(NamedTuple):
    """
    What some rows are followed by over the next steps, each with its own number of steps.

    :param rewards: (batch_size, 1), discounted sum of these steps' rewards
    :param next_observations: what the last of them led to
    :param dones: (batch_size, 1), whether the last of them is terminal
    :param discounts: (batch_size, 1), of the value of what it led to
    :param last_rows: (batch_size,), the rows of these last steps
    :param weights: (batch_size, 1), sum of the discounts of these steps' rewards
    """

    rewards: th.Tensor
    next_observations: Any
    dones: th.Tensor
    discounts: th.Tensor
    last_rows: th.Tensor
    weights: th.Tensor


def next_actions(store: RowStore, rows: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    :param store: the dataset's rows
    :param rows: indices, (batch_size,), on the store's device; beyond the dataset's are rows that were added
    :return: the dataset's actions from the rows' next observations on, as many as the policy plans, as they are stored; and
        whether there is one, (batch_size,)
    """
    following = store.next_rows[rows.clamp(max=store.n_rows - 1)].long()
    # Observations of rows come first among the states
    is_known = (following < store.n_rows) & (rows < store.n_rows)
    return store.actions_at(th.where(is_known, following, 0)), is_known


def lambda_returns(
    store: RowStore, rows: th.Tensor, uniform: th.Tensor, return_lambda: float, gamma: float, least_steps: int = 1
) -> tuple[Followed, th.Tensor]:
    """
    Returns of random length, whose mean over the draws is the lambda-return (Sutton and Barto, section 12.1): a return goes on
    from step to step with probability lambda, until its episode ends.

    :param store: the dataset's rows, filled with ``returns=True``
    :param rows: indices, (batch_size,), on the store's device
    :param uniform: a draw from [0, 1) for each row
    :param return_lambda: in (0, 1]; 1 goes on to the end
    :param gamma: discount factor, in [0, 1]
    :param least_steps: steps that every return has, as far as its episode goes: those of the actions that are valued together
    :return: what the rows are followed by, and whether they are rows of the dataset, (batch_size,): of others it is nothing
    """
    assert store.to_go is not None and store.steps_left is not None
    is_known = rows < store.n_rows
    rows = rows.clamp(max=store.n_rows - 1)
    steps = left = store.steps_left[rows]
    if return_lambda < 1.0:
        # P(more than k steps beyond the first ones) = lambda^k
        steps = (float(least_steps) + th.log1p(-uniform) / math.log(return_lambda)).floor().clamp(max=left)
    last = rows + steps.long() - 1
    # A power of gamma in float32 would be off by its rounding once for each step
    exponents = (math.log(gamma) if gamma > 0.0 else -math.inf) * steps[:, None]
    discounts = exponents.exp()
    # Of what comes after them, which is nothing where they go on to the end
    rest = store.to_go[(last + 1).clamp(max=store.n_rows - 1)] * (steps < left)[:, None]
    following = store.next_rows[last].long()
    followed = Followed(
        store.to_go[rows] - discounts * rest,
        store.observations_at(following),
        store.dones[last],
        discounts,
        last,
        steps[:, None] if gamma == 1.0 else exponents.expm1() / (gamma - 1.0),
    )
    return followed, is_known


def taking_the_place_of(samples: Any, followed: Followed, is_known: th.Tensor, gamma: float) -> Any:
    """
    :param samples: rows of one step, on the training device
    :param followed: what they are followed by
    :param is_known: whether that is known of a row, (batch_size,)
    :param gamma: discount of rows that do not say their own
    :return: the samples with what is known of the steps that follow
    """
    own = samples.discounts if samples.discounts is not None else th.full_like(samples.rewards, gamma)
    device = own.device

    def choose(array: th.Tensor, before: th.Tensor) -> th.Tensor:
        known = is_known.reshape(-1, *(1,) * (array.ndim - 1)).to(device)
        return th.where(known, array.to(device), before)

    return samples._replace(
        next_observations=tree_map(choose, followed.next_observations, samples.next_observations),
        dones=choose(followed.dones, samples.dones),
        rewards=choose(followed.rewards, samples.rewards),
        discounts=choose(followed.discounts, own),
    )
