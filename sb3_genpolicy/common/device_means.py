"""
Means for the log that are summed where the values are, and read only when the log is written.
"""

import torch as th


class DeviceMeans:
    """
    Running means of named scalars. :meth:`add` waits for nothing; :meth:`pop` reads the device.
    """

    def __init__(self) -> None:
        self._sums: dict[str, th.Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, **values: th.Tensor) -> None:
        """
        :param values: scalars on one device
        """
        for name, value in values.items():
            total = self._sums.get(name)
            self._sums[name] = value.detach().clone() if total is None else total.add_(value.detach())
            self._counts[name] = self._counts.get(name, 0) + 1

    def pop(self) -> dict[str, float]:
        """
        :return: the mean of every name since the last call, and forget them
        """
        means = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means
