"""
``python -m sb3_genpolicy.zoo <command>``: rl_zoo3's commands with offline algorithms.
"""

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import gymnasium as gym

_EXAMPLE = "python -m sb3_genpolicy.zoo train --algo gmpo --env Hopper-v5 --dataset mujoco/hopper/medium-v0"


def main(arguments: Sequence[str] | None = None) -> int:
    """
    :param arguments: of the command line, without the program
    :return: 0, or 1 where something is wrong with the arguments or the data
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        import rl_zoo3  # noqa: F401

        from sb3_genpolicy.zoo.commands import COMMANDS, run
    except ModuleNotFoundError as error:
        print(f"The zoo needs {error.name}: `pip install 'sb3_genpolicy[zoo]'`.", file=sys.stderr)
        return 1
    if not arguments or arguments[0] in ("-h", "--help") or arguments[0] not in COMMANDS:
        print(_usage({name: command.help for name, command in COMMANDS.items()}))
        if arguments and arguments[0] not in COMMANDS and not arguments[0].startswith("-"):
            from sb3_genpolicy.generative.checks import did_you_mean

            print(f"\nThere is no command '{arguments[0]}'. {did_you_mean(arguments[0], COMMANDS)}", file=sys.stderr)
            return 1
        return 0
    if {"-h", "--help"} & set(arguments[1:]) and arguments[0] not in ("results", "compare", "evaluate_offline", "report"):
        print(_OURS)
    try:
        run(arguments[0], arguments[1:])
    except (ValueError, TypeError, AssertionError, OSError, gym.error.Error) as error:
        if not _is_a_sentence(error):
            raise
        print(error, file=sys.stderr)
        return 1
    return 0


_OURS = """\
Beyond rl_zoo3's flags, which follow:
  --dataset ID [ID ...]  what is learnt from: a Minari id, a file, an embedded name; several are joined. Runs are named
                         after it. Without --env the environment is the one that the dataset names.
  -conf NAME             also a set of an offline algorithm's own: published-linear, published-cosine, published-vp
  --offline-evaluation   (train, -optimize) there is no simulator: policies are judged by the dataset
  --report [FILE]        (train) a page about the run, report.html in its folder; `report` writes those of runs that are there
  --trust-pickle         read settings of offline algorithms that were pickled (functions and classes of your own), which can
                         run anything: only for files whose maker you trust
  --gym-packages MODULE  imported first: it may register environments, and algorithms (sb3_genpolicy.register)
  --picture FILE         (plots) draw into a file
"""


_SPEAK_IN_SENTENCES = ("sb3_genpolicy", "rl_zoo3", "gymnasium", "huggingface_sb3", "huggingface_hub")


def _usage(commands: dict[str, str]) -> str:
    lines = [f"  {name:16} {text}" for name, text in commands.items()]
    return "\n".join([f"usage: {_EXAMPLE}", "", "commands (--help after one of them shows its flags):", *lines])


def _is_a_sentence(error: BaseException) -> bool:
    """Whether it was raised, in words, for the person at the keyboard; a bug is shown with its traceback."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    in_words = (last.line or "").startswith(("raise", "assert"))
    return in_words and any(package in Path(last.filename).parts for package in _SPEAK_IN_SENTENCES)


if __name__ == "__main__":
    sys.exit(main())
