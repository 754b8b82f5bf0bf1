"""
What every test finds: an array dataset, folders of its own, one thread.
"""

import pytest
import torch as th

from sb3_genpolicy.common.algorithms import registry
from sb3_genpolicy.common.algorithms.registry import registered
from sb3_genpolicy.common.files import labels
from sb3_genpolicy.common.updates import guards

pytest.register_assert_rewrite("tests.helpers")

from tests.helpers.arrays import make_arrays  # noqa: E402

# Small networks are slower on many threads
th.set_num_threads(1)

# Files of half a minute and more. They begin, so that of two processes none is left alone with one of them at the end
LONG = [
    # Of all the slow ones together more than half
    "fuzz",
    *("comparison", "long_runs", "zoo_search", "examples", "gmpg", "gmpo", "action_range", "gmpg_losses", "onnx"),
    *("likelihood", "observation_scales", "onnx_plans", "online", "offline_evaluation", "sampling_policy", "gmpg_phases"),
    *("kl", "data_parallel", "zoo_hyperparams", "gmpg_adjoint", "safe_hands", "episode_weights", "dataset_formats"),
]


def pytest_collection_modifyitems(items):
    """For ``--dist loadfile --no-loadscope-reorder``, which takes files as they come."""
    place = {f"test_{name}.py": number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONG)))


@pytest.fixture
def arrays():
    return make_arrays()


@pytest.fixture(autouse=True)
def cache_root(tmp_path, monkeypatch):
    """Flat files of a test are the test's own."""
    monkeypatch.setenv("SB3_GENPOLICY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def minari_root(tmp_path, monkeypatch):
    """An empty Minari folder of the test's own."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


@pytest.fixture
def rare_looks(monkeypatch):
    """As on a GPU."""
    monkeypatch.setattr(guards, "looks_at_every_step", lambda device: False)


@pytest.fixture
def forgotten_afterwards(monkeypatch):
    """What a test registers, as an algorithm and in the zoo."""
    from rl_zoo3 import ALGOS
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER

    registered()
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(labels, "_registered_names", set(labels._registered_names))
    for table in (labels.CLASSES, labels.OBJECTS):
        monkeypatch.setattr(table, "_registered", dict(table._registered))
    for table in (ALGOS, HYPERPARAMS_SAMPLER, HYPERPARAMS_CONVERTER):
        for name in ("sac", "mine", "short"):
            # Put back as it is now
            monkeypatch.setitem(table, name, table.get(name))
            if table[name] is None:
                del table[name]
