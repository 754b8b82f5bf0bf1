"""
Offline algorithms in the rl-zoo: ``python -m sb3_genpolicy.zoo train --algo gmpo --dataset ...``, and rl_zoo3's other
commands.

Needs ``pip install sb3_genpolicy[zoo]``. Importing this package imports nothing of rl_zoo3; :func:`register` does.
"""


def register() -> None:
    """
    Make our algorithms, and those that ``sb3_genpolicy.register`` was given, known to rl_zoo3 in this process: as algorithms,
    and to its search for hyper-parameters.
    """
    from sb3_genpolicy.zoo.algorithms import add_to_zoo

    add_to_zoo()
