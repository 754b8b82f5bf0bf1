"""
GMPO on the embedded Pendulum data, beside behaviour cloning and the behaviour itself: scores on the way, a table, a picture
and the trained model in the folder ``demo``. The program is in the package, for those who have no clone of it:
``python -m sb3_genpolicy.demo --help``.
"""

from sb3_genpolicy.demo import main

if __name__ == "__main__":
    main()
