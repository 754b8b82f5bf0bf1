"""
Models that are trained as a batch of networks are those that each would be alone.
"""

import os

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from sb3_genpolicy import GMPG, GMPO, HeldOutEpisodes, NStepReturns, learn_side_by_side
from sb3_genpolicy.common.datasets.envs import SpacesVecEnv
from sb3_genpolicy.generative import ConditionalMLP, Likelihood, OdeKL, Sampler, VPPath
from tests.conftest import SMALL, make_arrays

SEEDS_AND_BETAS = ((0, 1.0), (1, 1.0), (0, 3.0))
STEPS = 14


def build(algorithm, data, seeds_and_betas=SEEDS_AND_BETAS, **options):
    defaults = dict(
        policy="FlowPolicy",
        policy_kwargs=SMALL,
        dataset=data,
        batch_size=16,
        learning_rate=LinearSchedule(1e-3, 0.0, 1.0),
        gamma=0.9,
    )
    options = defaults | (dict(pretraining_steps=8) if algorithm is GMPG else {}) | options
    return [algorithm(seed=seed, beta=beta, **options) for seed, beta in seeds_and_betas]


def learn_alone(models, steps=STEPS, callbacks=None, **options):
    for model, callback in zip(models, callbacks or [None] * len(models), strict=True):
        model.learn(steps, callback, **options)
    return models


def optimizer_tensors(model):
    for optimizer in model._optimizers(True):
        for parameter in optimizer.param_groups[0]["params"]:
            for name, value in optimizer.state.get(parameter, {}).items():
                yield name, th.as_tensor(value)


def assert_same(ours, expected, rtol=1e-4, atol=1e-5):
    """Networks, optimizers, random states and counters."""
    for mine, other in zip(ours, expected, strict=True):
        state, expected_state = mine.policy.state_dict(), other.policy.state_dict()
        assert state.keys() == expected_state.keys()
        for name in state:
            th.testing.assert_close(state[name], expected_state[name], rtol=rtol, atol=atol, msg=name)
        tensors, expected_tensors = list(optimizer_tensors(mine)), list(optimizer_tensors(other))
        assert [name for name, _ in tensors] == [name for name, _ in expected_tensors]
        for (name, value), (_, expected_value) in zip(tensors, expected_tensors, strict=True):
            th.testing.assert_close(value, expected_value, rtol=rtol, atol=atol, msg=name)
        assert th.equal(mine.generator.get_state(), other.generator.get_state())
        assert th.equal(mine.replay_buffer.random_state(), other.replay_buffer.random_state())
        for name in ("num_timesteps", "_n_updates", "_current_progress_remaining", "phase", "pretraining_finished"):
            assert getattr(mine, name) == getattr(other, name), name


class Lines(KVWriter):
    def __init__(self):
        self.lines = []

    def write(self, key_values, key_excluded, step=0):
        kept = {key: value for key, value in key_values.items() if not key.startswith("time/")}
        self.lines.append((step, kept))


def with_lines(models):
    for model in models:
        model.set_logger(Logger(None, [Lines()]))
    return [model.logger.output_formats[0].lines for model in models]


def assert_same_lines(ours, expected, rel=1e-4):
    for mine, others in zip(ours, expected, strict=True):
        assert [step for step, _ in mine] == [step for step, _ in others]
        for (_, line), (_, expected_line) in zip(mine, others, strict=True):
            assert line.keys() == expected_line.keys()
            for name, value in expected_line.items():
                assert line[name] == (value if isinstance(value, str) else pytest.approx(value, rel=rel, abs=1e-5)), name


hutchinson = OdeKL(Likelihood("hutchinson", Sampler("euler", 4)))
CASES = {
    "advantage": (GMPO, {}),
    "advantage, first phase": (GMPO, dict(pretraining_steps=6)),
    "diffusion": (GMPO, dict(policy="DiffusionPolicy")),
    # Without a floor, Adam makes as much of rounding errors as of gradients, where these vanish
    "unet": (GMPO, dict(policy_kwargs=dict(SMALL, network="unet", optimizer_kwargs=dict(eps=1e-3)))),
    "held out, n steps": (GMPO, dict(transforms=[HeldOutEpisodes(0.3), NStepReturns(2)])),
    "softmax": (GMPO, dict(weighting="softmax", n_actions=4)),
    "softmax, sde": (GMPO, dict(weighting="softmax", n_actions=4, policy_kwargs=dict(SMALL, solver="sde"))),
    "policy gradient": (GMPG, dict(policy_learning_rate=lambda left: 3e-4 * left)),
    "target_kl": (GMPG, dict(target_kl=0.1, normalize_q=True, max_grad_norm=0.1)),
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
        assert [model.log_beta.item() for model in ours] == pytest.approx([m.log_beta.item() for m in alone], abs=1e-5)
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
    learn_alone(ours, 4)
    learn_alone(alone, 4)
    for _ in range(2):
        learn_side_by_side(ours, 4, reset_num_timesteps=False)
        learn_alone(alone, 4, reset_num_timesteps=False)
        assert_same(ours, alone)
    learn_alone(ours, 4, reset_num_timesteps=False)
    assert_same(ours, learn_alone(alone, 4, reset_num_timesteps=False))


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


# While they learn, and afterwards


def test_files_go_on_as_those_of_models_alone(arrays, tmp_path):
    ours, alone = build(GMPG, arrays), build(GMPG, arrays)
    learn_side_by_side(ours, STEPS)
    learn_alone(alone)
    for kind, models in (("ours", ours), ("alone", alone)):
        for k, model in enumerate(models):
            model.save(tmp_path / f"{kind}_{k}")
    loaded = [[GMPG.load(tmp_path / f"{kind}_{k}") for k in range(3)] for kind in ("ours", "alone")]
    for models in loaded:
        learn_alone(models, 4, reset_num_timesteps=False, dataset=arrays)
    assert_same(*loaded)
    # So do loaded models side by side
    again = [GMPG.load(tmp_path / f"ours_{k}") for k in range(3)]
    learn_side_by_side(again, 4, reset_num_timesteps=False, dataset=arrays)
    assert_same(again, loaded[1])


@pytest.mark.parametrize("save_freq", [1, 5, 11])
def test_a_checkpoint_on_the_way_is_that_of_the_model_alone(arrays, tmp_path, save_freq):
    def callbacks(kind):
        return [CheckpointCallback(save_freq, str(tmp_path / kind), f"model_{k}") for k in range(3)]

    ours, alone = build(GMPG, arrays), build(GMPG, arrays)
    learn_side_by_side(ours, STEPS, callbacks("ours"))
    learn_alone(alone, STEPS, callbacks("alone"))
    for k in range(3):
        step = STEPS // save_freq * save_freq
        for at in {save_freq, step}:
            files = [tmp_path / kind / f"model_{k}_{at}_steps.zip" for kind in ("ours", "alone")]
            mine, expected = (GMPG.load(file) for file in files)
            for model in (mine, expected):
                model.learn(0, reset_num_timesteps=False, dataset=arrays)
            assert_same([mine], [expected])
            # Not that of three models
            assert os.path.getsize(files[0]) == pytest.approx(os.path.getsize(files[1]), rel=0.02)


class Watch(BaseCallback):
    """Acts at every step, and notes what it did; stops or breaks down at one."""

    def __init__(self, stop_at=None, break_at=None):
        super().__init__()
        self.stop_at, self.break_at = stop_at, break_at
        self.actions, self.ended = [], 0

    def _on_step(self):
        self.actions.append(self.model.predict(np.ones((2, 3), np.float32), deterministic=True)[0])
        assert self.locals["self"] is self.model and self.num_timesteps == self.model.num_timesteps
        if self.num_timesteps == self.break_at:
            raise KeyboardInterrupt
        return self.num_timesteps != self.stop_at

    def _on_training_end(self):
        self.ended += 1


def test_callbacks_act_with_the_model_of_their_step_and_may_stop_it(arrays):
    stops = (None, 4, 9)
    ours, alone = build(GMPG, arrays), build(GMPG, arrays)
    lines, expected_lines = with_lines(ours), with_lines(alone)
    watches, expected = ([Watch(stop) for stop in stops] for _ in range(2))
    learn_side_by_side(ours, STEPS, watches, log_interval=3)
    learn_alone(alone, STEPS, expected, log_interval=3)
    assert [model.num_timesteps for model in ours] == [STEPS, 4, 9]
    assert_same(ours, alone)
    assert_same_lines(lines, expected_lines, rel=1e-3)
    for mine, other in zip(watches, expected, strict=True):
        np.testing.assert_allclose(mine.actions, other.actions, atol=1e-4)
        assert mine.ended == 1


def test_an_interrupted_training_leaves_ordinary_models(arrays, tmp_path):
    ours, alone = build(GMPO, arrays), build(GMPO, arrays)
    with pytest.raises(KeyboardInterrupt):
        learn_side_by_side(ours, STEPS, [None, None, Watch(break_at=6)])
    learn_alone(alone, STEPS, [Watch(stop_at=6) for _ in alone])
    assert_same(ours, alone)
    for model in ours:
        assert type(model.generator) is th.Generator and model.beta in (1.0, 3.0)
        tensors = [*model.policy.state_dict().values(), *(value for _, value in optimizer_tensors(model))]
        assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in tensors)
        assert all(parameter.is_leaf and isinstance(parameter, nn.Parameter) for parameter in model.policy.parameters())
    ours[0].learn(3, reset_num_timesteps=False)
    assert_same(ours[1:], alone[1:])
    assert_same(ours[:1], learn_alone(alone[:1], 3, reset_num_timesteps=False))


def test_a_loss_that_is_not_finite_names_its_model_and_changes_none(arrays):
    ours, alone = build(GMPO, arrays), build(GMPO, arrays)
    for models in (ours, alone):
        learn_alone(models, 3)
    broken = ours[2].value_net.value_net[-1].bias
    with th.no_grad():
        broken.fill_(np.nan)
    pattern = r"model 2 \(seed=0, beta=3\.0\): Training diverged: in gradient step 4, .*value_loss = nan"
    with pytest.raises(FloatingPointError, match=pattern):
        learn_side_by_side(ours, 3, reset_num_timesteps=False)
    for mine, expected in zip(ours[:2], alone[:2], strict=True):
        for parameter, other in zip(mine.policy.parameters(), expected.policy.parameters(), strict=True):
            assert th.equal(parameter, other)


def test_a_finite_loss_with_a_gradient_that_is_none_names_its_model(arrays):
    """The root of a square has no slope at zero, where the second model alone is."""
    ours = build(GMPO, arrays)
    objective, network = ours[0]._objective, ours[0].actor.model.network
    with th.no_grad():
        ours[1].actor.model.network.head.bias.zero_()

    def with_a_root(rows, batch):
        made = objective(rows, batch)
        root = network.head.bias.square().sum().sqrt()
        return made._replace(losses={**made.losses, "actor_loss": made.losses["actor_loss"] + root})

    ours[0]._objective = with_a_root
    with pytest.raises(FloatingPointError, match=r"model 1 \(seed=1, beta=1\.0\): .* step 1, the gradient of actor is not"):
        learn_side_by_side(ours, 3)


def test_rows_are_in_memory_once_and_one_model_is_a_batch_too(arrays):
    ours, alone = build(GMPO, arrays), build(GMPO, arrays)
    learn_side_by_side(ours[:1], STEPS)
    assert_same(ours[:1], learn_alone(alone[:1]))
    learn_side_by_side(ours[1:], 1)
    assert ours[1].replay_buffer.observations_are_at == ours[2].replay_buffer.observations_are_at
    assert ours[0].replay_buffer.observations_are_at != ours[2].replay_buffer.observations_are_at


def test_capture_is_left_aside_and_one_line_says_so(arrays, capsys):
    models = build(GMPO, arrays, capture=True, verbose=1)
    learn_side_by_side(models, 2)
    said = capsys.readouterr().out
    assert said.count("not recorded (capture=True)") == said.count("(capture=True): models are trained side by side.") == 3
    assert all(model.capture for model in models)


def test_tensorboard_runs_have_folders_of_their_own(arrays, tmp_path):
    models = build(GMPO, arrays, tensorboard_log=str(tmp_path / "logs"))
    for reset in (True, False):
        learn_side_by_side(models, 2, log_interval=1, reset_num_timesteps=reset, tb_log_name="both")
    assert sorted(os.listdir(tmp_path / "logs")) == ["both_0_1", "both_1_1", "both_2_1"]


# What cannot be


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
    "policy_kwargs": (dict(policy_kwargs=dict(net_arch=[16])), r"policy_kwargs is {'net_arch': \[32, 32\]} in"),
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


def test_a_network_that_looks_at_values_is_refused_at_the_first_step(arrays):
    models, untouched = (build(GMPO, arrays, policy_kwargs=dict(SMALL, network=Asks)) for _ in range(2))
    with pytest.raises(ValueError, match=r"The update of these models cannot be batched \(th\.vmap\): .*data-dependent"):
        learn_side_by_side(models, 3)
    for mine, expected in zip(models, untouched, strict=True):
        for parameter, other in zip(mine.policy.parameters(), expected.policy.parameters(), strict=True):
            assert th.equal(parameter, other)
    models[0].learn(2)


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
