"""
Look at datasets from the command line.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gymnasium import spaces


def main(arguments: Sequence[str] | None = None) -> int:
    """
    :param arguments: of the command line, without the program
    :return: 0, or 1 where a dataset cannot be read
    """
    parser = argparse.ArgumentParser(prog="python -m sb3_genpolicy.data", description="Look at datasets.")
    commands = parser.add_subparsers(dest="command", required=True)
    info = commands.add_parser(
        "info", help="what a dataset holds", description="Print what a dataset holds, and draw it with --picture."
    )
    info.add_argument(
        "source", nargs="+", help="Minari id or folder, .hdf5, .npz or .pkl file, embedded name; several: as one"
    )
    info.add_argument("--picture", type=Path, metavar="FILE", help="file to draw it into (.png, .pdf, .svg)")
    info.add_argument("--download", action="store_true", help="fetch Minari datasets that are not on this machine")
    info.add_argument("--memory-map", action="store_true", help="leave the rows on disk")
    info.add_argument(
        "--action-bounds", nargs=2, type=float, metavar=("LOW", "HIGH"), help="of files with actions beyond -1 to 1"
    )
    info.add_argument(
        "--reference-scores", nargs=2, type=float, metavar=("LOW", "HIGH"), help="returns that count as scores of 0 and 100"
    )
    options = parser.parse_args(arguments)
    try:
        _info(options)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _info(options: argparse.Namespace) -> None:
    # Imported late: `--help` answers at once
    from sb3_genpolicy.common.dataset_info import dataset_info
    from sb3_genpolicy.common.datasets import dataset_spaces, load_dataset

    action_space = None
    if options.action_bounds is not None:
        low, high = options.action_bounds
        shape = dataset_spaces(options.source[0], check_actions=False)[1].shape
        action_space = spaces.Box(low, high, shape)
    data = load_dataset(
        options.source,
        download=options.download,
        memory_map=options.memory_map or None,
        action_space=action_space,
        reference_scores=options.reference_scores,
    )
    info = dataset_info(data)
    print(info)
    if options.picture is not None:
        info.save_picture(options.picture)
        print(f"drawn into {options.picture}")


if __name__ == "__main__":
    sys.exit(main())
