"""
What the contribution of one row to an update depends on, besides that row. An algorithm declares it once; which ways of
training (:data:`Way`) are ruled out follows from that.
"""

from enum import Enum
from typing import Literal, NamedTuple

#: Ways of training that not every update can go
Way = Literal["side by side", "several processes", "recorded", "online"]


class Scope(Enum):
    """
    How much a row's contribution to an update depends on. The value is the set of ways of training that this rules out.
    """

    #: The row itself, random numbers drawn for it, the networks, and means over the batch (:attr:`Batch.mean`)
    ROW = frozenset[Way]()
    #: In addition, what has to be computed for one model at a time, such as a loop whose length depends on the model
    MODEL = frozenset[Way]({"side by side"})
    #: All rows of the batch at once
    BATCH = frozenset[Way]({"side by side", "several processes"})
    #: All rows of the batch, and numbers that the host (the CPU) computes from them
    HOST = frozenset[Way]({"side by side", "several processes", "recorded"})
    #: That somebody else chose the row's action, whom the policy imitates
    IMITATION = frozenset[Way]({"online"})
    #: Something that was computed and kept for every row, which requires that the dataset does not change
    DATASET = frozenset[Way]({"side by side", "online"})


class Dependence(NamedTuple):
    """
    :param scope: how much a row's contribution depends on
    :param what: what depends on more than a row, a clause: ``the solver dopri5 chooses its steps by ...``
    :param remedy: what the user could do about it, a sentence without its full stop
    """

    scope: Scope
    what: str = ""
    remedy: str = ""


#: Dependence of an update in which every row's contribution depends on that row only
ON_ROWS = Dependence(Scope.ROW)
