"""
The card of a model on the hub: scores, data, settings, seeds and the command, from the files that are published with it.
"""

import io
import json
import zipfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_sb3 import EnvironmentName, ModelName

from sb3_genpolicy.common.algorithms.registry import registered
from sb3_genpolicy.common.transitions.transitions import normalized_score
from sb3_genpolicy.zoo.published import published_scores
from sb3_genpolicy.zoo.runs import Run, plain, read_yaml, reference_scores_of, settings_of

_LIBRARIES = ("sb3_genpolicy", "stable-baselines3", "rl_zoo3", "gymnasium", "torch", "minari")


def write_card(folder: Path, algo: str, repo_id: str, run: Run | None = None, same_settings: Sequence[Run] = ()) -> None:
    """
    :param folder: what rl_zoo3 is about to upload
    :param algo: what the zoo calls the algorithm
    :param repo_id: the repository, with its owner
    :param run: the run that the model is of, where it is at hand
    :param same_settings: runs with its settings and other seeds
    """
    facts = _Facts(folder, algo, run, same_settings)
    card = ModelCard.from_template(
        _metadata(facts), template_str="---\n{{ card_data }}\n---\n\n{{ text }}", text=_text(facts, repo_id)
    )
    card.save(folder / "README.md")


class _Facts:
    """What the files of a folder say of the model."""

    def __init__(self, folder: Path, algo: str, run: Run | None, same_settings: Sequence[Run]):
        self.algo, self.same_settings = algo, same_settings
        self.args, self.config = read_yaml(folder / "args.yml"), read_yaml(folder / "config.yml")
        self.config_text = yaml.safe_dump(plain(self.config), sort_keys=True, default_flow_style=False)
        self.command = self.args.get("command") or (run.command if run is not None else None) or "unknown"
        self.key = str(self.args["env"])
        self.dataset: str | None = self.args.get("dataset")
        self.env_id: str = self.args.get("gym_env") or self.key
        self.result: dict[str, Any] = json.loads((folder / "results.json").read_text())
        settings = settings_of(folder / ModelName(algo, EnvironmentName(self.key)).filename)
        self.reference_scores = reference_scores_of(settings, self.dataset, self.env_id)
        self.steps = settings.get("num_timesteps")
        self.curve = _curve(folder / "train_eval_metrics.zip")

    @property
    def class_name(self) -> str:
        ours = registered()
        return ours[self.algo].algorithm.__name__ if self.algo in ours else self.algo.upper()

    @property
    def module(self) -> str:
        """What the class is imported from."""
        ours = registered()
        if self.algo not in ours:
            return "stable_baselines3"
        return "sb3_genpolicy" if self.is_of_the_package else ours[self.algo].algorithm.__module__

    @property
    def is_of_the_package(self) -> bool:
        """Whether nothing but the package is needed for it."""
        ours = registered()
        return self.algo not in ours or ours[self.algo].algorithm.__module__.startswith("sb3_genpolicy.")

    def score(self, mean: float, std: float) -> str:
        if self.reference_scores is None:
            return "unknown"
        low, high = self.reference_scores
        return f"{float(normalized_score(mean, self.reference_scores)):.1f} ± {100.0 * std / (high - low):.1f}"


def _curve(metrics: Path) -> list[tuple[int, float, float]]:
    """Steps, mean return and standard deviation of the training's evaluations."""
    if not metrics.is_file():
        return []
    with zipfile.ZipFile(metrics) as archive:
        if "evaluations.npz" not in archive.namelist():
            return []
        with np.load(io.BytesIO(archive.read("evaluations.npz"))) as stored:
            returns = stored["results"]
            return list(zip(stored["timesteps"].tolist(), returns.mean(1).tolist(), returns.std(1).tolist(), strict=True))


def _metadata(facts: _Facts) -> ModelCardData:
    mean, std = facts.result["mean_reward"], facts.result["std_reward"]
    task: dict[str, Any] = dict(
        task_type="reinforcement-learning", dataset_type=facts.env_id, dataset_name=facts.dataset or facts.env_id
    )
    results = [EvalResult(metric_type="mean_reward", metric_value=f"{mean:.2f} +/- {std:.2f}", **task)]
    if facts.reference_scores is not None:
        score = float(normalized_score(mean, facts.reference_scores))
        results.append(EvalResult(metric_type="normalized_score", metric_value=round(score, 1), **task))
    tags = [facts.env_id, "reinforcement-learning", "deep-reinforcement-learning", "stable-baselines3"]
    if facts.dataset is not None:
        tags += ["offline-reinforcement-learning", "sb3_genpolicy"]
    return ModelCardData(
        library_name="stable-baselines3", tags=tags, model_name=f"{facts.class_name}-{facts.key}", eval_results=results
    )


def _text(facts: _Facts, repo_id: str) -> str:
    sections = [_title(facts), _scores(facts), _data(facts), _use(facts, repo_id), _training(facts)]
    return "\n\n".join(sections) + "\n"


def _title(facts: _Facts) -> str:
    title = f"# {facts.class_name} on {facts.dataset or facts.env_id}"
    if facts.dataset is None:
        return f"{title}\n\nA {facts.class_name} agent for `{facts.env_id}`, trained with Stable-Baselines3 and the RL Zoo."
    published = {method.partition(" ")[0] for _, method in published_scores()}
    paper = " ([Revisiting Generative Policies](https://arxiv.org/abs/2412.01245))" if facts.class_name in published else ""
    return (
        f"{title}\n\nA policy for `{facts.env_id}`, learnt offline from the dataset `{facts.dataset}` by {facts.class_name}"
        f"{paper} with `sb3_genpolicy`, a Stable-Baselines3 "
        "extension. The environment was used for evaluation alone."
    )


def _scores(facts: _Facts) -> str:
    result = facts.result
    mean, std = result["mean_reward"], result["std_reward"]
    how = "deterministic" if result["is_deterministic"] else "sampled"
    rows = [("this model", result["n_eval_episodes"], how, f"{mean:.1f} ± {std:.1f}", facts.score(mean, std))]
    rows += [(f"training, step {step:,}", "", "", f"{m:.1f} ± {s:.1f}", facts.score(m, s)) for step, m, s in facts.curve]
    lines = ["| evaluation | episodes | actions | return | normalised score |", "|---|---|---|---|---|"]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    reference = facts.reference_scores
    scale = "" if reference is None else f"; 0 is a return of {reference[0]:g}, 100 one of {reference[1]:g}"
    text = "## Scores\n\n" + "\n".join(lines) + f"\n\n± is the standard deviation over episodes{scale}. "
    return text + f"This model is the training of seed {facts.args.get('seed')}. {_seeds(facts)}"


def _seeds(facts: _Facts) -> str:
    """What the same settings gave with other seeds, of which one is published."""
    last = [(run.args.get("seed"), run.evaluations.returns[-1]) for run in facts.same_settings if run.evaluations is not None]
    if len(last) < 2:
        return "Another seed may score otherwise."
    rows = [f"| {seed} | {returns.mean():.1f} | {facts.score(returns.mean(), returns.std())} |" for seed, returns in last]
    table = "\n".join(["| seed | return | normalised score |", "|---|---|---|", *rows])
    return f"The last evaluation of every training with these settings:\n\n{table}"


def _data(facts: _Facts) -> str:
    if facts.dataset is None:
        return f"## Environment\n\n`{facts.env_id}`"
    return f"## Data\n\n- dataset: `{facts.dataset}`\n- environment of the evaluation: `{facts.env_id}`"


def _use(facts: _Facts, repo_id: str) -> str:
    dataset = f" --dataset '{facts.dataset}'" if facts.dataset is not None else ""
    packages = "" if facts.is_of_the_package else f" --gym-packages {facts.module}"
    run = f"--algo {facts.algo} --env {facts.env_id}{dataset}{packages} -f logs"
    organization, name = repo_id.split("/")
    repository = f" -name {name}" if name != f"{facts.algo}-{facts.key}" else ""
    return (
        "## Use\n\n```sh\npip install 'sb3_genpolicy[zoo]'\n"
        "# The hub's loader asks for this, since saved models can hold pickled objects\nexport TRUST_REMOTE_CODE=True\n"
        f"python -m sb3_genpolicy.zoo load_from_hub {run} -orga {organization}{repository}\n"
        f"python -m sb3_genpolicy.zoo enjoy {run}\n```\n\n"
        f"```python\nfrom {facts.module} import {facts.class_name}\n\n"
        f'model = {facts.class_name}.load("logs/{facts.algo}/{facts.key}_1/{facts.key}.zip")\n'
        "action, _ = model.predict(observation, deterministic=True)\n```"
    )


def _training(facts: _Facts) -> str:
    versions = ", ".join(f"{library} {version(library)}" for library in _LIBRARIES)
    steps = f"{facts.steps:,} " + ("gradient steps" if facts.dataset is not None else "steps") if facts.steps else "unknown"
    return (
        f"## Training\n\n```sh\n{facts.command}\n```\n\n- steps: {steps}\n- seed: {facts.args.get('seed')}\n"
        f"- published with {versions}\n\nHyper-parameters:\n\n```yaml\n{facts.config_text}```"
    )
