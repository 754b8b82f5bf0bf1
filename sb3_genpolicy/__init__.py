"""
Offline reinforcement learning with generative policies for Stable-Baselines3.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sb3_genpolicy.public import *  # noqa: F403

__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    # Imported when they are first asked for, so that `sb3_genpolicy.generative` does not bring Stable-Baselines3 along
    if name == "__all__":
        return [*_public_names(), "__version__"]
    if not name.startswith("_"):
        if importlib.util.find_spec(f"{__name__}.{name}") is not None:
            return importlib.import_module(f"{__name__}.{name}")
        names = _public_names()
        if name in names:
            return names[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_public_names()])


def _public_names() -> dict[str, Any]:
    module = importlib.import_module(f"{__name__}.public")
    return {name: value for name, value in vars(module).items() if not name.startswith("_")}
