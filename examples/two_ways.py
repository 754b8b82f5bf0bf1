"""
An obstacle, and two ways round it, of which one leads through mud: what the mean of logged actions does, what a flow does,
and what critics add to it, as a picture.

    python examples/two_ways.py

Nobody tells the policies how many ways there are. An action says where to pass the obstacle and where to end; each is an
episode of its own.
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import torch as th
from gymnasium import spaces

from sb3_genpolicy import BC, GMPO

matplotlib.use("Agg")
from matplotlib import pyplot as plt

X = np.linspace(0.0, 2.0, 41)
RADIUS = 0.3
# Legible on white and on black pages alike
GREY, BLUE, ORANGE = "#808080", "#3b82c4", "#e07b39"


def ways(starts: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """
    :param starts: heights at the beginning, (n, 1)
    :param actions: how far to turn aside at the obstacle, and the height at the end, (n, 2)
    :return: heights along the way, (n, len(X))
    """
    aside, end = actions[:, :1], actions[:, 1:]
    return starts * (1.0 - X / 2.0) + end * X / 2.0 + aside * np.sin(np.pi * X / 2.0) ** 2


def rewards_of(heights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    :param heights: (n, len(X))
    :return: -1 for the mud on the left and -2 for the obstacle, and who ran into it, (n,) each
    """
    hit = (np.hypot(X - 1.0, heights) < RADIUS).any(axis=1)
    mud = heights[:, len(X) // 2] > 0.0
    return np.where(hit, -2.0, np.where(mud, -1.0, 0.0)).astype(np.float32), hit


def logged_data(n: int) -> dict:
    """Both ways equally often, from every start."""
    rng = np.random.default_rng(0)
    starts = rng.uniform(-0.3, 0.3, (n, 1)).astype(np.float32)
    aside = rng.choice([-0.6, 0.6], n) + 0.05 * rng.normal(size=n)
    actions = np.stack([aside, rng.uniform(-0.3, 0.3, n)], axis=1).astype(np.float32)
    return dict(
        observations=starts,
        next_observations=starts,
        actions=actions,
        rewards=rewards_of(ways(starts, actions))[0],
        terminals=np.ones(n),
        timeouts=np.zeros(n),
        action_space=spaces.Box(-1.0, 1.0, (2,), np.float32),
    )


def describe(name: str, heights: np.ndarray) -> str:
    rewards, hit = rewards_of(heights)
    left, right = (100 * ((sign * heights[:, len(X) // 2] > 0.0) & ~hit).mean() for sign in (1, -1))
    shares = f"{left:.0f} % left, {right:.0f} % right, {100 * hit.mean():.0f} % into the obstacle"
    return f"{name}: {shares}, mean reward {rewards.mean():.2f}"


def draw(panels: dict[str, np.ndarray], path: Path, n: int) -> None:
    """The first ``n`` ways of each panel."""
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "two ways", "font.family": "sans-serif", "font.size": 14})
    figure, axes = plt.subplots(2, 2, figsize=(6.0, 6.2), sharex=True, sharey=True)
    for ax, (name, heights) in zip(axes.flat, panels.items(), strict=True):
        ax.add_patch(plt.Rectangle((0.7, 0.32), 0.6, 0.58, color=ORANGE, alpha=0.25, lw=0))
        ax.add_patch(plt.Circle((1.0, 0.0), RADIUS, color=GREY, lw=0))
        ax.annotate("mud", (1.0, 0.95), ha="center", color=ORANGE)
        ax.plot(X[::2], heights[:n, ::2].T, color=BLUE, lw=0.9, alpha=0.6)
        ax.set_title(name, color=GREY, fontsize=15)
        ax.set(aspect="equal", xlim=(-0.05, 2.05), ylim=(-0.95, 1.1))
        ax.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=120, transparent=True, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--drawn", type=int, default=30, help="number of ways drawn in each panel")
    parser.add_argument("--path", type=Path, default=Path("two_ways.svg"))
    args = parser.parse_args()

    th.set_num_threads(1)
    data = logged_data(5000)
    starts = np.random.default_rng(1).uniform(-0.3, 0.3, (1000, 1)).astype(np.float32)
    mean = BC("DeterministicPolicy", dataset=data, seed=0).learn(args.steps)
    clone = BC("FlowPolicy", dataset=data, seed=0).learn(args.steps)
    better = GMPO("FlowPolicy", dataset=data, reward_transform=None, beta=4.0, seed=0).learn(args.steps)

    panels = {"the data: two ways": ways(data["observations"], data["actions"])}
    for name, model in {"the mean of both": mean, "a flow keeps them apart": clone, "GMPO: which is better": better}.items():
        panels[name] = ways(starts, model.predict(starts)[0])
    for name, heights in panels.items():
        print(describe(name, heights))
    draw(panels, args.path, args.drawn)
    print(f"Picture: {args.path}")


if __name__ == "__main__":
    main()
