"""
What is compared of two models.
"""

import torch as th


def same_state(first, second):
    if isinstance(first, th.Tensor):
        return th.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same_state(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(same_state(a, b) for a, b in zip(first, second, strict=True))
    return first == second
