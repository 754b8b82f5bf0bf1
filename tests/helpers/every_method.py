"""
A small model of every method beside GMPO and GMPG; as a script, trained by several processes at once.
"""

import sys
from pathlib import Path

from sb3_genpolicy import BC, FQL, IDQL, IQL, QGPO, SRPO, DiffusionQL, ReBRAC, data_parallel
from tests.helpers.arrays import SMALL, make_arrays

METHODS = {method.__name__: method for method in (BC, DiffusionQL, FQL, IDQL, IQL, QGPO, ReBRAC, SRPO)}
STEPS = 8


def make(name, seed=0, device="cpu", capture=False):
    method = METHODS[name]
    policy = next(iter(method.policy_aliases))
    # Kept actions are of one model's rows
    own = dict(redraw_actions=True) if name == "QGPO" else {}
    own.update(seed=seed, device=device, capture=capture)
    return method(policy, dataset=make_arrays(), policy_kwargs=SMALL, batch_size=16, **own)


if __name__ == "__main__":
    # Whoever has them imports them before there are several processes
    with data_parallel(device="cpu") as where:
        for each in METHODS:
            make(each, device=where).learn(STEPS).save(Path(sys.argv[1]) / each)
