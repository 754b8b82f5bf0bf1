"""
Evaluation with normalised scores, checkpoints and TensorBoard while training; then go on from a checkpoint.

    tensorboard --logdir logs
"""

import argparse
from pathlib import Path

from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_genpolicy import GMPO, OfflineEvalCallback


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, default=Path("logs"))
    args = parser.parse_args()
    every = max(args.steps // 5, 1)

    evaluation = OfflineEvalCallback(
        make_vec_env("Pendulum-v1", n_envs=5, seed=100),
        n_eval_episodes=5,
        eval_freq=every,
        log_path=str(args.folder),
        best_model_save_path=str(args.folder),
    )
    checkpoints = CheckpointCallback(save_freq=every, save_path=str(args.folder), name_prefix="gmpo")
    model = GMPO("DiffusionPolicy", dataset="pendulum-mixed", tensorboard_log=str(args.folder), seed=0)
    model.learn(args.steps, callback=[evaluation, checkpoints], log_interval=every, progress_bar=True)
    print(f"normalised score of the last evaluation: {evaluation.last_normalized_score:.1f}")

    resumed = GMPO.load(args.folder / f"gmpo_{every}_steps")
    resumed.learn(args.steps - every, reset_num_timesteps=False, log_interval=every)
    print(f"went on from step {every} to step {resumed.num_timesteps}")


if __name__ == "__main__":
    main()
