"""
What cannot be trained side by side is said in a sentence.
"""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from sb3_genpolicy import GMPG, GMPO, NStepReturns, OneStepCritic, learn_side_by_side
from sb3_genpolicy.common.datasets.envs import SpacesVecEnv
from sb3_genpolicy.generative import ConditionalMLP, Likelihood, OdeKL, Sampler, VPPath
from tests.helpers.arrays import SMALL, make_arrays
from tests.helpers.side_by_side import STEPS, assert_same, build, learn_alone


class Asks(ConditionalMLP):
    def forward(self, t, x, condition):
        return super().forward(t, x, condition) * (2.0 if x.sum() > 0 else 1.0)


class DropoutMLP(ConditionalMLP):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.activation = nn.Sequential(self.activation, nn.Dropout(0.1))


class BatchNormMLP(ConditionalMLP):
    def __init__(self, dim, condition_dim, net_arch, *args, **kwargs):
        super().__init__(dim, condition_dim, net_arch, *args, **kwargs)
        self.activation = nn.Sequential(self.activation, nn.BatchNorm1d(net_arch[0]))


class OwnOptimizer(th.optim.Adam):
    pass


OBSTACLES = {
    "DropoutMLP": (GMPO, dict(policy_kwargs=dict(SMALL, network=DropoutMLP)), r"has a Dropout \(policy\.actor\.model"),
    "BatchNormMLP": (GMPO, dict(policy_kwargs=dict(SMALL, network=BatchNormMLP)), r"has a BatchNorm1d \(policy\.actor"),
    "optimizer": (GMPO, dict(policy_kwargs=dict(SMALL, optimizer_class=OwnOptimizer)), "its optimizer is OwnOptimizer. Take"),
    "coupling": (GMPO, dict(policy_kwargs=dict(SMALL, coupling="optimal_transport")), "OptimalTransportCoupling pairs noise"),
    "static": (GMPO, dict(weighting="softmax", redraw_actions=False), "Take redraw_actions=True"),
    "dopri5": (GMPO, dict(weighting="softmax", policy_kwargs=dict(SMALL, solver="dopri5")), "dopri5 chooses its steps"),
    "matching": (
        GMPG,
        dict(gradient_estimator="matching", policy_kwargs=dict(SMALL, solver="dopri5")),
        "dopri5 chooses its steps",
    ),
    "discrete": (GMPG, dict(kl_estimator="discrete"), "kl_estimator='discrete' inverts .* Take 'path' or 'ode'"),
    "adjoint": (GMPG, dict(kl_estimator=OdeKL(Likelihood(gradient="adjoint"))), "the adjoint's gradient"),
    "adaptive": (GMPG, dict(kl_estimator=OdeKL(Likelihood(sampler=Sampler("dopri5")))), "dopri5 chooses its steps"),
    "detached": (
        GMPG,
        dict(gradient_estimator="detached", policy_kwargs=dict(SMALL, solver="dopri5")),
        "dopri5 chooses its steps",
    ),
}


@pytest.mark.parametrize("case", OBSTACLES)
def test_what_cannot_be_batched_is_said_before_anything_is_read(arrays, case):
    algorithm, options, sentence = OBSTACLES[case]
    models = build(algorithm, arrays, **options)
    with pytest.raises(ValueError, match=rf"Model 0 \(seed=0, beta=1\.0\) cannot be trained side by side.*{sentence}"):
        learn_side_by_side(models, STEPS)
    assert all(model.num_timesteps == 0 and model.replay_buffer.size() == 0 for model in models)


@pytest.mark.parametrize("options", [dict(), dict(gradient_estimator="reinforce")])
def test_a_solver_that_only_acts_is_no_obstacle(arrays, options):
    ours, alone = (build(GMPG, arrays, policy_kwargs=dict(SMALL, solver="dopri5"), **options) for _ in range(2))
    learn_side_by_side(ours, 10)
    assert_same(ours, learn_alone(alone, 10))


def test_vec_normalize_is_refused(arrays):
    env = VecNormalize(SpacesVecEnv(spaces.Box(-np.inf, np.inf, (3,)), arrays["action_space"]))
    with pytest.raises(ValueError, match="its environment is a VecNormalize. Take normalize_observations=True"):
        learn_side_by_side(build(GMPO, arrays, env=env), STEPS)


def test_streamed_datasets_are_refused(arrays, monkeypatch):
    models = build(GMPO, arrays)
    monkeypatch.setattr("sb3_genpolicy.common.replay.buffer.OfflineReplayBuffer._fits", lambda self, data: False)
    with pytest.raises(ValueError, match="its dataset is streamed from files. Take one that fits into memory"):
        learn_side_by_side(models, STEPS)


DIFFERENCES = {
    "gamma": (dict(gamma=0.5), r"gamma is 0\.9 in model 0 \(seed=0, beta=1\.0\) and 0\.5 in model 1 \(seed=1, beta=1\.0\)"),
    "learning_rate": (dict(learning_rate=LinearSchedule(2e-3, 0.0, 1.0)), "learning_rate is LinearSchedule"),
    "a function as learning_rate": (dict(learning_rate=lambda left: 1e-4), "learning_rate is LinearSchedule.* and <function"),
    "policy": (dict(policy="DiffusionPolicy"), "policy is FlowPolicy in .* and DiffusionPolicy in"),
    "policy_kwargs": (dict(policy_kwargs=dict(net_arch=[16])), r"policy_kwargs is {'net_arch': \[32, 32\], .*} in"),
    "transforms": (dict(transforms=[NStepReturns(2)]), r"transforms is \(\) in .* and \(NStepReturns\(n_steps=2\),\) in"),
    "precision": (dict(precision="bfloat16"), "precision is 'float32' in .* and 'bfloat16' in"),
}


@pytest.mark.parametrize("case", DIFFERENCES)
def test_models_that_differ_in_anything_else_are_refused(arrays, case):
    options, sentence = DIFFERENCES[case]
    models = [*build(GMPO, arrays, [(0, 1.0)]), *build(GMPO, arrays, [(1, 1.0)], **options)]
    with pytest.raises(ValueError, match=f"side by side differ in seed and beta alone, but {sentence}"):
        learn_side_by_side(models, STEPS)


def test_equal_settings_may_be_objects_of_their_own(arrays):
    """A path, a schedule with a closure, and places for files and lines that nothing depends on."""

    def schedule(rate):
        return lambda left: rate * left

    def models(rates):
        return [
            GMPO(
                "DiffusionPolicy",
                dataset=make_arrays(),
                policy_kwargs=dict(SMALL, path=VPPath(beta_max=10.0)),
                learning_rate=schedule(rate),
                seed=seed,
                verbose=seed,
            )
            for seed, rate in enumerate(rates)
        ]

    learn_side_by_side(models([1e-3, 1e-3]), 1)
    with pytest.raises(ValueError, match="but learning_rate is"):
        learn_side_by_side(models([1e-3, 1e-4]), 1)


def test_samplers_that_were_changed_are_compared(arrays):
    models = build(GMPO, arrays)
    models[1].policy.set_sampler("euler")
    with pytest.raises(ValueError, match="but the policy's sampler is Sampler"):
        learn_side_by_side(models, 1)


def test_other_mistakes_get_a_sentence(arrays):
    models = build(GMPO, arrays)
    with pytest.raises(ValueError, match="There are no models to train"):
        learn_side_by_side([], 1)
    with pytest.raises(ValueError, match=r"Model 1 \(seed=0, beta=1.0\) is in the list twice"):
        learn_side_by_side([models[0], models[0]], 1)
    with pytest.raises(ValueError, match="are of offline algorithms, but item 1 is a str"):
        learn_side_by_side([models[0], "GMPO"], 1)
    with pytest.raises(ValueError, match="of one class, but item 0 is a GMPO and item 1 a GMPG"):
        learn_side_by_side([models[0], *build(GMPG, arrays)], 1)
    with pytest.raises(ValueError, match="There are 1 callbacks for 3 models"):
        learn_side_by_side(models, 1, [None])
    with pytest.raises(TypeError, match="no option 'callback'. Did you mean 'callbacks'"):
        learn_side_by_side(models, 1, callback=None)
    other = make_arrays()
    other["rewards"] = other["rewards"] + np.arange(len(other["rewards"]), dtype=np.float32)
    with pytest.raises(ValueError, match=r"The dataset of model 1 \(seed=1, beta=1.0\) has other rows than that of model 0"):
        learn_side_by_side([models[0], *build(GMPO, other)[1:]], 1)
    models, wider = build(GMPO, arrays), make_arrays(obs_dim=4)
    with pytest.raises(ValueError, match=r"have other shapes: policy\..* is \(.*\) in one and \(.*\) in the other"):
        learn_side_by_side([models[0], *build(GMPO, wider)[1:]], 1)


def test_models_at_other_steps_are_refused(arrays):
    models = build(GMPO, arrays)
    models[1].learn(2)
    with pytest.raises(ValueError, match=r"Model 1 .* is at another point of its run than .*: its n_updates is 2, not 0"):
        learn_side_by_side(models, 1)
    models = learn_alone(build(GMPO, arrays, [(0, 1.0), (1, 1.0)]), 2)
    models.append(learn_alone(learn_alone(build(GMPO, arrays, [(2, 1.0)]), 1), 1)[0])
    with pytest.raises(ValueError, match="Model 2 .*: its num_timesteps is 1, not 2"):
        learn_side_by_side(models, 1, reset_num_timesteps=False)
    learn_side_by_side(models, 1)
    models[1].actor.optimizer.state.clear()
    with pytest.raises(ValueError, match=r"An optimizer of model 1 .* has made other steps than that of model 0"):
        learn_side_by_side(models, 1)


def test_critics_fitted_to_other_datasets_are_refused(arrays):
    """Also where rows have no returns, which would differ."""
    sparse = dict(arrays, rewards=np.where(np.arange(len(arrays["rewards"])) % 7 == 3, arrays["rewards"], 0.0))
    options = dict(critic=OneStepCritic(gamma="auto"), gamma=0.99, reward_transform=None)
    models = [build(GMPO, data, [(0, 1.0)], **options)[0].learn(2) for data in (arrays, sparse)]
    with pytest.raises(ValueError, match=r"The critics of model 1 .* have another discount factor than those of model 0"):
        learn_side_by_side(models, 1, reset_num_timesteps=False, dataset=arrays)


def test_a_network_that_looks_at_values_is_refused_at_the_first_step(arrays):
    models, untouched = (build(GMPO, arrays, policy_kwargs=dict(SMALL, network=Asks)) for _ in range(2))
    with pytest.raises(ValueError, match=r"The update of these models cannot be batched \(th\.vmap\): .*data-dependent"):
        learn_side_by_side(models, 3)
    for mine, expected in zip(models, untouched, strict=True):
        for parameter, other in zip(mine.policy.parameters(), expected.policy.parameters(), strict=True):
            assert th.equal(parameter, other)
    models[0].learn(2)
