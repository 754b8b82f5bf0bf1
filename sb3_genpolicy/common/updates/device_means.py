"""
Means for the log that are summed where the values are, and read only when the log is written.
"""

from collections.abc import Mapping, Sequence

import torch as th

from sb3_genpolicy.common.files.transient import Transient


class DeviceMeans(Transient):
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
        known = [name for name in values if name in self._sums]
        if known:
            with th.no_grad():
                th._foreach_add_([self._sums[name] for name in known], [values[name] for name in known])
        for name, value in values.items():
            if name not in self._sums:
                self._sums[name] = value.detach().clone()
            self.counts[name] = self.counts.get(name, 0) + 1

    def clear(self) -> None:
        """Forget everything."""
        self._sums, self.counts = {}, {}

    def count(self, counts: Mapping[str, int]) -> None:
        """
        :param counts: how often each name was added to on the device alone, when an update was replayed
        """
        for name, number in counts.items():
            self.counts[name] = self.counts.get(name, 0) + number

    def split(self, n_models: int) -> list["DeviceMeans"]:
        """
        :param n_models: number of models, which is the length of every vector
        :return: for each model its part of the sums, as views: this object must not be used afterwards
        """
        parts = []
        for k in range(n_models):
            part = DeviceMeans()
            part._sums = {name: total[k] for name, total in self._sums.items()}
            part.counts = dict(self.counts)
            parts.append(part)
        return parts

    @classmethod
    def joined(cls, parts: Sequence["DeviceMeans"]) -> "DeviceMeans":
        """
        :param parts: one for each model, all of which were added to equally often
        :return: the same sums as vectors, with one entry for each model
        """
        means = cls()
        means._sums = {name: th.stack([part._sums[name] for part in parts]) for name in parts[0]._sums}
        means.counts = dict(parts[0].counts)
        return means

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
