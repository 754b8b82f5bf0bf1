"""
Models that are trained as a batch of networks are those that each would be alone.
"""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_genpolicy import GMPG, GMPO, AffineReward, HeldOutEpisodes, NStepReturns, learn_side_by_side
from sb3_genpolicy.generative import Likelihood, OdeKL, Sampler
from tests.helpers.arrays import SMALL
from tests.helpers.side_by_side import STEPS, assert_same, assert_same_lines, build, learn_alone, with_lines

hutchinson = OdeKL(Likelihood("hutchinson", Sampler("euler", 4)))
# Larger than 1, so that its gradients are; with far larger ones, beta makes no difference after a few steps
DEFAULT_CRITIC = dict(critic=None, reward_transform=AffineReward(5.0))
CASES = {
    "advantage": (GMPO, dict(pretraining_steps=0)),
    "advantage, default phases": (GMPO, {}),
    "default critic": (GMPO, DEFAULT_CRITIC),
    "advantage, first phase": (GMPO, dict(pretraining_steps=6)),
    "diffusion": (GMPO, dict(policy="DiffusionPolicy")),
    # Without a floor, Adam makes as much of rounding errors as of gradients, where these vanish
    "unet": (GMPO, dict(policy_kwargs=dict(SMALL, network="unet", optimizer_kwargs=dict(eps=1e-3)))),
    "held out, n steps": (GMPO, dict(transforms=[HeldOutEpisodes(0.3), NStepReturns(2)])),
    "softmax": (GMPO, dict(weighting="softmax", n_actions=4)),
    "softmax, sde": (GMPO, dict(weighting="softmax", n_actions=4, policy_kwargs=dict(SMALL, solver="sde"))),
    "policy gradient": (GMPG, dict(policy_learning_rate=lambda left: 3e-4 * left)),
    "policy gradient, default critic": (GMPG, DEFAULT_CRITIC),
    "target_kl": (GMPG, dict(target_kl=0.1, normalize_q=True, max_grad_norm=0.1)),
    "adjoint": (GMPG, dict(gradient_estimator="adjoint", target_kl=0.1, normalize_q=True)),
    "scalar adjoint": (GMPG, dict(gradient_estimator="adjoint", adjoint="scalar", n_actions=2)),
    "ode": (GMPG, dict(kl_estimator=OdeKL(Likelihood("continuous", Sampler("euler", 4))))),
    "hutchinson": (GMPG, dict(kl_estimator=hutchinson)),
    "reinforce": (GMPG, dict(gradient_estimator="reinforce")),
    "reinforce, ode": (GMPG, dict(gradient_estimator="reinforce", kl_estimator=hutchinson)),
    "reinforce_softmax": (GMPG, dict(gradient_estimator="reinforce_softmax", n_actions=3)),
    "matching, sde": (GMPG, dict(gradient_estimator="matching", policy_kwargs=dict(SMALL, solver="sde"))),
    "detached": (GMPG, dict(gradient_estimator="detached", kl_estimator=hutchinson)),
}


@pytest.mark.filterwarnings("error:There is a performance drop")
@pytest.mark.parametrize("case", CASES)
def test_each_model_is_the_one_it_would_be_alone(arrays, case):
    """Networks, optimizer and random states, and every line of the log, through both phases."""
    algorithm, options = CASES[case]
    ours, alone = build(algorithm, arrays, **options), build(algorithm, arrays, **options)
    lines, expected_lines = with_lines(ours), with_lines(alone)
    assert learn_side_by_side(ours, STEPS, log_interval=5) == ours
    learn_alone(alone, log_interval=5)
    assert_same(ours, alone)
    assert_same_lines(lines, expected_lines, rel=1e-3)
    # What was added since the last line is left for whoever looks
    means, expected_means = ([model.means.pop() for model in models] for models in (ours, alone))
    for mine, expected in zip(means, expected_means, strict=True):
        assert mine.keys() == expected.keys() and len(mine) >= 3
        for name in mine:
            th.testing.assert_close(mine[name], expected[name], rtol=1e-3, atol=1e-5, msg=name)
    if algorithm is GMPG:
        assert [float(model.log_beta) for model in ours] == pytest.approx([float(m.log_beta) for m in alone], abs=1e-5)
    # They are not the same model
    first, *others = (model.policy.actor.model.network.head.weight for model in ours)
    assert not any(th.allclose(first, other, rtol=1e-3) for other in others)


@pytest.mark.parametrize("space", ["dict", "images"])
def test_other_observations(space):
    rng = np.random.default_rng(0)
    rows = 30
    if space == "dict":
        policy, options = "FlowMultiInputPolicy", {}
        observation_space = spaces.Dict(a=spaces.Box(-1, 1, (3,)), b=spaces.Discrete(4))
        observations = dict(a=rng.normal(size=(rows, 3)).astype(np.float32), b=rng.integers(0, 4, rows))
    else:
        policy = "FlowCnnPolicy"
        options = dict(features_extractor_kwargs=dict(features_dim=8), share_features_extractor=True)
        observation_space = spaces.Box(0, 255, (3, 36, 36), np.uint8)
        observations = rng.integers(0, 256, (rows, 3, 36, 36)).astype(np.uint8)
    data = dict(
        observations=observations,
        next_observations=observations,
        timeouts=np.arange(rows) % 10 != 9,
        actions=rng.uniform(-1, 1, (rows, 2)).astype(np.float32),
        rewards=rng.normal(size=rows).astype(np.float32),
        terminals=np.arange(rows) % 10 == 9,
        observation_space=observation_space,
        action_space=spaces.Box(-1, 1, (2,)),
    )
    options = dict(policy=policy, policy_kwargs=dict(SMALL, **options))
    ours, alone = build(GMPO, data, **options), build(GMPO, data, **options)
    learn_side_by_side(ours, 4)
    assert_same(ours, learn_alone(alone, 4))


@pytest.mark.parametrize(
    "optimizer, kwargs",
    [
        (th.optim.AdamW, dict(weight_decay=0.1, amsgrad=True)),
        (th.optim.SGD, dict(momentum=0.9, nesterov=True)),
        (th.optim.RMSprop, dict(centered=True, momentum=0.5)),
        (th.optim.NAdam, {}),
        (th.optim.RAdam, {}),
        (th.optim.Adamax, {}),
        (th.optim.Adagrad, {}),
        (th.optim.Adadelta, {}),
        (th.optim.SGD, {}),
    ],
)
def test_optimizers_keep_their_state_from_one_training_to_the_next(arrays, optimizer, kwargs):
    """Also through what they were before: alone, side by side, alone again."""
    options = dict(policy_kwargs=dict(SMALL, optimizer_class=optimizer, optimizer_kwargs=kwargs))
    ours, alone = build(GMPO, arrays, **options), build(GMPO, arrays, **options)
    learn_alone(ours, 2)
    learn_alone(alone, 2)
    for _ in range(2):
        learn_side_by_side(ours, 2, reset_num_timesteps=False)
        learn_alone(alone, 2, reset_num_timesteps=False)
        assert_same(ours, alone)
    learn_alone(ours, 2, reset_num_timesteps=False)
    assert_same(ours, learn_alone(alone, 2, reset_num_timesteps=False))


def test_pretrained_models_start_in_the_second_phase(arrays):
    (pretrained,) = build(GMPG, arrays, [(0, 1.0)])
    pretrained.learn(8)
    options = dict(pretrained=pretrained, pretraining_steps=None)
    ours, alone = build(GMPG, arrays, **options), build(GMPG, arrays, **options)
    learn_side_by_side(ours, 5)
    assert_same(ours, learn_alone(alone, 5))
    assert all(model.phase == "policy" for model in ours)


def test_bfloat16_reaches_the_layers_and_stays_out_of_the_heads(arrays):
    ours, alone, exact = (build(GMPO, arrays, precision=name) for name in ("bfloat16", "bfloat16", "float32"))
    learn_alone(alone)
    learn_alone(exact)
    seen = {}
    network = ours[0].actor.model.network
    for name, layer in (("hidden", network.layers[0]), ("head", network.head)):
        layer.register_forward_hook(lambda module, x, out, name=name: seen.setdefault(name, set()).add(out.dtype))
    learn_side_by_side(ours, STEPS)
    assert seen == dict(hidden={th.bfloat16}, head={th.float32})
    for mine, expected, other in zip(ours, alone, exact, strict=True):
        ours_means, means, exact_means = (model.means.pop() for model in (mine, expected, other))
        for name in means.keys() - {"weight_clamped"}:
            assert ours_means[name].item() == pytest.approx(means[name].item(), rel=0.01), name
            assert ours_means[name] != exact_means[name], name


# What it rests upon


def test_draws_of_an_sde_on_the_way_are_the_training_s_own(arrays):
    """Whatever else draws from torch's global random state."""
    options = dict(weighting="softmax", n_actions=4, pretraining_steps=2, policy_kwargs=dict(SMALL, solver="sde"))
    (one,), (other,) = (build(GMPO, arrays, [(0, 1.0)], **options) for _ in range(2))
    th.manual_seed(1)
    one.learn(5)
    th.manual_seed(2)
    other.learn(5)
    assert_same([one], [other], rtol=0.0, atol=0.0)
