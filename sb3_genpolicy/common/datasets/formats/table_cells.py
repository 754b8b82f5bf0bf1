"""
Cells of tables as numbers: booleans that are text, lists in a cell, and what is missing, by row and column.
"""

import codecs
import csv
import gzip
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

#: What a boolean may be written as
_WORDS = {
    **dict.fromkeys(("true", "t", "yes", "y"), 1.0),
    **dict.fromkeys(("false", "f", "no", "n"), 0.0),
}
_EMPTY = {"", "nan", "na", "n/a", "null", "none", "<na>"}
# Bytes of a CSV file that are looked at for what parts its columns
_HEAD = 4096


def is_frame(source: Any) -> bool:
    """
    :param source: anything
    :return: whether it is a frame of pandas or polars
    """
    kind = type(source)
    return kind.__name__ in ("DataFrame", "LazyFrame") and kind.__module__.partition(".")[0] in ("pandas", "polars")


def columns_of_frame(frame: Any) -> dict[str, np.ndarray]:
    """
    :param frame: of pandas or polars
    :return: name -> its cells, (n_rows,) each
    """
    if type(frame).__name__ == "LazyFrame":
        frame = frame.collect()
    if type(frame).__module__.startswith("polars"):
        return {str(name): _polars_cells(frame[name]) for name in frame.columns}
    if any(name is not None for name in frame.index.names):
        frame = frame.reset_index([level for level in frame.index.names if level is not None and level not in frame.columns])
    names = list(map(str, frame.columns))
    _refuse_twice(names, "The table")
    return {name: _pandas_cells(frame.iloc[:, number]) for number, name in enumerate(names)}


def _polars_cells(series: Any) -> np.ndarray:
    if str(series.dtype).startswith(("List", "Array", "Categorical", "Enum", "Decimal", "String", "Utf8")):
        cells = np.empty(len(series), dtype=object)
        cells[:] = series.to_list()
        return cells
    return np.asarray(series.to_numpy())


def _pandas_cells(series: Any) -> np.ndarray:
    kind = series.dtype.kind if hasattr(series.dtype, "kind") else "O"
    if isinstance(series.dtype, np.dtype) and kind != "O":
        return series.to_numpy()
    if kind in "iub" and not series.isna().any():
        return series.to_numpy(dtype=series.dtype.numpy_dtype if hasattr(series.dtype, "numpy_dtype") else None)
    if kind in "iufb":
        # Its own missing values become NaN
        return series.to_numpy(dtype=np.float64, na_value=np.nan)
    return series.to_numpy(dtype=object)


def columns_of_file(path: str | os.PathLike[str], key: str) -> dict[str, np.ndarray]:
    """
    :param path: a table
    :param key: ``csv``, ``parquet`` or ``feather``
    :return: name -> its cells, (n_rows,) each
    :raises ValueError: if it is damaged, or pyarrow is missing
    """
    import pandas as pd

    try:
        if key == "csv":
            names = _head(Path(path))[2]
            frame = _read_csv(Path(path))
        else:
            frame = pd.read_parquet(path) if key == "parquet" else pd.read_feather(path)
    except ImportError as error:
        raise ValueError(f"File {path} needs pyarrow to be read: pip install pyarrow (the extra [tables]).") from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"File {path} is no text of UTF-8 ({error}): read it by pandas.read_csv(path, encoding='latin-1'), or what it was "
            "written in, and pass the table."
        ) from error
    except (OSError, EOFError, ValueError, pd.errors.ParserError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ValueError(f"File {path} is damaged or cut off ({reason}): fetch or write it again.") from error
    if key == "csv":
        # pandas gives the second another name
        _refuse_twice(names, f"File {path}")
    return columns_of_frame(frame)


def _read_csv(path: Path) -> Any:
    import pandas as pd

    encoding, mark, _ = _head(path)

    def read(**index: Any) -> Any:
        return pd.read_csv(path, sep=mark, low_memory=False, encoding=encoding, skipinitialspace=True, **index)

    frame = read()
    # Of lines with one mark more than the first, the first cells are names of rows, unless the last ones are all empty
    if not isinstance(frame.index, pd.RangeIndex) and frame.iloc[:, -1].isna().all():
        frame = read(index_col=False)
    return frame.rename(columns=lambda name: str(name).strip())


def _head(path: Path) -> tuple[str, str, list[str]]:
    """Encoding of a text by its first bytes, what parts its columns (commas but where the first line has none), and names."""
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    with opened(path, "rb") as file:
        start = file.read(_HEAD)
    encoding = "utf-16" if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    line = next(iter(start.decode(encoding, errors="replace").splitlines()), "")
    mark = max(",;\t", key=lambda mark: (line.count(mark), mark == ","))
    return encoding, mark, [name.strip() for name in next(csv.reader([line], delimiter=mark), [])]


def _refuse_twice(names: list[str], label: str) -> None:
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{label} has two columns '{twice}': rename one.")


def numbers(cells: np.ndarray, name: str, where: Callable[[int], str], label: str) -> np.ndarray:
    """
    :param cells: of a column
    :param name: of the column
    :param where: from a row to words
    :param label: what the table is called
    :return: (n_rows,) or, of cells that are lists, (n_rows, length); what is empty is NaN
    :raises ValueError: if a cell is no number
    """
    if cells.dtype.kind in "fiub":
        return cells.astype(np.float32) if cells.dtype.kind == "b" else cells
    if cells.dtype.kind in "mM":
        raise ValueError(f"{label}: column '{name}' holds times: make numbers of them first, as seconds since a start.")
    if cells.dtype.kind == "c":
        raise ValueError(f"{label}: column '{name}' holds complex numbers: make two columns of them.")
    if any(isinstance(cell, str) and cell.lstrip().startswith("[") for cell in cells):
        cells = _parsed_lists(cells)
    first = next((cell for cell in cells if _is_list(cell)), None)
    if first is not None:
        return _lists(cells, len(first), name, where, label)
    result = np.empty(len(cells), dtype=np.float64)
    words = np.zeros(len(cells), dtype=bool)
    for row, cell in enumerate(cells):
        result[row] = _number(cell, row, name, where, label)
        words[row] = isinstance(cell, str) and cell.strip().lower() in _WORDS
    others = ~words & ~np.isnan(result) & (result != 0) & (result != 1)
    if words.any() and others.any():
        row, other = int(np.argmax(words)), int(np.argmax(others))
        raise ValueError(
            f"{label}: column '{name}' has {cells[row]!r} in {where(row)}, but numbers such as {cells[other]!r} in "
            f"{where(other)}: leave the cell empty, or put a number there."
        )
    return result


def _is_list(cell: Any) -> bool:
    return isinstance(cell, (list, tuple)) or (isinstance(cell, np.ndarray) and cell.ndim > 0)


def _parsed_lists(cells: np.ndarray) -> np.ndarray:
    """Lists that were written as text, with commas or, as numpy prints them, without; other text stays."""
    result = np.empty(len(cells), dtype=object)
    for row, cell in enumerate(cells):
        result[row] = cell
        if isinstance(cell, str) and cell.lstrip().startswith("["):
            text = re.sub(r"[\s,]+", ",", re.sub(r"\[\s+|\s+\]", lambda found: found[0].strip(), cell.strip()))
            try:
                result[row] = json.loads(re.sub(r"\.(?=[,\]])", ".0", text))
            except ValueError:
                pass
    return result


def _number(cell: Any, row: int, name: str, where: Callable[[int], str], label: str) -> float:
    if cell is None or (not isinstance(cell, str) and cell != cell):
        return np.nan
    text = cell.strip().lower() if isinstance(cell, str) else None
    if text is not None and (text in _WORDS or text in _EMPTY):
        return _WORDS.get(text, np.nan)
    try:
        return float(cell)
    except (TypeError, ValueError):
        # pandas' own NA is no number
        if type(cell).__name__ in ("NAType", "NaTType"):
            return np.nan
        raise ValueError(
            f"{label}: column '{name}' has {cell!r} in {where(row)}, which is no number{_hint(text)}: make numbers of it "
            "first, or leave the column out."
        ) from None


def _hint(text: str | None) -> str:
    if text is not None and re.fullmatch(r"[-+]?\d+,\d+", text):
        return " (by a decimal comma? then read it by pandas.read_csv(path, sep=';', decimal=',') and pass the table)"
    return ""


def _lists(cells: np.ndarray, length: int, name: str, where: Callable[[int], str], label: str) -> np.ndarray:
    empty = np.full(length, np.nan)
    rows = []
    for row, cell in enumerate(cells):
        if not _is_list(cell) and np.isnan(_number(cell, row, name, where, label)):
            rows.append(empty)
            continue
        try:
            found = np.asarray([np.nan if each is None else each for each in cell])
        except (TypeError, ValueError):
            found = np.zeros((0, 0))
        if found.ndim != 1 or found.dtype.kind not in "fiub":
            raise ValueError(
                f"{label}: column '{name}' has {cell!r} in {where(row)}, which is no list of numbers: flatten it first."
            )
        if len(found) != length:
            raise ValueError(
                f"{label}: column '{name}' has a list of {len(found)} in {where(row)}, where others have {length} numbers."
            )
        rows.append(found)
    return np.stack(rows)


def refuse_empty(columns: Mapping[str, np.ndarray], rows: np.ndarray, where: Callable[[int], str], label: str) -> None:
    """
    :param columns: name -> (n_rows, ...), of numbers
    :param rows: (n_rows,), whether a row is looked at
    :param where: from a row to words
    :param label: what the table is called
    :raises ValueError: if a cell is empty, NaN or infinite
    """
    found = {}
    for name, column in columns.items():
        if column.dtype.kind == "f":
            wrong = ~np.isfinite(column.reshape(len(column), -1)).all(axis=1) & rows
            if wrong.any():
                found[name] = wrong
    if not found:
        return
    name, wrong = next(iter(found.items()))
    first, n_cells = int(np.argmax(wrong)), sum(int(each.sum()) for each in found.values())
    cell = columns[name][first]
    what = "empty (NaN)" if np.isnan(cell).any() else f"{cell}"
    others = f" {n_cells - 1} more cells are, in {', '.join(repr(each) for each in found)}." if n_cells > 1 else ""
    raise ValueError(f"{label}: column '{name}' is {what} in {where(first)}: fill such cells or leave the rows out.{others}")
