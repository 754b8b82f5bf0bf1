"""
What `make demo` runs: GMPO on the embedded Pendulum data, beside behaviour cloning and the behaviour itself.

It prints a table of normalised scores (0: random, 100: expert) and writes a picture and the trained model into a folder.
"""

import argparse
import time
from pathlib import Path

import matplotlib
import numpy as np
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_genpolicy import GMPO, OfflineEvalCallback, load_dataset, normalized_score

matplotlib.use("Agg")
from matplotlib import pyplot as plt

DATASET, ENV_ID = "pendulum-mixed", "Pendulum-v1"
# States whose action densities are drawn: angle from upright (radians) and angular velocity (radians per second)
STATES = {"hanging, at rest": (np.pi, 0.0), "on its side, falling": (np.pi / 2, 2.0), "nearly upright": (0.2, 0.0)}


def train(name: str, model: GMPO, steps: int, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Train with ten evaluations of ten episodes on the way; return their steps and returns."""
    print(f"\n{name}: {steps} gradient steps of batch {model.batch_size}")
    eval_env = make_vec_env(ENV_ID, n_envs=10, seed=100)
    logs = folder / name.lower().replace(" ", "_")
    callback = OfflineEvalCallback(eval_env, n_eval_episodes=10, eval_freq=max(steps // 10, 1), log_path=str(logs), verbose=0)
    model.learn(steps, callback=callback, progress_bar=True, log_interval=None)
    evaluations = np.load(logs / "evaluations.npz")
    return evaluations["timesteps"], evaluations["results"].mean(axis=1)


def evaluate(model: GMPO, episodes: int) -> np.ndarray:
    """Returns of fresh episodes, from starts that the evaluations during training did not use."""
    env = make_vec_env(ENV_ID, n_envs=episodes, seed=10_000)
    returns, _ = evaluate_policy(model, env, n_eval_episodes=episodes, return_episode_rewards=True)
    return np.array(returns)


def draw(path: Path, models: dict[str, GMPO], curves: dict, behaviour: float, scores: tuple[float, float]) -> None:
    figure, axes = plt.subplots(1, 1 + len(STATES), figsize=(15, 3.6), width_ratios=[1.4] + [1.0] * len(STATES))
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
    parser = argparse.ArgumentParser(description=__doc__)
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
    models = {
        "GMPO": GMPO("FlowPolicy", ENV_ID, dataset=DATASET, seed=args.seed),
        "Behaviour cloning": GMPO("FlowPolicy", ENV_ID, dataset=DATASET, beta=0.0, seed=args.seed),
    }
    curves = {name: train(name, model, args.steps, args.folder) for name, model in models.items()}
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
