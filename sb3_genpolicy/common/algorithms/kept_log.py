"""
What a training logged, kept in memory, for whoever asks for its curves afterwards.
"""

from typing import Any

from stable_baselines3.common.logger import KVWriter

from sb3_genpolicy.common.files.transient import Transient

# Of more lines every other one is dropped, those of evaluations apart
_MOST_LINES = 1000


class KeptLog(Transient, KVWriter):
    """
    An output of SB3's logger that writes nothing: it keeps the last training's lines, as far as they are numbers or the phase.
    It ends with the process; ``progress.csv`` outlasts it.
    """

    def __init__(self) -> None:
        #: Steps and values of each line
        self.lines: list[tuple[int, dict[str, float | str]]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        """
        :param key_values: of a line, by name
        :param key_excluded: not looked at
        :param step: gradient steps before it
        """
        if self.lines and step < self.lines[-1][0]:
            # Another training begins
            self.lines = []
        line = {name: value for name, value in key_values.items() if name == "train/phase" or _is_number(value)}
        self.lines.append((step, line))
        if len(self.lines) > _MOST_LINES:
            kept = [_is_evaluation(line) or number % 2 == 1 for number, (_, line) in enumerate(self.lines)]
            self.lines = [line for line, is_kept in zip(self.lines, kept, strict=True) if is_kept]

    def close(self) -> None:
        """There is nothing to close."""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) or getattr(value, "shape", None) == ()


def _is_evaluation(line: dict[str, float | str]) -> bool:
    return any(name.startswith(("eval/", "offline/")) for name in line)
