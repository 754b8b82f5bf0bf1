"""
Train one model with several processes, each with its share of every batch. Started with python it is one process:

    torchrun --nproc-per-node 2 examples/several_processes.py --batch-size 4096
"""

import argparse

from sb3_genpolicy import GMPO, data_parallel, make_offline_env


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=256, help="rows of all processes together")
    args = parser.parse_args()

    # A GPU for each process if there are any
    with data_parallel() as device:
        env = make_offline_env("pendulum-mixed")
        model = GMPO("FlowPolicy", env, batch_size=args.batch_size, seed=0, device=device, verbose=1)
        # The first process logs and saves
        model.learn(args.steps, log_interval=max(args.steps // 4, 1))
        model.save("gmpo_several_processes")


if __name__ == "__main__":
    main()
