"""
How many clean actions safe hands touch: limits from one half of a dataset's episodes, the logged actions of the other half
acted again.

    python -m benchmarks.safe_hands [--datasets ID ...] [--rows 20000]
"""

import argparse
import warnings
from typing import Any

import numpy as np

from sb3_genpolicy import SafeHands, Transitions, fit_action_limits, load_dataset

DATASETS = (
    "dapg/door/human-v0",
    "rlzoo/hopper/medium-v0",
    "rlzoo/hopper/mixed-v0",
    "rlzoo/halfcheetah/medium-v0",
    "rlzoo/halfcheetah/mixed-v0",
)


class Replay:
    """
    Acts as was logged.

    :param data: the logged steps
    """

    def __init__(self, data: Transitions):
        self.action_space, self.observation_space = data.action_space, data.observation_space
        self.actions, self.at = np.asarray(data.actions), 0

    def predict(self, observation: Any, state: Any, episode_start: Any, deterministic: bool) -> tuple[np.ndarray, None]:
        """
        :param observation: not looked at
        :param state: not used
        :param episode_start: not used
        :param deterministic: not used
        :return: the next logged action, of one environment
        """
        self.at += 1
        return self.actions[self.at - 1 : self.at], None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS))
    parser.add_argument("--rows", type=int, default=20_000, help="of the other half, at most")
    args = parser.parse_args()
    print("| dataset | limits of speed, over the span | actions | touched |\n|---|---|---|---|")
    for name in args.datasets:
        data = load_dataset(name)
        half = np.arange(data.n_episodes) % 2 == 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            limits = fit_action_limits(data.select_episodes(half))
            others = data.select_episodes(~half)
            hands = SafeHands(Replay(others), limits)
            starts = np.concatenate([[True], others.ends[:-1]])[: args.rows]
            for start in starts:
                hands.predict(np.zeros((1, 1)), episode_start=np.array([start]))
        span = limits.speed / np.ptp(np.asarray(data.actions).reshape(data.n_rows, -1), axis=0)
        cells = f"{span.min():.2f} to {span.max():.2f}", f"{len(starts):,}", f"{hands.counts['any'] / len(starts):.2%}"
        print(f"| `{name}` | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
