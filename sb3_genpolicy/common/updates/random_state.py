"""
The random numbers of a training: its own, so that evaluations in between do not change them, and saved with the model.
"""

from typing import Protocol

import torch as th

from sb3_genpolicy.common.files.transient import Transient

# Keeps the draws of rows apart from the training's other draws
_ROW_STREAM = 0x5DEECE66D


class DrawsRows(Protocol):
    """What draws a training's rows: a replay buffer."""

    generator: th.Generator | None

    @property
    def rows_device(self) -> th.device:
        """Where the rows are."""

    def seed_rows(self, seed: int) -> None:
        """Seed the rows that are drawn from now on."""

    def random_state(self) -> th.Tensor:
        """The generator's state before the first row that was not handed out yet (rows may be drawn ahead)."""

    def set_random_state(self, state: th.Tensor) -> bool:
        """Go on drawing from a saved state; returns whether that was possible."""


class RandomState(Transient):
    """
    The generator of all random numbers of a training except the choice of rows. Rows are drawn by a generator of the replay
    buffer, since batches may be gathered ahead of the step that uses them. Both are seeded from torch's global generator, or
    from a given seed.

    :param device: where the draws are wanted
    """

    def __init__(self, device: th.device):
        self.generator = th.Generator(device)
        self.generator.manual_seed(int(th.randint(2**62, ())))
        self._row_seed = int(th.randint(2**62, ()))
        #: States of both generators as tensors, which can be saved and loaded; generators cannot
        self.state: th.Tensor
        self.row_state: th.Tensor
        #: Whether the generators still have to be set to these states
        self.is_loaded: bool
        self.expect_loading()

    def expect_loading(self) -> None:
        """Restore the generators from the noted states at the next :meth:`prepare`; a loaded file may replace them before."""
        self.state, self.row_state = self.generator.get_state(), th.empty(0, dtype=th.uint8)
        self.is_loaded = True

    def seed(self, seed: int, rows: DrawsRows | None) -> None:
        """
        :param seed: of all draws from now on
        :param rows: the replay buffer, None before it exists
        """
        self.generator.manual_seed(seed)
        self._row_seed = seed ^ _ROW_STREAM
        if rows is not None:
            rows.generator = None
        self.is_loaded = False

    def prepare(self, rows: DrawsRows, seed: int | None, num_timesteps: int) -> None:
        """
        Make the generator of rows on the device of the rows. A loaded model continues both sequences of random numbers where
        it was saved.

        :param rows: the replay buffer, filled
        :param seed: the model's, None if it was given none
        :param num_timesteps: steps that the model has made
        """
        if rows.generator is None or rows.generator.device.type != rows.rows_device.type:
            rows.seed_rows(self._row_seed)
        if self.is_loaded:
            self._restore(rows, seed or 0, num_timesteps)

    def _restore(self, rows: DrawsRows, seed: int, num_timesteps: int) -> None:
        state = self.state.cpu()
        if state.shape == self.generator.get_state().shape:
            self.generator.set_state(state)
        else:
            # Saved on another kind of device, whose states do not carry over: go on with fresh draws, not with the first ones
            self.generator.manual_seed(seed + num_timesteps)
        if len(self.row_state) and not rows.set_random_state(self.row_state.cpu()):
            rows.seed_rows(self._row_seed + num_timesteps)
        self.is_loaded = False

    def note(self, rows: DrawsRows | None) -> None:
        """
        Copy the generators' states to the attributes that are saved.

        :param rows: the replay buffer, None before it exists
        """
        if not self.is_loaded:
            self.state = self.generator.get_state()
            if rows is not None and rows.generator is not None:
                self.row_state = rows.random_state()
