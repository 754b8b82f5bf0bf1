"""
Learn from arrays of your own, where there is no simulator: the spaces come from the data.
"""

import argparse

import numpy as np
from gymnasium import spaces

from sb3_genpolicy import GMPO


def logged_data(n_episodes: int = 40, length: int = 50, seed: int = 0) -> dict[str, np.ndarray | spaces.Box]:
    """
    Stands for your log: a heater is to keep a room at 20 degrees. Two operators took turns, one of them better.
    """
    rng = np.random.default_rng(seed)
    columns: dict[str, list] = {key: [] for key in ("observations", "actions", "rewards", "next_observations", "timeouts")}
    for episode in range(n_episodes):
        temperature, outside = rng.uniform(10, 25), rng.uniform(-5, 15)
        for step in range(length):
            gain = 0.6 if episode % 2 else 0.1
            power = np.clip(gain * (20.0 - temperature) + rng.normal(0.0, 0.5), 0.0, 5.0)
            following = temperature + power - 0.1 * (temperature - outside) + rng.normal(0.0, 0.1)
            columns["observations"].append([temperature, outside])
            columns["actions"].append([power])
            columns["rewards"].append(-abs(following - 20.0) - 0.05 * power)
            columns["next_observations"].append([following, outside])
            # The log of an evening ends, the task does not: a timeout, no terminal
            columns["timeouts"].append(step == length - 1)
            temperature = following
    data = {key: np.array(column, dtype=np.float32) for key, column in columns.items()}
    data["terminals"] = np.zeros(n_episodes * length, dtype=np.float32)
    # The bounds of the heater cannot be seen from the data
    return {**data, "action_space": spaces.Box(0.0, 5.0, (1,), np.float32)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    args = parser.parse_args()

    model = GMPO("FlowPolicy", dataset=logged_data(), verbose=1, seed=0)
    model.learn(args.steps, log_interval=max(args.steps // 2, 1))
    for temperature in (12.0, 18.0, 22.0):
        action, _ = model.predict(np.array([temperature, 5.0], dtype=np.float32), deterministic=True)
        print(f"{temperature:.0f} degrees inside, 5 outside: heat with {action[0]:.2f} kW")


if __name__ == "__main__":
    main()
