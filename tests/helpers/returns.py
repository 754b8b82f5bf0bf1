"""
Episodes of every kind of end, and what follows their rows, one row at a time.
"""

from dataclasses import replace

from sb3_genpolicy import load_dataset
from tests.helpers.arrays import make_arrays


def with_terminal_inside():
    """Episodes of 5 to 9 steps, terminated and cut off in turn. In the second, a goal is reached after three steps."""
    data = load_dataset(make_arrays(n_episodes=5))
    terminals = data.terminals.copy()
    terminals[7] = 1.0
    # As a mask column says it: the trajectory goes on
    return replace(data, terminals=terminals)


def by_hand(data, row, gamma):
    """Return, last row and discount of what follows it."""
    total, discount = 0.0, 1.0
    while True:
        total += discount * float(data.rewards[row])
        discount *= gamma
        if data.terminals[row]:
            return total, row, 0.0
        if data.ends[row]:
            return total, row, discount
        row += 1
