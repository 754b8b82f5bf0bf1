"""
Several models that are trained as one.
"""

from sb3_genpolicy.common.moved import names_of_module

__getattr__ = names_of_module(__name__)
