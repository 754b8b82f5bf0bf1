"""
One state, six ways of acting, one of them best: what a Gaussian policy, GMPO and GMPG make of the same data, as a picture.

    python examples/bandit_2d.py

The behaviour model and the critics are trained once; GMPO and GMPG both start from there.
"""

import argparse
import math
from pathlib import Path

import matplotlib
import numpy as np
import torch as th

from sb3_genpolicy import GMPG, GMPO

matplotlib.use("Agg")
from matplotlib import pyplot as plt

# Rewards of the six modes, counter-clockwise from the right: the best lies opposite to the second best
REWARDS = np.array([1.0, 0.0, 0.2, 0.8, 0.2, 0.0])
ANGLES = np.arange(6) * (2.0 * math.pi / 6)
CENTRES = 0.6 * np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
STD = 0.07
STATE = np.zeros((1, 1), np.float32)


def make_data(n: int) -> dict[str, np.ndarray]:
    """Every mode equally often; each action is an episode of its own."""
    rng = np.random.default_rng(0)
    modes = rng.integers(0, 6, n)
    states, ends = np.zeros((n, 1), np.float32), np.ones(n)
    actions = (CENTRES[modes] + STD * rng.normal(size=(n, 2))).astype(np.float32)
    return dict(
        observations=states,
        next_observations=states,
        actions=actions,
        rewards=REWARDS[modes].astype(np.float32),
        terminals=ends,
        timeouts=0 * ends,
    )


def gaussian_policy(data: dict[str, np.ndarray], beta: float, n: int) -> np.ndarray:
    """Samples of the Gaussian that maximises the weighted likelihood, with the same weights exp(beta Q) as GMPO's."""
    weights = np.exp(beta * data["rewards"])
    mean = np.average(data["actions"], axis=0, weights=weights)
    covariance = np.cov(data["actions"].T, aweights=weights)
    return np.random.default_rng(1).multivariate_normal(mean, covariance, n)


def describe(name: str, actions: np.ndarray) -> str:
    distances = np.linalg.norm(actions[:, None] - CENTRES, axis=2)
    inside = distances.min(axis=1) < 4 * STD
    share = (inside & (distances.argmin(axis=1) == 0)).mean()
    return f"{name}: {100 * share:.0f} % at the best mode, {100 * (1 - inside.mean()):.0f} % where there are no data"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beta", type=float, default=4.0)
    parser.add_argument("--pretraining-steps", type=int, default=5000)
    parser.add_argument("--gmpo-steps", type=int, default=3000)
    parser.add_argument("--gmpg-steps", type=int, default=600)
    parser.add_argument("--path", type=Path, default=Path("bandit_2d.png"))
    args = parser.parse_args()

    th.set_num_threads(1)
    data, n = make_data(6000), 3000
    behaviour = GMPG("FlowPolicy", dataset=data, reward_transform=None, pretraining_steps=args.pretraining_steps, seed=0)
    behaviour.learn(args.pretraining_steps)
    gmpo = GMPO("FlowPolicy", pretrained=behaviour, beta=args.beta, seed=0).learn(args.gmpo_steps, dataset=data)
    gmpg = GMPG("FlowPolicy", pretrained=behaviour, beta=args.beta, seed=0).learn(args.gmpg_steps, dataset=data)
    greedy = GMPG("FlowPolicy", pretrained=behaviour, beta=10 * args.beta, seed=0).learn(args.gmpg_steps, dataset=data)

    states = STATE.repeat(n, axis=0)
    panels = {
        "data": data["actions"][:n],
        f"Gaussian, beta={args.beta:g}": gaussian_policy(data, args.beta, n),
        f"GMPO, beta={args.beta:g}": gmpo.predict(states)[0],
        f"GMPG, beta={args.beta:g}": gmpg.predict(states)[0],
        f"GMPG, beta={10 * args.beta:g}": greedy.predict(states)[0],
    }
    figure, axes = plt.subplots(1, len(panels), figsize=(3 * len(panels), 3.7), sharex=True, sharey=True)
    for ax, (name, actions) in zip(axes, panels.items(), strict=True):
        print(describe(name, actions))
        ax.plot(*actions.T, ".", markersize=1.5, alpha=0.4)
        for centre, reward in zip(CENTRES, REWARDS, strict=True):
            ax.annotate(f"{reward:g}", 1.45 * centre, ha="center", va="center", fontsize=8)
        ax.set(title=name, aspect="equal", xlim=(-1, 1), ylim=(-1, 1), xticks=[], yticks=[])
    axes[0].set_xlabel("numbers: rewards of the modes")
    figure.tight_layout()
    figure.savefig(args.path, dpi=90)
    print(f"Picture: {args.path}")


if __name__ == "__main__":
    main()
