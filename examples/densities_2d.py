"""
The generative core on its own, without reinforcement learning: data, samples and density of each path, as a picture.

    python examples/densities_2d.py --data eight_gaussians
"""

import argparse
import math
from pathlib import Path

import matplotlib
import torch as th

from sb3_genpolicy.generative import (
    ConditionalMLP,
    CosinePath,
    GenerativeModel,
    LinearPath,
    OptimalTransportCoupling,
    Sampler,
    VPPath,
)

matplotlib.use("Agg")
from matplotlib import pyplot as plt

# Name, path, how noise and data are paired
MODELS = [
    ("linear", LinearPath(), None),
    ("linear, optimal transport", LinearPath(), OptimalTransportCoupling()),
    ("cosine", CosinePath(), None),
    ("variance-preserving", VPPath(), None),
]


def eight_gaussians(n: int) -> th.Tensor:
    angle = th.randint(0, 8, (n,)) * (2.0 * math.pi / 8)
    return 0.7 * th.stack([angle.cos(), angle.sin()], dim=1) + 0.06 * th.randn(n, 2)


def two_moons(n: int) -> th.Tensor:
    angle, upper = th.rand(n) * math.pi, th.randint(0, 2, (n,)) * 2.0 - 1.0
    moon = th.stack([0.5 * angle.cos() - 0.25 * upper, upper * (0.5 * angle.sin() - 0.12)], dim=1)
    return moon + 0.03 * th.randn(n, 2)


DATA = {"eight_gaussians": eight_gaussians, "two_moons": two_moons}


def train(model: GenerativeModel, draw, steps: int, batch_size: int = 256) -> None:
    optimizer = th.optim.Adam(model.parameters(), lr=5e-3)
    schedule = th.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        # There is nothing to condition on: a condition of dimension zero
        loss = model.matching_loss(draw(batch_size), th.zeros(batch_size, 0)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=DATA, default="eight_gaussians")
    parser.add_argument("--steps", type=int, default=12_000)
    parser.add_argument("--resolution", type=int, default=120, help="points of the density's grid along an axis")
    parser.add_argument("--path", type=Path, default=Path("densities_2d.png"))
    args = parser.parse_args()

    th.manual_seed(0)
    th.set_num_threads(1)
    draw = DATA[args.data]
    axis = th.linspace(-1.2, 1.2, args.resolution)
    grid = th.cartesian_prod(axis, axis)
    figure, axes = plt.subplots(len(MODELS), 3, figsize=(7.5, 2.5 * len(MODELS)), sharex=True, sharey=True)
    for (name, path, coupling), row in zip(MODELS, axes, strict=True):
        model = GenerativeModel(ConditionalMLP(2, 0, [128, 128, 128]), path, "velocity", dim=2, coupling=coupling)
        train(model, draw, args.steps)
        with th.no_grad():
            samples = model.sample(th.zeros(4000, 0), th.randn(4000, 2), Sampler("midpoint", 20))
            density = model.log_prob(grid, th.zeros(len(grid), 0)).exp()
            held_out = model.log_prob(draw(1000), th.zeros(1000, 0)).mean()
        mass = density.sum() * (axis[1] - axis[0]) ** 2
        print(f"{name}: log-density of fresh data {held_out:.2f} nats, the density sums to {mass:.3f}")
        for ax, points in zip(row[:2], (draw(4000), samples), strict=True):
            ax.plot(*points.T, ".", markersize=1, alpha=0.4)
        row[2].pcolormesh(axis, axis, density.reshape(args.resolution, -1).T, shading="nearest")
        row[0].set_ylabel(name)
        for ax in row:
            ax.set(aspect="equal", xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), xticks=[], yticks=[])
    for ax, title in zip(axes[0], ("data", "samples", "density"), strict=True):
        ax.set_title(title)
    figure.tight_layout()
    figure.savefig(args.path, dpi=100)
    print(f"Picture: {args.path}")


if __name__ == "__main__":
    main()
