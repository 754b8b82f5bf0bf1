"""
What processes of tests/helpers/warm_processes.py find imported, and nothing made of it.
"""

import gymnasium  # noqa: F401
import minari  # noqa: F401
import stable_baselines3  # noqa: F401
import torch as th
import torch._dynamo

import sb3_genpolicy

for name in sb3_genpolicy.__all__:
    getattr(sb3_genpolicy, name)
th.set_num_threads(1)
