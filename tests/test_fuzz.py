"""
Random combinations of options, spaces and data: each trains, comes back from its file, or ends in one clear sentence.
"""

import inspect
import io
import warnings
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch as th
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sb3_genpolicy import OneStepCritic
from sb3_genpolicy.common.policies.generative_policy import GenerativePolicy
from tests.helpers.arrays import make_arrays
from tests.helpers.fuzz_cases import ALGORITHMS, sound_cases, wild_cases
from tests.helpers.fuzz_options import OF_CRITICS, OPTIONS_OF, POLICY_OPTIONS
from tests.helpers.sentences import PACKAGE, fault_of

STEPS = 20
# How a sentence on numbers that grew too large begins
RUNAWAYS = ("Training diverged", "The network's output is not finite", "The reward transform turned")
# What a sentence may call an option
NAMED = dict(policy="[Pp]olicy|policy_kwargs", env="env|environment", dataset="dataset|sources|file")
EXAMPLES = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
FEW, MANY = settings(EXAMPLES, max_examples=15), settings(EXAMPLES, max_examples=1500)


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
    algorithm, model = ALGORITHMS[case.algorithm], None
    # What is found is found again, also where no seed is given
    th.manual_seed(case.seed)
    try:
        with no_warnings_of_numpy():
            arguments = case.constructor_arguments()
            model = algorithm(**arguments)
            model.learn(STEPS, log_interval=case.log_interval)
            assert model.num_timesteps == STEPS and parameters_are_finite(model)
            predict_and_come_back(model, arguments["dataset"], case.custom)
    except AssertionError:
        raise
    except Exception as error:
        fault = fault_of(error, named)
        if fault is not None:
            pytest.fail(fault)
        # As it says
        assert model is None or not isinstance(error, FloatingPointError) or parameters_are_finite(model)
        return str(error)
    return None


def parameters_are_finite(model):
    return all(parameter.isfinite().all() for parameter in model.policy.state_dict().values())


def predict_and_come_back(model, dataset, trust_pickle):
    observations = rows_of(dataset["observations"], 3)
    actions = {kind: model.predict(observations, deterministic=kind)[0] for kind in (True, False)}
    for action in (*actions[True], *actions[False]):
        assert model.action_space.contains(action), (action, model.action_space)
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    loaded = type(model).load(file, trust_pickle=trust_pickle)
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


# Combinations


def check_sound(case):
    """What goes together trains; it may diverge where something is extreme."""
    sentence = sentence_of(case)
    assert sentence is None or (case.extreme and sentence.startswith(RUNAWAYS)), sentence


def check_spoilt(case, draw):
    """An option that is none is named, whatever the others are."""
    of_policy = draw(st.booleans())
    options = POLICY_OPTIONS if of_policy else OPTIONS_OF[case.algorithm]
    # GMPG sets it itself
    name = draw(st.sampled_from(sorted(options.keys() - {"behaviour_model"})))
    value = draw(options[name])
    field = "policy_kwargs" if of_policy else "options"
    spoilt = replace(case, pretrained=False, **{field: {**getattr(case, field), name: value}})
    assert sentence_of(spoilt, NAMED.get(name, name)) is not None, f"{name}={value!r} was taken"


@FEW
@given(sound_cases())
def test_what_goes_together_trains_and_comes_back(case):
    check_sound(case)


@FEW
@given(wild_cases())
def test_what_may_not_go_together_trains_or_ends_in_a_sentence(case):
    sentence_of(case)


@FEW
@given(sound_cases(), st.data())
def test_a_wrong_option_among_others_is_named(case, data):
    check_spoilt(case, data.draw)


@pytest.mark.slow
@MANY
@given(sound_cases(), wild_cases(), st.data())
def test_many_combinations(sound, wild, data):
    check_sound(sound)
    sentence_of(wild)
    check_spoilt(sound, data.draw)


# One option at a time

ARRAYS = make_arrays()
ONE_BY_ONE = [
    *((algorithm, name, False) for algorithm in ALGORITHMS for name in OPTIONS_OF[algorithm]),
    *(("GMPO", name, True) for name in POLICY_OPTIONS),
]


def refusal(algorithm, options, policy_kwargs):
    """The error that options end in; None if training begins."""
    given = dict(policy="FlowPolicy", dataset=ARRAYS, batch_size=4, policy_kwargs={"net_arch": [8], **policy_kwargs})
    try:
        ALGORITHMS[algorithm](**{**given, **options}).learn(1)
    except Exception as error:
        return error
    return None


def check_wrong(algorithm, name, of_policy, data):
    spoilt = {name: data.draw((POLICY_OPTIONS if of_policy else OPTIONS_OF[algorithm])[name])}
    error = refusal(algorithm, *(({}, spoilt) if of_policy else (spoilt, {})))
    assert error is not None, f"{spoilt} was taken"
    assert fault_of(error, NAMED.get(name, name)) is None, fault_of(error, NAMED.get(name, name))


@pytest.mark.parametrize(("algorithm", "name", "of_policy"), ONE_BY_ONE)
@settings(EXAMPLES, max_examples=6)
@given(data=st.data())
def test_a_wrong_option_is_named(algorithm, name, of_policy, data):
    check_wrong(algorithm, name, of_policy, data)


@pytest.mark.parametrize("name", OF_CRITICS)
@settings(EXAMPLES, max_examples=30)
@given(data=st.data())
def test_a_wrong_option_of_a_critic_is_named(name, data):
    given = {"distilled_from": 4, name: data.draw(OF_CRITICS[name])}
    with pytest.raises((TypeError, ValueError)) as raised:
        OneStepCritic(**given)
    assert fault_of(raised.value, name) is None, fault_of(raised.value, name)


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "name", "of_policy"), ONE_BY_ONE)
@settings(EXAMPLES, max_examples=30)
@given(data=st.data())
def test_every_wrong_option_is_named(algorithm, name, of_policy, data):
    check_wrong(algorithm, name, of_policy, data)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("of_policy", [False, True])
@settings(EXAMPLES, max_examples=15)
@given(data=st.data())
def test_a_misspelt_option_is_answered_by_the_right_one(algorithm, of_policy, data):
    known = POLICY_OPTIONS if of_policy else OPTIONS_OF[algorithm]
    right = data.draw(st.sampled_from(sorted(known)))
    at = data.draw(st.integers(0, len(right) - 1))
    wrong = data.draw(st.sampled_from([right[:at] + right[at + 1 :], right[:at] + right[at] + right[at:]]))
    if wrong not in known:
        error = refusal(algorithm, *(({}, {wrong: 1}) if of_policy else ({wrong: 1}, {})))
        assert type(error) is TypeError and fault_of(error, wrong) is None and f"'{right}'" in str(error)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        *((dict(total_timesteps=value), "total_timesteps") for value in (-1, float("nan"), "10", None)),
        *((dict(log_interval=value), "log_interval") for value in (0, -1, "1", float("nan"))),
    ],
)
def test_a_wrong_option_of_learn_is_named(options, name):
    model = ALGORITHMS["GMPO"]("FlowPolicy", dataset=ARRAYS, policy_kwargs={"net_arch": [8]})
    with pytest.raises(ValueError) as raised:
        model.learn(**{"total_timesteps": 1, **options})
    assert fault_of(raised.value, name) is None


def test_every_option_has_values_that_are_none():
    for name, algorithm in ALGORITHMS.items():
        assert set(inspect.signature(algorithm.__init__).parameters) == {*OPTIONS_OF[name], "self", "_init_setup_model"}
    given_by_the_algorithm = {"self", "observation_space", "action_space", "lr_schedule"}
    assert set(inspect.signature(GenerativePolicy.__init__).parameters) == {*POLICY_OPTIONS, *given_by_the_algorithm}
