"""
The update that ``beside_jax.py`` times, in JAX: critics by implicit Q-learning and a flow policy that is matched to actions
weighted by their advantage, with Adam and Polyak averages. Everything is one compiled function, from the draw of the rows on.
Run by the Python of an environment with JAX::

    PYTHONPATH=. PYTHON -m benchmarks.jax_peer 256 256

What it computes is what ``GMPO`` computes with a given ``beta``; it was written beside it, and shares no code.
"""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import sys
import time
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.turns import rows_of_two_ways, serve

N_ROWS, BATCH, STEPS_OF_A_SCAN = 100_000, 256, 20
RATE, TAU, GAMMA, EXPECTILE, BETA, LARGEST_WEIGHT = 1e-3, 0.01, 0.9, 0.7, 1.0, 100.0
ACTOR_TAU = 0.001
LOSSES = ("critic_loss", "value_loss", "actor_loss", "matching_loss")
FREQUENCIES = 2.0 * np.pi * np.logspace(np.log10(0.25), np.log10(4.0), 8)


def network(key: jax.Array, widths: list[int]) -> list[dict[str, jax.Array]]:
    """Layers initialised as torch's: uniform in one over the root of the number of inputs."""
    layers = []
    for n_in, n_out in pairwise(widths):
        key, of_weight, of_bias = jax.random.split(key, 3)
        draw = partial(jax.random.uniform, minval=-(n_in**-0.5), maxval=n_in**-0.5)
        layers.append(dict(weight=draw(of_weight, (n_in, n_out)), bias=draw(of_bias, (n_out,))))
    return layers


def mlp(layers: list[dict[str, jax.Array]], h: jax.Array) -> jax.Array:
    *hidden, head = layers
    for layer in hidden:
        h = jax.nn.relu(h @ layer["weight"] + layer["bias"])
    return h @ head["weight"] + head["bias"]


def velocity(layers: list[dict[str, jax.Array]], t: jax.Array, x: jax.Array, observations: jax.Array) -> jax.Array:
    angles = t * FREQUENCIES.astype(np.float32)
    h = jnp.concatenate([x, jnp.sin(angles), jnp.cos(angles), observations], axis=1)
    *hidden, head = layers
    for layer in hidden:
        out = jax.nn.silu(h @ layer["weight"] + layer["bias"])
        h = h + out if h.shape == out.shape else out
    return h @ head["weight"] + head["bias"]


def both(critic: Any, observations: jax.Array, actions: jax.Array) -> jax.Array:
    """Both Qs, (2, batch_size)."""
    return jax.vmap(mlp, in_axes=(0, None))(critic, jnp.concatenate([observations, actions], axis=1))[..., 0]


def losses(nets: Any, target: Any, rows: dict[str, jax.Array], key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    target_q = both(target, rows["observations"], rows["actions"]).min(axis=0)
    next_values = jax.lax.stop_gradient(mlp(nets["value"], rows["next_observations"])[:, 0])
    returns = rows["rewards"] + GAMMA * (1.0 - rows["terminals"]) * next_values
    advantage = target_q - mlp(nets["value"], rows["observations"])[:, 0]
    value_loss = (jnp.where(advantage < 0.0, 1.0 - EXPECTILE, EXPECTILE) * advantage**2).mean()
    critic_loss = ((both(nets["critic"], rows["observations"], rows["actions"]) - returns) ** 2).mean(axis=1).sum()
    weights = jnp.minimum(jnp.exp(BETA * jax.lax.stop_gradient(advantage)), LARGEST_WEIGHT)
    of_times, of_noise = jax.random.split(key)
    t, noise = jax.random.uniform(of_times, (BATCH, 1)), jax.random.normal(of_noise, rows["actions"].shape)
    predicted = velocity(nets["actor"], t, (1.0 - t) * noise + t * rows["actions"], rows["observations"])
    matching = jnp.square(predicted - (rows["actions"] - noise)).sum(axis=1)
    actor_loss = (weights * matching).mean()
    said = dict(critic_loss=critic_loss, value_loss=value_loss, actor_loss=actor_loss, matching_loss=matching.mean())
    return critic_loss + value_loss + actor_loss, said


def adam(step: jax.Array, parameter: jax.Array, gradient: jax.Array, first: jax.Array, second: jax.Array) -> Any:
    first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
    size = jnp.sqrt(second / (1.0 - 0.999**step)) + 1e-8
    return parameter - RATE / (1.0 - 0.9**step) * first / size, first, second


def followed(average: Any, nets: Any, rate: float | jax.Array) -> Any:
    return jax.tree.map(lambda a, b: a + rate * (b - a), average, nets)


def update(state: dict[str, Any], data: dict[str, jax.Array]) -> dict[str, Any]:
    key, of_rows, of_losses = jax.random.split(state["key"], 3)
    rows = {name: column[jax.random.randint(of_rows, (BATCH,), 0, len(column))] for name, column in data.items()}
    gradients, said = jax.grad(losses, has_aux=True)(state["nets"], state["target"], rows, of_losses)
    step = state["step"] + 1.0
    stepped = jax.tree.map(partial(adam, step), state["nets"], gradients, state["first"], state["second"])
    nets, first, second = (
        jax.tree.map(lambda _, three, index=index: three[index], state["nets"], stepped) for index in range(3)
    )
    target = followed(state["target"], nets["critic"], TAU)
    average = followed(state["average"], nets["actor"], jnp.maximum(ACTOR_TAU, 9.0 / (9.0 + step)))
    sums = jax.tree.map(jnp.add, state["sums"], said)
    return dict(nets=nets, first=first, second=second, target=target, average=average, step=step, key=key, sums=sums)


def initial(widths: list[int], obs_dim: int, action_dim: int) -> dict[str, Any]:
    actor, value, *critic = jax.random.split(jax.random.key(0), 4)
    qs = [network(key, [obs_dim + action_dim, *widths, 1]) for key in critic]
    nets = dict(
        actor=network(actor, [action_dim + 2 * len(FREQUENCIES) + obs_dim, *widths, action_dim]),
        value=network(value, [obs_dim, *widths, 1]),
        critic=jax.tree.map(lambda *layers: jnp.stack(layers), *qs),
    )
    # Buffers of their own, since they are given away
    copy = partial(jax.tree.map, jnp.array)
    zeros = partial(jax.tree.map, jnp.zeros_like)
    averages = dict(target=copy(nets["critic"]), average=copy(nets["actor"]))
    sums = {name: jnp.zeros(()) for name in LOSSES}
    moments = dict(first=zeros(nets), second=zeros(nets))
    return dict(nets=nets, **moments, **averages, step=jnp.zeros(()), key=jax.random.key(1), sums=sums)


def columns() -> dict[str, jax.Array]:
    """The rows, observations standardised once and for all."""
    rows = rows_of_two_ways(N_ROWS)
    seen = rows["observations"]
    seen = np.clip((seen - seen.mean(axis=0)) / seen.std(axis=0), -10.0, 10.0)
    is_followed = rows.pop("timeouts") == 0.0
    rows.update(observations=seen, next_observations=np.roll(seen, -1, axis=0))
    return {name: jnp.asarray(column[is_followed], jnp.float32) for name, column in rows.items()}


class Model:
    """Holds the state, which every update replaces."""

    def __init__(self, widths: list[int]):
        self.data = columns()
        obs_dim, action_dim = self.data["observations"].shape[1], self.data["actions"].shape[1]
        self.state = initial(widths, obs_dim, action_dim)
        self.n_noted = 0
        self.one = jax.jit(update, donate_argnums=0)

        def several(state: Any, data: Any) -> Any:
            return jax.lax.scan(lambda state, _: (update(state, data), None), state, length=STEPS_OF_A_SCAN)[0]

        self.several = jax.jit(several, donate_argnums=0)

    def step(self) -> None:
        """One update, by a call of its own."""
        self.state = jax.block_until_ready(self.one(self.state, self.data))
        self.n_noted += 1

    def scan(self) -> None:
        """Several updates by one call."""
        self.state = jax.block_until_ready(self.several(self.state, self.data))
        self.n_noted += STEPS_OF_A_SCAN

    def losses(self) -> dict[str, float]:
        """Means since the last call."""
        means = {name: float(total) / self.n_noted for name, total in self.state["sums"].items()}
        self.state["sums"], self.n_noted = jax.tree.map(jnp.zeros_like, self.state["sums"]), 0
        return means


def main() -> None:
    model = Model([int(width) for width in sys.argv[1:]])
    model.step()
    # Processor time since the process began, imports and compilation included
    said = dict(name=f"JAX {jax.__version__}", first_update=time.process_time())
    serve({"update": model.step, "scan": model.scan}, said, {"losses": model.losses})


if __name__ == "__main__":
    main()
