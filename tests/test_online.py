"""
A model that was trained on a dataset goes on in an environment: what it acts, keeps, learns and saves.
"""

import shutil

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecNormalize

from sb3_genpolicy import GMPG, GMPO, NStepReturns, last_checkpoint, learn_side_by_side
from sb3_genpolicy.common.updates import guards
from sb3_genpolicy.common.updates.batch import Batch
from sb3_genpolicy.generative import Likelihood, OdeKL, Sampler
from tests.helpers.arrays import SMALL
from tests.helpers.states import same_state
from tests.helpers.tiny_envs import EPISODE_STEPS, make_minari

#: What each freezes in the second phase differs
KINDS = {
    "gmpo": (GMPO, {}),
    "gmpo pretrained": (GMPO, dict(pretraining_steps=3)),
    "gmpo softmax": (GMPO, dict(weighting="softmax", n_actions=4, pretraining_steps=3)),
    "gmpg": (GMPG, dict(pretraining_steps=3)),
    "gmpg target_kl": (GMPG, dict(pretraining_steps=3, target_kl=0.5)),
}


def tiny(env="Tiny-v0", kind="gmpg", policy="FlowPolicy", **options):
    algorithm, own = KINDS[kind]
    options = {**own, "batch_size": 16, "seed": 0, "device": "cpu", **options}
    return algorithm(policy, env, dataset="test/tiny-v0", policy_kwargs=options.pop("policy_kwargs", SMALL), **options)


@pytest.fixture(autouse=True)
def dataset(minari_root):
    return make_minari("test/tiny-v0")


def copies(model):
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


def moved(model, before, prefix):
    return any(
        not th.equal(value, before[name]) for name, value in model.policy.state_dict().items() if name.startswith(prefix)
    )


# What happens


@pytest.mark.parametrize("kind", KINDS)
def test_everything_learns_from_both_and_steps_go_on(kind, tmp_path):
    model = tiny(kind=kind)
    model.learn(6)
    offline = model.replay_buffer.observations.clone()
    before = copies(model)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn_online(40, log_interval=1)
    assert model.num_timesteps == model._n_updates == 46 and model.phase == "online"
    assert model.replay_buffer.n_added == 40 and th.equal(model.replay_buffer.observations[:32], offline)
    trained = ["actor.", "actor_ema.", "critic.", "critic_target.", "value_net."]
    for prefix in [*trained, *(["behaviour."] if model.behaviour is not None else [])]:
        assert moved(model, before, prefix), prefix
    log = np.genfromtxt(tmp_path / "progress.csv", delimiter=",", names=True, deletechars="", dtype=None, encoding=None)
    np.testing.assert_array_equal(log["time/total_timesteps"], 6 + EPISODE_STEPS * np.arange(1, 6))
    np.testing.assert_array_equal(log["rollout/ep_len_mean"], EPISODE_STEPS)
    for name in ("critic_loss", "value_loss", *(["behaviour_loss"] if model.behaviour is not None else [])):
        assert np.isfinite(log[f"train/{name}"]).all(), name


def test_the_policy_acts_from_the_first_step_on_and_its_rows_are_what_happened():
    """Rewards are the first action (the environment's rule), here through the buffer's transform."""
    model = tiny().learn(6)
    model.learn_online(9, learning_starts=10)
    # Nothing was learnt yet, so that the actions can be had again
    assert model._n_updates == 6
    added = model.replay_buffer.rows(th.arange(32, 41))
    np.testing.assert_allclose(added.rewards, model.replay_buffer.reward_function(added.actions[:, :1].numpy()), rtol=1e-5)
    np.testing.assert_allclose(added.next_observations[:, :2], added.observations[:, :2] + added.actions, rtol=1e-5)
    # Time limits bootstrap
    assert added.dones.sum() == 0 and not th.equal(added.observations[8], added.next_observations[7])
    model.set_random_seed(0)
    model.learn_online(3, learning_starts=10)
    observations = model.replay_buffer.rows(th.arange(41, 44)).observations
    model.policy.set_training_mode(False)
    th.manual_seed(0)
    actions = np.array([model.predict(observation.numpy())[0] for observation in observations])
    np.testing.assert_allclose(model.replay_buffer.rows(th.arange(41, 44)).actions, actions, atol=1e-5)


def test_an_environment_that_was_stepped_elsewhere_is_reset():
    model = tiny().learn(6)
    model.learn_online(3)
    model.env.step(np.ones((1, 2), np.float32))
    model.learn_online(2)
    added = model.replay_buffer.rows(th.arange(35, 37))
    np.testing.assert_allclose(added.next_observations[:, :2], added.observations[:, :2] + added.actions, rtol=1e-5)


class Peak(gym.Env):
    """One step; the reward is highest at the action 0.6."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), -float((action[0] - 0.6) ** 2), True, False, {}


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        (GMPO, dict(beta=30.0, critic="iql")),
        pytest.param(GMPO, dict(beta=30.0, critic="iql", weighting="softmax", n_actions=4), marks=pytest.mark.slow),
        (GMPG, dict(target_kl=1.0)),
    ],
)
def test_actions_that_no_dataset_row_has_are_found(algorithm, options):
    """The dataset's actions end at 0, where its best ones are; the environment's best is 0.6."""
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1.0, 0.0, (500, 1)).astype(np.float32)
    zeros, ones = np.zeros((500, 1), np.float32), np.ones(500)
    arrays = dict(observations=zeros, next_observations=zeros, actions=actions, rewards=-((actions[:, 0] - 0.6) ** 2))
    arrays.update(terminals=ones, timeouts=0 * ones, action_space=Peak.action_space)
    model = algorithm(
        "FlowPolicy", Peak(), dataset=arrays, policy_kwargs=dict(SMALL, sampling_steps=2), seed=0, batch_size=64, tau=0.05,
        actor_tau=0.05, reward_transform="none", **options,
    )  # fmt: skip
    model.learn(200)

    def mean_action():
        return model.predict(np.zeros((500, 1), np.float32))[0].mean()

    assert mean_action() < 0.0
    model.learn_online(300, offline_share=0.25)
    assert 0.1 < mean_action() < 0.7


# Whose gradient is whose


class Linear(BaseFeaturesExtractor):
    """With parameters, which may be shared."""

    def __init__(self, observation_space, features_dim=4):
        super().__init__(observation_space, features_dim)
        self.linear = th.nn.Linear(3, features_dim)

    def forward(self, observations):
        return self.linear(observations)


@pytest.mark.parametrize(
    "options",
    [dict(kl_estimator="path"), dict(kl_estimator=OdeKL(Likelihood(sampler=Sampler("midpoint", 2)))),
     dict(kl_estimator="discrete"), dict(gradient_estimator="matching"),
     dict(gradient_estimator="reinforce"), dict(gradient_estimator="reinforce_softmax"),
     dict(policy_kwargs=dict(SMALL, features_extractor_class=Linear, share_features_extractor=True))],
    ids=str,
)  # fmt: skip
def test_the_policy_s_loss_trains_the_policy_alone(options):
    """The gradient of all losses at once is, for each network, that of its own."""
    model = tiny(**options).learn(6)
    model.learn_online(20)
    model.policy.double()
    rows, samples = model.replay_buffer.draw(16)
    samples = type(samples)(*(None if value is None else value.double() for value in samples))
    batch = Batch.of(samples, rows, model.generator)
    state = model.generator.get_state()
    losses = model.objective(batch).losses
    assert set(losses) == {"policy_loss", "critic_loss", "value_loss", "behaviour_loss"}
    model.policy.zero_grad()
    th.autograd.backward(list(losses.values()))
    owners = dict(
        policy_loss=model.actor, critic_loss=model.critic, value_loss=model.value_net, behaviour_loss=model.behaviour
    )
    own = {name: network.optimizer.param_groups[0]["params"] for name, network in owners.items()}
    together = {name: [parameter.grad for parameter in parameters] for name, parameters in own.items()}
    for name, parameters in own.items():
        model.generator.set_state(state)
        # Raises where one is not reached
        alone = th.autograd.grad(model.objective(batch).losses[name], parameters)
        for ours, expected in zip(together[name], alone, strict=True):
            th.testing.assert_close(ours, expected)


# Options


def test_updates_are_as_many_as_asked_for():
    model = tiny(make_vec_env("Tiny-v0", n_envs=2)).learn(6)
    assert model.learn_online(8, gradient_steps=-1)._n_updates == 6 + 8
    assert model.learn_online(8, train_freq=2, gradient_steps=3)._n_updates == 14 + 2 * 3
    assert model.learn_online(8, gradient_steps=0)._n_updates == 20
    assert model.num_timesteps == 6 + 24 and model.replay_buffer.n_added == 24
    model = tiny().learn(6)
    model.learn_online(2 * EPISODE_STEPS, train_freq=(1, "episode"), gradient_steps=5)
    assert model._n_updates == 6 + 2 * 5


def test_counting_can_start_anew():
    model = tiny().learn(6)
    model.learn_online(5, reset_num_timesteps=True, learning_starts=3)
    assert model.num_timesteps == 5 and model._n_updates == 6 + 2


def test_without_a_share_no_dataset_is_needed(tmp_path, minari_root):
    tiny().learn(6).save(tmp_path / "model")
    shutil.rmtree(minari_root / "test")
    model = GMPG.load(tmp_path / "model", env=make_vec_env("Tiny-v0"))
    with pytest.raises(ValueError, match="test/tiny-v0"):
        model.learn_online(4)
    model.learn_online(10, offline_share=0.0)
    assert model.replay_buffer.size() == model.replay_buffer.n_added == 10
    make_minari("test/tiny-v0")
    assert model.learn(1, reset_num_timesteps=False).replay_buffer.size() == 32 + 10
    # One that was never trained does not know how rewards are scaled
    with pytest.raises(ValueError, match="no dataset to learn from"):
        GMPO("FlowPolicy", "Tiny-v0", policy_kwargs=SMALL, dataset=None).learn_online(4, offline_share=0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [(dict(total_timesteps=-1), "total_timesteps must be a number >= 0"),
     (dict(log_interval=0), "log_interval must be a number >= 1"),
     (dict(gradient_steps=1.5), "gradient_steps must be whole, not 1.5"),
     (dict(offline_share=1.5), "offline_share must be a number >= 0.0 and <= 1.0, not 1.5"),
     (dict(gradient_steps=-2), "gradient_steps must be a number >= -1, not -2"),
     (dict(learning_starts=-1), "learning_starts must be a number >= 0"),
     (dict(train_freq=0), "train_freq must be a number >= 1"),
     (dict(train_freq=(1, "episode")), "counts episodes, but there are 2 environments side by side")],
    ids=str,
)  # fmt: skip
def test_options_out_of_range_are_refused(options, message):
    model = tiny(make_vec_env("Tiny-v0", n_envs=2))
    with pytest.raises(ValueError, match=message):
        model.learn_online(**{"total_timesteps": 4, **options})
    assert not model.online


def test_misspelt_options_are_answered_with_the_nearest():
    with pytest.raises(TypeError, match="learn_online has no option 'ofline_share'. Did you mean 'offline_share'"):
        tiny().learn_online(4, ofline_share=0.5)


def test_models_that_cannot_act_or_keep_what_they_saw_are_refused():
    with pytest.raises(ValueError, match="no environment to act in. Give it one by `model.set_env"):
        tiny(env=None).learn(4).learn_online(4)
    with pytest.raises(ValueError, match="redraw_actions=False keeps actions .* redraw_actions=True"):
        tiny(kind="gmpo softmax", redraw_actions=False).learn_online(4)
    models = [tiny(seed=seed).learn(4) for seed in range(2)]
    models[1].learn_online(2)
    models[0].learn(2, reset_num_timesteps=False)
    with pytest.raises(ValueError, match=r"Model 1 \(seed=1, .*gone on online, where every model sees rows of its own"):
        learn_side_by_side(models, 2)


# Around the training


def test_callbacks_count_steps_in_the_environment(tmp_path):
    model = tiny().learn(6)
    evaluation = EvalCallback(make_vec_env("Tiny-v0"), eval_freq=5, n_eval_episodes=2, log_path=str(tmp_path), warn=False)
    checkpoints = CheckpointCallback(10, str(tmp_path), save_replay_buffer=True)
    model.learn_online(20, [evaluation, checkpoints], progress_bar=True)
    np.testing.assert_array_equal(np.load(tmp_path / "evaluations.npz")["timesteps"], [11, 16, 21, 26])
    assert (tmp_path / "rl_model_16_steps.zip").exists()
    # As the guide goes on from it
    resumed = GMPG.load(last_checkpoint(tmp_path), env=make_vec_env("Tiny-v0"))
    resumed.load_replay_buffer(tmp_path / f"rl_model_replay_buffer_{resumed.num_timesteps}_steps.pkl")
    resumed.learn_online(4)
    # SB3's loop keeps the row of a step after its callbacks
    assert resumed.num_timesteps == 30 and resumed.replay_buffer.n_added == 19 + 4


def test_where_looks_are_rare_the_last_step_is_looked_at(monkeypatch):
    """As on a GPU, where numbers are noted and looked at after a hundred steps, and at the end."""
    monkeypatch.setattr(guards, "looks_at_every_step", lambda device: False)
    model = tiny().learn(6)
    model.learn_online(4)
    before = copies(model)
    model._store_transition = lambda buffer, actions, seen, rewards, dones, infos: type(model)._store_transition(
        model, buffer, actions, seen, rewards * np.nan, dones, infos
    )
    with pytest.raises(FloatingPointError, match="critic_loss = nan.* those before that step"):
        model.learn_online(1, offline_share=0.0)
    assert not moved(model, before, "critic.") and not moved(model, before, "actor_ema.")


def test_a_callback_ends_it():
    class Stop(BaseCallback):
        def _on_step(self):
            return self.n_calls < 7

    model = tiny().learn(6)
    model.learn_online(20, Stop())
    assert model.num_timesteps == 6 + 7
    assert model.learn(4, reset_num_timesteps=False).num_timesteps == 17


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_goes_on_as_if_it_had_not_been_saved(kind, tmp_path):
    """With its replay buffer, bit for bit: optimizers and random states of all networks are in the files."""
    model = tiny(kind=kind).learn(6)
    model.learn_online(12)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "rows")
    model.learn(8, reset_num_timesteps=False)
    loaded = KINDS[kind][0].load(tmp_path / "model", env=make_vec_env("Tiny-v0"))
    assert loaded.online and loaded.phase == "online"
    loaded.load_replay_buffer(tmp_path / "rows")
    loaded.learn(8, reset_num_timesteps=False)
    assert loaded.replay_buffer.size() == 32 + 12 and loaded.num_timesteps == 26
    assert same_state(model.get_parameters(), loaded.get_parameters())
    assert th.equal(model.generator.get_state(), loaded.generator.get_state())


def test_it_may_begin_while_the_behaviour_model_is_still_trained(tmp_path):
    model = tiny(pretraining_steps=10).learn(4)
    model.learn_online(4)
    assert model.phase == "pretraining"
    model.save(tmp_path / "model")
    model = GMPG.load(tmp_path / "model", env=make_vec_env("Tiny-v0"))
    model.learn_online(4)
    assert model.phase == "online" and model.pretraining_finished
    assert all(parameter.requires_grad for parameter in model.critic.parameters())


@pytest.mark.parametrize("kind", ["gmpo", "gmpg"])
def test_vec_normalize_goes_on_gathering(kind):
    env = VecNormalize(make_vec_env("Tiny-v0"))
    model = tiny(env, kind).learn(6)
    count = env.obs_rms.count
    model.learn_online(10)
    assert env.obs_rms.count > count + 9
    # Rows are kept as the environment gives them: rewards are the first action
    added = model.replay_buffer.rows(th.arange(32, 42))
    np.testing.assert_allclose(added.rewards, model.replay_buffer.reward_function(added.actions[:, :1].numpy()), rtol=1e-5)


def test_dictionaries_and_n_step_returns():
    make_minari("test/goal-v0", "TinyGoal-v0")
    model = GMPO(
        "FlowMultiInputPolicy",
        "TinyGoal-v0",
        dataset="test/goal-v0",
        policy_kwargs=SMALL,
        transforms=[NStepReturns(2)],
        seed=0,
    )
    model.learn(3).learn_online(10)
    assert model.replay_buffer.n_added == 10
    assert model.predict(model.observation_space.sample())[0] in model.action_space
