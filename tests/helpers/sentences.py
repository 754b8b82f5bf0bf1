"""
What is asked of an error: one sentence for whoever typed the option, raised by this package and not somewhere below it.
"""

import dis
import re
from pathlib import Path

import sb3_genpolicy

PACKAGE = Path(sb3_genpolicy.__file__).parent
KINDS = (ValueError, TypeError, FloatingPointError)
#: What SB3 and gymnasium say themselves, clear enough to be left to them
FROM_ELSEWHERE = (
    r"^Environment `\w+` doesn't exist",
    r"^Malformed environment ID: ",
    r"^You must use `MultiInputPolicy` when working with dict observation space",
)


def fault_of(error, named=None):
    """
    :param error: what was raised
    :param named: what its message has to name, a regular expression
    :return: what is wrong with it as an answer to a user; None if nothing is
    """
    message = str(error)
    if any(re.search(pattern, message) for pattern in FROM_ELSEWHERE):
        return None
    if not _raised_here(error):
        return f"{type(error).__name__} from below: {message!r}"
    if type(error) not in KINDS:
        return f"a {type(error).__name__}: {message!r}"
    if "\n" in message or len(message.split()) < 5 or len(message) > 700 or " object at 0x" in message:
        return f"no sentence: {message!r}"
    if not re.search(r"[.?)\]]$", message):
        return f"a sentence without an end: {message!r}"
    if named is not None and not re.search(rf"\b({named})\b", message):
        return f"'{named}' is not named: {message!r}"
    return None


def _raised_here(error):
    """Whether a ``raise`` of this package is where it comes from: C functions that fail have no frame of their own."""
    frame = error.__traceback__
    while frame.tb_next is not None:
        frame = frame.tb_next
    code = frame.tb_frame.f_code
    return Path(code.co_filename).is_relative_to(PACKAGE) and dis.opname[code.co_code[frame.tb_lasti]] in (
        "RAISE_VARARGS",
        "RERAISE",
    )
