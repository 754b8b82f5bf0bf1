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
        """The state before the first row that nobody has had yet."""

    def set_random_state(self, state: th.Tensor) -> bool:
        """Whether draws go on from there."""


class RandomState(Transient):
    """
    A generator for all that a training draws but rows, whose random state is the replay buffer's, since batches may be
    gathered ahead of the step that they are for. Both start from torch's global generator, or from a seed.

    :param device: where the draws are wanted
    """

    def __init__(self, device: th.device):
        self.generator = th.Generator(device)
        self.generator.manual_seed(int(th.randint(2**62, ())))
        self._row_seed = int(th.randint(2**62, ()))
        #: As they are saved and loaded; the generators themselves cannot be
        self.state: th.Tensor
        self.row_state: th.Tensor
        #: Whether draws have to go on from the states that are noted here
        self.is_loaded: bool
        self.expect_loading()

    def expect_loading(self) -> None:
        """Go on with the states that are noted here, once draws are needed; a file may replace them until then."""
        self.state, self.row_state = self.generator.get_state(), th.empty(0, dtype=th.uint8)
        self.is_loaded = True

    def seed(self, seed: int, rows: DrawsRows | None) -> None:
        """
        :param seed: of all draws from now on
        :param rows: what draws rows, None while it is not there
        """
        self.generator.manual_seed(seed)
        self._row_seed = seed ^ _ROW_STREAM
        if rows is not None:
            rows.generator = None
        self.is_loaded = False

    def prepare(self, rows: DrawsRows, seed: int | None, num_timesteps: int) -> None:
        """
        Rows are drawn by a generator where they are; a loaded model goes on with the draws after the last it had.

        :param rows: what draws rows, which has them
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
        Note the states, where files have them.

        :param rows: what draws rows, None while it is not there
        """
        if not self.is_loaded:
            self.state = self.generator.get_state()
            if rows is not None and rows.generator is not None:
                self.row_state = rows.random_state()
