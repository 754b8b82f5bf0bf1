"""
Random combinations of options, spaces and data: each trains, saves, loads and predicts the same, or ends in one clear sentence.
"""

import io
import warnings
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from sb3_genpolicy import GMPG, GMPO
from tests.conftest import make_arrays
from tests.fuzz_cases import sound_cases, wild_cases
from tests.fuzz_options import OPTIONS_OF, POLICY_OPTIONS
from tests.sentences import PACKAGE, fault_of

ALGORITHMS = dict(GMPO=GMPO, GMPG=GMPG)
STEPS = 20
# What a sentence may call an option
NAMED = dict(policy="[Pp]olicy|policy_kwargs", env="env|environment", dataset="dataset|sources|file")
FUZZ = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


def rows_of(observations, n):
    if isinstance(observations, dict):
        return {key: rows[:n] for key, rows in observations.items()}
    return observations[:n]


def sentence_of(case, named=None):
    """
    Go through a model's life.

    :param named: what a sentence has to name
    :return: the sentence that it ended in; None if it came to its end
    """
    algorithm, arguments = ALGORITHMS[case.algorithm], case.constructor_arguments()
    model = None
    try:
        with no_warnings_of_numpy():
            model = algorithm(**arguments)
            model.learn(STEPS)
            assert model.num_timesteps == STEPS and parameters_are_finite(model)
            predict_and_come_back(model, algorithm, arguments["dataset"])
    except AssertionError:
        raise
    except Exception as error:
        fault = fault_of(error, named)
        if fault is not None:
            pytest.fail(fault)
        # As it says
        assert not isinstance(error, FloatingPointError) or parameters_are_finite(model)
        return str(error)
    return None


def parameters_are_finite(model):
    return all(parameter.isfinite().all() for parameter in model.policy.state_dict().values())


def predict_and_come_back(model, algorithm, dataset):
    observations = rows_of(dataset["observations"], 3)
    actions = {kind: model.predict(observations, deterministic=kind)[0] for kind in (True, False)}
    for action in (*actions[True], *actions[False]):
        assert model.action_space.contains(action), (action, model.action_space)
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    loaded = algorithm.load(file)
    np.testing.assert_array_equal(loaded.predict(observations, deterministic=True)[0], actions[True])
    loaded.learn(2, reset_num_timesteps=False, dataset=dataset)
    assert loaded.num_timesteps == STEPS + 2 and parameters_are_finite(loaded)


@contextmanager
def no_warnings_of_numpy():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    ours = [warning for warning in caught if issubclass(warning.category, RuntimeWarning) and str(PACKAGE) in warning.filename]
    assert not ours, [f"{warning.filename}:{warning.lineno}: {warning.message}" for warning in ours]


def check_sound(case):
    """What goes together trains; it may diverge where something is extreme."""
    sentence = sentence_of(case)
    assert sentence is None or (case.extreme and "Training diverged" in sentence), sentence


def check_spoilt(case, draw):
    """One option that is none is named, whatever the others are."""
    of_policy = draw(st.booleans())
    options = POLICY_OPTIONS if of_policy else OPTIONS_OF[case.algorithm]
    name = draw(st.sampled_from(sorted(options)))
    value = draw(options[name])
    spoilt = {name: value}
    changed = replace(case, **({"policy_kwargs": {**case.policy_kwargs, **spoilt}} if of_policy else {"options": {**case.options, **spoilt}}))
    assert sentence_of(changed, NAMED.get(name, name)) is not None, f"{name}={value!r} was taken"
