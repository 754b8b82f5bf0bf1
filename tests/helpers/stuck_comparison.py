"""
The zoo's commands, in a process that gets stuck in its second training, says so by a file, and waits to be killed.
"""

import sys
import threading
from pathlib import Path

from sb3_genpolicy.common.algorithms.offline_algorithm import OfflineAlgorithm
from sb3_genpolicy.zoo.__main__ import main

#: Where it says so
STUCK = "stuck"

trained = []
begin_update = OfflineAlgorithm.begin_update


def begin_or_get_stuck(model):
    if model not in trained:
        trained.append(model)
    if len(trained) == 2 and model.num_timesteps == 2:
        Path(STUCK).touch()
        threading.Event().wait()
    begin_update(model)


if __name__ == "__main__":
    OfflineAlgorithm.begin_update = begin_or_get_stuck  # type: ignore[method-assign]
    sys.exit(main())
