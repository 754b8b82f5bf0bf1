"""
The tasks that the paper reports: D4RL's names, the environment of today, and the returns that count as scores of 0 and 100.
"""

from pathlib import Path
from typing import NamedTuple

# Returns of a random and of an expert policy, from D4RL (https://arxiv.org/abs/2004.07219)
_LOCOMOTION = {
    "halfcheetah": ("HalfCheetah-v5", (-280.178953, 12135.0)),
    "hopper": ("Hopper-v5", (-20.272305, 3234.3)),
    "walker2d": ("Walker2d-v5", (1.629008, 4592.3)),
}
# The environment of the Minari dataset of the same name
_ANTMAZE = {
    "umaze": "AntMaze_UMaze-v4",
    "umaze-diverse": "AntMaze_UMaze-v4",
    "medium-play": "AntMaze_Medium-v4",
    "medium-diverse": "AntMaze_Medium_Diverse_GR-v4",
    "large-play": "AntMaze_Large-v4",
    "large-diverse": "AntMaze_Large_Diverse_GR-v4",
}


class Task(NamedTuple):
    """
    :param name: D4RL's name
    :param env_id: id of the environment today
    :param reference_scores: returns that count as normalised scores of 0 and 100
    """

    name: str
    env_id: str
    reference_scores: tuple[float, float]


def _all_tasks() -> list[Task]:
    kinds = ("medium-expert", "medium", "medium-replay")
    locomotion = [Task(f"{name}-{kind}-v2", *_LOCOMOTION[name]) for kind in kinds for name in _LOCOMOTION]
    return locomotion + [Task(f"antmaze-{maze}-v0", env_id, (0.0, 1.0)) for maze, env_id in _ANTMAZE.items()]


#: By D4RL's name, in the paper's order
PUBLISHED_TASKS: dict[str, Task] = {task.name: task for task in _all_tasks()}


def published_task(dataset: str | None) -> Task | None:
    """
    :param dataset: name of a dataset
    :return: the task of the paper whose data it holds: D4RL's own file, by its name (``hopper_medium-v2.hdf5``). Minari's
        datasets of the same tasks were recorded anew, and are others.
    """
    if dataset is None:
        return None
    path = Path(dataset)
    name = path.stem if path.suffix.lower() == ".hdf5" else path.name
    return PUBLISHED_TASKS.get(name.replace("_", "-"))
