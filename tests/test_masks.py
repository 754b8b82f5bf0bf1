"""
Columns that say where to bootstrap, beside those that say where episodes end.
"""

import warnings

import numpy as np
import pytest

from sb3_genpolicy import load_dataset
from tests.helpers.data_formats import flat_columns, make_episodes, trajectory_columns, without


@pytest.mark.parametrize(
    ("name", "value"), [("discount", 0.99), ("discounts", 1.0), ("mask", 1.0), ("masks", 1.0)], ids=lambda value: str(value)
)
def test_a_column_that_is_nowhere_zero_revives_nobody(name, value):
    columns = flat_columns(make_episodes())
    n = len(columns["rewards"])
    with pytest.warns(UserWarning, match=rf"'{name}' is nowhere 0 though steps are flagged as terminal"):
        data = load_dataset({**columns, name: np.full(n, value)})
    np.testing.assert_array_equal(data.terminals, columns["terminals"])
    np.testing.assert_array_equal(data.timeouts, columns["timeouts"])


def test_a_discount_beside_terminals_alone():
    columns = flat_columns(make_episodes((12, 11, 10, 9)))
    n = len(columns["rewards"])
    with pytest.warns(UserWarning, match="'discount' is nowhere 0"):
        data = load_dataset({**without(columns, "timeouts"), "discount": np.full(n, 0.9)})
    np.testing.assert_array_equal(data.terminals, columns["terminals"])


def test_ogbenchs_trajectories_without_a_success_are_cut():
    """Their masks are 1 everywhere, and their terminals end trajectories."""
    episodes = [episode._replace(terminated=False) for episode in make_episodes()]
    for columns in (
        trajectory_columns(episodes),
        dict(
            without(flat_columns(episodes), "timeouts", "terminals"),
            masks=np.ones(26),
            terminals=flat_columns(episodes)["timeouts"],
        ),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            data = load_dataset(columns)
        assert data.terminals.sum() == 0 and data.n_episodes == 4
