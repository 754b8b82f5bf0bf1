"""
How the updates of a training are made: step by step, or recorded once and replayed.
"""

from typing import Any

from sb3_genpolicy.common.algorithms.obstacles import recording_obstacle
from sb3_genpolicy.common.updates.recorded_update import make_ordinary, make_recordable


def prepare_updates(model: Any) -> None:
    """
    :param model: a model that is about to learn, with its dataset. If it asked for recording (``capture``) and that is not
        possible, the log says why.
    """
    step = model.descent
    obstacle = recording_obstacle(model) if model.capture else "it was not asked for"
    records = obstacle is None
    if model.capture and not records:
        model.logger.warn(f"Updates are made step by step, not recorded (capture=True): {obstacle}.")
    model.recorder.stop()
    if records:
        model.recorder.start((model.random, model.replay_buffer), step.means, step.guard, model.logger)
    step.prepare_rates(on_device=records)
    optimizers = step.optimizers().values()
    for optimizer in optimizers:
        if records:
            make_recordable(optimizer, model.device)
        else:
            make_ordinary(optimizer)
    step.guard.keep_parameters(optimizers, wanted=True)
