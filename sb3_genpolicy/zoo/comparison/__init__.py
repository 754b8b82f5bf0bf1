"""
A fair comparison of methods: one call or command, shared among processes, and a page about it.
"""

from sb3_genpolicy.zoo.comparison.comparison import compare
from sb3_genpolicy.zoo.comparison.methods import Method

__all__ = ["Method", "compare"]
