"""
What a policy is, as a page beside its file: the card that model hubs show.
"""

import os
from pathlib import Path
from typing import Any

from sb3_genpolicy.common.files.whole_files import whole_file
from sb3_genpolicy.common.utils import on_one_line


def write_policy_card(model: Any, folder: str | os.PathLike[str], *, name: str | None = None, notes: str = "") -> Path:
    """
    Write ``README.md`` with what a stranger needs: method and policy, what it learnt from and for how long, what it sees and
    does, and how to load it.

    :param model: a trained model of this package
    :param folder: where the model's file is, made if it is not there
    :param name: title. Default: the method and its dataset
    :param notes: what else is to be said, in Markdown, as scores of an evaluation
    :return: the page's path
    """
    method, dataset = type(model).__name__, model.dataset_name
    title = name or f"{method} on {dataset or 'a dataset of its own'}"
    tags = ["reinforcement-learning", "offline-rl", "stable-baselines3", "sb3_genpolicy", method.lower()]
    rows = {
        "method": method,
        "policy": type(model.policy).__name__,
        "dataset": dataset or "without a name",
        "gradient steps": f"{model._n_updates:,}",
        "discount": f"{model.gamma:g}",
        "observations": on_one_line(model.observation_space),
        "actions": on_one_line(model.action_space),
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    listed = "\n".join(f"- {tag}" for tag in tags)
    text = (
        f"---\nlibrary_name: stable-baselines3\npipeline_tag: reinforcement-learning\ntags:\n{listed}\n---\n\n# {title}\n\n"
        f"| | |\n|---|---|\n{table}\n\n```python\nfrom sb3_genpolicy import {method}\n\n"
        f'model = {method}.load("model.zip")\naction, _ = model.predict(observation, deterministic=True)\n```\n'
    )
    path = Path(folder).expanduser() / "README.md"
    with whole_file(path, "md") as file:
        file.write((text + (f"\n{notes.strip()}\n" if notes else "")).encode())
    return path
