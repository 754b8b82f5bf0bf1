"""
Cells of tables as numbers: booleans that are text, lists in a cell, and what is missing, by row and column.
"""

import os
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
    names = list(map(str, frame.columns))
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"The table has two columns '{twice}': rename one.")
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
            return columns_of_frame(pd.read_csv(path, sep=_separator(Path(path)), low_memory=False))
        frame = pd.read_parquet(path) if key == "parquet" else pd.read_feather(path)
    except ImportError as error:
        raise ValueError(f"File {path} needs pyarrow to be read: pip install pyarrow (the extra [tables]).") from error
    except (OSError, ValueError, pd.errors.ParserError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ValueError(f"File {path} is damaged or cut off ({reason}): fetch or write it again.") from error
    return columns_of_frame(frame.reset_index() if frame.index.names != [None] else frame)


def _separator(path: Path) -> str:
    """Commas but where the first line has none."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        head = file.read(_HEAD).partition("\n")[0]
    return max(",;\t", key=lambda mark: (head.count(mark), mark == ","))


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
    first = next((cell for cell in cells if isinstance(cell, (list, tuple, np.ndarray))), None)
    if first is not None:
        return _lists(cells, len(first), name, where, label)
    result = np.empty(len(cells), dtype=np.float64)
    for row, cell in enumerate(cells):
        result[row] = _number(cell, row, name, where, label)
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
            f"{label}: column '{name}' has {cell!r} in {where(row)}, which is no number: make numbers of it first, or leave "
            "the column out."
        ) from None


def _lists(cells: np.ndarray, length: int, name: str, where: Callable[[int], str], label: str) -> np.ndarray:
    empty = np.full(length, np.nan)
    rows = [empty if cell is None or np.ndim(cell) == 0 else np.asarray(cell) for cell in cells]
    for row, cell in enumerate(rows):
        if cell.shape != (length,) or cell.dtype.kind not in "fiub":
            raise ValueError(
                f"{label}: column '{name}' has a list of {cell.shape[0]} in {where(row)}, where others have {length} numbers."
            )
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
