"""
Lines of results in files, one JSON object each.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def rows_of(path: Path) -> list[dict[str, Any]]:
    """
    :param path: a file of results
    :return: its lines; none where there is no file yet
    """
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def keep(path: Path, row: dict[str, Any], names: Sequence[str]) -> None:
    """
    Add a line, in place of an older one of the same measurement.

    :param path: a file of results
    :param row: the line
    :param names: what tells measurements apart
    """
    others = [each for each in rows_of(path) if any(each[name] != row[name] for name in names)]
    path.write_text("".join(json.dumps(each) + "\n" for each in [*others, row]))
