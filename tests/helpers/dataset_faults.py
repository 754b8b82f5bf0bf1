"""
Sound episodes, changes that spoil them, and what is asked of the answer.
"""

import hashlib

import numpy as np
import pytest

from sb3_genpolicy import load_dataset
from tests.helpers.data_formats import make_episodes

# Lengths 5, 6, 7, 8: row 12 is step 1 of episode 2
EPISODES = make_episodes()
ROW, PLACE = 12, r"row 12 \(episode 2, step 1\)"


def state_of(path):
    """Names and contents of all files below a path."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()}


def assert_refused(source, pattern, *, path=None):
    """One sentence, and nothing written beside or into the source."""
    before = state_of(path) if path is not None else None
    with pytest.raises(ValueError, match=pattern) as caught:
        load_dataset(source)
    assert "\n" not in str(caught.value)
    assert path is None or state_of(path) == before


def changed(key, row, value):
    def change(columns):
        columns[key] = np.array(columns[key])
        columns[key][row] = value

    return change
