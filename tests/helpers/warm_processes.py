"""
Scripts in processes of their own that have torch and this package imported already: an import takes seconds, a fork does not.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

PRELOADED = ["tests.helpers.preloaded"]


def _run(run, target, arguments, folder, environment, files):
    for number, file in enumerate(files, start=1):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [target, *arguments]
    # As Python does: a script's folder comes first, or where a module is run
    sys.path.insert(0, str(Path(target).parent) if run == "run_path" else folder)
    getattr(runpy, run)(target, run_name="__main__")


class WarmProcess:
    """
    As ``subprocess.Popen([sys.executable, script or "-m", module, *arguments])``, but for the time to start.

    :param target: a script's path, or a module's name
    :param arguments: of the command line
    :param folder: to run in, and of nobody else: what is written to the screen is kept there
    :param environment: variables, in place of this process's own
    """

    def __init__(self, target, *arguments, folder, environment=None):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        WarmProcess._started = getattr(WarmProcess, "_started", 0) + 1
        self.files = [Path(folder) / f".{name}.{WarmProcess._started}" for name in ("stdout", "stderr")]
        run = "run_path" if str(target).endswith(".py") else "run_module"
        environment = dict(os.environ if environment is None else environment)
        arguments = [str(argument) for argument in arguments]
        self.process = context.Process(target=_run, args=(run, str(target), arguments, str(folder), environment, self.files))
        self.process.start()

    @property
    def returncode(self):
        return self.process.exitcode

    def poll(self):
        return self.process.exitcode

    def kill(self):
        os.kill(self.process.pid, signal.SIGKILL)

    def finish(self, timeout=300):
        """Wait for its end; a ``subprocess.CompletedProcess`` with what it has said."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.kill()
            raise subprocess.TimeoutExpired(self.files, timeout)
        said = [file.read_text() if file.exists() else "" for file in self.files]
        return subprocess.CompletedProcess(self.files, self.process.exitcode, *said)
