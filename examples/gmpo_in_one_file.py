"""
GMPO in one file: the whole method, to be read from top to bottom beside the paper. It needs torch, numpy and gymnasium alone.

    python examples/gmpo_in_one_file.py                                       # on the embedded Pendulum data
    python examples/gmpo_in_one_file.py --data mine.npz --env-id Hopper-v5    # on yours

Paper: "Revisiting Generative Policies: A Simpler Reinforcement Learning Algorithmic Perspective" (arXiv 2412.01245), section
4.1: a generative policy is matched to the dataset's actions, each weighted by the exponential of its advantage. Critics are
those of implicit Q-learning (IQL, arXiv 2110.06169). Time runs from t = 0, noise, to t = 1, an action.

The package's ``GMPO("FlowPolicy", critic="iql", beta=1.0)`` takes the same steps: tests/test_one_file.py compares the numbers.
"""

import argparse
import copy
import math
from itertools import pairwise
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch as th
from torch import nn

EMBEDDED = Path(__file__).parent.parent / "sb3_genpolicy" / "data" / "pendulum_mixed.npz"

BATCH_SIZE = 256
LEARNING_RATE = 1e-3
GAMMA, EXPECTILE = 0.99, 0.7  # discount factor, and expectile of V (as published for locomotion)
TAU, ACTOR_TAU = 0.01, 0.001  # how fast the target networks of Q follow, and the averaged actor, which acts
LARGEST_WEIGHT = 100.0  # of a row, lest a few of them be all that is learnt from
SAMPLING_STEPS = 5  # of acting
FREQUENCIES = 2.0 * math.pi * th.logspace(math.log10(0.25), math.log10(4.0), 8)  # of the time: low, so that few steps will do


def load_rows(path: Path, low: np.ndarray, high: np.ndarray) -> dict[str, th.Tensor]:
    """
    Rows (s, a, r, s', terminated), episode after episode, from an npz file with the arrays observations, actions, rewards,
    next_observations and terminals; or the embedded one, where an episode of ``lengths`` is stored with its last observation.
    Actions are scaled from [low, high] to [-1, 1] (the package takes the data's own range where that is narrower), and rewards
    such that the returns of the episodes span 1000.
    """
    arrays = dict(np.load(path))
    if "lengths" in arrays:
        lasts = np.cumsum(arrays["lengths"] + 1) - 1
        arrays["next_observations"] = np.delete(arrays["observations"], lasts - arrays["lengths"], axis=0)
        arrays["observations"] = np.delete(arrays["observations"], lasts, axis=0)
        arrays["terminals"] = np.zeros(len(arrays["rewards"]))  # only the time limit ends them: the last state has a value
    # An episode ends where it terminates, or where the next row does not go on from where this one led
    goes_on = (arrays["next_observations"][:-1] == arrays["observations"][1:]).all(axis=1) & ~(arrays["terminals"][:-1] > 0)
    starts = np.concatenate([[0], np.flatnonzero(~goes_on) + 1])
    returns = np.add.reduceat(arrays["rewards"], starts, dtype=np.float64)
    if returns.max() == returns.min():
        raise ValueError(f"{path}: all episodes have the return {returns[0]:.6g}, from which no scale of rewards follows.")
    print(f"{path.name}: {len(goes_on) + 1} rows, {len(starts)} episodes, returns {returns.mean():.1f} ± {returns.std():.1f}")
    arrays["rewards"] = arrays["rewards"] * (1000.0 / (returns.max() - returns.min()))
    arrays["actions"] = 2.0 * (arrays["actions"] - low) / (high - low) - 1.0
    names = ("observations", "actions", "rewards", "next_observations", "terminals")
    return {name: th.as_tensor(arrays[name], dtype=th.float32).reshape(len(goes_on) + 1, -1) for name in names}


def mlp(n_in: int, hidden: int) -> nn.Sequential:
    """Q or V: two hidden layers."""
    return nn.Sequential(nn.Linear(n_in, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1))


class VelocityField(nn.Module):
    """v(t, x, s) of the flow that carries noise to actions: a residual MLP of three layers."""

    def __init__(self, action_dim: int, observation_dim: int, hidden: int):
        super().__init__()
        widths = [action_dim + 16 + observation_dim, hidden, hidden, hidden]
        self.layers = nn.ModuleList(nn.Linear(n_in, n_out) for n_in, n_out in pairwise(widths))
        self.head = nn.Linear(hidden, action_dim)

    def forward(self, t: th.Tensor, x: th.Tensor, observations: th.Tensor) -> th.Tensor:
        """t: (batch_size, 1) or (1, 1); x: (batch_size, action_dim)."""
        angles = t * FREQUENCIES
        features = th.cat([angles.sin(), angles.cos()], dim=1).expand(len(x), -1)
        h = th.cat([x, features, observations], dim=1)
        for layer in self.layers:
            out = nn.functional.silu(layer(h))
            h = h + out if out.shape == h.shape else out
        return self.head(h)


def matching_loss(field: VelocityField, observations: th.Tensor, actions: th.Tensor, generator: th.Generator) -> th.Tensor:
    """
    Flow matching on straight lines (I-CFM without extra noise), for each row: || v(t, x_t, s) - (a - z) ||^2 at a
    random point x_t = t a + (1 - t) z of the line from noise z to the action a, which is passed with velocity a - z.
    """
    t = th.rand((len(actions), 1), generator=generator)
    z = th.randn(actions.shape, generator=generator)
    return (field(t, t * actions + (1.0 - t) * z, observations) - (actions - z)).square().sum(dim=1)


def times(steps: int) -> th.Tensor:
    """Where steps begin and end, (steps + 1,): shorter ones near the action, where the field bends most."""
    return 1.0 - (1.0 - th.linspace(0.0, 1.0, steps + 1, dtype=th.float64)) ** 1.75


def sample(field: VelocityField, observations: th.Tensor, z: th.Tensor, steps: int = SAMPLING_STEPS) -> th.Tensor:
    """Actions: noise z, (batch_size, action_dim), carried along dx/dt = v(t, x, s) by midpoint steps."""
    x, knots = z, times(steps).tolist()
    for t, t_end in pairwise(knots):
        h = t_end - t
        middle = x + 0.5 * h * field(th.full((1, 1), t), x, observations)
        x = x + h * field(th.full((1, 1), t + 0.5 * h), middle, observations)
    return x.clamp(-1.0, 1.0)


def expectile_loss(u: th.Tensor, expectile: float) -> th.Tensor:
    """|expectile - 1[u < 0]| u^2, whose mean over targets u + V is least where V is their expectile."""
    return th.where(u < 0, 1.0 - expectile, expectile) * u.square()


@th.no_grad()
def follow(average: nn.Module, network: nn.Module, rate: float) -> None:
    """Polyak averaging: average += rate (network - average)."""
    for slow, fast in zip(average.parameters(), network.parameters(), strict=True):
        slow.lerp_(fast, rate)


class GMPO:
    """Networks, their optimizer, and how they are updated."""

    def __init__(self, rows: dict[str, th.Tensor], beta: float = 1.0, hidden: int = 256, seed: int = 0):
        th.manual_seed(seed)
        self.rows, self.beta, self.n_updates = rows, beta, 0
        # Of which rows are drawn, and of times and noise
        self.row_generator, self.generator = th.Generator().manual_seed(seed + 1), th.Generator().manual_seed(seed)
        s_dim, a_dim = rows["observations"].shape[1], rows["actions"].shape[1]
        self.mean, self.std = rows["observations"].mean(dim=0), rows["observations"].std(dim=0, correction=0).clamp(min=1e-6)
        self.actor, self.v = VelocityField(a_dim, s_dim, hidden), mlp(s_dim, hidden)
        self.qs = nn.ModuleList(mlp(s_dim + a_dim, hidden) for _ in range(2))
        self.averaged_actor, self.target_qs = copy.deepcopy(self.actor), copy.deepcopy(self.qs)
        trained = (self.actor, self.qs, self.v)  # by one Adam, which is as good as three: losses share no parameters
        self.optimizer = th.optim.Adam([p for network in trained for p in network.parameters()], lr=LEARNING_RATE, fused=True)

    def normalized(self, observations: th.Tensor) -> th.Tensor:
        return ((observations - self.mean) / self.std).clamp(-10.0, 10.0)

    def draw_batch(self) -> dict[str, th.Tensor]:
        chosen = th.randint(0, len(self.rows["rewards"]), (BATCH_SIZE,), generator=self.row_generator)
        return {name: array[chosen] for name, array in self.rows.items()}

    def losses(self, batch: dict[str, th.Tensor]) -> dict[str, th.Tensor]:
        """The losses of V, Q and the policy, scalars."""
        s, s_next = self.normalized(batch["observations"]), self.normalized(batch["next_observations"])
        a, s_a = batch["actions"], th.cat([s, batch["actions"]], dim=1)
        # V: an upper expectile of Q over the dataset's actions, so that no other action is ever valued (IQL, equation 5)
        with th.no_grad():
            q = th.minimum(*(target_q(s_a) for target_q in self.target_qs))
            y = batch["rewards"] + GAMMA * (1.0 - batch["terminals"]) * self.v(s_next)
        advantage = q - self.v(s)
        v_loss = expectile_loss(advantage, EXPECTILE).mean()
        # Q: towards r + gamma V(s'), where an episode that was only cut off goes on (IQL, equation 6)
        q_loss = th.stack([(q_net(s_a) - y).square().mean() for q_net in self.qs]).sum()
        # GMPO, section 4.1. The optimum of E_pi[Q] - KL(pi || mu) / beta is pi = mu exp(beta (Q - V)) up to a factor; the
        # policy nearest to it in KL(optimum || pi) has the largest likelihood on the data with these weights, for which the
        # matching loss stands. No gradient passes through the weights.
        weights = (self.beta * advantage.detach()[:, 0]).clamp(max=math.log(LARGEST_WEIGHT)).exp()
        policy_loss = (weights * matching_loss(self.actor, s, a, self.generator)).mean()
        return dict(v_loss=v_loss, q_loss=q_loss, policy_loss=policy_loss)

    def update(self, batch: dict[str, th.Tensor]) -> dict[str, th.Tensor]:
        losses = self.losses(batch)
        self.optimizer.zero_grad()
        th.stack(list(losses.values())).sum().backward()
        self.optimizer.step()
        follow(self.target_qs, self.qs, TAU)
        # Weights make each step noisy, so that an average of the actor acts. It follows closely at first
        follow(self.averaged_actor, self.actor, max(ACTOR_TAU, 9.0 / (10.0 + self.n_updates)))
        self.n_updates += 1
        return losses

    @th.no_grad()
    def act(self, observations: np.ndarray, stochastic: bool = False) -> np.ndarray:
        """Scaled actions, (n, action_dim): samples of the policy, or what noise zero is carried to."""
        s = self.normalized(th.as_tensor(observations, dtype=th.float32))
        z = th.zeros(len(s), self.rows["actions"].shape[1])
        return sample(self.averaged_actor, s, th.randn_like(z) if stochastic else z).numpy()


def evaluate(agent: GMPO, env_id: str, n: int = 20, seed: int = 100, stochastic: bool = False) -> np.ndarray:
    """Returns of n episodes, side by side. Nowhere else is there a simulator."""
    envs = [gym.make(env_id) for _ in range(n)]
    low, high = envs[0].action_space.low, envs[0].action_space.high  # type: ignore[attr-defined]
    observations = np.stack([env.reset(seed=seed + k)[0] for k, env in enumerate(envs)])
    returns, running = np.zeros(n), np.ones(n, dtype=bool)
    while running.any():
        actions = low + 0.5 * (agent.act(observations, stochastic) + 1.0) * (high - low)
        for k in np.flatnonzero(running):
            observations[k], reward, terminated, truncated, _ = envs[k].step(actions[k])
            returns[k] += float(reward)
            running[k] = not (terminated or truncated)
    return returns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=EMBEDDED, help="an npz file; default: the embedded Pendulum data")
    parser.add_argument("--env-id", default="Pendulum-v1", help="where the policy is evaluated")
    parser.add_argument("--beta", type=float, default=1.0, help="inverse temperature: how much an advantage counts")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--eval-every", type=int, default=1_000)
    parser.add_argument("--hidden", type=int, default=256, help="width of the hidden layers")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    th.set_num_threads(1)  # networks this small gain little from a second one
    space = gym.make(args.env_id).action_space
    rows = load_rows(args.data, space.low, space.high)  # type: ignore[attr-defined]
    agent = GMPO(rows, args.beta, args.hidden, args.seed)
    for step in range(1, args.steps + 1):
        losses = agent.update(agent.draw_batch())
        if step % args.eval_every == 0 or step == args.steps:
            returns, sampled = (evaluate(agent, args.env_id, stochastic=stochastic) for stochastic in (False, True))
            shown = ", ".join(f"{name} {loss.item():.3g}" for name, loss in losses.items())
            print(f"step {step}: return {returns.mean():.1f} ± {returns.std():.1f}, sampled {sampled.mean():.1f}; {shown}")


if __name__ == "__main__":
    main()
