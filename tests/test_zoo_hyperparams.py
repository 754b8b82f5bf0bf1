"""
The hyper-parameters that ship with the package: training starts from every entry, and published numbers are the paper's.
"""

import functools
import math
from dataclasses import replace

import gymnasium as gym
import minari
import pytest
import yaml

from sb3_genpolicy import GMPG, GMPO
from sb3_genpolicy.common.algorithms.registry import registered
from sb3_genpolicy.common.datasets.suites import register_suite
from sb3_genpolicy.zoo.__main__ import main
from sb3_genpolicy.zoo.algorithms import hyperparams_file
from sb3_genpolicy.zoo.arguments import quoted
from sb3_genpolicy.zoo.environments import dataset_key
from sb3_genpolicy.zoo.tasks import PUBLISHED_TASKS
from tests.helpers import tiny_envs
from tests.helpers.data_formats import Episode, flat_columns, write_hdf5, write_npz

ALGORITHMS = {"gmpg": GMPG, "gmpo": GMPO}
FILES = [(algo, file) for algo in ALGORITHMS for file in sorted(registered()[algo].hyperparams.parent.glob("*.yml"))]
SETS = ["published-linear", "published-cosine", "published-vp"]
MAZES = [name for name in PUBLISHED_TASKS if "antmaze" in name]
SUITE = [name for name, task in PUBLISHED_TASKS.items() if task.env_id.startswith("dm_control/")]
LOCOMOTION = [name for name in PUBLISHED_TASKS if name not in MAZES + SUITE]


@functools.cache
def entries(file):
    return yaml.safe_load(file.read_text())


def with_slow_ones():
    """The fast run trains from one of the entries of a file that differ in numbers alone."""
    seen, marked = set(), []
    for algo, file in FILES:
        for key, settings in entries(file).items():
            of_kind = [(name, value) for name, value in settings.items() if name not in ("beta", "n_timesteps")]
            kind = (file, repr(of_kind))
            marked.append(pytest.param(algo, file.stem, key, marks=[pytest.mark.slow] if kind in seen else []))
            seen.add(kind)
    return marked


def as_gym_env(key):
    if key.startswith("dm_control/"):
        return key
    return "TinyGoal-v0" if "D4RL/antmaze" in key else "Tiny-v0"


def is_of_suite(key):
    return key in SUITE or key.startswith("dm_control/")


def unplugged(task):
    """RL Unplugged's folder and name."""
    return "dm_locomotion/rodent_gaps.npz" if task == "rodent-gaps" else f"dm_control_suite/{task.replace('-', '_')}.npz"


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """A dataset for every key: small ones of the same kind, under the names of the real ones."""
    root = tmp_path_factory.mktemp("datasets")
    for folder in ("dm_control_suite", "dm_locomotion"):
        (root / folder).mkdir()
    patch = pytest.MonkeyPatch()
    patch.setenv("MINARI_DATASETS_PATH", str(root / "minari"))
    patch.setenv("SB3_GENPOLICY_CACHE", str(root / "cache"))
    patch.chdir(root)
    for part in {part for _, file in FILES for key in entries(file) for part in key.split(" + ")}:
        if "/" in part and not is_of_suite(part) and part not in minari.list_local_datasets():
            tiny_envs.make_minari(part, as_gym_env(part))
    known = dict(gym.registry)
    for name in SUITE:
        write_npz(root / unplugged(name), tiny_envs.rows_of_rl_unplugged())
        env_id = PUBLISHED_TASKS[name].env_id
        gym.registry[env_id] = replace(gym.spec("TinySuite-v0"), id=env_id)
    write_npz(root / "mine.npz", tiny_envs.rows_of_rl_unplugged())
    for name in LOCOMOTION + MAZES:
        played = [
            Episode(tiny_envs.stacked(e["observations"]), e["actions"], e["rewards"], False) for e in tiny_envs.play("Tiny-v0")
        ]
        write_hdf5(root / f"{name.replace('-', '_').replace('_v', '-v')}.hdf5", flat_columns(played))
    yield root
    gym.registry.clear()
    gym.registry.update(known)
    patch.undo()


def source_of(key):
    if is_of_suite(key):
        # An entry under an environment's id is for anybody's data
        return unplugged(key) if key in SUITE else "mine.npz"
    if key in PUBLISHED_TASKS:
        return f"{key.replace('-', '_').replace('_v', '-v')}.hdf5"
    return "tiny/unseen-v0" if key == "default" else key


@pytest.mark.parametrize(("algo", "file", "key"), with_slow_ones())
def test_training_starts_from_every_entry(algo, file, key, datasets, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(datasets / "minari"))
    monkeypatch.chdir(datasets)
    if key == "default" and "tiny/unseen-v0" not in minari.list_local_datasets():
        tiny_envs.make_minari("tiny/unseen-v0")
    settings = yaml.safe_load(open(hyperparams_file(algo, file)))[key]
    small = dict(pi=[16, 8] if "published" in file else [16], qf=[8], vf=[8])
    short = ["batch_size:4", "policy_kwargs:" + repr({**settings.get("policy_kwargs", {}), "net_arch": small})]
    if settings.get("pretraining_steps"):
        short.append("pretraining_steps:1")
    if "env_wrapper" in settings:
        # Of the rodent's own observations
        short.append("env_wrapper:None")
    source = source_of(key)
    env = [] if source == "pendulum-mixed" or key in SUITE else ["--env", as_gym_env(key)]
    arguments = ["--algo", algo, "--dataset", source, *env, "-conf", file, "-f", str(tmp_path)]
    assert main(["train", *arguments, "-n", "2", "--eval-freq", "-1", "-params", *short]) == 0
    # The entry was found, and says what the model has
    assert f"Hyper-parameters: '{key}' of" in capsys.readouterr().out
    run = dataset_key(source)
    model = ALGORITHMS[algo].load(tmp_path / algo / f"{run}_1" / f"{run}.zip")
    assert model.num_timesteps == 2
    for name in ("beta", "expectile", "weight_clamp", "gamma", "target_kl", "normalize_q", "gradient_estimator"):
        if name in settings:
            assert getattr(model, name) == settings[name], name
    given = settings["learning_rate"] if "learning_rate" in settings else 1e-3
    assert model.lr_schedule(1.0) == pytest.approx(given)


# The paper's betas (appendix, converted for GMPG as in its appendix: times action dimensions times ln 2)
PUBLISHED_GMPO = dict(zip(LOCOMOTION, [1, 1, 1, 8, 16, 8, 4, 6, 8], strict=True))
PUBLISHED_GMPG = dict(zip(LOCOMOTION, [4, 4, 4, 1, 20, 1, 4, 8, 8], strict=True))
PUBLISHED_GMPO_MAZES = dict(zip(MAZES, [8, 16, 12, 12, 16, 4], strict=True))
ACTION_DIMS = {"halfcheetah": 6, "hopper": 3, "walker2d": 6}


@pytest.mark.parametrize("name", SETS)
def test_published_betas(name):
    gmpo, gmpg = (yaml.safe_load(open(hyperparams_file(algo, name))) for algo in ("gmpo", "gmpg"))
    for task in LOCOMOTION:
        assert gmpo[task]["beta"] == PUBLISHED_GMPO[task]
        expected = PUBLISHED_GMPG[task] * ACTION_DIMS[task.split("-")[0]] * math.log(2.0)
        assert gmpg[task]["beta"] == pytest.approx(expected, abs=0.006)
        assert gmpo[task]["expectile"] == gmpg[task]["expectile"] == 0.7
    for task in MAZES:
        assert gmpo[task]["beta"] == PUBLISHED_GMPO_MAZES[task]
        for entry in (gmpo[task], gmpg[task]):
            assert (entry["expectile"], entry["reward_transform"]) == (0.9, "antmaze")


# Steps of pretraining (GMPG) and of both, from the appendix's epochs; betas for so many action dimensions
SUITE_STEPS = {
    "cartpole-swingup": (1_000_000, 200_000, 300, 1),
    "cheetah-run": (7_400_000, 148_000, 4_000, 6),
    "humanoid-run": (7_330_000, 5_864_000, 37_000, 21),
    "manipulator-insert_ball": (3_670_000, 2_936_000, 18_500, 5),
    "walker-stand": (490_000, 98_000, 2_500, 6),
    "finger-turn_hard": (1_230_000, 984_000, 6_500, 2),
    "fish-swim": (490_000, 392_000, 2_500, 5),
    "manipulator-insert_peg": (3_670_000, 1_835_000, 18_500, 5),
    "walker-walk": (490_000, 98_000, 2_500, 6),
    "rodent-gaps": (None, 98_000, 2_500, 38),
}


@pytest.mark.parametrize("name", SETS)
def test_published_settings_of_the_suite(name):
    gmpo, gmpg = (yaml.safe_load(open(hyperparams_file(algo, name))) for algo in ("gmpo", "gmpg"))
    assert list(SUITE_STEPS) == SUITE
    for task, (steps, pretraining, further, n_actions) in SUITE_STEPS.items():
        if steps is not None:
            assert (gmpo[task]["n_timesteps"], gmpo[task]["beta"], gmpo[task]["weight_clamp"]) == (steps, 1, 100)
        entry = gmpg[task]
        assert (entry["pretraining_steps"], entry["n_timesteps"]) == (pretraining, pretraining + further)
        assert entry["beta"] == pytest.approx(4 * n_actions * math.log(2.0), abs=0.006)
        assert entry["gamma"] == (0.9999 if task == "rodent-gaps" else 0.99)
        for entry in [settings[task] for settings in (gmpo, gmpg) if task in settings]:
            assert entry["reward_transform"] == "none" and "MultiInput" in entry["policy"] and entry["expectile"] == 0.7


@pytest.mark.parametrize("algo", ALGORITHMS)
@pytest.mark.parametrize("name", SETS)
def test_every_published_task_has_an_entry_for_every_path(name, algo):
    settings = yaml.safe_load(open(hyperparams_file(algo, name)))
    # Of rodent-gaps the paper has no GMPO
    assert set(PUBLISHED_TASKS) - set(settings) == ({"rodent-gaps"} if algo == "gmpo" else set())
    for task in set(SUITE) & set(settings):
        assert settings[PUBLISHED_TASKS[task].env_id] == settings[task]
    for env in ("hopper", "halfcheetah", "walker2d"):
        assert settings[f"mujoco/{env}/medium-v0"] == settings[f"{env}-medium-v2"]
        assert settings[f"mujoco/{env}/medium-v0 + mujoco/{env}/expert-v0"] == settings[f"{env}-medium-expert-v2"]
    for task in MAZES:
        minari_id = "D4RL/antmaze/" + task.removeprefix("antmaze-").replace("-v0", "-v1")
        assert settings[minari_id] == {**settings[task], "policy": settings[minari_id]["policy"]}
        assert "MultiInput" in settings[minari_id]["policy"]


def test_environments_of_published_tasks_exist():
    for task in LOCOMOTION:
        assert PUBLISHED_TASKS[task].env_id in gym.registry


def test_environments_of_the_suite_exist():
    pytest.importorskip("dm_control")
    pytest.importorskip("shimmy")
    for task in SUITE:
        env_id = PUBLISHED_TASKS[task].env_id
        register_suite(env_id)
        assert env_id in gym.registry


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_our_datasets_have_tuned_entries(algo):
    settings = yaml.safe_load(open(hyperparams_file(algo)))
    hopper = [f"rlzoo/hopper/{kind}-v0" for kind in ("medium", "medium-expert", "mixed")]
    halfcheetah = [f"rlzoo/halfcheetah/{kind}-v0" for kind in ("medium", "mixed")]
    assert {"default", "pendulum-mixed", "rlzoo/pendulum/mixed-v0", *hopper, *halfcheetah} <= set(settings)


@pytest.mark.parametrize(
    "value", ["a/b-v0", "softmax", "lin_1e-3", "/data/x y/d.hdf5", "~/d.npz", "./d.npz", "a/b-v0 + c/d-v0", "hf://a/b-v0"]
)
def test_words_are_quoted(value):
    name, _, text = quoted(f"name:{value}").partition(":")
    assert (name, eval(text)) == ("name", value)


@pytest.mark.parametrize(
    "setting", ["n:3", "n:1e-3", "n:[1, 2]", "n:dict(a=1)", "n:None", "n:True", "n:'x'", "n:nn.ReLU", "n:-1"]
)
def test_python_is_left_as_it_is(setting):
    assert quoted(setting) == setting


def test_a_dataset_is_a_word_even_where_python_knows_it():
    assert quoted("dataset:os/gym-v0") == "dataset:'os/gym-v0'"


@pytest.mark.parametrize(("algo", "cls"), [("gmpo", GMPO), ("gmpg", GMPG)])
def test_published_set_is_chosen_by_name(algo, cls, datasets, monkeypatch, tmp_path):
    monkeypatch.chdir(datasets)
    short = ["batch_size:4", "policy_kwargs:dict(path='cosine', net_arch=[16])"]
    arguments = ["--algo", algo, "--env", "Tiny-v0", "--dataset", "hopper_medium-v2.hdf5", "-conf", "published-cosine"]
    assert main(["train", *arguments, "-n", "1", "--eval-freq", "-1", "-f", str(tmp_path), "-params", *short]) == 0
    run = dataset_key("hopper_medium-v2.hdf5")
    model = cls.load(tmp_path / algo / f"{run}_1" / f"{run}.zip")
    assert model.beta == pytest.approx({"gmpo": 16.0, "gmpg": 20.0 * 3 * math.log(2.0)}[algo], abs=0.006)
    assert type(model.policy.path).__name__ == "CosinePath"
    # Of D4RL, by its file's name
    assert model.reference_scores == pytest.approx((-20.272305, 3234.3))
