"""
The policies: actors and critics.
"""

from sb3_genpolicy.common.moved import names_of_module

__getattr__ = names_of_module(__name__)
