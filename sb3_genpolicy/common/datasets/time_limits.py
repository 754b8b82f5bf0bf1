"""
Time limits that were logged as if the environment had ended the episode.
"""

import warnings

import numpy as np

from sb3_genpolicy.common.transitions.transitions import Transitions

# At least so many episodes have to have the longest length, which has to be at least so many steps
_EPISODES, _LENGTH = 3, 10
# The number of such episodes is compared to that of slightly shorter ones: by up to a tenth, or by so many steps
_NEARBY = 5


def suspect_time_limit(data: Transitions, label: str) -> None:
    """
    Warn if terminals look like time limits: several terminated episodes have the same length, no episode is longer, and far
    fewer are nearly as long.

    :param data: the whole of a dataset
    :param label: what it is called
    """
    starts = data.episode_starts
    lengths, terminated = np.diff(starts), np.asarray(data.terminals[starts[1:] - 1]) > 0
    ended = lengths[terminated]
    longest = int(ended.max(initial=0))
    # Without the last episode, in which the recording may just have stopped
    known_cuts = lengths[:-1][~terminated[:-1]]
    if longest < _LENGTH or known_cuts.max(initial=0) >= longest:
        return
    nearby = max(_NEARBY, longest // 10)
    n_longest = int((ended == longest).sum())
    by_chance = ((ended >= longest - nearby) & (ended < longest)).sum() / nearby
    if n_longest < _EPISODES or n_longest <= by_chance + 4.0 * np.sqrt(by_chance) + 2.0:
        return
    which = f"all {n_longest}" if n_longest == len(lengths) else f"{n_longest} of {len(lengths)}"
    warnings.warn(
        f"{label}: {which} episodes end after {longest} steps, which looks like a time limit, yet they are flagged as "
        "terminal: they are taken for ends after which nothing is earned; flag them in 'timeouts' if the time was up.",
        stacklevel=2,
    )
