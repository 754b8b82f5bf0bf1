"""
Record what an SB3 agent does, look at it, and learn from the better half of it, watching the losses on episodes held out.
"""

import argparse
import os
from pathlib import Path

from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env

from sb3_genpolicy import GMPO, BestEpisodes, HeldOutEpisodes, dataset_info, record_dataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--online-steps", type=int, default=3000, help="steps of the agent's own training")
    parser.add_argument("--steps", type=int, default=20_000, help="steps to record")
    parser.add_argument("--gradient-steps", type=int, default=5000, help="gradient steps on what was recorded")
    parser.add_argument("--folder", type=Path, default=Path("recorded"), help="Minari's folder, and the picture's")
    args = parser.parse_args()
    os.environ["MINARI_DATASETS_PATH"] = str(args.folder.resolve())

    agent = SAC("MlpPolicy", "Pendulum-v1", seed=0).learn(args.online_steps)
    env = make_vec_env("Pendulum-v1", n_envs=4)
    record_dataset(agent, env, "me/pendulum/sac-v0", n_steps=args.steps, seed=0, reference_scores=(-1230.0, -150.0))

    info = dataset_info("me/pendulum/sac-v0")
    print(info)
    info.save_picture(args.folder / "sac.png")

    transforms = [HeldOutEpisodes(0.1), BestEpisodes(0.5)]
    model = GMPO("FlowPolicy", "Pendulum-v1", dataset="me/pendulum/sac-v0", transforms=transforms, verbose=1, seed=0)
    model.learn(args.gradient_steps, log_interval=max(1, args.gradient_steps // 5))


if __name__ == "__main__":
    main()
