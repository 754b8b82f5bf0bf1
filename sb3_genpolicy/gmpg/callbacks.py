"""
When GMPG has come as far as it was asked to.
"""

import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_genpolicy.common.updates.temperature import mean_kl_between
from sb3_genpolicy.generative.checks import check_number, named_options
from sb3_genpolicy.gmpg.gmpg import GMPG


class StopTrainingOnTargetKL(BaseCallback):
    """
    End ``learn`` once the policy is as far from the behaviour policy as ``target_kl`` asks, so that nobody has to guess how
    many updates GMPG's second phase takes: those of ``learn`` are the most that it may have.

    :param tolerance: how far below ``target_kl`` the divergence may be, as a share of it, in (0, 1)
    :param window: updates over which the divergence is averaged, >= 1
    :param patience: further updates, >= 0. Actions are those of an average over the last thousand updates or so
        (``actor_tau``), which lags behind; where the updates of the second phase are fewer it is over all of them.
    :param verbose: Verbosity level: 0 for no output, 1 for saying where it stopped
    :raises ValueError: when ``learn`` begins, if the model is no GMPG with a ``target_kl``
    """

    model: GMPG

    @named_options
    def __init__(self, tolerance: float = 0.1, window: int = 100, patience: int = 500, verbose: int = 0):
        super().__init__(verbose)
        check_number("tolerance", tolerance, low=0.0, high=1.0, low_open=True, high_open=True)
        check_number("window", window, low=1, whole=True)
        check_number("patience", patience, low=0, whole=True)
        self.tolerance, self.window, self.patience = tolerance, window, patience
        #: Mean divergence over the last window, in nats; None before the first has passed
        self.kl: float | None = None
        self._reached_at: int | None = None
        self._window_began: tuple[int, th.Tensor] | None = None

    def _on_training_start(self) -> None:
        if not isinstance(self.model, GMPG) or self.model.target_kl is None:
            raise ValueError(
                "StopTrainingOnTargetKL waits for the divergence that GMPG's target_kl asks for: give it to a GMPG that finds "
                "beta."
            )
        self.kl = self._reached_at = self._window_began = None

    def _on_step(self) -> bool:
        if self.model.pretraining:
            return True
        updates = self.model._n_updates
        if self._window_began is None or updates - self._window_began[0] >= self.window:
            self._end_window()
        return self._reached_at is None or updates < self._reached_at + self.patience

    def _end_window(self) -> None:
        target_kl, updates, log_beta = self.model.held_kl, self.model._n_updates, self.model.log_beta.clone()
        assert target_kl is not None
        if self._window_began is not None:
            began, before = self._window_began
            self.kl = mean_kl_between(target_kl, before, log_beta, updates - began)
            if self._reached_at is None and self.kl >= (1.0 - self.tolerance) * target_kl:
                self._reached_at = updates
                if self.verbose >= 1:
                    print(
                        f"After {updates:,} updates the policy is {self.kl:.3g} nats from the behaviour policy, of "
                        f"{target_kl:g} that are held: {self.patience:,} more, for the average that acts."
                    )
        self._window_began = (updates, log_beta)
