"""
Callbacks of trainings in the zoo.
"""

import os
import time

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import CSVOutputFormat

from sb3_genpolicy.common.algorithms.callbacks import OfflineEvalCallback


class CsvLog(BaseCallback):
    """
    Writes what is logged to ``progress.csv`` too, whatever the verbosity.

    :param folder: where to
    """

    def __init__(self, folder: str):
        super().__init__()
        self.folder = folder
        self._output: CSVOutputFormat | None = None

    def _on_training_start(self) -> None:
        self._output = CSVOutputFormat(os.path.join(self.folder, "progress.csv"))
        self.logger.output_formats.append(self._output)

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        # rl_zoo3 ends its first callback twice, also where the training never began
        if self._output is not None:
            self.logger.output_formats.remove(self._output)
            self._output.close()
            self._output = None


class LastEvalCallback(OfflineEvalCallback):
    """
    ``OfflineEvalCallback`` that evaluates the last parameters in any case, and logs the seconds that have gone by.
    """

    def _on_step(self) -> bool:
        if self.eval_freq > 0 and self.n_calls % self.eval_freq == 0:
            self.logger.record("time/time_elapsed", (time.time_ns() - self.model.start_time) / 1e9, exclude="tensorboard")
        return super()._on_step()

    def _on_training_end(self) -> None:
        if self.n_calls > 0 and self.evaluations_timesteps[-1:] != [self.num_timesteps]:
            frequency, self.eval_freq = self.eval_freq, self.n_calls
            self._on_step()
            self.eval_freq = frequency
