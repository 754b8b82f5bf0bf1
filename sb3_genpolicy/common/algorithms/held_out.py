"""
Held-out (validation) rows: nothing is learnt from them, and the losses on them are logged.
"""

from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecNormalize

from sb3_genpolicy.common.files.transient import Transient
from sb3_genpolicy.common.replay.buffer import OfflineReplayBuffer
from sb3_genpolicy.common.updates.batch import Batch

# At most so many rows are evaluated each time that the log is written
_ROWS = 4096


class HeldOutRows(Transient):
    """
    :param rows: indices of the rows; at most 4096 of them are kept, evenly spaced
    :param buffer: the dataset
    :param env: VecNormalize wrapper whose statistics are applied
    """

    def __init__(self, rows: np.ndarray, buffer: OfflineReplayBuffer, env: VecNormalize | None):
        self.rows = th.as_tensor(rows[:: -(-len(rows) // _ROWS)])
        self.samples: Any = buffer.rows(self.rows, env)

    def batch(self, device: th.device) -> Batch:
        """
        :param device: where noise is wanted
        :return: the rows, with the same noise every time, apart from the training's random state
        """
        return Batch.of(self.samples, self.rows, th.Generator(device).manual_seed(0))
