"""
What one row's part in an update depends on. An algorithm declares it once; which ways of training it stands in the way of
follows from it.
"""

from enum import Enum
from typing import Literal, NamedTuple

#: Ways of training that not every update can go
Way = Literal["side by side", "several processes", "recorded", "online"]


class Scope(Enum):
    """
    How far it reaches. The value is the set of the ways that it excludes.
    """

    #: The row itself, draws of its own, the networks, and means over the batch (:attr:`Batch.mean`)
    ROW = frozenset[Way]()
    #: Besides, what is computed for one model at a time, as in a loop whose length one model settles
    MODEL = frozenset[Way]({"side by side"})
    #: All rows of the batch at once
    BATCH = frozenset[Way]({"side by side", "several processes"})
    #: All rows of the batch, and numbers that the host computes of them
    HOST = frozenset[Way]({"side by side", "several processes", "recorded"})
    #: What is kept for the rows of a dataset that does not change
    DATASET = frozenset[Way]({"side by side", "online"})


class Dependence(NamedTuple):
    """
    :param scope: how far it reaches
    :param what: what depends on more than a row, a clause: ``the solver dopri5 chooses its steps by ...``
    :param remedy: what could be done, a sentence without its full stop
    """

    scope: Scope
    what: str = ""
    remedy: str = ""


#: Of an update that looks at nothing but rows, one by one
ON_ROWS = Dependence(Scope.ROW)
