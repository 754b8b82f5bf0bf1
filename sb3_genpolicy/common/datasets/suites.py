"""
The DeepMind Control suite, whose tasks gymnasium knows by shimmy, and only after shimmy was imported.
"""

import importlib
import re
import warnings

import gymnasium as gym

_NAMESPACE = "dm_control/"
# As shimmy calls the suite's tasks (``dm_control/finger-turn_hard-v0``); locomotion and manipulation have no domain
_TASK = re.compile(r"dm_control/(?P<domain>[a-z]\w*)-[a-z]\w*-v\d+")
# 1000 steps of rewards between 0 and 1
_SCORES = (0.0, 1000.0)
# Whose episodes have no limit
_ENDLESS = "lqr"


def register_suite(env_id: str | None) -> None:
    """
    Make an environment of the DeepMind Control suite known to gymnasium. Nothing is done for others.

    :param env_id: id of an environment, or None
    :raises ValueError: if it is one of the suite (``dm_control/cartpole-swingup-v0``), and what has it is not installed
    """
    if env_id is None or not env_id.startswith(_NAMESPACE) or env_id in gym.registry:
        return
    try:
        with warnings.catch_warnings():
            # Of machines without a screen, where nothing is rendered
            warnings.filterwarnings("ignore", message=".*DISPLAY environment variable is missing")
            # Without the suite, shimmy is imported and registers nothing
            suite = importlib.import_module("dm_control.suite")
            # With mujoco 4.0.0 it is imported, and none of its tasks can be made
            suite.load("pendulum", "swingup")
            importlib.import_module("shimmy")
    except Exception as error:
        # dm_control stumbles over a mujoco, or a renderer, of another make in many ways
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ValueError(
            f"The environment '{env_id}' is one of the DeepMind Control suite, which does not work here ({reason}): "
            "pip install 'shimmy>=2.0.1' 'dm_control>=1.0.50' 'mujoco<4' (the extra [dmc])."
        ) from error


def suite_scores(env_id: str | None) -> tuple[float, float] | None:
    """
    :param env_id: id of an environment, or None
    :return: the returns that count as scores of 0 and 100 in every task of the DeepMind Control suite, whose 1000 rewards are
        between 0 and 1; None of other environments
    """
    task = _TASK.fullmatch(env_id or "")
    return _SCORES if task is not None and task["domain"] != _ENDLESS else None
