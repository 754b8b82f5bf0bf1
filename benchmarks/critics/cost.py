"""
What a whole update costs with one critic and another, in turns: twenty updates of each, again and again.
"""

import json
import time
from typing import Any

import numpy as np

from benchmarks.critics.models import RESULTS
from benchmarks.step_times import arrays
from sb3_genpolicy import GMPG, GMPO, IQLCritic, OneStepCritic
from sb3_genpolicy.common.policies.critics import CriticOptions

COSTS = RESULTS.with_name("critic_costs.jsonl")

#: By name; the first is what the others are compared with
CRITICS: dict[str, CriticOptions] = {
    "iql": IQLCritic(),
    "onestep": OneStepCritic(),
    "onestep, 10 members": OneStepCritic(n_critics=10),
    "iql, 10 members": IQLCritic(n_critics=10),
    "iql, distilled from 8": IQLCritic(distilled_from=8),
    "onestep, distilled from 8": OneStepCritic(distilled_from=8),
}
_STEPS, _WARM_UP, _BATCH_SIZE = 20, 20, 256


def cost(turns: int) -> None:
    """
    Print and keep the processor time of an update with each critic, medians over turns, for Hopper's shapes and default
    networks. Both algorithms' first updates are the same but for the weights; of GMPG there is the first phase.

    :param turns: how often each is timed
    """
    options: dict[str, Any] = dict(dataset=arrays(), seed=0, batch_size=_BATCH_SIZE, device="cpu")
    models: dict[tuple[str, str], Any] = {}
    for name, critic in CRITICS.items():
        models["GMPO", name] = GMPO("FlowPolicy", critic=critic, **options)
        models["GMPG, first phase", name] = GMPG("FlowPolicy", critic=critic, pretraining_steps=10**6, **options)
    for model in models.values():
        model.learn(_WARM_UP, log_interval=None)
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in models}
    for _ in range(turns):
        for key, model in models.items():
            start = time.process_time()
            model.train(_STEPS, _BATCH_SIZE)
            seconds[key].append((time.process_time() - start) / _STEPS)
    first = next(iter(CRITICS))
    for (algorithm, name), each in seconds.items():
        of_first = np.array(seconds[algorithm, first])
        ratios = np.array(each) / of_first
        row = dict(algorithm=algorithm, critic=name, turns=turns, milliseconds=float(np.median(each)) * 1e3)
        row.update(times=float(np.median(ratios)), error=float(ratios.std(ddof=1) / np.sqrt(turns)))
        with COSTS.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"| {algorithm} | {name} | {row['milliseconds']:.1f} ms | {row['times']:.2f} ± {row['error']:.2f} |", flush=True)
