"""
A policy that was learnt from data goes on in the environment, with the data beside it.
"""

import argparse

from stable_baselines3.common.evaluation import evaluate_policy

from sb3_genpolicy import GMPG, make_offline_env, normalized_score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--offline-steps", type=int, default=6_000)
    parser.add_argument("--online-steps", type=int, default=5_000)
    parser.add_argument("--episodes", type=int, default=20)
    args = parser.parse_args()

    model = GMPG("FlowPolicy", make_offline_env("pendulum-mixed"), seed=0)
    evaluation_env = make_offline_env("pendulum-mixed")

    def score() -> float:
        assert model.reference_scores is not None
        mean, _ = evaluate_policy(model, evaluation_env, args.episodes, deterministic=False)
        return float(normalized_score(mean, model.reference_scores))

    model.learn(args.offline_steps, progress_bar=True)
    print(f"normalised score of sampled actions where the dataset ended: {score():.1f}")
    model.learn_online(args.online_steps, offline_share=0.5, progress_bar=True)
    print(f"after {args.online_steps} steps in the environment: {score():.1f}")
    print(f"the replay buffer has {model.replay_buffer.size()} rows, {model.replay_buffer.n_added} of them collected")


if __name__ == "__main__":
    main()
