"""
GMPO and GMPG in the rl-zoo: ``python -m sb3_genpolicy.zoo train --algo gmpo --dataset ...``, and rl_zoo3's other commands.

Needs ``pip install sb3_genpolicy[zoo]``. Importing this package imports nothing of rl_zoo3; :func:`register` does.
"""


def register() -> None:
    """
    Make GMPO and GMPG known to rl_zoo3 in this process: as algorithms, and to its search for hyper-parameters.
    """
    from rl_zoo3 import ALGOS
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER

    from sb3_genpolicy.zoo.algorithms import OFFLINE_ALGORITHMS
    from sb3_genpolicy.zoo.samplers import CONVERTERS, SAMPLERS

    ALGOS.update(OFFLINE_ALGORITHMS)
    HYPERPARAMS_SAMPLER.update(SAMPLERS)
    HYPERPARAMS_CONVERTER.update(CONVERTERS)
