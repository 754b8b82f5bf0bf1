"""
Trainings in which one loss or gradient is made to be no number, and what is compared of them.
"""

from dataclasses import replace

import torch as th

from sb3_genpolicy import GMPG, GMPO
from tests.helpers.arrays import SMALL

SECOND = dict(pretraining_steps=2)
GUARDED = {
    # Weights of a default critic that was hardly trained are at their clamp here: sums of large terms, that nearly cancel
    "advantage": (GMPO, dict(critic="iql", pretraining_steps=0), "actor_loss"),
    "advantage, first phase": (GMPO, dict(pretraining_steps=20), "value_loss"),
    "softmax": (GMPO, dict(weighting="softmax", n_actions=3, **SECOND), "actor_loss"),
    "policy gradient, first phase": (GMPG, dict(pretraining_steps=20), "matching_loss"),
    "target_kl": (GMPG, dict(target_kl=0.1, **SECOND), "policy_loss"),
    "adjoint": (GMPG, dict(gradient_estimator="adjoint", target_kl=0.1, **SECOND), "policy_loss"),
    "discrete": (GMPG, dict(kl_estimator="discrete", **SECOND), "policy_loss"),
    "reinforce": (GMPG, dict(gradient_estimator="reinforce", **SECOND), "policy_loss"),
    "reinforce_softmax": (GMPG, dict(gradient_estimator="reinforce_softmax", n_actions=2, **SECOND), "policy_loss"),
    "matching": (GMPG, dict(gradient_estimator="matching", **SECOND), "policy_loss"),
    "detached": (GMPG, dict(gradient_estimator="detached", **SECOND), "policy_loss"),
}
GOOD_STEPS = 5


def guarded(case, arrays, broken=None, **more):
    """A model; from update ``GOOD_STEPS`` on it has a loss that is no number, or a gradient, and so has the KL divergence."""
    algorithm, options, term = GUARDED[case]
    options = dict(policy_kwargs=SMALL, seed=0, batch_size=8) | options | more
    model = algorithm("FlowPolicy", dataset=arrays, **options)
    plain = model.objective

    def objective(batch):
        result = plain(batch)
        # Afterwards numbers are finite again
        if broken == "loss" and model._n_updates == GOOD_STEPS:
            losses = {**result.losses, term: result.losses[term] * th.nan}
            return replace(result, losses=losses, extras={name: value * th.nan for name, value in result.extras.items()})
        if broken == "gradient" and model._n_updates == GOOD_STEPS:
            result.losses[term].register_hook(lambda gradient: gradient * th.inf)
        return result

    model.objective = objective
    return model


def everything_of(model):
    trained = enumerate(model.descent.optimizers().values())
    optimizers = [(number, *pair) for number, optimizer in trained for pair in optimizer.state.items()]
    moments = {(n, k, name): value for k, (n, _, state) in enumerate(optimizers) for name, value in state.items()}
    return {**model.policy.state_dict(), **moments, "log_beta": th.as_tensor(getattr(model, "log_beta", 0.0))}


def assert_the_same(mine, expected):
    mine, expected = everything_of(mine), everything_of(expected)
    assert mine.keys() == expected.keys()
    for name in expected:
        th.testing.assert_close(mine[name], expected[name], rtol=1e-4, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")
