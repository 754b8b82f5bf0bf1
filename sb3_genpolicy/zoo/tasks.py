"""
The tasks that the paper reports: D4RL's and RL Unplugged's names, the environment of today, and the returns that count as
scores of 0 and 100.
"""

from pathlib import Path
from typing import NamedTuple

from sb3_genpolicy.common.datasets.paths import FILE_SUFFIXES, ending
from sb3_genpolicy.common.datasets.suites import suite_scores

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
# The paper's names, of the tasks of RL Unplugged's (https://arxiv.org/abs/2006.13888) folder ``dm_control_suite``
_SUITE = (
    "cartpole-swingup",
    "cheetah-run",
    "humanoid-run",
    "manipulator-insert_ball",
    "walker-stand",
    "finger-turn_hard",
    "fish-swim",
    "manipulator-insert_peg",
    "walker-walk",
)
# RL Unplugged's folder and name -> the task's name. Its folders of the suite's fish leave out the domain
_UNPLUGGED = {f"dm_control_suite/{name.replace('-', '_')}": name for name in _SUITE} | {
    "dm_control_suite/swim": "fish-swim",
    "dm_locomotion/rodent_gaps": "rodent-gaps",
}


class Task(NamedTuple):
    """
    :param name: D4RL's name, or the paper's of a task of the DeepMind Control suite
    :param env_id: id of the environment today
    :param reference_scores: returns that count as normalised scores of 0 and 100, None where nobody says
    """

    name: str
    env_id: str
    reference_scores: tuple[float, float] | None


def _all_tasks() -> list[Task]:
    kinds = ("medium-expert", "medium", "medium-replay")
    locomotion = [Task(f"{name}-{kind}-v2", *_LOCOMOTION[name]) for kind in kinds for name in _LOCOMOTION]
    mazes = [Task(f"antmaze-{maze}-v0", env_id, (0.0, 1.0)) for maze, env_id in _ANTMAZE.items()]
    ids = {name: f"dm_control/{name}-v0" for name in _SUITE}
    suite = [Task(name, env_id, suite_scores(env_id)) for name, env_id in ids.items()]
    return [*locomotion, *mazes, *suite, Task("rodent-gaps", "dm_control/RodentRunGaps-v0", None)]


#: By name, in the paper's order
PUBLISHED_TASKS: dict[str, Task] = {task.name: task for task in _all_tasks()}


def published_task(dataset: str | None) -> Task | None:
    """
    :param dataset: name of a dataset, or of a task
    :return: the task of the paper whose data it holds: D4RL's own file, by its name (``hopper_medium-v2.hdf5``), or a file
        with RL Unplugged's rows, by its name and its folder's (``dm_control_suite/cartpole_swingup.npz``). Minari's
        datasets of the same tasks were recorded anew, and are others.
    """
    if dataset is None or dataset in PUBLISHED_TASKS:
        return PUBLISHED_TASKS.get(str(dataset))
    path = Path(dataset)
    if ending(path) in FILE_SUFFIXES and f"{path.parent.name}/{path.stem}" in _UNPLUGGED:
        return PUBLISHED_TASKS[_UNPLUGGED[f"{path.parent.name}/{path.stem}"]]
    name = path.stem if path.suffix.lower() == ".hdf5" else path.name
    task = PUBLISHED_TASKS.get(name.replace("_", "-"))
    # Names without a version are the suite's, and may be anybody's
    return task if task is not None and "-v" in task.name else None
