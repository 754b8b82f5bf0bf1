"""
Modules of rl_zoo3 and of the hub's integration.
"""

import importlib
import sys
from types import ModuleType


def module_of(name: str) -> ModuleType:
    """
    :param name: a module
    :return: the module, also where its package has a function of the same name
    """
    importlib.import_module(name)
    return sys.modules[name]
