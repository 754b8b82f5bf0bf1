"""
Policies: predictions of the right shape and type for every space, repeatable, in evaluation mode, best of several.
"""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from torch import nn

from sb3_genpolicy import GMPO
from sb3_genpolicy.common.datasets.envs import SpacesVecEnv
from sb3_genpolicy.generative import Sampler, VPPath
from sb3_genpolicy.gmpo import DiffusionPolicy, FlowPolicy
from tests.helpers.arrays import BEST, SMALL, make_arrays
from tests.helpers.fuzz_spaces import SpacesEnv
from tests.helpers.observation_spaces import ACTIONS, IMAGE, SPACES, BatchNormDropout, dataset_of, policy_for, rows_of

# Rows made at random do not follow each other
pytestmark = pytest.mark.filterwarnings("ignore:.*lead to another observation than the next row")


@pytest.mark.parametrize("kind", ["Flow", "Diffusion"])
@pytest.mark.parametrize("name", SPACES)
def test_every_observation_space_trains_saves_and_predicts(name, kind, tmp_path):
    space = SPACES[name]
    model = GMPO(policy_for(name, kind), dataset=dataset_of(space), batch_size=8, policy_kwargs=SMALL, seed=0).learn(3)
    rows = rows_of(space, 5, seed=2)
    one = {key: value[0] for key, value in rows.items()} if isinstance(rows, dict) else rows[0]
    for deterministic in (True, False):
        action, state = model.predict(one, deterministic=deterministic)
        assert action.shape == (2,) and action.dtype == np.float32 and ACTIONS.contains(action) and state is None
        actions, _ = model.predict(rows, deterministic=deterministic)
        assert actions.shape == (5, 2) and actions.dtype == np.float32 and (np.abs(actions - 0.5) <= 2.5).all()
    model.save(tmp_path / "model")
    expected, _ = model.predict(rows, deterministic=True)
    np.testing.assert_array_equal(GMPO.load(tmp_path / "model").predict(rows, deterministic=True)[0], expected)


def test_images_are_stored_as_bytes_and_seen_channel_first():
    model = GMPO("CnnPolicy", dataset=dataset_of(IMAGE), policy_kwargs=SMALL, batch_size=4).learn(1)
    data = dataset_of(IMAGE)["observations"]
    assert model.observation_space.shape == (3, 36, 36) and model.replay_buffer.observations.dtype == th.uint8
    np.testing.assert_array_equal(model.replay_buffer.observations, data.transpose(0, 3, 1, 2))


def test_shared_features_extractor_learns_from_the_actor_alone():
    space = SPACES["box"]
    model = GMPO(
        "FlowPolicy", dataset=dataset_of(space), policy_kwargs=dict(share_features_extractor=True, **SMALL), batch_size=8
    )
    model.learn(2)
    assert model.critic.features_extractor is model.actor.features_extractor is model.value_net.features_extractor
    assert model.critic_target.features_extractor is not model.actor.features_extractor


def test_deterministic_actions_repeat_without_a_seed_and_stochastic_ones_vary(arrays):
    model = GMPO("FlowPolicy", dataset=arrays, policy_kwargs=SMALL)
    row = np.ones(3, np.float32)
    np.testing.assert_array_equal(model.predict(row, deterministic=True)[0], model.predict(row, deterministic=True)[0])
    assert (model.predict(row)[0] != model.predict(row)[0]).any()
    # One observation gets the same action alone and among others
    alone, among = model.predict(row, deterministic=True)[0], model.predict(np.tile(row, (7, 1)), deterministic=True)[0]
    np.testing.assert_allclose(among, np.tile(alone, (7, 1)), atol=1e-5)


def test_the_candidate_with_the_highest_q_is_taken(arrays):
    """By another route: every candidate on its own, valued one by one."""
    kwargs = dict(n_candidates=6, **SMALL, **BEST)
    policy = GMPO("FlowPolicy", dataset=arrays, policy_kwargs=kwargs, critic="iql", seed=0).learn(5).policy.eval()
    observations = th.randn(4, 3)
    with th.no_grad():
        chosen = policy(observations, deterministic=True)
        for row in range(4):
            one = observations[row : row + 1]
            features = policy.actor_ema.extract_features(one, policy.actor_ema.features_extractor)
            candidates = [policy.actor_ema.sample(features, noise[None]) for noise in policy.candidate_noise(6)]
            values = [min(q.item() for q in policy.critic(one, action)) for action in candidates]
            np.testing.assert_allclose(chosen[row], candidates[int(np.argmax(values))][0], atol=1e-5)
    assert (policy.candidate_noise(6)[0] == 0).all()
    # The number of candidates can be changed later, the first ones stay
    policy.n_candidates = 8
    np.testing.assert_array_equal(policy.candidate_noise(8)[0], policy.candidate_noise(6)[0])
    actions, _ = policy.predict(np.zeros((3, 3), np.float32))
    assert actions.shape == (3, 2)


def test_candidates_of_dict_observations_follow_their_observation():
    model = GMPO("FlowMultiInputPolicy", dataset=dataset_of(SPACES["dict"]), policy_kwargs=dict(n_candidates=3, **SMALL))
    rows = rows_of(SPACES["dict"], 4)
    together, _ = model.predict(rows, deterministic=True)
    apart = [model.predict({k: v[i] for k, v in rows.items()}, deterministic=True)[0] for i in range(4)]
    np.testing.assert_allclose(together, apart, atol=1e-5)


def test_observation_statistics_are_the_datasets_and_stay(arrays):
    model = GMPO("FlowPolicy", dataset=arrays, policy_kwargs=SMALL).learn(1)
    part = model.actor.normalizer.parts[0]
    np.testing.assert_allclose(part.mean, arrays["observations"].mean(0), rtol=1e-5)
    np.testing.assert_allclose(part.std, arrays["observations"].std(0), rtol=1e-5)
    assert model.critic_target.normalizer is model.actor.normalizer is model.policy.normalizer
    # Networks that were trained on one set of statistics do not get another
    model.learn(1, dataset=make_arrays(seed=5, n_episodes=2))
    np.testing.assert_allclose(part.mean, arrays["observations"].mean(0), rtol=1e-5)
    off = GMPO("FlowPolicy", dataset=arrays, policy_kwargs=dict(normalize_observations=False, **SMALL)).learn(1)
    assert (off.policy.normalizer.parts[0].mean == 0).all()


def test_training_mode_is_on_in_training_and_off_in_prediction(arrays):
    kwargs = dict(features_extractor_class=BatchNormDropout, **SMALL)
    model = GMPO("FlowPolicy", dataset=arrays, policy_kwargs=kwargs, seed=0, tau=0.1).learn(5)
    norm, target = (net.features_extractor.layers[0] for net in (model.critic, model.critic_target))
    assert norm.num_batches_tracked == 5
    np.testing.assert_array_equal(norm.running_mean, target.running_mean)
    assert model.policy.training and not model.critic_target.training
    before = norm.running_mean.clone()
    first, second = (model.predict(np.ones((4, 3), np.float32), deterministic=True)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert th.equal(before, norm.running_mean) and not model.actor.training


def modes(policy):
    names = ("actor", "actor_ema", "critic", "value_net", "critic_target")
    layers = {
        name: [m for m in getattr(policy, name).modules() if isinstance(m, (nn.BatchNorm1d, nn.Dropout))] for name in names
    }
    return {name: {module.training for module in modules} for name, modules in layers.items()}


DISTURBANCES = {
    "newly built": None,
    "by torch": lambda policy: policy.train(),
    "by SB3": lambda policy: policy.set_training_mode(True),
    "of the actor": lambda policy: policy.actor.train(),
    "of the critic": lambda policy: policy.critic.train(),
}


@pytest.mark.parametrize("disturb", DISTURBANCES.values(), ids=DISTURBANCES)
def test_predictions_are_made_in_evaluation_mode_whatever_was_before(arrays, disturb):
    kwargs = dict(features_extractor_class=BatchNormDropout, n_candidates=3, **SMALL)
    policy = GMPO("FlowPolicy", dataset=arrays, policy_kwargs=kwargs, seed=0).policy
    row = np.ones((4, 3), np.float32)
    if disturb is not None:
        policy.predict(row)
        disturb(policy)
        assert policy.training or policy.actor.training or policy.critic.training
    first, second = (policy.predict(row, deterministic=True)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert not policy.training
    assert all(modes(policy)[name] == {False} for name in ("actor", "actor_ema", "critic", "value_net"))


def test_training_finds_its_mode_after_a_prediction_and_after_parts_were_switched_off(arrays):
    policy = GMPO("FlowPolicy", dataset=arrays, policy_kwargs=dict(features_extractor_class=BatchNormDropout, **SMALL)).policy
    on = dict(actor={True}, critic={True}, value_net={True}, actor_ema={False}, critic_target={False})
    policy.predict(np.ones(3, np.float32))
    policy.set_training_mode(True)
    assert modes(policy) == on and policy.training
    policy.critic.set_training_mode(False)
    policy.set_training_mode(True)
    assert modes(policy) == on


def test_weights_of_any_size_give_finite_actions(arrays):
    """SB3's tests set every weight to U[0, 1]."""
    for policy in ("FlowPolicy", "DiffusionPolicy"):
        model = GMPO(policy, dataset=arrays, policy_kwargs=SMALL)
        state = model.policy.state_dict()
        model.policy.load_state_dict({key: th.rand_like(value) for key, value in state.items()})
        assert np.isfinite(model.predict(np.ones((5, 3), np.float32))[0]).all()


def test_options_reach_the_networks(arrays):
    path = VPPath(beta_max=10.0)
    kwargs = dict(
        net_arch=dict(pi=[8, 8], qf=[4], vf=[2]),
        activation_fn=nn.Tanh,
        critic_activation_fn=nn.ELU,
        path=path,
        solver="rk4",
        sampling_steps=3,
        n_critics=3,
        optimizer_class=th.optim.AdamW,
        optimizer_kwargs=dict(weight_decay=0.1),
    )
    policy = GMPO("DiffusionPolicy", dataset=arrays, policy_kwargs=kwargs, learning_rate=1e-2).policy
    assert [layer.out_features for layer in policy.actor.model.network.layers] == [8, 8]
    assert isinstance(policy.actor.model.network.activation, nn.Tanh) and isinstance(policy.value_net.value_net[1], nn.ELU)
    assert policy.actor.model.path is path and policy.sampler == policy.actor.sampler == Sampler("rk4", 3)
    assert policy.critic.layers[0].weight.shape[::2] == (3, 4)
    assert isinstance(policy.actor.optimizer, th.optim.AdamW) and policy.value_net.optimizer.param_groups[0]["lr"] == 1e-2


def test_published_predictions_are_the_defaults():
    spaces_ = dict(observation_space=SPACES["box"], action_space=ACTIONS, lr_schedule=lambda _: 1e-3, net_arch=[4])
    assert FlowPolicy(**spaces_).prediction == "velocity"
    assert DiffusionPolicy(**spaces_).prediction == "noise"
    assert DiffusionPolicy(**spaces_, path="cosine").prediction == "velocity"
    assert DiffusionPolicy(**spaces_, path="cosine", prediction="noise").actor.model.prediction == "noise"


@pytest.mark.parametrize(
    ("policy", "kwargs", "error", "message"),
    [
        ("FlowPolicy", dict(path="vp"), ValueError, "path of FlowPolicy='vp' is unknown. There are: linear"),
        ("DiffusionPolicy", dict(path="cosin"), ValueError, "Did you mean 'cosine'"),
        ("FlowPolicy", dict(path=VPPath()), ValueError, "FlowPolicy has no path VPPath"),
        (
            "FlowPolicy",
            dict(prediction="noise"),
            ValueError,
            "'noise' is undefined on a LinearPath.* use 'velocity' or 'data'",
        ),
        ("DiffusionPolicy", dict(prediction="nois"), ValueError, "Did you mean 'noise'"),
        ("FlowPolicy", dict(solver="dopri"), ValueError, "solver='dopri' is unknown. Did you mean 'dopri5'"),
        ("FlowPolicy", dict(time_grid="angel"), ValueError, "time_grid='angel' is unknown. Did you mean 'angle'"),
        ("FlowPolicy", dict(network="unnet"), ValueError, "network='unnet' is unknown. Did you mean 'unet'"),
        ("FlowPolicy", dict(network="unet", net_arch=[8]), ValueError, "narrows over two widths or more"),
        ("FlowPolicy", dict(time_features="fourier"), ValueError, "time_features='fourier' is unknown"),
        ("FlowPolicy", dict(coupling="optimal"), ValueError, "coupling='optimal' is unknown"),
        ("FlowPolicy", dict(matching_loss="scor"), ValueError, "matching_loss='scor' is unknown. Did you mean 'score'"),
        ("FlowPolicy", dict(sampling_steps=0), ValueError, "sampling_steps must be a number >= 1, not 0"),
        ("FlowPolicy", dict(n_candidates=0), ValueError, "n_candidates must be a number >= 1"),
        ("FlowPolicy", dict(net_arch=dict(actor=[8])), ValueError, "net_arch has no key 'actor'. There are: pi, qf, vf"),
        (
            "FlowPolicy",
            dict(samplin_steps=3),
            TypeError,
            "FlowPolicy has no option 'samplin_steps'. Did you mean 'sampling_steps'",
        ),
    ],
)
def test_bad_options_are_named_with_the_nearest_good_one(arrays, policy, kwargs, error, message):
    with pytest.raises(error, match=message):
        GMPO(policy, dataset=arrays, policy_kwargs=kwargs)


def test_options_of_the_features_extractor_stay_as_they_were_given():
    options = {"features_dim": 8}
    kwargs = dict(SMALL, features_extractor_kwargs=options, normalize_images=False)
    model = GMPO("CnnPolicy", dataset=dataset_of(IMAGE), policy_kwargs=kwargs)
    assert options == {"features_dim": 8} and model.actor.features_dim == 8


PLAIN, ONE_ACTION = spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (1,))


@pytest.mark.parametrize(
    ("observation_space", "action_space", "message"),
    [
        (PLAIN, spaces.Box(np.array([0, 1, 2], np.float32), np.array([1, 2, 2], np.float32)), r"leaves no choice at \[2\]"),
        (PLAIN, spaces.Box(-3, 3, (2,), np.int32), "holds numbers of type int32"),
        (PLAIN, spaces.Box(-1, 1, ()), r"has no entries along its shape \(\)"),
        (spaces.Box(-1, 1, (0,)), ONE_ACTION, r"space of observations, .* has no entries along its shape \(0,\)"),
        (
            spaces.Dict({"a": PLAIN, "b": spaces.Discrete(3, start=1)}),
            ONE_ACTION,
            r"observations\['b'\], .* counts from another",
        ),
        (spaces.MultiDiscrete([2, 2], start=[0, 1]), ONE_ACTION, "counts from another number than 0"),
        (spaces.MultiDiscrete([[2, 3], [4, 5]]), ONE_ACTION, r"MultiDiscrete\(\[\[2 3\] \[4 5\]\]\), has several dimensions"),
        (spaces.Tuple([PLAIN, PLAIN]), ONE_ACTION, "is none that a network takes: flatten it"),
        (spaces.Dict({"a": spaces.Dict({"b": PLAIN})}), ONE_ACTION, r"observations\['a'\], .* flatten it"),
        (
            spaces.Dict({"a": IMAGE, "b": spaces.Box(0, 255, (3, 36, 36), np.uint8)}),
            ONE_ACTION,
            "channels first beside others with their channels last",
        ),
    ],
)
def test_spaces_that_no_policy_can_learn_in_are_refused(observation_space, action_space, message):
    for env in (SpacesVecEnv(observation_space, action_space), SpacesEnv(observation_space, action_space)):
        with pytest.raises(ValueError, match=message):
            GMPO("MultiInputPolicy" if isinstance(observation_space, spaces.Dict) else "MlpPolicy", env)


@pytest.mark.parametrize(
    ("policy", "space", "message"),
    [
        ("FlowMultiInputPolicy", PLAIN, "observations are no dictionary, but .* use the policy 'FlowPolicy'"),
        ("DiffusionCnnPolicy", spaces.Discrete(3), "observations are no images, but .* use 'FlowPolicy'"),
        ("FlowCnnPolicy", PLAIN, "NatureCNN cannot be built for .*: You should use NatureCNN only with images"),
        ("FlowCnnPolicy", spaces.Box(0, 255, (8, 8, 3), np.uint8), "NatureCNN cannot be built .*Kernel size"),
    ],
)
def test_policies_for_other_observations_are_refused(policy, space, message):
    with pytest.raises(ValueError, match=message):
        GMPO(policy, SpacesVecEnv(space, ONE_ACTION))


def test_the_features_extractor_is_the_users_own_object():
    """SB3's tests, and its users, reach through it."""
    data = dataset_of(spaces.Box(-1, 1, (3,)))
    kwargs = dict(SMALL, features_extractor_class=BatchNormDropout)
    model = GMPO("FlowPolicy", dataset=data, policy_kwargs=kwargs, tau=0.0, seed=1)
    networks = dict(actor=model.policy.actor, critic=model.critic, value=model.value_net, target=model.critic_target)
    before = {}
    for name, network in networks.items():
        assert type(network.features_extractor) is BatchNormDropout
        norm = network.features_extractor.layers[0]
        before[name] = norm.bias.detach().clone(), norm.running_mean.clone()
    model.learn(5)
    for name, network in networks.items():
        norm = network.features_extractor.layers[0]
        same_bias = th.equal(norm.bias, before[name][0])
        # The target's statistics are the critic's as they are; its parameters follow at the rate tau
        assert same_bias == (name == "target")
        assert not th.isclose(norm.running_mean, before[name][1]).all()
