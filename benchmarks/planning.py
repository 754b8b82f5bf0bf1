"""
Chunks of actions and a memory against single steps: a ball in a maze with two ways to the goal, of which only the position is
seen, from demonstrations that are recorded here. The demonstrator takes either way, and pauses now and then.

    python -m benchmarks.planning [--seeds 5] [--steps 4000] [--algo bc gmpo] [--results FILE]
    python -m benchmarks.planning --algo gmpo --critics iql iql8 --horizons 1   # critics instead, see CRITICS
    python -m benchmarks.planning --report
    python -m benchmarks.planning --latency   # what a plan costs instead, by `predict_chunk` and by the ONNX file's runner

Needs gymnasium-robotics. Every finished run is a line of the results, and is not done twice.
"""

import argparse
import json
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_genpolicy import BC, GMPO, IQLCritic, OneStepCritic

# Two ways from r to g: along the upper corridor, or along the lower one
MAZE = [
    [1, 1, 1, 1, 1, 1, 1],
    [1, 0, 0, 0, 0, 0, 1],
    [1, "r", 1, 1, 1, "g", 1],
    [1, 0, 0, 0, 0, 0, 1],
    [1, 1, 1, 1, 1, 1, 1],
]
CORNERS = {way: np.array([[-2.0, way], [2.0, way], [2.0, 0.0]]) for way in (1.0, -1.0)}
LIMIT = 400
# chunk_length, execute_length, history
HORIZONS = ((1, 1, 1), (1, 1, 4), (8, 8, 1), (8, 8, 4), (16, 16, 1))
ALGORITHMS = {"bc": BC, "gmpo": GMPO}
# The last two are distilled from windows of eight logged actions
CRITICS = {
    "default": OneStepCritic(),
    "iql": IQLCritic(),
    "default8": OneStepCritic(distilled_from=8),
    "iql8": IQLCritic(distilled_from=8),
}


class Position(gym.ObservationWrapper):
    """The ball's position alone, as a camera would give it."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        self.observation_space = gym.spaces.Box(-4.0, 4.0, (2,))

    def observation(self, observation: Any) -> np.ndarray:
        return observation["achieved_goal"].astype(np.float32)


def make_env() -> gym.Env:
    import gymnasium_robotics

    gym.register_envs(gymnasium_robotics)
    return Position(gym.make("PointMaze_UMaze-v3", maze_map=MAZE, continuing_task=False, max_episode_steps=LIMIT))


class Demonstrator:
    """Goes by the corners of one way, drawn for each episode, with some noise, and stands still now and then."""

    def __init__(self, seed: int):
        self.random = np.random.default_rng(seed)

    def begin(self) -> None:
        self.corners, self.pause = CORNERS[self.random.choice([-1.0, 1.0])], int(self.random.integers(0, 20))

    def act(self, position: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        if len(self.corners) > 1 and np.linalg.norm(position - self.corners[0]) < 0.3:
            self.corners = self.corners[1:]
        if self.random.random() < 0.02:
            self.pause = int(self.random.integers(5, 20))
        self.pause -= 1
        target = position if self.pause > 0 else self.corners[0]
        force = 5.0 * (target - position) - 1.5 * velocity + 0.1 * self.random.standard_normal(2)
        return np.clip(force, -1.0, 1.0).astype(np.float32)


def record(n_episodes: int, seed: int = 0) -> dict[str, np.ndarray]:
    """
    :param n_episodes: number of demonstrations
    :param seed: of the demonstrator
    :return: their steps
    """
    env, demonstrator = make_env(), Demonstrator(seed)
    rows: list[tuple[Any, ...]] = []
    for episode in range(n_episodes):
        seen, _ = env.reset(seed=10_000 * (seed + 1) + episode)
        demonstrator.begin()
        over = False
        while not over:
            action = demonstrator.act(seen, env.unwrapped.point_env.data.qvel)
            after, reward, terminated, truncated, _ = env.step(action)
            rows.append((seen, action, reward, after, terminated, truncated))
            seen, over = after, terminated or truncated
    names = ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")
    return {name: np.array(column, dtype=np.float32) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def success(model: Any, n_episodes: int, seed: int) -> tuple[float, float]:
    """
    :param model: a policy
    :param n_episodes: number of episodes, all at once
    :param seed: of their starts and of the policy's noise
    :return: the share that reaches the goal, and the mean number of steps of all, LIMIT where it does not
    """
    env = DummyVecEnv([make_env] * n_episodes)
    env.seed(seed)
    th.manual_seed(seed)
    seen, state, starts = env.reset(), None, np.ones(n_episodes, dtype=bool)
    steps = np.full(n_episodes, LIMIT)
    reached = np.zeros(n_episodes, dtype=bool)
    over = np.zeros(n_episodes, dtype=bool)
    for step in range(LIMIT):
        actions, state = model.predict(seen, state, starts)
        seen, rewards, starts, _ = env.step(actions)
        newly = (rewards > 0) & ~over
        reached |= newly
        steps[newly] = step + 1
        over |= starts
    env.close()
    return float(reached.mean()), float(steps.mean())


def run(
    algo: str, horizon: tuple[int, int, int], seed: int, steps: int, episodes: int, data: Any, critic: str = "default"
) -> dict[str, Any]:
    """
    :param algo: key of ALGORITHMS
    :param horizon: chunk_length, execute_length and history
    :param seed: of the training
    :param steps: gradient steps
    :param episodes: to evaluate in
    :param data: demonstrations
    :param critic: key of CRITICS, of algorithms that have critics
    :return: a line of the results
    """
    names = dict(zip(("chunk_length", "execute_length", "history"), horizon, strict=True))
    began, more = time.time(), {} if algo == "bc" else dict(critic=CRITICS[critic])
    model = ALGORITHMS[algo]("FlowPolicy", None, dataset=data, policy_kwargs=names, seed=seed, device="cpu", **more)
    model.learn(steps)
    seconds = time.time() - began
    share, length = success(model, episodes, seed=1_000 + seed)
    # As those lines have it that are there
    kind = {} if critic == "default" else dict(critic=critic)
    return dict(algo=algo, **names, **kind, seed=seed, steps=steps, success=share, length=length, seconds=round(seconds, 1))


def report(path: Path) -> str:
    """
    :param path: the results
    :return: a table of means over seeds
    """
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for line in lines:
        algo = " ".join([line["algo"], *([line["critic"]] if "critic" in line else [])])
        groups.setdefault((algo, line["chunk_length"], line["execute_length"], line["history"]), []).append(line)
    rows = ["| | chunk | executed | history | success | steps | seeds |", "|---|---|---|---|---|---|---|"]
    for (algo, *horizon), runs in sorted(groups.items()):
        shares = 100.0 * np.array([one["success"] for one in runs])
        error = shares.std(ddof=1) / len(shares) ** 0.5 if len(shares) > 1 else np.nan
        length = np.mean([one["length"] for one in runs])
        rows.append(
            f"| {algo} | {' | '.join(map(str, horizon))} | {shares.mean():.0f} ± {error:.0f} | {length:.0f} | {len(runs)} |"
        )
    return "\n".join(rows)


def latency(n_plans: int = 150) -> str:
    """
    :param n_plans: plans that are timed for each line
    :return: a table of milliseconds, lowest deciles, of untrained policies: what they learnt does not count
    """
    from examples.run_onnx import Runner

    rows = ["| action dimensions | chunk | `predict_chunk` | ONNX | of that for each action |", "|---|---|---|---|---|"]
    for n_actions, n_seen in ((7, 20), (28, 39)):
        random, n = np.random.default_rng(0), 200
        seen, cut = random.normal(size=(n + 1, n_seen)).astype(np.float32), np.zeros(n, np.float32)
        cut[-1] = 1.0
        actions = random.uniform(-1.0, 1.0, (n, n_actions)).astype(np.float32)
        data = dict(observations=seen[:-1], next_observations=seen[1:], actions=actions, rewards=cut, terminals=0 * cut)
        for chunk_length in (1, 8, 16, 32):
            kwargs = dict(chunk_length=chunk_length, history=2)
            model = BC("FlowPolicy", None, dataset=dict(data, timeouts=cut), policy_kwargs=kwargs, device="cpu").learn(1)
            with tempfile.TemporaryDirectory() as folder:
                model.policy.export_onnx(f"{folder}/policy.onnx", deterministic=True)
                runner = Runner(f"{folder}/policy.onnx")
            times = np.zeros((2, n_plans))
            for number in range(n_plans):
                began = time.perf_counter()
                model.predict_chunk(seen[0], None, np.array([True]), deterministic=True)
                between = time.perf_counter()
                runner.reset()
                runner.act(seen[0])
                times[:, number] = between - began, time.perf_counter() - between
            own, file = 1e3 * np.percentile(times, 10, axis=1)
            rows.append(f"| {n_actions} | {chunk_length} | {own:.2f} | {file:.2f} | {file / chunk_length:.2f} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algo", nargs="+", default=["bc"], choices=list(ALGORITHMS))
    parser.add_argument("--critics", nargs="+", default=["default"], choices=list(CRITICS))
    parser.add_argument("--horizons", type=int, default=len(HORIZONS), help="how many of the horizons, from the first")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4_000)
    parser.add_argument("--demonstrations", type=int, default=60)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/planning.jsonl"))
    parser.add_argument("--report", action="store_true", help="the table of what is there already")
    parser.add_argument("--latency", action="store_true", help="what a plan costs")
    args = parser.parse_args()
    if args.latency:
        th.set_num_threads(1)
        print(latency())
        return
    if not args.report:
        data = record(args.demonstrations)
        lengths = np.diff(np.flatnonzero(np.append(1.0, data["terminals"] + data["timeouts"])))
        print(
            f"{args.demonstrations} demonstrations, {lengths.mean():.0f} steps, {data['terminals'].sum():.0f} reach the goal"
        )
        known = args.results.read_text().splitlines() if args.results.exists() else []
        done = [json.loads(line) for line in known]
        for seed in range(args.seeds):
            for algo, critic, horizon in product(args.algo, args.critics, HORIZONS[: args.horizons]):
                names = dict(zip(("algo", "chunk_length", "execute_length", "history"), (algo, *horizon), strict=True))
                what = {**names, "critic": critic, "seed": seed, "steps": args.steps}
                if any({"critic": "default", **line}.items() >= what.items() for line in done):
                    continue
                line = run(algo, horizon, seed, args.steps, args.episodes, data, critic)
                with args.results.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                print(json.dumps(line), flush=True)
    print(report(args.results))


if __name__ == "__main__":
    main()
