"""
The record of a dataset's rows, and what is done to it before anybody learns from it.
"""

from sb3_genpolicy.common.moved import names_of_module

__getattr__ = names_of_module(__name__)
