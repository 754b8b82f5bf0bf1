"""
A run that goes on from its last checkpoint, as a user's script would:
``python -m tests.helpers.resumed_run GMPG <folder> <steps>``, with a last argument also one that is killed at a place of its
choice while it saves.
"""

import os
import signal
import sys
from pathlib import Path

import torch as th
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.utils import LinearSchedule

from sb3_genpolicy import GMPG, GMPO, last_checkpoint
from tests.helpers.arrays import make_arrays

SAVE_FREQ = 40
#: Where in the writing of its second file a process ends itself
PLACES = ("write", "fsync", "replace", "after replace")


def make(algorithm, steps):
    """GMPG changes its phase half-way, and the learning rate changes with every step."""
    options = dict(pretraining_steps=steps // 2) if algorithm is GMPG else {}
    schedule = LinearSchedule(1e-3, 0.0, 1.0)
    networks = dict(net_arch=[16, 16])
    options.update(policy_kwargs=networks, batch_size=8, learning_rate=schedule, seed=0, dataset=make_arrays())
    return algorithm("FlowPolicy", **options)


def learn(model, steps, folder=None):
    callback = None if folder is None else CheckpointCallback(SAVE_FREQ, str(folder))
    return model.learn(steps - model.num_timesteps, callback, reset_num_timesteps=False, dataset=make_arrays())


def die_at(place):
    calls = []

    def end_at_the_second(function, before):
        def called(*args):
            calls.append(args)
            if len(calls) == 2 and before:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*args)
            if len(calls) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return called

    if place == "fsync":
        # Of the file: that of its folder comes later
        os.fsync = end_at_the_second(os.fsync, before=True)
    elif place == "write":
        plain_open = Path.open

        def open_and_write_half(path, *args):
            file = plain_open(path, *args)
            if path.suffix == ".part":
                calls.append(path)
                if len(calls) == 2:
                    file.write(b"PK\x03\x04" + bytes(1000))
                    file.flush()
                    os.kill(os.getpid(), signal.SIGKILL)
            return file

        Path.open = open_and_write_half
    else:
        os.replace = end_at_the_second(os.replace, before=place == "replace")


if __name__ == "__main__":
    th.set_num_threads(1)
    algorithm, folder, steps = {"GMPO": GMPO, "GMPG": GMPG}[sys.argv[1]], Path(sys.argv[2]), int(sys.argv[3])
    if len(sys.argv) > 4:
        die_at(sys.argv[4])
    try:
        model = algorithm.load(last_checkpoint(folder))
    except FileNotFoundError:
        model = make(algorithm, steps)
    learn(model, steps, folder).save(folder / "final")
