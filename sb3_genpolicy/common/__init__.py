"""
What generative policies share whose algorithm is another: each folder is one idea, see CONTRIBUTING.md.
"""

from sb3_genpolicy.common.moved import find_moved_modules

find_moved_modules()
