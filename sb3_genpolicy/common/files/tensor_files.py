"""
What torch wrote, looked at before torch reads it: that it holds tensors and nothing else, each as large as its bytes.
"""

import io
import math
import pickle
import pickletools
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

#: Bytes of a number in the storages that torch names in its files
_ITEM_SIZES = {
    **dict.fromkeys(("Byte", "Char", "Bool"), 1),
    **dict.fromkeys(("Half", "BFloat16", "Short"), 2),
    **dict.fromkeys(("Float", "Int"), 4),
    **dict.fromkeys(("Double", "Long", "ComplexFloat"), 8),
    "ComplexDouble": 16,
}
# All that torch writes. Others make room for as many bytes as a file likes to name
_OPCODES = frozenset(
    "PROTO STOP MARK GLOBAL REDUCE BUILD BINPERSID BINPUT LONG_BINPUT BINGET LONG_BINGET NONE NEWTRUE NEWFALSE BININT BININT1 "
    "BININT2 LONG1 BINFLOAT BINUNICODE EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM "
    "SETITEMS".split()
)
_ENTRY = re.compile(
    r"[^/]+/(data\.pkl|data/\d+|byteorder|version|\.format_version|\.storage_alignment|\.data/serialization_id)"
)
# Networks that share parts name the same numbers several times
_TIMES_NAMED = 16


def check_tensor_file(content: bytes) -> None:
    """
    :param content: of a ``.pth`` file
    :raises ValueError: if it holds something else than tensors, or claims more than it has, with a text that goes on from the
        file's name
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _check_entries(archive, len(content))
            sizes = {info.filename.partition("/")[2]: info.file_size for info in archive.infolist()}
            names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(names) != 1:
                raise ValueError("is not what torch saves: it has no list of tensors")
            structure = archive.read(names[0])
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        raise ValueError("is not what torch saves, or damaged") from error
    _check_structure(structure, sizes, len(content))


def _check_entries(archive: zipfile.ZipFile, n_bytes: int) -> None:
    seen = set[str]()
    for info in archive.infolist():
        if not _ENTRY.fullmatch(info.filename) or info.filename in seen:
            raise ValueError(f"holds {info.filename!r}, which is no part of what torch saves")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise ValueError(f"holds {info.filename!r} compressed, which torch never does")
        seen.add(info.filename)
    if sum(info.file_size for info in archive.infolist()) > n_bytes:
        raise ValueError("claims more bytes than it has")


def _check_structure(structure: bytes, sizes: dict[str, int], n_bytes: int) -> None:
    reader = _Sketcher(structure, sizes)
    try:
        _check_opcodes(structure)
        held = reader.load()
    except _NotTensors as error:
        raise ValueError(str(error)) from error
    except Exception as error:
        raise ValueError(f"is damaged ({error or type(error).__name__})") from error
    if not isinstance(held, dict):
        raise ValueError(f"holds a {type(held).__name__}, not a dictionary of tensors")
    if reader.n_bytes > _TIMES_NAMED * n_bytes:
        raise ValueError(f"describes tensors of {reader.n_bytes} bytes in {n_bytes}")


def _check_opcodes(structure: bytes) -> None:
    for opcode, argument, _ in pickletools.genops(structure):
        if opcode.name not in _OPCODES:
            raise _NotTensors(f"holds a pickle that torch did not write ({opcode.name} {argument or ''}".rstrip() + ")")


class _NotTensors(Exception):
    pass


class _Sketcher(pickle._Unpickler):
    """
    Goes through a file's structure without making a tensor: only sizes are compared. In Python, whose memo grows with the
    file alone.
    """

    def __init__(self, structure: bytes, sizes: dict[str, int]):
        super().__init__(io.BytesIO(structure))
        self.sizes = sizes
        self.n_bytes = 0

    def find_class(self, module: str, name: str) -> Any:
        functions: dict[str, Callable[..., Any]] = {
            "collections.OrderedDict": OrderedDict,
            "torch._utils._rebuild_tensor_v2": self._measure,
            "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
        }
        if module == "torch" and name.removesuffix("Storage") in _ITEM_SIZES:
            return name.removesuffix("Storage")
        if f"{module}.{name}" not in functions:
            raise _NotTensors(f"asks for '{module}.{name}', where only tensors may be")
        return functions[f"{module}.{name}"]

    def persistent_load(self, pid: Any) -> tuple[int, int]:
        _, kind, key, _, n_numbers = pid
        there = self.sizes.get(f"data/{key}")
        if there != n_numbers * _ITEM_SIZES[kind]:
            raise _NotTensors(f"claims {n_numbers} numbers ({kind}) where it has {there or 0} bytes")
        return n_numbers, _ITEM_SIZES[kind]

    def _measure(self, storage: tuple[int, int], offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> None:
        n_numbers, item_size = storage
        n_asked = math.prod(size)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if min((offset, *size, *stride)) < 0 or n_asked > n_numbers or (n_asked and last >= n_numbers):
            raise _NotTensors(f"describes a tensor of size {tuple(size)} over {n_numbers} numbers")
        self.n_bytes += n_asked * item_size
