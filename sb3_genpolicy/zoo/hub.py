"""
The hub: what stands between rl_zoo3's commands and today's libraries put right, and a card for every model.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import yaml
from huggingface_hub.errors import EntryNotFoundError
from huggingface_sb3 import EnvironmentName

from sb3_genpolicy.zoo.arguments import Arguments, value_of
from sb3_genpolicy.zoo.model_card import write_card
from sb3_genpolicy.zoo.modules import module_of
from sb3_genpolicy.zoo.runs import Run, find_runs, plain, read_yaml


def mend() -> None:
    """
    rl_zoo3 2.9 imports a function that `sb3-team-hf-integration` 3 has renamed, and waits for an error that `huggingface_hub`
    no longer raises when a repository has no VecNormalize statistics.
    """
    publishing = module_of("huggingface_sb3.push_to_hub")
    if not hasattr(publishing, "generate_metadata"):

        def generate_metadata(model_name: str, env_id: str, mean_reward: float, std_reward: float) -> dict[str, Any]:
            return publishing._generate_metadata(model_name, env_id, mean_reward, std_reward).to_dict()

        publishing.generate_metadata = generate_metadata  # type: ignore[attr-defined]

    fetching, package = module_of("huggingface_sb3.load_from_hub"), module_of("huggingface_sb3")
    if package.load_from_hub is fetching.load_from_hub:
        from requests.exceptions import HTTPError

        def load_from_hub(repo_id: str, filename: str) -> str:
            try:
                return fetching.load_from_hub(repo_id, filename)
            except EntryNotFoundError as error:
                raise HTTPError(str(error)) from error

        package.load_from_hub = load_from_hub  # type: ignore[attr-defined]


@contextmanager
def with_card(arguments: Arguments) -> Iterator[None]:
    """
    While it lasts, a folder that is uploaded gets a card of ours.

    :param arguments: of ``push_to_hub``
    """
    theirs = huggingface_hub.HfApi
    runs = _runs_of(arguments)
    run = _chosen(runs, arguments)

    class CardApi(theirs):  # type: ignore[misc,valid-type]
        def upload_folder(self, *, repo_id: str, folder_path: str | Path, **options: Any) -> Any:
            write_card(Path(folder_path), value_of(arguments, "--algo") or "ppo", repo_id, run, same_settings(run, runs))
            return super().upload_folder(repo_id=repo_id, folder_path=folder_path, **options)

    huggingface_hub.HfApi = CardApi  # type: ignore[misc]
    try:
        yield
    finally:
        huggingface_hub.HfApi = theirs  # type: ignore[misc]


def make_plain(arguments: Arguments) -> None:
    """
    Write the settings of a run that was fetched anew, as plain YAML: rl_zoo3's commands run what such files ask for.

    :param arguments: of ``load_from_hub``
    """
    run = _chosen(_runs_of(arguments), arguments)
    if run is not None:
        for path in (run.path / run.key).glob("*.yml"):
            path.write_text(yaml.safe_dump(plain(read_yaml(path))))


def _runs_of(arguments: Arguments) -> list[Run]:
    """Runs of the algorithm and the dataset that a command is about."""
    algo, key = value_of(arguments, "--algo") or "ppo", EnvironmentName(value_of(arguments, "--env") or "")
    return [run for run in find_runs(value_of(arguments, "-f", "--folder") or "logs", [algo]) if run.key == key]


def _chosen(runs: list[Run], arguments: Arguments) -> Run | None:
    """The one that a command is about: by its number, or the latest."""
    number = int(value_of(arguments, "--exp-id") or 0)
    chosen = [run for run in runs if number in (0, run.number)]
    return chosen[-1] if chosen else None


def same_settings(run: Run | None, runs: list[Run]) -> list[Run]:
    """
    :param run: a run
    :param runs: others of its algorithm on its dataset
    :return: those with its settings, itself among them: they differ in their seeds
    """
    return [other for other in runs if run is not None and other.settings == run.settings]
