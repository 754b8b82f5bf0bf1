"""
Pickles of numbers: arrays in lists and dictionaries, and nothing else.
"""

import pickle
from typing import IO, Any

_NUMPY = frozenset(
    {
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        *((f"numpy.{core}.{module}", name) for core in ("core", "_core") for module, name in (
            ("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"),
        )),
        ("collections", "OrderedDict"),
        # How Python 2 and early protocols write bytes
        ("_codecs", "encode"),
    }
)  # fmt: skip
#: Classes of other tools that only hold values: their fields are read, and nothing of the tool is run
_RECORDS = frozenset(("imitation.data.types", name) for name in ("Trajectory", "TrajectoryWithRew"))


class Record:
    """
    Stands for an object of another tool; its fields are attributes.
    """


def unpickle_plain(file: IO[bytes], label: str) -> Any:
    """
    Read a pickle that holds arrays, numbers and text in lists, tuples and dictionaries. A pickle may run whatever its author
    liked; here it may make nothing else.

    :param file: the file, open
    :param label: what it is called in messages
    :return: what it holds
    :raises ValueError: if it is damaged, or would make something else
    """
    try:
        return _PlainUnpickler(file, encoding="latin1").load()
    except _Refused as error:
        raise ValueError(
            f"{label} asks for '{error}', which no list of arrays needs, and was not read further. If you trust it, read it "
            "with pickle and pass what it holds."
        ) from error
    except Exception as error:
        raise ValueError(
            f"{label} is damaged or cut off ({error or type(error).__name__}): fetch or write it again."
        ) from error


class _Refused(Exception):
    pass


class _PlainUnpickler(pickle.Unpickler):
    """
    Makes arrays, and records of known classes.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _RECORDS:
            return Record
        if (module, name) not in _NUMPY:
            raise _Refused(f"{module}.{name}")
        return super().find_class(module, name)
