"""
Means for the log that are summed where the values are, and read only when the log is written.
"""

from collections.abc import Mapping

import torch as th


class DeviceMeans:
    """
    Running means of named scalars, or of vectors with one entry for each of several models. :meth:`add` waits for nothing;
    :meth:`pop` reads the device.
    """

    def __init__(self) -> None:
        self._sums: dict[str, th.Tensor] = {}
        #: How often each was added to
        self.counts: dict[str, int] = {}

    def add(self, **values: th.Tensor) -> None:
        """
        :param values: tensors of one shape for each name, on one device
        """
        for name, value in values.items():
            total = self._sums.get(name)
            if total is None:
                self._sums[name] = value.detach().clone()
            else:
                total.add_(value.detach())
            self.counts[name] = self.counts.get(name, 0) + 1

    def count(self, counts: Mapping[str, int]) -> None:
        """
        :param counts: how often each name was added to by the device alone, in the replay of a recorded update
        """
        for name, number in counts.items():
            self.counts[name] = self.counts.get(name, 0) + number

    def pop(self) -> dict[str, th.Tensor]:
        """
        :return: the mean of every name that was added to since the last call, on the CPU, and forget them
        """
        means = {name: self._sums[name].cpu() / count for name, count in self.counts.items() if count}
        # In place: a recorded update goes on adding to the same memory
        for total in self._sums.values():
            total.zero_()
        self.counts = {}
        return means
