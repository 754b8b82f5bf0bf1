"""
Which cases of a test the fast run has.
"""

import pytest


def slow_but(*fast, among):
    """The names of all cases, for ``pytest.mark.parametrize``; only those given first are in the fast run."""
    assert set(fast) <= set(among)
    values = [(name, name if isinstance(name, tuple) else (name,)) for name in among]
    return [pytest.param(*value, marks=[] if name in fast else pytest.mark.slow) for name, value in values]
