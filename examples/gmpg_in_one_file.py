"""
GMPG in one file: the whole method, to be read from top to bottom beside the paper. It needs torch, numpy and gymnasium alone.

    python examples/gmpg_in_one_file.py --data mine.npz --env-id Hopper-v5 --beta 10

Paper: "Revisiting Generative Policies: A Simpler Reinforcement Learning Algorithmic Perspective" (arXiv 2412.01245), section
4.2: a generative policy pi starts as a copy of a model mu of the behaviour policy and descends on -beta Q(s, a) + log pi(a|s)
- log mu(a|s), a ~ pi, with the gradient through the sampler. Critics are those of implicit Q-learning (IQL, arXiv 2110.06169).
Time runs from t = 0, noise, to t = 1, an action. The package's ``GMPG("FlowPolicy", critic="iql", beta=1.0)`` takes the same
steps: tests/test_one_file.py compares the numbers.
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

BATCH_SIZE, MAX_GRAD_NORM = 256, 1.0  # rows of an update, and what the norm of the policy's gradient is clipped to
LEARNING_RATE, POLICY_LEARNING_RATE = 1e-3, 3e-4  # of the first and of the second phase
GAMMA, EXPECTILE = 0.99, 0.7  # discount factor, and expectile of V (as published for locomotion)
TAU, ACTOR_TAU = 0.01, 0.001  # how fast the target networks of Q follow, and the averaged actor, which acts
SAMPLING_STEPS, DIFFUSION_STEPS = 5, 10  # of acting, and of the divergence from the behaviour model
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


@th.no_grad()
def follow(average: nn.Module, network: nn.Module, rate: float) -> None:
    """Polyak averaging: average += rate (network - average)."""
    for slow, fast in zip(average.parameters(), network.parameters(), strict=True):
        slow.lerp_(fast, rate)


class GMPG:
    """Networks, their optimizers, and how they are updated: in a first phase mu, Q and V, in a second pi."""

    def __init__(self, rows: dict[str, th.Tensor], beta: float = 1.0, hidden: int = 256, seed: int = 0):
        th.manual_seed(seed)
        self.rows, self.beta, self.first_phase, self.n_updates = rows, beta, True, 0
        # Of which rows are drawn, and of times and noise
        self.row_generator, self.generator = th.Generator().manual_seed(seed + 1), th.Generator().manual_seed(seed)
        s_dim, a_dim = rows["observations"].shape[1], rows["actions"].shape[1]
        self.mean, self.std = rows["observations"].mean(dim=0), rows["observations"].std(dim=0, correction=0).clamp(min=1e-6)
        self.actor, self.v = VelocityField(a_dim, s_dim, hidden), mlp(s_dim, hidden)
        self.qs = nn.ModuleList(mlp(s_dim + a_dim, hidden) for _ in range(2))
        self.averaged_actor, self.target_qs = copy.deepcopy(self.actor), copy.deepcopy(self.qs)
        self.behaviour = self.averaged_actor  # in the first phase
        trained = (self.actor, self.qs, self.v)  # by one Adam, which is as good as three: losses share no parameters
        self.optimizer = th.optim.Adam([p for network in trained for p in network.parameters()], lr=LEARNING_RATE, fused=True)

    def normalized(self, observations: th.Tensor) -> th.Tensor:
        return ((observations - self.mean) / self.std).clamp(-10.0, 10.0)

    def draw_batch(self) -> dict[str, th.Tensor]:
        chosen = th.randint(0, len(self.rows["rewards"]), (BATCH_SIZE,), generator=self.row_generator)
        return {name: array[chosen] for name, array in self.rows.items()}

    def losses_of_first_phase(self, batch: dict[str, th.Tensor]) -> dict[str, th.Tensor]:
        """The losses of V, Q and the behaviour model mu, which is the actor as yet, scalars."""
        s, s_next = self.normalized(batch["observations"]), self.normalized(batch["next_observations"])
        a, s_a = batch["actions"], th.cat([s, batch["actions"]], dim=1)
        # V: an upper expectile of Q over the dataset's actions, so that no other action is ever valued (IQL, equation 5)
        with th.no_grad():
            q = th.minimum(*(target_q(s_a) for target_q in self.target_qs))
            y = batch["rewards"] + GAMMA * (1.0 - batch["terminals"]) * self.v(s_next)
        u = q - self.v(s)
        v_loss = (th.where(u < 0, 1.0 - EXPECTILE, EXPECTILE) * u.square()).mean()
        # Q: towards r + gamma V(s'), where an episode that was only cut off goes on (IQL, equation 6)
        q_loss = th.stack([(q_net(s_a) - y).square().mean() for q_net in self.qs]).sum()
        return dict(v_loss=v_loss, q_loss=q_loss, matching_loss=matching_loss(self.actor, s, a, self.generator).mean())

    def begin_second_phase(self) -> None:
        """The averaged actor is mu from here on, and pi starts as its copy."""
        self.first_phase, self.n_updates = False, 0
        self.behaviour = copy.deepcopy(self.averaged_actor).requires_grad_(False)
        self.actor.load_state_dict(self.averaged_actor.state_dict())
        self.qs.requires_grad_(False)
        self.optimizer = th.optim.Adam(self.actor.parameters(), lr=POLICY_LEARNING_RATE, fused=True)

    def losses_of_second_phase(self, batch: dict[str, th.Tensor]) -> dict[str, th.Tensor]:
        """Scalars whose sum is the policy's loss of section 4.2, -beta Q(s, a) + log pi(a|s) - log mu(a|s) with a ~ pi."""
        s = self.normalized(batch["observations"])
        a, kl = self.sample_with_kl(s)
        s_a = th.cat([s, a.clamp(-1.0, 1.0)], dim=1)
        q = th.minimum(*(q_net(s_a) for q_net in self.qs))
        return dict(kl=kl.mean(), minus_beta_q=-self.beta * q.mean())

    def sample_with_kl(self, s: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        Actions of pi, (batch_size, action_dim), and what each adds to KL(pi || mu), (batch_size,); gradients reach pi by both.
        That divergence is the mean of log pi - log mu. Densities by a few steps of an ODE have an error, which a policy learns
        to exploit. So both fields drive diffusions dx = (v + g^2 / 2 score) dt + g dw, which have the flows' marginals, and
        along which it is a sum of squares (Girsanov's theorem). On straight lines g^2 = 2 (1 - t) / t, and the score is that
        of the noise in x, which is x - t v: -(x - t v) / (1 - t).
        """
        x, kl = th.randn((len(s), self.rows["actions"].shape[1]), generator=self.generator), th.zeros(len(s))
        for t, t_end in pairwise(times(DIFFUSION_STEPS).tolist()):
            h, sigma = t_end - t, 1.0 - t
            # A step replaces no more noise than there is
            g2 = min(2.0 * sigma / t if t > 0.0 else math.inf, sigma**2 / h)
            v, v_mu = (field(th.full((1, 1), t), x, s) for field in (self.actor, self.behaviour))
            c = 1.0 + 0.5 * g2 * t / sigma  # by how much the drift moves with v
            kl = kl + (0.5 * h * c**2 / g2) * (v - v_mu).square().sum(dim=1)
            x = x + h * (v - 0.5 * g2 / sigma * (x - t * v)) + math.sqrt(g2 * h) * th.randn(x.shape, generator=self.generator)
        return x, kl

    def update(self, batch: dict[str, th.Tensor]) -> dict[str, th.Tensor]:
        losses = self.losses_of_first_phase(batch) if self.first_phase else self.losses_of_second_phase(batch)
        self.optimizer.zero_grad()
        th.stack(list(losses.values())).sum().backward()
        if not self.first_phase:
            nn.utils.clip_grad_norm_(self.actor.parameters(), MAX_GRAD_NORM)
        self.optimizer.step()
        # The target networks, and the average of the actor, which acts; it follows closely in the first steps of a phase
        if self.first_phase:
            follow(self.target_qs, self.qs, TAU)
        follow(self.averaged_actor, self.actor, max(ACTOR_TAU, 9.0 / (10.0 + self.n_updates)))
        self.n_updates += 1
        return losses

    @th.no_grad()
    def act(self, observations: np.ndarray, stochastic: bool = False) -> np.ndarray:
        """Actions in [-1, 1], (n, action_dim): samples of the policy, or what noise zero is carried to."""
        s = self.normalized(th.as_tensor(observations, dtype=th.float32))
        z = th.zeros(len(s), self.rows["actions"].shape[1])
        return sample(self.averaged_actor, s, th.randn_like(z) if stochastic else z).numpy()


def evaluate(agent: GMPG, env_id: str, n: int = 20, seed: int = 100, stochastic: bool = False) -> np.ndarray:
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
    parser.add_argument("--pretraining-steps", type=int, default=9_600)
    parser.add_argument("--steps", type=int, default=2_400, help="of the policy; each takes as long as several of the others")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    th.set_num_threads(1)  # networks this small gain little from a second one
    space = gym.make(args.env_id).action_space
    agent = GMPG(load_rows(args.data, space.low, space.high), args.beta, seed=args.seed)  # type: ignore[attr-defined]
    for step in range(1, args.pretraining_steps + args.steps + 1):
        losses = agent.update(agent.draw_batch())
        if step % 1000 == 0 or step in (args.pretraining_steps, args.pretraining_steps + args.steps):
            returns, sampled = (evaluate(agent, args.env_id, stochastic=stochastic) for stochastic in (False, True))
            shown = ", ".join(f"{name} {loss.item():.3g}" for name, loss in losses.items())
            print(f"step {step}: return {returns.mean():.1f} ± {returns.std():.1f}, sampled {sampled.mean():.1f}; {shown}")
        if step == args.pretraining_steps:
            agent.begin_second_phase()


if __name__ == "__main__":
    main()
