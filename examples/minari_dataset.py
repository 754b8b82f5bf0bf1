"""
Learn from a Minari dataset on this machine, in the environment that it was recorded in.

    minari download mujoco/hopper/medium-v0
    python examples/minari_dataset.py --dataset mujoco/hopper/medium-v0
"""

import argparse

from stable_baselines3.common.evaluation import evaluate_policy

from sb3_genpolicy import GMPO, make_offline_env, normalized_score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--dataset", default="mujoco/hopper/medium-v0", help="id of a local Minari dataset, or an embedded one"
    )
    parser.add_argument("--policy", default="FlowPolicy")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--episodes", type=int, default=10)
    args = parser.parse_args()

    env = make_offline_env(args.dataset)
    model = GMPO(args.policy, env, verbose=1, seed=0)
    model.learn(args.steps, progress_bar=True, log_interval=max(args.steps // 10, 1))
    model.save("gmpo_minari")

    mean, std = evaluate_policy(GMPO.load("gmpo_minari"), env, n_eval_episodes=args.episodes)
    print(f"return {mean:.1f} +/- {std:.1f}")
    if model.reference_scores is not None:
        print(f"normalised score {normalized_score(mean, model.reference_scores):.1f}")


if __name__ == "__main__":
    main()
