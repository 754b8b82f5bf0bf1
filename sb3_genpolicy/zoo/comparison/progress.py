"""
The bar of a comparison: gradient steps of all processes, and the time that is left.
"""

from collections.abc import Callable

from tqdm import tqdm


class Progress:
    """
    :param total: gradient steps of all trainings
    :param done: gives those of the trainings that have ended, in whatever process
    :param shown: whether there is a bar
    """

    def __init__(self, total: int, done: Callable[[], int], shown: bool):
        self._done = done
        ended = done()
        # Speed is a mean since the beginning: trainings of different methods take turns
        self._bar = tqdm(total=total, initial=ended, unit="step", smoothing=0.0, disable=not shown, dynamic_ncols=True)

    def begin(self, what: str) -> None:
        """
        :param what: is trained now
        """
        self._bar.set_description(what)

    def step(self) -> None:
        """A gradient step of this process."""
        self._bar.update()

    def look(self, waiting: bool) -> None:
        """
        See what has ended meanwhile, here and elsewhere.

        :param waiting: whether there is nothing to do here
        """
        if waiting:
            self._bar.set_description("waiting for other processes", refresh=False)
        self._bar.n = self._done()
        self._bar.refresh()

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()
