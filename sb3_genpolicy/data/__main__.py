"""
Look at datasets from the command line.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

# Negative numbers, also several (-1,-2,-0.5) and such as -1e3 or -inf, which argparse takes for flags
_NEGATIVE = re.compile(r"-(\d|\.\d|inf)[^=]*", re.IGNORECASE)

# Options that name one column
_COLUMNS = {
    "episode": "column that numbers or names episodes",
    "order": "column by which the steps of an episode are sorted",
    "rewards": "column of the rewards",
    "terminals": "column that says where the environment ended an episode; true or false: all of them or none",
    "timeouts": "column that says where an episode was cut off",
    "subset": "which of the subsets that a file has, as train",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """
    :param arguments: of the command line, without the program
    :return: 0, or 1 where a dataset cannot be read
    """
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args([f" {word}" if _NEGATIVE.fullmatch(word) else word for word in given])
    if options.command == "what":
        return _what(options.path)
    try:
        _info(options)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sb3_genpolicy.data", description="Look at datasets.")
    commands = parser.add_subparsers(dest="command", required=True)
    what = commands.add_parser(
        "what", help="what a file or folder is", description="Say what files are, without reading them."
    )
    what.add_argument("path", nargs="+", type=Path, help="file or folder")
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
        "--action-bounds",
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="of files with actions beyond -1 to 1: a number each, or one for each dimension (-1,-2 1,2)",
    )
    changed = info.add_mutually_exclusive_group()
    changed.add_argument("--clip-actions", action="store_true", help="clip actions to their bounds, as environments do")
    changed.add_argument(
        "--rescale-actions",
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="actions were logged between these, as -1 1: bring them to their bounds",
    )
    columns = info.add_argument_group("columns", "of tables and of other tools' files, which do not say it of themselves")
    for name, meaning in _COLUMNS.items():
        columns.add_argument(f"--{name}", metavar="NAME", help=meaning)
    for name in ("observations", "actions"):
        columns.add_argument(f"--{name}", nargs="+", metavar="NAME", help=f"columns that the {name} are")
    columns.add_argument("--success-at-end", action="store_true", help="every episode is a success: its last step earns 1")
    info.add_argument("--reference-scores", nargs=2, metavar=("LOW", "HIGH"), help="returns that count as scores of 0 and 100")
    return parser


def _what(paths: Sequence[Path]) -> int:
    from sb3_genpolicy.common.datasets.formats.signatures import describe

    for path in paths:
        print(describe(path.expanduser()))
    return 0 if all(path.expanduser().exists() for path in paths) else 1


def _info(options: argparse.Namespace) -> None:
    # Imported late: `--help` answers at once
    from sb3_genpolicy.common.datasets import load_dataset
    from sb3_genpolicy.common.datasets.info import dataset_info
    from sb3_genpolicy.common.datasets.picture import check_picture_path

    picture = None if options.picture is None else check_picture_path(options.picture)
    scores = options.reference_scores
    data = load_dataset(
        options.source,
        download=options.download,
        memory_map=options.memory_map or None,
        action_space=_action_space(options),
        reference_scores=None if scores is None else _pair("--reference-scores", scores),
        action_transforms=_transforms(options),
        **_columns(options),
    )
    info = dataset_info(data)
    print(info)
    if picture is not None:
        info.save_picture(picture)
        print(f"drawn into {picture}")


def _columns(options: argparse.Namespace) -> dict[str, Any]:
    """What was said of columns, as :func:`~sb3_genpolicy.common.datasets.load_dataset` takes it."""
    names = (*_COLUMNS, "observations", "actions")
    columns = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if columns.get("terminals") in ("true", "false"):
        columns["terminals"] = columns["terminals"] == "true"
    return {**columns, **({"success_at_end": True} if options.success_at_end else {})}


def _action_space(options: argparse.Namespace) -> spaces.Box | None:
    from sb3_genpolicy.common.datasets import dataset_spaces

    if options.action_bounds is None:
        return None
    low, high = (_numbers("--action-bounds", bound) for bound in options.action_bounds)
    shape: Any = (len(options.actions),) if options.actions else dataset_spaces(options.source[0], False)[1].shape
    n_dims = int(np.prod(shape))
    for bound in (low, high):
        if len(bound) not in (1, n_dims):
            raise ValueError(
                f"--action-bounds has {len(bound)} numbers, {','.join(f'{number:g}' for number in bound)}, but actions have "
                f"{n_dims} {'dimension' if n_dims == 1 else 'dimensions'}: give one for all of them, or one for each."
            )
    lows, highs = (np.broadcast_to(np.array(bound, np.float32), n_dims) for bound in (low, high))
    if not (lows < highs).all():
        where = int(np.argmin(lows < highs))
        raise ValueError(
            f"--action-bounds: in dimension {where} the lowest action, {lows[where]:g}, has to be below the highest, "
            f"{highs[where]:g}."
        )
    return spaces.Box(lows.reshape(shape), highs.reshape(shape), dtype=np.float32)


def _transforms(options: argparse.Namespace) -> list[Any]:
    from sb3_genpolicy.common.transitions.transforms import ClipActions, RescaleActions

    if options.clip_actions:
        return [ClipActions()]
    if options.rescale_actions is not None:
        return [RescaleActions(*_pair("--rescale-actions", options.rescale_actions))]
    return []


def _pair(option: str, words: Sequence[str]) -> tuple[float, float]:
    (low, *more_low), (high, *more_high) = (_numbers(option, word) for word in words)
    if more_low or more_high:
        raise ValueError(f"{option} takes two numbers, not {' '.join(words).strip()}.")
    return low, high


def _numbers(option: str, text: str) -> list[float]:
    """Of one word: one, or several with commas between them."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"{option} takes numbers, as -1 or -1,-0.5, not '{text.strip()}'.") from error
    if np.isnan(numbers).any():
        raise ValueError(f"{option} takes numbers, and '{text.strip()}' has one that is NaN.")
    return numbers


if __name__ == "__main__":
    sys.exit(main())
