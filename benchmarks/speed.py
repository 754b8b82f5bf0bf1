"""
What a gradient step and an action cost, beside the least that their matrix products and their memory traffic could take, and
beside d3rlpy.

    python -m benchmarks.speed [--batch-sizes 256 4096] [--repeats 5] [--seconds 1.0]
    python -m benchmarks.speed --peer <python of an environment with d3rlpy 2.8.1>

All sides of a table run in turn, ``--repeats`` times, and medians are compared; one thread, Hopper's shapes. The floor is the
floating-point operations of the networks' forward and backward passes over the rate of a product of two 1024 x 1024 matrices,
plus the bytes that optimizers and target averages must move over the rate of a copy of 256 MB.
"""

import argparse
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from torch import nn

from sb3_genpolicy import GMPG, GMPO

OBS_DIM, ACTION_DIM, ROWS = 11, 3, 200_000
# Adam reads a parameter, its gradient and two moments, and writes three of these; a target average reads two and writes one
_ADAM_BYTES, _POLYAK_BYTES = 7 * 4, 3 * 4


def arrays() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    ends = np.arange(ROWS) % 1000 == 999
    return dict(
        observations=rng.normal(size=(ROWS, OBS_DIM)).astype(np.float32),
        actions=rng.uniform(-1, 1, (ROWS, ACTION_DIM)).astype(np.float32),
        rewards=rng.normal(size=ROWS).astype(np.float32),
        terminals=np.zeros(ROWS, np.float32),
        timeouts=ends.astype(np.float32),
        action_space=spaces.Box(-1, 1, (ACTION_DIM,), np.float32),
    )


# The floor


def seconds_of(run: Callable[[], Any], at_least: float) -> float:
    """Mean time of a call, over calls of so many seconds in all."""
    run()
    calls, start = 0, time.perf_counter()
    while time.perf_counter() - start < at_least:
        run()
        calls += 1
    return (time.perf_counter() - start) / calls


def product_rate(dtype: th.dtype, size: int = 1024) -> float:
    """Floating-point operations a second of a matrix product."""
    left, right = (th.randn(size, size).to(dtype) for _ in range(2))
    return 2.0 * size**3 / seconds_of(lambda: left @ right, 0.5)


def copy_rate(n_bytes: int = 2**28) -> float:
    """Bytes a second that a copy reads and writes."""
    source, target = (th.zeros(n_bytes // 4) for _ in range(2))
    return 2.0 * n_bytes / seconds_of(lambda: target.copy_(source), 0.5)


def linear_layers(network: nn.Module) -> list[nn.Linear]:
    return [module for module in network.modules() if isinstance(module, nn.Linear)]


def forward_flops(network: nn.Module, batch_size: int) -> float:
    return sum(2.0 * batch_size * layer.in_features * layer.out_features for layer in linear_layers(network))


def training_flops(network: nn.Module, batch_size: int) -> float:
    """Forward, gradients of weights, and gradients of inputs, which the first layer does not need."""
    return 3.0 * forward_flops(network, batch_size) - forward_flops(linear_layers(network)[0], batch_size)


def n_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


class Floor:
    """
    The least that steps of a model could take, in seconds, on this machine.

    :param products: floating-point operations a second
    :param copies: bytes a second
    """

    def __init__(self, products: float, copies: float):
        self.products, self.copies = products, copies

    def critics(self, model: GMPO | GMPG, batch_size: int) -> float:
        policy = model.policy
        flops = training_flops(policy.value_net, batch_size) + forward_flops(policy.value_net, batch_size)
        flops += sum(training_flops(q_network, batch_size) for q_network in policy.critic.q_networks)
        flops += forward_flops(policy.critic_target, batch_size)
        moved = _ADAM_BYTES * (n_parameters(policy.value_net) + n_parameters(policy.critic))
        return flops / self.products + (moved + _POLYAK_BYTES * n_parameters(policy.critic)) / self.copies

    def actor(self, model: GMPO | GMPG, batch_size: int) -> float:
        actor = model.policy.actor
        moved = (_ADAM_BYTES + _POLYAK_BYTES) * n_parameters(actor)
        return training_flops(actor, batch_size) / self.products + moved / self.copies


# The sides


def steps(policy_kwargs: dict[str, Any], batch_size: int, floor: Floor) -> dict[str, tuple[Callable[[], Any], float]]:
    """Name -> a step, and the least it could take."""
    data = arrays()
    options = dict(dataset=data, policy_kwargs=policy_kwargs, seed=0, batch_size=batch_size)
    gmpo = GMPO("FlowPolicy", **options)
    gmpo.learn(1, log_interval=None)
    batch = gmpo.replay_buffer.sample(batch_size)

    def behaviour() -> None:
        loss = gmpo.actor.matching_loss(batch.observations, batch.actions, gmpo.generator).mean()
        gmpo._update_actor(loss)

    critics, actor = floor.critics(gmpo, batch_size), floor.actor(gmpo, batch_size)
    return {
        "critics": (lambda: gmpo._update_critics(batch), critics),
        "behaviour model": (behaviour, actor),
        "GMPO": (lambda: gmpo.train(1, batch_size), critics + actor),
    }


def gmpg_step(policy_kwargs: dict[str, Any], batch_size: int) -> Callable[[], Any]:
    model = GMPG(
        "FlowPolicy", dataset=arrays(), policy_kwargs=policy_kwargs, seed=0, batch_size=batch_size, pretraining_steps=1
    )
    model.learn(2, log_interval=None)
    return lambda: model.train(1, batch_size)


def medians(sides: dict[str, Callable[[], Any]], repeats: int, seconds: float) -> dict[str, float]:
    """Name -> median time of a call; the sides take turns."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            times[name].append(seconds_of(run, seconds))
    return {name: statistics.median(values) for name, values in times.items()}


NETWORKS: dict[str, dict[str, Any]] = {"default": {}, "paper's": {"network": "unet"}}

# A whole update of IQL with networks of two layers of 256, as ours
PEER = """
import time, numpy as np, d3rlpy, torch
torch.set_num_threads(1)
rng = np.random.default_rng(0)
n, ends = {rows}, np.arange({rows}) % 1000 == 999
dataset = d3rlpy.dataset.MDPDataset(
    rng.normal(size=(n, {obs_dim})).astype(np.float32), rng.uniform(-1, 1, (n, {action_dim})).astype(np.float32),
    rng.normal(size=n).astype(np.float32), np.zeros(n, np.float32), ends.astype(np.float32),
)
iql = d3rlpy.algos.IQLConfig(batch_size={batch_size}).create(device="cpu:0")
iql.build_with_dataset(dataset)
calls, start = 0, None
while start is None or time.perf_counter() - start < {seconds}:
    iql.update(dataset.sample_transition_batch({batch_size}))
    if start is None:
        start = time.perf_counter()
    else:
        calls += 1
print((time.perf_counter() - start) / calls)
"""


def peer_step(python: str, batch_size: int, seconds: float) -> float:
    program = PEER.format(rows=ROWS, obs_dim=OBS_DIM, action_dim=ACTION_DIM, batch_size=batch_size, seconds=seconds)
    finished = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True)
    return float(finished.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[256, 4096])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each side's turn")
    parser.add_argument("--gmpg", action="store_true", help="time the second phase of GMPG too")
    parser.add_argument("--peer", metavar="PYTHON", help="of an environment with d3rlpy")
    options = parser.parse_args()
    th.set_num_threads(1)
    floor = Floor(product_rate(th.float32), copy_rate())
    rates = f"{floor.products / 1e9:.0f} GFLOP/s in float32, {product_rate(th.bfloat16) / 1e9:.0f} in bfloat16"
    print(f"One thread: {rates}, copies {floor.copies / 1e9:.0f} GB/s.\n")
    print("| networks | batch | step | ms | floor, ms | ratio |\n|---|---|---|---|---|---|")
    for network, policy_kwargs in NETWORKS.items():
        for batch_size in options.batch_sizes:
            timed = steps(policy_kwargs, batch_size, floor)
            sides = {name: run for name, (run, _) in timed.items()}
            if options.gmpg:
                sides["GMPG, second phase"] = gmpg_step(policy_kwargs, batch_size)
            for name, seconds in medians(sides, options.repeats, options.seconds).items():
                least = timed[name][1] if name in timed else None
                cells = ["", ""] if least is None else [f"{1e3 * least:.2f}", f"{seconds / least:.2f}"]
                print(f"| {network} | {batch_size} | {name} | {1e3 * seconds:.2f} | {' | '.join(cells)} |", flush=True)
    if options.peer:
        update = steps({}, 256, floor)["GMPO"][0]
        ours, theirs = [], []
        for _ in range(options.repeats):
            ours.append(seconds_of(update, options.seconds))
            theirs.append(peer_step(options.peer, 256, options.seconds))
        mine, other = 1e3 * statistics.median(ours), 1e3 * statistics.median(theirs)
        print(
            f"\nA whole update at batch 256: GMPO {mine:.1f} ms, d3rlpy's IQL {other:.1f} ms, {other / mine:.2f} times ours."
        )


if __name__ == "__main__":
    main()
