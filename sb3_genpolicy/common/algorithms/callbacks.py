"""
Callbacks of offline learning.
"""

import warnings
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import EvalCallback, ProgressBarCallback

from sb3_genpolicy.common.transitions.transitions import check_reference_scores, normalized_score


class GradientStepProgressBar(ProgressBarCallback):
    """
    SB3's progress bar with the phase in front, advanced by timesteps: gradient steps, or steps in the environment online.
    """

    _shown: int = 0

    def _on_step(self) -> bool:
        self.pbar.set_description(getattr(self.model, "phase", ""), refresh=False)
        self.pbar.update(self.num_timesteps - self._shown)
        self._shown = self.num_timesteps
        return True

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self._shown = self.num_timesteps


class OfflineEvalCallback(EvalCallback):
    """
    SB3's ``EvalCallback``, which also logs ``eval/normalized_score``: 0 for the dataset's lower reference return, 100 for its
    upper one, as D4RL does. Its parameters are those of ``EvalCallback``; ``eval_freq`` counts gradient steps.
    """

    #: Normalised score of the last evaluation, None before it or where the dataset has no reference scores
    last_normalized_score: float | None = None

    def _init_callback(self) -> None:
        with warnings.catch_warnings():
            # The model of a dataset without a simulator has no environment of the evaluation's type
            warnings.filterwarnings("ignore", message="Training and eval env are not of the same type")
            super()._init_callback()
        # Checked here, before hours of training, and not at the first evaluation
        reference_scores = getattr(self.model, "reference_scores", None)
        if reference_scores is not None:
            check_reference_scores(reference_scores, "The model's reference_scores")

    def _log_success_callback(self, locals_: dict[str, Any], globals_: dict[str, Any]) -> None:
        """
        Called by ``evaluate_policy`` at every step. The score is recorded here, episode by episode,
        because the log is written before the evaluation gives its returns back.
        """
        super()._log_success_callback(locals_, globals_)
        reference_scores = getattr(self.model, "reference_scores", None)
        if not locals_["done"] or reference_scores is None:
            return
        episode_return = locals_["current_rewards"][locals_["i"]]
        if locals_["is_monitor_wrapped"]:
            if "episode" not in locals_["info"]:
                return
            episode_return = locals_["info"]["episode"]["r"]
        mean_return = np.mean([*locals_["episode_rewards"], episode_return])
        self.last_normalized_score = float(normalized_score(mean_return, reference_scores))
        self.logger.record("eval/normalized_score", self.last_normalized_score)
