"""
The worked example of docs/guide/own_algorithm.md, executed as it stands there, from outside the package: a Gaussian IQL does
what our own algorithms do, or says why not.
"""

import importlib
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_genpolicy import OfflineAlgorithm, learn_side_by_side
from sb3_genpolicy.common.algorithms import registry
from sb3_genpolicy.common.files import labels
from sb3_genpolicy.generative.networks import ConditionalMLP
from tests.helpers.arrays import SMALL, make_arrays, one_step_data
from tests.helpers.warm_processes import WarmProcess

PAGE = Path(__file__).parent.parent / "docs" / "guide" / "own_algorithm.md"
ROOT = Path(__file__).parent.parent


def python_blocks():
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of somebody's with the module, which is imported from there."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "my_iql.py").write_text(python_blocks()[0])
    tables = labels.CLASSES._registered, labels.OBJECTS._registered, registry._entries
    before = [dict(table) for table in tables]
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    del sys.modules["my_iql"]
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)


@pytest.fixture(scope="module")
def my_iql(folder):
    return importlib.import_module("my_iql")


def environment(folder):
    return dict(os.environ, PYTHONPATH=os.pathsep.join([str(folder), str(ROOT)]), OMP_NUM_THREADS="1")


def test_it_is_registered_and_derives_from_the_public_base(my_iql):
    assert issubclass(my_iql.MyIQL, OfflineAlgorithm) and my_iql.MyIQL.__mro__[1] is OfflineAlgorithm
    assert registry.registered()["my_iql"].algorithm is my_iql.MyIQL
    assert set(my_iql.MyIQL.policy_aliases) == {"MlpPolicy", "MultiInputPolicy"}


def test_it_learns_which_action_pays(my_iql):
    """One state, two actions that differ in reward: the mean goes to the one that pays, a clone's would stay between."""
    actions = np.random.default_rng(0).choice([-0.6, 0.6], size=(400, 1))
    data = one_step_data(actions, (actions[:, 0] > 0).astype(float))
    options = dict(dataset=data, policy_kwargs=SMALL, seed=0, batch_size=64, reward_transform=None, learning_rate=3e-3)
    models = [my_iql.MyIQL("MlpPolicy", beta=beta, **options).learn(400) for beta in (0.0, 10.0)]
    means = [model.predict(np.zeros(1, np.float32), deterministic=True)[0].item() for model in models]
    assert abs(means[0]) < 0.2 and means[1] > 0.45


def dictionary(arrays):
    observations = arrays["observations"]
    space = spaces.Dict(place=spaces.Box(-np.inf, np.inf, (2,)), speed=spaces.Box(-np.inf, np.inf, (1,)))
    parts = {
        name: dict(place=arrays[name][:, :2], speed=arrays[name][:, 2:]) for name in ("observations", "next_observations")
    }
    return {**arrays, **parts, "observation_space": space}, dict(place=observations[0, :2], speed=observations[0, 2:])


@pytest.mark.parametrize("space", ["Box", "Dict"])
def test_it_saves_loads_and_goes_on_bit_for_bit_without_a_pickle(my_iql, tmp_path, space):
    arrays = make_arrays()
    data, observation = (arrays, arrays["observations"][0]) if space == "Box" else dictionary(arrays)
    policy = "MlpPolicy" if space == "Box" else "MultiInputPolicy"
    model = my_iql.MyIQL(policy, dataset=data, policy_kwargs=SMALL, seed=0, batch_size=16, beta=2.0).learn(6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.save(tmp_path / "model")
    loaded = my_iql.MyIQL.load(tmp_path / "model")
    assert loaded.beta == 2.0 and type(loaded.policy) is my_iql.MyIQL.policy_aliases[policy]
    action, _ = loaded.predict(observation, deterministic=True)
    assert loaded.action_space.contains(action)
    np.testing.assert_array_equal(action, model.predict(observation, deterministic=True)[0])
    for goes_on in (model, loaded):
        goes_on.learn(4, reset_num_timesteps=False, dataset=data)
    for mine, expected in zip(loaded.policy.parameters(), model.policy.parameters(), strict=True):
        assert th.equal(mine, expected)
    model.policy.save(tmp_path / "policy.pt")
    alone = type(model.policy).load(tmp_path / "policy.pt")
    actions = [thing.predict(observation, deterministic=True)[0] for thing in (alone, model)]
    np.testing.assert_array_equal(*actions)


def test_whoever_has_not_imported_it_is_told_what_to_import(my_iql, tmp_path):
    my_iql.MyIQL("MlpPolicy", dataset=make_arrays(), policy_kwargs=SMALL).save(tmp_path / "model")
    (tmp_path / "elsewhere.py").write_text(
        "import sys; from sb3_genpolicy import GMPG; GMPG('FlowPolicy', pretrained=sys.argv[1])"
    )
    finished = WarmProcess(tmp_path / "elsewhere.py", tmp_path / "model.zip", folder=tmp_path).finish()
    assert "import the module that calls sb3_genpolicy.register('my_iql', ...)" in finished.stderr


def test_it_goes_on_online(my_iql):
    model = my_iql.MyIQL("MlpPolicy", "Pendulum-v1", dataset="pendulum-mixed", policy_kwargs=SMALL, seed=0, batch_size=16)
    model.learn(5).learn_online(30)
    assert model.num_timesteps == 35 and model.replay_buffer.n_added == 30
    returns, _ = evaluate_policy(model, model.get_env(), 1)
    assert np.isfinite(returns)


def test_side_by_side_it_is_what_it_is_alone(my_iql):
    def models():
        options = dict(dataset=make_arrays(), policy_kwargs=SMALL, batch_size=16)
        return [my_iql.MyIQL("MlpPolicy", seed=seed, beta=beta, **options) for seed, beta in ((0, 1.0), (1, 3.0))]

    together, alone = learn_side_by_side(models(), 8), [model.learn(8) for model in models()]
    for mine, expected in zip(together, alone, strict=True):
        for parameter, other in zip(mine.policy.parameters(), expected.policy.parameters(), strict=True):
            th.testing.assert_close(parameter, other, rtol=1e-4, atol=1e-6)


TOGETHER = """
import sys
from my_iql import MyIQL
from sb3_genpolicy import data_parallel
from tests.helpers.arrays import SMALL, make_arrays, one_step_data
from tests.helpers.warm_processes import WarmProcess

with data_parallel(device="cpu") as device:
    model = MyIQL("MlpPolicy", dataset=make_arrays(), policy_kwargs=SMALL, seed=0, batch_size=16, device=device)
    model.learn(8).save(sys.argv[1])
"""


def test_two_processes_train_the_model_of_one(my_iql, folder, tmp_path):
    (tmp_path / "together.py").write_text(TOGETHER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*command, str(tmp_path / "together.py"), str(tmp_path / "two")], env=environment(folder), check=True)
    alone = my_iql.MyIQL("MlpPolicy", dataset=make_arrays(), policy_kwargs=SMALL, seed=0, batch_size=16).learn(8)
    both = my_iql.MyIQL.load(tmp_path / "two")
    for mine, expected in zip(both.policy.parameters(), alone.policy.parameters(), strict=True):
        th.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-6)


def test_one_that_declares_nothing_is_refused_where_that_might_be_wrong(my_iql):
    class Undeclared(my_iql.MyIQL):
        dependences = OfflineAlgorithm.dependences

    models = [Undeclared("MlpPolicy", dataset=make_arrays(), policy_kwargs=SMALL, seed=seed) for seed in range(2)]
    sentence = "nobody knows what an update of Undeclared depends on. Say it in Undeclared.dependences"
    with pytest.raises(ValueError, match=sentence):
        learn_side_by_side(models, 2)
    assert models[0].learn(2).num_timesteps == 2


def test_another_kind_of_policy_is_refused(my_iql):
    with pytest.raises(ValueError, match="policy must be"):
        my_iql.MyIQL(ConditionalMLP, dataset=make_arrays())


ZOO = """
import sys
from sb3_genpolicy.zoo.__main__ import main

sys.exit(main())
"""


def test_the_zoo_trains_and_shows_it(folder, tmp_path):
    (folder / "zoo.py").write_text(ZOO)

    def zoo(*arguments):
        arguments = (*arguments, "--algo", "my_iql", "--gym-packages", "my_iql", "--dataset", "pendulum-mixed", "-f", "logs")
        finished = WarmProcess(folder / "zoo.py", *arguments, folder=tmp_path).finish()
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return finished.stdout

    zoo("train", "-n", "10", "-params", "batch_size:16")
    (run,) = (tmp_path / "logs" / "my_iql").iterdir()
    assert (run / "pendulum-mixed.zip").is_file()
    assert "Episode Reward" in zoo("enjoy", "-n", "250", "--no-render")


def test_the_page_s_other_lines_are_python(folder):
    for block in python_blocks()[1:]:
        compile(block, str(PAGE), "exec")
