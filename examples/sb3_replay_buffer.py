"""
Learn from what an SB3 agent has recorded: its replay buffer is the dataset.
"""

import argparse

from stable_baselines3 import SAC
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_genpolicy import GMPO


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--online-steps", type=int, default=5000, help="steps of the agent in the environment")
    parser.add_argument("--steps", type=int, default=5000, help="gradient steps on its buffer")
    args = parser.parse_args()

    agent = SAC("MlpPolicy", "Pendulum-v1", seed=0).learn(args.online_steps)
    # The same works with the file that `agent.save_replay_buffer("buffer.pkl")` wrote: dataset="buffer.pkl"
    model = GMPO("FlowPolicy", "Pendulum-v1", dataset=agent.replay_buffer, seed=0)
    model.learn(args.steps, progress_bar=True, log_interval=None)

    env = model.get_env()
    assert env is not None
    for name, policy in (("SAC, the agent that recorded", agent), ("GMPO, from its buffer", model)):
        mean, std = evaluate_policy(policy, env, n_eval_episodes=10)
        print(f"{name}: return {mean:.1f} +/- {std:.1f}")


if __name__ == "__main__":
    main()
