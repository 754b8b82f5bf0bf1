"""
Does a critic rank several actions of one state as the simulator does?

    python -m benchmarks.critics measure --dataset rlzoo/hopper/medium-v0
    python -m benchmarks.critics ceilings --dataset rlzoo/hopper/medium-v0
    python -m benchmarks.critics score MODEL.zip --dataset rlzoo/hopper/medium-v0

``measure`` clones the behaviour policy, draws actions at states of the dataset, and keeps the rewards that the simulator gives
after each in ``benchmarks/models/critics``. ``ceilings`` says how well a perfect critic would do. ``score`` compares a saved
model's Q with these returns, and with those that were logged, and appends a line to ``benchmarks/results/critics.jsonl``.

``ablate`` trains critics of several kinds on one dataset, without a policy, and scores them; ``act`` evaluates policies that
such critics are given to. Both append to ``benchmarks/results`` and leave out what is there::

    python -m benchmarks.critics ablate --dataset rlzoo/hopper/medium-v0 --variants iql "advantage auto lambda"
    python -m benchmarks.critics act --dataset rlzoo/hopper/medium-v0 --variants iql "advantage auto lambda"

``horizons`` scores critics that ``ablate`` trained by returns of 60 steps and of 500, from one measurement of long rollouts::

    python -m benchmarks.critics measure --dataset rlzoo/hopper/medium-v0 --name episodes --steps 500 --rollouts 8 --states 300
    python -m benchmarks.critics horizons --dataset rlzoo/hopper/medium-v0 --variants iql default --name episodes

``compare`` says how two kinds of critics that ``ablate`` trained differ, state by state; ``signal`` how far actions differ in
truth, beside the noise of returns; ``cost`` what an update takes; ``table`` prints what there is, and draws it.
"""

import argparse
from pathlib import Path

import torch as th

from benchmarks.critics.ablation import VARIANTS, ablate
from benchmarks.critics.acting import act
from benchmarks.critics.comparison import compare, signal
from benchmarks.critics.cost import cost
from benchmarks.critics.horizons import by_horizon
from benchmarks.critics.measure import RETURNS, measure
from benchmarks.critics.models import ceilings, score_model
from benchmarks.critics.report import plot, plot_horizons, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    first = commands.add_parser("measure", help="measure the returns of several actions at states of a dataset")
    first.add_argument("--states", type=int, default=400)
    first.add_argument("--actions", type=int, default=6)
    first.add_argument("--rollouts", type=int, default=6)
    first.add_argument("--steps", type=int, default=60)
    first.add_argument("--gamma", type=float, default=0.99)
    first.add_argument("--name", default=RETURNS, help="what the measurement is called")
    second = commands.add_parser("score", help="score the critics of a saved model by these returns, and by logged ones")
    second.add_argument("model", type=Path)
    second.add_argument("--horizon", type=int, default=None, help="count only so many steps of a rollout")
    third = commands.add_parser("ceilings", help="what a perfect critic would get, by the number of steps that are counted")
    third.add_argument("--horizons", type=int, nargs="+", default=[5, 15, 30, 60])
    third.add_argument("--gamma", type=float, default=0.99)
    fourth = commands.add_parser("ablate", help="train critics of several kinds, and score each")
    fourth.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    fourth.add_argument("--checkpoints", type=int, nargs="+", default=[10_000, 20_000, 50_000])
    fourth.add_argument("--seeds", type=int, nargs="+", default=[0])
    fifth = commands.add_parser("act", help="scores of policies that these critics are given to")
    fifth.add_argument("--variants", nargs="+", choices=list(VARIANTS), required=True)
    fifth.add_argument("--algorithms", nargs="+", default=["best of 1", "best of 8", "gmpo", "gmpg"])
    fifth.add_argument("--seeds", type=int, nargs="+", default=[0])
    fifth.add_argument("--episodes", type=int, default=20)
    fifth.add_argument("--steps", type=int, default=10_000)
    seventh = commands.add_parser("compare", help="two kinds of critics, state by state")
    seventh.add_argument("--variants", nargs=2, choices=list(VARIANTS), default=["advantage auto lambda", "iql"])
    seventh.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seventh.add_argument("--name", default=RETURNS, help="what the measurement is called")
    eighth = commands.add_parser("signal", help="true spread of advantages beside the noise of returns and the number of rows")
    eighth.add_argument("--horizon", type=int, default=None, help="count only so many steps of a rollout")
    tenth = commands.add_parser("horizons", help="critics by returns of few steps and of many, from one measurement")
    tenth.add_argument("--variants", nargs="+", choices=list(VARIANTS), required=True)
    tenth.add_argument("--seeds", type=int, nargs="+", default=[0])
    tenth.add_argument("--name", default="episodes", help="what the measurement is called")
    tenth.add_argument("--steps", type=int, nargs="+", default=[15, 30, 60, 120, 250, 500])
    tenth.add_argument("--plot", type=Path, default=None, help="a picture of all that was scored so")
    ninth = commands.add_parser("cost", help="time of a whole update with each critic, in turns")
    ninth.add_argument("--turns", type=int, default=15)
    ninth.add_argument("--threads", type=int, default=1)
    for command in (first, second, third, fourth, fifth, seventh, eighth, tenth):
        command.add_argument("--dataset", required=True)
        command.add_argument("--threads", type=int, default=1)
    sixth = commands.add_parser("table", help="what ablate and act gave so far")
    sixth.add_argument("--after", type=int, default=20_000, help="updates")
    sixth.add_argument("--plot", type=Path, default=None, help="a picture of it")
    args = parser.parse_args()
    if args.command == "table":
        table(args.after)
        if args.plot is not None:
            plot(args.plot)
        return
    th.set_num_threads(args.threads)
    if args.command == "measure":
        print(measure(args.dataset, args.states, args.actions, args.rollouts, args.steps, args.gamma, args.name))
    elif args.command == "score":
        score_model(args.model, args.dataset, args.horizon)
    elif args.command == "ablate":
        ablate(args.dataset, args.variants, args.checkpoints, args.seeds)
    elif args.command == "cost":
        cost(args.turns)
    elif args.command == "compare":
        compare(args.dataset, *args.variants, seeds=args.seeds, name=args.name)
    elif args.command == "horizons":
        by_horizon(args.dataset, args.variants, args.seeds, args.name, args.steps)
        if args.plot is not None:
            plot_horizons(args.plot)
    elif args.command == "signal":
        signal(args.dataset, args.horizon)
    elif args.command == "act":
        act(args.dataset, args.variants, args.seeds, args.episodes, args.algorithms, args.steps)
    else:
        ceilings(args.dataset, args.horizons, args.gamma)


if __name__ == "__main__":
    main()
