"""
Datasets that ship with the package, and the command line: ``python -m sb3_genpolicy.data info SOURCE``.
"""
