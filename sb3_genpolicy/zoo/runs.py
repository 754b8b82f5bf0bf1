"""
The folders that the zoo leaves behind: ``<folder>/<algorithm>/<name>_<number>``.
"""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from sb3_genpolicy.common.datasets.suites import suite_scores
from sb3_genpolicy.common.files.model_files import open_model_file
from sb3_genpolicy.common.transitions.transitions import check_reference_scores
from sb3_genpolicy.zoo.tasks import published_task


class _PlainLoader(yaml.SafeLoader):
    """Reads what rl_zoo3 writes without making the Python objects that a file asks for."""


def _ordered_dict(loader: _PlainLoader, node: yaml.Node) -> dict[str, Any]:
    pairs = loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else []
    return dict(pairs[0]) if pairs else {}


def _as_text(loader: _PlainLoader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return suffix


_PlainLoader.add_constructor("tag:yaml.org,2002:python/object/apply:collections.OrderedDict", _ordered_dict)
_PlainLoader.add_multi_constructor("tag:yaml.org,2002:python/", _as_text)


def read_yaml(path: Path) -> dict[str, Any]:
    """
    :param path: a file that rl_zoo3 wrote (``args.yml``, ``config.yml``)
    :return: what it holds; Python objects as their names. Empty if there is no such file.
    """
    if not path.is_file():
        return {}
    with path.open() as file:
        return yaml.load(file, Loader=_PlainLoader) or {}


def plain(value: Any) -> Any:
    """
    :param value: anything
    :return: the same of dictionaries, lists, texts and numbers; all else as text
    """
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


class Evaluations(NamedTuple):
    """
    :param timesteps: (n_evaluations,), gradient steps of an offline algorithm
    :param returns: (n_evaluations, n_episodes)
    :param lengths: (n_evaluations, n_episodes), steps of the episodes
    """

    timesteps: np.ndarray
    returns: np.ndarray
    lengths: np.ndarray


@dataclass(frozen=True)
class Run:
    """
    One training.

    :param path: its folder
    :param algo: what the zoo calls the algorithm
    :param key: id that its environment was registered under
    """

    path: Path
    algo: str
    key: str

    @cached_property
    def args(self) -> dict[str, Any]:
        """The flags of its command, and what the zoo added."""
        return read_yaml(self.path / self.key / "args.yml")

    @cached_property
    def config(self) -> dict[str, Any]:
        """Its hyper-parameters."""
        return read_yaml(self.path / self.key / "config.yml")

    @property
    def settings(self) -> dict[str, Any]:
        """What runs of one setting share: the hyper-parameters, without what a run has of its own."""
        return {**self.config, "dataset": self.dataset, "pretrained": "pretrained" in self.config}

    @property
    def number(self) -> int:
        """The zoo's experiment id."""
        match = re.search(r"_(\d+)(_[\w-]+)?$", self.path.name)
        return int(match.group(1)) if match else 0

    @property
    def dataset(self) -> str | None:
        """Name of the dataset, None of a run that had none."""
        return self.args.get("dataset")

    @property
    def env_id(self) -> str:
        """gymnasium's id of the environment."""
        return self.args.get("gym_env") or self.args.get("env") or self.key

    @property
    def task(self) -> str:
        """What runs that compare share: the dataset (D4RL's name of its own ones), or the environment."""
        published = published_task(self.dataset)
        return published.name if published is not None else self.dataset or self.env_id

    @property
    def command(self) -> str | None:
        """What started it, None where nobody wrote it down."""
        path = self.path / self.key / "command.txt"
        return path.read_text().strip() if path.is_file() else None

    @property
    def method(self) -> str:
        """The algorithm, with the path of its policy."""
        path = self.args.get("path")
        return self.algo.upper() + (f" {path}" if path else "")

    @property
    def model(self) -> Path | None:
        """File of the last parameters, None while there is none."""
        path = self.path / f"{self.key}.zip"
        return path if path.is_file() else None

    @cached_property
    def evaluations(self) -> Evaluations | None:
        """What was measured during the training, None where nothing was."""
        path = self.path / "evaluations.npz"
        if not path.is_file():
            return None
        with np.load(path) as stored:
            return Evaluations(stored["timesteps"], stored["results"], stored["ep_lengths"])

    @cached_property
    def reference_scores(self) -> tuple[float, float] | None:
        """Returns that count as normalised scores of 0 and 100, None where nobody says."""
        return reference_scores_of(settings_of(self.model) if self.model is not None else {}, self.dataset, self.env_id)


def settings_of(model: Path) -> dict[str, Any]:
    """
    :param model: a saved model, of ours or of SB3
    :return: its attributes, without those that were pickled
    """
    with open_model_file(model) as file:
        return file.plain_settings()


def reference_scores_of(
    settings: dict[str, Any], dataset: str | None, env_id: str | None = None
) -> tuple[float, float] | None:
    """
    :param settings: attributes of a saved model
    :param dataset: name of its dataset
    :param env_id: id of its environment
    :return: returns that count as normalised scores of 0 and 100: the model's, or those of a published task, or those of the
        DeepMind Control suite
    """
    stored = settings.get("reference_scores")
    if stored is not None:
        try:
            return check_reference_scores(stored, f"The model of {dataset or 'a run'} was saved with reference_scores that")
        except ValueError as error:
            # Of a release that took any: the run is shown all the same
            warnings.warn(f"{error} They are left out.", stacklevel=2)
    task = published_task(dataset)
    return task.reference_scores if task is not None else suite_scores(env_id)


def find_runs(folder: str | Path, algos: Sequence[str] | None = None) -> list[Run]:
    """
    :param folder: the zoo's log folder
    :param algos: the algorithms to look for, all by default
    :return: the runs in it, by algorithm, name and number
    """
    runs = []
    for args_file in Path(folder).glob("*/*/*/args.yml"):
        key, run, algo = args_file.parent.name, args_file.parent.parent, args_file.parent.parent.parent.name
        if re.fullmatch(re.escape(key) + r"_\d+(_[\w-]+)?", run.name) and (algos is None or algo in algos):
            runs.append(Run(run, algo, key))
    return sorted(runs, key=lambda run: (run.algo, run.key, run.number))
