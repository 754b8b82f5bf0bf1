"""
``python -m sb3_genpolicy.demo``, which `make demo` runs: GMPO on the embedded Pendulum data, beside behaviour cloning and the
behaviour itself. It prints scores on the way and a table of them at the end (0: random, 100: expert), and writes a picture
and the trained model into a folder.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_genpolicy.common.algorithms.callbacks import OfflineEvalCallback
from sb3_genpolicy.common.datasets import load_dataset
from sb3_genpolicy.common.transitions.transitions import normalized_score
from sb3_genpolicy.gmpo import GMPO

DATASET, ENV_ID = "pendulum-mixed", "Pendulum-v1"
# States whose action densities are drawn: angle from upright (radians) and angular velocity (radians per second)
STATES = {"hanging, at rest": (np.pi, 0.0), "on its side, falling": (np.pi / 2, 2.0), "nearly upright": (0.2, 0.0)}


class ShownScore(BaseCallback):
    """
    A line for each evaluation, and one for a look of its own before them, so that nobody waits to see anything.

    :param scores: returns that count as normalised scores of 0 and 100
    :param first_look: steps after which it looks for the first time, >= 1
    """

    def __init__(self, scores: tuple[float, float], first_look: int):
        super().__init__()
        self.scores, self.first_look, self.start = scores, first_look, time.monotonic()

    def _on_step(self) -> bool:
        if isinstance(self.parent, OfflineEvalCallback):
            self.show(self.parent.last_mean_reward)
        elif self.num_timesteps == self.first_look:
            env = make_vec_env(ENV_ID, n_envs=10, seed=100)
            self.show(np.mean(evaluate_policy(self.model, env, n_eval_episodes=10, return_episode_rewards=True)[0]))
        return True

    def show(self, mean_return: Any) -> None:
        score = float(normalized_score(mean_return, self.scores))
        # At once, also where the output goes to a file
        print(f"{self.num_timesteps:8} steps, {time.monotonic() - self.start:4.0f} s: score {score:6.1f}", flush=True)


def train(name: str, model: GMPO, steps: int, folder: Path, scores: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Train with ten evaluations of ten episodes on the way; return their steps and returns."""
    print(f"\n{name}: {steps} gradient steps of batch {model.batch_size}", flush=True)
    eval_env = make_vec_env(ENV_ID, n_envs=10, seed=100)
    logs = folder / name.lower().replace(" ", "_")
    shown, every = [ShownScore(scores, max(steps // 50, 1)) for _ in range(2)], max(steps // 10, 1)
    evaluation = OfflineEvalCallback(
        eval_env,
        n_eval_episodes=10,
        eval_freq=every,
        log_path=str(logs),
        verbose=0,
        callback_after_eval=shown[0],
    )
    model.learn(steps, callback=[shown[1], evaluation] if steps >= 50 else evaluation, progress_bar=True, log_interval=None)
    evaluations = np.load(logs / "evaluations.npz")
    return evaluations["timesteps"], evaluations["results"].mean(axis=1)


def evaluate(model: GMPO, episodes: int) -> np.ndarray:
    """Returns of fresh episodes, from starts that the evaluations during training did not use."""
    env = make_vec_env(ENV_ID, n_envs=episodes, seed=10_000)
    returns, _ = evaluate_policy(model, env, n_eval_episodes=episodes, return_episode_rewards=True)
    return np.array(returns)


def draw(path: Path, models: dict[str, GMPO], curves: dict, behaviour: float, scores: tuple[float, float]) -> None:
    figure = Figure(figsize=(15, 3.6))
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 1 + len(STATES), width_ratios=[1.4] + [1.0] * len(STATES))
    for name, (steps, returns) in curves.items():
        axes[0].plot(steps, normalized_score(returns, scores), label=name)
    axes[0].axhline(behaviour, color="grey", linestyle="--", label="behaviour (mean)")
    axes[0].set(title="Learning curves", xlabel="gradient steps", ylabel="normalised score")
    axes[0].legend()
    for axis, (title, (angle, velocity)) in zip(axes[1:], STATES.items(), strict=True):
        observation = np.array([np.cos(angle), np.sin(angle), velocity], dtype=np.float32)
        for name, model in models.items():
            actions, _ = model.predict(np.tile(observation, (4000, 1)))
            axis.hist(actions[:, 0], bins=50, range=(-2, 2), density=True, alpha=0.6, label=name)
        axis.set(title=f"Actions: {title}", xlabel="torque")
        axis.set_yscale("log")
    axes[1].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sb3_genpolicy.demo", description=__doc__)
    parser.add_argument("--steps", type=int, default=10_000, help="gradient steps of each of the two trainings")
    parser.add_argument("--episodes", type=int, default=50, help="episodes of the final evaluation")
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="where the picture and the model go")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    # Networks this small gain little from a second thread, and lose much where other programs want the cores
    th.set_num_threads(1)
    start = time.time()

    data = load_dataset(DATASET)
    assert data.reference_scores is not None
    behaviour = normalized_score(data.episode_returns(), data.reference_scores)
    print(
        f"{DATASET}: {len(behaviour)} episodes, whose mean score is {behaviour.mean():.1f} (0: random, 100: expert)",
        flush=True,
    )
    models = {
        "GMPO": GMPO("FlowPolicy", ENV_ID, dataset=DATASET, seed=args.seed),
        "Behaviour cloning": GMPO("FlowPolicy", ENV_ID, dataset=DATASET, beta=0.0, seed=args.seed),
    }
    curves = {name: train(name, model, args.steps, args.folder, data.reference_scores) for name, model in models.items()}
    rows = {"Behaviour (the data)": behaviour}
    rows.update(
        {name: normalized_score(evaluate(model, args.episodes), data.reference_scores) for name, model in models.items()}
    )

    print(f"\n{'policy':24}{'score':>8}{'spread':>9}   (0: random, 100: expert; spread over episodes)")
    for name, score in rows.items():
        print(f"{name:24}{score.mean():8.1f}{score.std():9.1f}")
    models["GMPO"].save(args.folder / "gmpo_pendulum")
    draw(args.folder / "demo.png", models, curves, float(behaviour.mean()), data.reference_scores)
    print(
        f"\nPicture: {args.folder / 'demo.png'}, model: {args.folder / 'gmpo_pendulum.zip'}, time: {time.time() - start:.0f} s"
    )


if __name__ == "__main__":
    main()
