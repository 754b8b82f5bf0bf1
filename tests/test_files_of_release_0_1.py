"""
Files that release 0.1 wrote: they load, act as they did, and go on.
"""

from pathlib import Path

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env

from sb3_genpolicy import GMPG, GMPO
from sb3_genpolicy.common.files import labels

FOLDER = Path(__file__).parent / "files_of_0_1"
ALGORITHMS = dict(gmpo_flow=GMPO, gmpo_softmax_vp=GMPO, gmpg_dict=GMPG, gmpo_integers=GMPO)


def written(name):
    with np.load(FOLDER / f"{name}.npz") as file:
        observations = {key.removeprefix("obs/"): file[key] for key in file if key.startswith("obs/")}
        only = observations.get("observations")
        return observations if only is None else only, file["actions"], file["log_probs"]


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_they_act_as_they_did(name):
    model = ALGORITHMS[name].load(FOLDER / name)
    observations, actions, log_probs = written(name)
    np.testing.assert_allclose(model.predict(observations, deterministic=True)[0], actions, atol=1e-6)
    np.testing.assert_allclose(model.policy.log_prob(observations, actions).detach(), log_probs, atol=1e-4)


def test_beta_stays_as_it_was_given():
    """Today's default adapts it, which their files do not say."""
    for name in ("gmpo_flow", "gmpo_integers"):
        model = GMPO.load(FOLDER / name)
        assert model.target_kl is None and model.current_beta == model.beta
    assert GMPO.load(FOLDER / "gmpo_flow", target_kl=0.3).target_kl == 0.3


def test_of_several_candidates_the_best_is_taken_as_then(arrays, tmp_path):
    """What is new draws one of them, which their files do not say; nor does that of a policy alone."""
    model = GMPO.load(FOLDER / "gmpo_integers")
    assert model.policy.n_candidates == 3 and model.policy.candidate_temperature == 0.0
    model.save(tmp_path / "again")
    assert GMPO.load(tmp_path / "again").policy.candidate_temperature == 0.0
    new = GMPO("FlowPolicy", dataset=arrays, policy_kwargs=dict(net_arch=[8], n_candidates=3)).policy
    new.save(tmp_path / "policy")
    assert type(new).load(tmp_path / "policy").candidate_temperature == new.candidate_temperature == 3.0
    saved = th.load(tmp_path / "policy", weights_only=True)
    del saved["data"]["candidate_temperature"]
    th.save(saved, tmp_path / "policy")
    assert type(new).load(tmp_path / "policy").candidate_temperature == 0.0


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_they_are_saved_again_and_go_on(name, tmp_path):
    model = ALGORITHMS[name].load(FOLDER / name)
    observations, actions, _ = written(name)
    model.save(tmp_path / "again")
    again = ALGORITHMS[name].load(tmp_path / "again")
    np.testing.assert_allclose(again.predict(observations, deterministic=True)[0], actions, atol=1e-6)
    low, high = (end.copy() for end in model.policy.action_range.ends)
    statistics = {key: value.clone() for key, value in model.policy.normalizer.state_dict().items()}
    n, space = 40, model.action_space
    rows = _rows(model.observation_space, n)
    data = dict(
        observations=rows,
        next_observations=rows,
        # A small part of the space: a model that was trained on the whole of it keeps that
        actions=np.random.default_rng(0).uniform(0.0, 0.1, (n, *space.shape)),
        rewards=np.arange(n) % 3.0,
        terminals=np.arange(n) % 10 == 9,
        timeouts=np.zeros(n),
    )
    model.learn(5, dataset=data, reset_num_timesteps=False)
    np.testing.assert_array_equal(model.policy.action_range.ends, (low, high))
    np.testing.assert_array_equal((low, high), (space.low, space.high))
    for key, value in model.policy.normalizer.state_dict().items():
        np.testing.assert_array_equal(value, statistics[key])


def test_a_behaviour_model_is_handed_on():
    pretrained = GMPG.load(FOLDER / "gmpg_dict")
    model = GMPG("FlowMultiInputPolicy", pretrained=str(FOLDER / "gmpg_dict"))
    observations, _, _ = written("gmpg_dict")
    np.testing.assert_array_equal(
        model.predict(observations, deterministic=True)[0],
        GMPG("FlowMultiInputPolicy", pretrained=pretrained).predict(observations, deterministic=True)[0],
    )


POLICIES = "FlowPolicy FlowCnnPolicy FlowMultiInputPolicy DiffusionPolicy DiffusionCnnPolicy DiffusionMultiInputPolicy"
# As that release wrote them: module -> names of classes there, of which objects are stored, or which are stored themselves
OBJECTS = {
    "gymnasium.spaces": "Box Discrete MultiDiscrete MultiBinary Dict Tuple",
    "sb3_genpolicy.common.rewards": "AffineReward ReturnRange",
    "sb3_genpolicy.common.transforms": "ClipActions RescaleActions BestEpisodes HeldOutEpisodes NStepReturns",
    "sb3_genpolicy.generative.paths": "LinearPath CosinePath VPPath",
    "sb3_genpolicy.generative.couplings": "IndependentCoupling OptimalTransportCoupling",
    "sb3_genpolicy.generative.solvers": "Sampler",
    "sb3_genpolicy.generative.likelihood": "Likelihood",
    "sb3_genpolicy.generative.kl": "DiscreteKL PathKL OdeKL",
    "stable_baselines3.common.type_aliases": "TrainFreq TrainFrequencyUnit",
    "stable_baselines3.common.utils": "FloatSchedule ConstantSchedule LinearSchedule",
    "rl_zoo3.utils": "SimpleLinearSchedule",
}
CLASSES = {
    "sb3_genpolicy.common.policies": POLICIES,
    "sb3_genpolicy.gmpg.policies": "DiffusionPolicy DiffusionCnnPolicy DiffusionMultiInputPolicy",
    "sb3_genpolicy.common.buffers": "OfflineReplayBuffer",
    "sb3_genpolicy.generative.networks": "ConditionalMLP UShapedMLP",
    "sb3_genpolicy.generative.time_features": "SinusoidalTimeFeatures GaussianFourierTimeFeatures",
    "stable_baselines3.common.torch_layers": "FlattenExtractor NatureCNN CombinedExtractor",
}


@pytest.mark.parametrize(("table", "modules"), [(labels.OBJECTS, OBJECTS), (labels.CLASSES, CLASSES)])
def test_every_class_is_found_by_the_path_that_it_had(table, modules):
    found = {f"{module}.{name}": table.class_of(f"{module}.{name}") for module in modules for name in modules[module].split()}
    assert [cls.__name__ for cls in found.values()] == [path.rpartition(".")[2] for path in found]
    # Two policies of one name are two: GMPG's is another
    assert len(set(found.values())) == len(found)
    for path, cls in found.items():
        assert cls.__module__.split(".")[:2] == path.split(".")[:2]


def test_a_replay_buffer_is_read():
    """It was saved with the model, whose rewards are halved and lowered by one, from 40 rows."""
    model = GMPO.load(FOLDER / "gmpo_buffer")
    model.load_replay_buffer(FOLDER / "gmpo_buffer")
    buffer = model.replay_buffer
    rows = buffer.rows(th.arange(40))
    assert buffer.size() == buffer.n_from_dataset == 40 and sorted(rows.observations) == ["a", "b"]
    np.testing.assert_array_equal(rows.rewards.flatten(), 0.5 * (np.arange(40) % 3) - 1.0)
    np.testing.assert_array_equal(rows.dones.flatten(), np.arange(40) % 10 == 9)
    assert rows.observations["b"].shape == (40, 3) and rows.actions.shape == (40, 2)
    model.learn(5, reset_num_timesteps=False)
    assert model.num_timesteps == 8


def _rows(space, n):
    if isinstance(space, spaces.Dict):
        return {key: _rows(part, n) for key, part in space.spaces.items()}
    rng = np.random.default_rng(0)
    return rng.integers(0, 9, (n, *space.shape)) if space.dtype.kind == "i" else rng.normal(size=(n, *space.shape))


def test_what_the_changelog_says_brings_its_settings_back():
    changelog = (Path(__file__).parent.parent / "CHANGELOG.md").read_text()
    line = changelog.split("as 0.1 had it (GMPG takes the same):", 1)[1].split("```")[1].removeprefix("python\n")
    old = GMPO.load(FOLDER / "gmpo_flow")
    env = make_vec_env("Pendulum-v1")
    for algorithm, written_by_0_1 in (("GMPO", old), ("GMPG", GMPG.load(FOLDER / "gmpg_dict"))):
        new = eval(line.replace("GMPO", algorithm).strip(), dict(GMPO=GMPO, GMPG=GMPG, env=env))
        # GMPG's file was given a divergence, which no default of then held
        for name in ("beta", "episode_kl", "weight_clamp", *(["target_kl"] if algorithm == "GMPO" else [])):
            assert getattr(new, name) == getattr(written_by_0_1, name), (algorithm, name)
        assert new.policy.critic_options == written_by_0_1.policy.critic_options
        assert new.policy.candidate_temperature == written_by_0_1.policy.candidate_temperature
        # Theirs say so by the range itself, which is the whole space
        assert not new.policy.normalize_actions
        default = type(new)("FlowPolicy", env)
        assert (
            new.target_kl is None
            and default.target_kl is not None
            and default.policy.critic_options != new.policy.critic_options
        )
