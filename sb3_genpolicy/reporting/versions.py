"""
What a run was made with.
"""

import platform
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("sb3_genpolicy", "stable_baselines3", "gymnasium", "torch", "numpy", "minari", "mujoco", "optuna", "rliable")


def versions() -> str:
    """
    :return: versions of Python and of the packages that a comparison rests on, in a line
    """
    found = [f"Python {platform.python_version()}"]
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)
