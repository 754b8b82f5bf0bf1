"""
What is said of several sources of a list is said once.
"""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# What a warning calls a source at its beginning, and its numbers
_PARTICULARS = re.compile(r"^(File .*?|Dataset '.*?'( \(.*?\))?|The (dataset|replay buffer)( \(.*?\))?)(?=: )|\d+")


@contextmanager
def merged_warnings() -> Iterator[None]:
    """
    :return: a context whose warnings are said at its end, those that differ by the source and by numbers alone once
    """
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    finally:
        said: dict[Any, list[warnings.WarningMessage]] = {}
        for warning in caught:
            said.setdefault((warning.category, _PARTICULARS.sub("", str(warning.message))), []).append(warning)
        for first, *others in said.values():
            more = f" The same holds for {len(others)} more of the list." if others else ""
            warnings.warn_explicit(f"{first.message}{more}", first.category, first.filename, first.lineno)
