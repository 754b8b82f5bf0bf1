"""
The record of a dataset's rows, and the transforms that are applied to it before training.
"""

from sb3_genpolicy.common.moved import names_of_module

__getattr__ = names_of_module(__name__)
