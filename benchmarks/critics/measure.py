"""
Returns that the simulator gives to several actions of one state, followed by the cloned behaviour policy.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch as th
from tqdm import tqdm

from benchmarks.critics.simulator import exact_rows, make_simulator, restoration_errors
from benchmarks.scores import MODELS, Cloning
from sb3_genpolicy import GMPO, load_dataset

# States that are simulated at once, and after which what there is so far is saved
_CHUNK = 20
_CLONING_STEPS = {"Pendulum-v1": 10_000}
#: What the measurement is called that critics are scored by
RETURNS = "returns"
# Of its long rollouts, for the level of Q
_LONG = dict(states=150, actions=1, rollouts=4, steps=500)


class Rollouts(NamedTuple):
    """
    :param rewards: (states, actions, rollouts, steps), 0 after an episode terminated
    :param lengths: steps until then, (states, actions, rollouts)
    """

    rewards: np.ndarray
    lengths: np.ndarray


def folder_of(dataset: str) -> Path:
    """
    :param dataset: its id
    :return: where its behaviour policy and returns are
    """
    return MODELS / "critics" / dataset.replace("/", "-")


def behaviour_of(dataset: str) -> GMPO:
    """
    :param dataset: its id
    :return: its cloned behaviour policy, trained unless there is one
    """
    path = folder_of(dataset) / "behaviour.zip"
    if not path.exists():
        data = load_dataset(dataset)
        model = Cloning("FlowPolicy", data.env_id, dataset=data, seed=0, beta=0.0, device="cpu")
        model.learn(_CLONING_STEPS.get(str(data.env_id), 20_000), log_interval=None, progress_bar=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        model.save(path)
    return GMPO.load(path, device="cpu")


@th.no_grad()
def act(model: GMPO, observations: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """
    :param model: whose policy acts
    :param observations: (n, observation_dim)
    :param noise: standard normal draws, of which an action is a function, (n, action_dim)
    :return: actions in the environment's units, (n, action_dim)
    """
    policy = model.policy
    observed, _ = policy.obs_to_tensor(observations)
    actor = policy.actor_ema
    scaled = actor.sample(actor.extract_features(observed, actor.features_extractor), th.as_tensor(noise, dtype=th.float32))
    return policy.unscale_action(scaled.numpy())


def roll_out(
    model: GMPO, simulator: Any, observations: np.ndarray, actions: np.ndarray, n_rollouts: int, n_steps: int, seed: list[int]
) -> Rollouts:
    """
    Play each action once, then follow the policy. The noise of a state's rollout is the same for each of its actions at each
    step, so that much of it cancels from differences between actions.

    :param model: the policy that is followed
    :param simulator: with room for states * actions * rollouts
    :param observations: (states, observation_dim)
    :param actions: (states, actions, action_dim)
    :param n_rollouts: of each action
    :param n_steps: of each rollout
    :param seed: of the noise
    :return: rewards and lengths
    """
    n_states, n_actions, action_dim = actions.shape
    shape = (n_states, n_actions, n_rollouts)
    generator = np.random.default_rng(seed)
    current = np.broadcast_to(observations[:, None, None], (*shape, observations.shape[-1])).reshape(np.prod(shape), -1).copy()
    for i, observation in enumerate(current):
        simulator.restore(i, observation)
    rewards = np.zeros((len(current), n_steps), dtype=np.float32)
    lengths = np.zeros(len(current), dtype=np.int32)
    alive = np.arange(len(current))
    for step in range(n_steps):
        noise = generator.standard_normal((n_states, 1, n_rollouts, action_dim), dtype=np.float32)
        if step == 0:
            played = np.broadcast_to(actions[:, :, None], (*shape, action_dim)).reshape(-1, action_dim)
        else:
            played = act(model, current[alive], np.broadcast_to(noise, (*shape, action_dim)).reshape(-1, action_dim)[alive])
        goes_on = np.ones(len(alive), dtype=bool)
        for i, (index, action) in enumerate(zip(alive, played, strict=True)):
            current[index], rewards[index, step], terminated = simulator.step(index, action)
            goes_on[i] = not terminated
        lengths[alive] += 1
        alive = alive[goes_on]
        if not len(alive):
            break
    return Rollouts(rewards.reshape(*shape, n_steps), lengths.reshape(shape))


def measure(dataset: str, states: int, actions: int, rollouts: int, steps: int, gamma: float, name: str = RETURNS) -> Path:
    """
    Measure the returns of a dataset, or go on where a measurement of the same settings was stopped.

    :param dataset: its id
    :param states: how many states, rows of the dataset drawn at random
    :param actions: how many actions of each, drawn from the cloned behaviour policy
    :param rollouts: how often each is played
    :param steps: of each rollout
    :param gamma: discount factor that a score takes by default
    :param name: what the measurement is called
    :return: its file
    """
    path = folder_of(dataset) / f"{name}.npz"
    data = load_dataset(dataset)
    errors = restoration_errors(data)
    reached, of_reward = np.quantile(errors, (0.5, 0.99, 1.0), axis=0).T
    print(f"{dataset}: errors of one step from restored states (median, 99 %, largest):", end=" ")
    print(*(f"{error:.1e}" for error in reached), "and of its reward:", *(f"{error:.1e}" for error in of_reward), flush=True)
    rows = exact_rows(data, states, seed=0)
    observations = np.asarray(data.observations[rows])
    model = behaviour_of(dataset)
    drawn = draw_actions(model, observations, actions)
    settings = dict(states=states, actions=actions, rollouts=rollouts, steps=steps)
    kept = dict(rows=rows, observations=observations, actions=drawn, gamma=np.array(gamma))
    parts = {"": settings, "long_": {**_LONG, "states": min(states, _LONG["states"])}}
    if name != RETURNS:
        # What scores the level of Q reads the other one
        del parts["long_"]
    for prefix, sizes in parts.items():
        chosen = drawn[: sizes["states"], : sizes["actions"]]
        kept = _measure_part(path, prefix, sizes, kept, model, str(data.env_id), observations, chosen)
    return path


def draw_actions(model: GMPO, observations: np.ndarray, n_actions: int) -> np.ndarray:
    """
    :param model: whose policy acts
    :param observations: (states, observation_dim)
    :param n_actions: how many for each
    :return: sampled actions in the environment's units, (states, actions, action_dim)
    """
    action_dim = model.policy.actor_ema.action_dim
    noise = np.random.default_rng(2).standard_normal((len(observations) * n_actions, action_dim), dtype=np.float32)
    return act(model, observations.repeat(n_actions, axis=0), noise).reshape(len(observations), n_actions, action_dim)


def _measure_part(
    path: Path,
    prefix: str,
    sizes: dict[str, int],
    kept: dict[str, np.ndarray],
    model: GMPO,
    env_id: str,
    observations: np.ndarray,
    actions: np.ndarray,
) -> dict[str, np.ndarray]:
    """Chunk by chunk, each saved when it is done."""
    shape = (sizes["states"], sizes["actions"], sizes["rollouts"])
    rewards, lengths, done = np.zeros((*shape, sizes["steps"]), np.float32), np.zeros(shape, np.int32), 0
    if path.exists():
        with np.load(path) as before:
            same = np.array_equal(before["rows"], kept["rows"]) and np.array_equal(before["actions"], kept["actions"])
            if same and f"{prefix}rewards" in before and before[f"{prefix}rewards"].shape == rewards.shape:
                rewards, lengths = before[f"{prefix}rewards"], before[f"{prefix}lengths"]
                done = int(before[f"{prefix}done"])
    # A chunk of long rollouts is of as many trajectories as one of the others
    chunk = _CHUNK if not prefix else sizes["states"]
    simulator = make_simulator(env_id, chunk * sizes["actions"] * sizes["rollouts"])
    for start in tqdm(range(done, sizes["states"], chunk), desc=f"{prefix or 'short_'}rollouts", mininterval=10.0):
        part = slice(start, start + chunk)
        seed = [3, len(prefix), start]
        rolled = roll_out(model, simulator, observations[: shape[0]][part], actions[part], shape[2], sizes["steps"], seed)
        rewards[part], lengths[part] = rolled
        done = min(start + chunk, sizes["states"])
        so_far = {f"{prefix}rewards": rewards, f"{prefix}lengths": lengths, f"{prefix}done": np.array(done)}
        kept = {**kept, **so_far}
        _save(path, kept)
    return {**kept, f"{prefix}rewards": rewards, f"{prefix}lengths": lengths, f"{prefix}done": np.array(done)}


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    unfinished = path.with_name("unfinished.npz")
    np.savez(unfinished, **arrays)  # type: ignore[arg-type]
    unfinished.replace(path)
