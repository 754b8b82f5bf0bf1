"""
Critics in files: they come back as they were and go on bit for bit, change where that is asked for, and take no memory that
their tensors do not have.
"""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch as th

from sb3_genpolicy import GMPG, GMPO, IQLCritic, OneStepCritic, PolicyCritic, register
from sb3_genpolicy.common.policies.named import FlowPolicy
from sb3_genpolicy.common.updates.batch import Batch
from sb3_genpolicy.generative.networks import ConditionalMLP
from tests.helpers.arrays import make_arrays
from tests.helpers.model_zips import changed, entries_of, pretrain, refusal, saved_by_torch, settings_of
from tests.helpers.sentences import fault_of
from tests.helpers.side_by_side import assert_same

TINY = dict(net_arch=[8])
ARRAYS = make_arrays()
STEPS = 3
CASES = {
    "default": (GMPO, {}),
    "iql": (GMPO, dict(expectile=0.8)),
    "onestep": (
        GMPO,
        dict(critic=OneStepCritic(advantage=False, n_critics=3, n_quantiles=4, aggregation="lower_bound", rho=0.3)),
    ),
    "policy": (GMPG, dict(critic=PolicyCritic(penalty=0.1, n_quantiles=3, dropped_quantiles=1), pretraining_steps=4)),
    "densities": (GMPG, dict(critic=PolicyCritic(density_penalty=0.1, n_steps=2, net_arch=[6]), pretraining_steps=2)),
    "softmax": (GMPO, dict(critic="policy", weighting="softmax", n_actions=2, pretraining_steps=2)),
}


def build(algorithm, **options):
    return algorithm("FlowPolicy", **{"dataset": ARRAYS, "policy_kwargs": TINY, "seed": 0, "batch_size": 8, **options})


def go_on(model, steps=STEPS):
    return model.learn(steps, reset_num_timesteps=False, dataset=ARRAYS)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model of each case after some steps, and its file. Saving it warns of nothing."""
    folder = tmp_path_factory.mktemp("critics")
    made = {}
    for name, (algorithm, options) in CASES.items():
        model = build(algorithm, **options).learn(STEPS)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model.save(folder / name)
        made[name] = model, folder / f"{name}.zip"
    return made


def loaded(saved, name, **options):
    return CASES[name][0].load(saved[name][1], **options)


def answer(load):
    with pytest.raises((ValueError, TypeError)) as caught:
        load()
    assert fault_of(caught.value) is None
    return str(caught.value)


# As they were


@pytest.mark.parametrize("name", CASES)
def test_a_critic_comes_back_without_a_pickle(saved, name):
    model, path = saved[name]
    assert b":serialized:" not in entries_of(path)["data"] and settings_of(path)["policy_kwargs"]["critic"][":object:"]
    again = loaded(saved, name)
    options = {field: getattr(model.critic_options, field) for field in vars(model.critic_options)}
    assert type(again.critic_options) is type(model.critic_options) and vars(again.critic_options) == options
    assert again.policy_kwargs == model.policy_kwargs and again.critics.options == model.critic_options
    observations = th.as_tensor(ARRAYS["observations"])
    actions = th.as_tensor(ARRAYS["actions"])
    for one, other in ((again.critic, model.critic), (again.critic_target, model.critic_target)):
        assert th.equal(one.q_values(observations, actions), other.q_values(observations, actions))
    assert th.equal(again.value_net(observations), model.value_net(observations))
    for each in (again, model):
        each.policy.n_candidates = 5
    acted = [each.predict(ARRAYS["observations"], deterministic=True)[0] for each in (again, model)]
    np.testing.assert_array_equal(*acted)


@pytest.mark.parametrize("name", CASES)
def test_learning_goes_on_as_if_it_had_not_stopped(saved, name):
    """Bit for bit, from one phase into the next too."""
    algorithm, options = CASES[name]
    whole = go_on(build(algorithm, **options).learn(STEPS))
    assert_same([go_on(loaded(saved, name))], [whole], rtol=0.0, atol=0.0)
    assert not th.equal(saved[name][0].critic.layers[0].weight, whole.critic.layers[0].weight)


def test_a_policy_alone_keeps_its_critic(saved, tmp_path):
    model = saved["onestep"][0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.policy.save(tmp_path / "policy.pth")
    policy = FlowPolicy.load(tmp_path / "policy.pth")
    assert policy.critic_options == model.critic_options
    plain = th.load(tmp_path / "policy.pth")
    plain["data"]["critic"]["n_critics"] = 10**9
    (tmp_path / "huge.pth").write_bytes(saved_by_torch(plain))
    assert "describes networks of an absurd size" in refusal(tmp_path / "huge.pth", FlowPolicy.load)


class Careful(OneStepCritic):
    """Of somebody's own."""


@pytest.mark.usefixtures("forgotten_afterwards")
def test_a_critic_of_your_own_is_plain_once_it_is_registered(tmp_path):
    class Mine(GMPO):
        pass

    model = build(Mine, critic=Careful(n_critics=3))
    with pytest.warns(UserWarning, match=r"policy_kwargs\['critic'\] is of the class Careful.*'policy_kwargs' is pickled"):
        model.save(tmp_path / "pickled")
    assert "is a pickle" in refusal(tmp_path / "pickled.zip", Mine.load)
    assert Mine.load(tmp_path / "pickled", trust_pickle=True).critic_options == Careful(n_critics=3)
    register("mine", Mine, objects=[Careful])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.save(tmp_path / "plain")
    assert type(Mine.load(tmp_path / "plain").critic_options) is Careful


# Changed


def test_another_target_keeps_the_networks(tmp_path):
    """V is 10^4 below every Q, so that its loss is the expectile times 10^8."""
    build(GMPO, critic=IQLCritic(n_critics=1, expectile=0.8)).learn(2).save(tmp_path / "iql")
    weights = GMPO.load(tmp_path / "iql").critic.layers[0].weight

    def loss(**options):
        model = GMPO.load(tmp_path / "iql", **options)
        model.fill_replay_buffer(ARRAYS)
        assert th.equal(model.critic.layers[0].weight, weights)
        *hidden, last_bias = model.value_net.requires_grad_(False).parameters()
        for parameter in hidden:
            parameter.zero_()
        last_bias.fill_(-1e4)
        rows = th.arange(8)
        batch = Batch.of(model.replay_buffer.rows(rows), rows, model.generator)
        return model.critics.losses(batch, 0.9).value_loss.item() / 1e8

    assert [loss(), loss(expectile=0.9), loss(critic="onestep")] == pytest.approx([0.8, 0.9, 0.5], rel=0.01)
    assert loss(critic=IQLCritic(n_critics=1, expectile=0.6)) == pytest.approx(0.6, rel=0.01)
    assert loss(critic=None, expectile=None) == pytest.approx(0.8, rel=0.01)


CHANGES = [
    ("iql", dict(critic="onestep"), OneStepCritic(advantage=False, layer_norm=False, relative_actions=False)),
    ("iql", dict(critic="policy"), PolicyCritic(layer_norm=False)),
    ("iql", dict(critic="iql"), IQLCritic()),
    ("iql", dict(expectile=0.9), IQLCritic(expectile=0.9)),
    ("iql", dict(critic="iql", expectile=0.9), IQLCritic(expectile=0.9)),
    ("onestep", dict(critic="iql"), IQLCritic(n_critics=3, n_quantiles=4, layer_norm=True, relative_actions=True)),
    (
        "onestep",
        dict(critic="iql", expectile=0.9),
        IQLCritic(n_critics=3, n_quantiles=4, layer_norm=True, relative_actions=True, expectile=0.9),
    ),
    (
        "onestep",
        dict(critic=OneStepCritic(advantage=False, n_critics=3, n_quantiles=4, dropped_quantiles=2, n_steps=2)),
        OneStepCritic(advantage=False, n_critics=3, n_quantiles=4, dropped_quantiles=2, n_steps=2),
    ),
    ("densities", dict(critic="policy"), PolicyCritic(net_arch=[6])),
    (
        "densities",
        dict(critic="onestep", policy_kwargs=TINY),
        OneStepCritic(advantage=False, net_arch=[6], relative_actions=False),
    ),
]


@pytest.mark.parametrize(("name", "options", "expected"), CHANGES, ids=str)
def test_a_critic_is_changed_where_it_is_loaded(saved, tmp_path, name, options, expected):
    model = loaded(saved, name, **options)
    assert model.critic_options == expected and type(model.critic_options) is type(expected)
    # It stays so, and learns
    go_on(model).save(tmp_path / "again")
    assert type(model).load(tmp_path / "again").critic_options == expected
    assert all(value.isfinite().all() for value in model.policy.state_dict().values())


def test_critics_that_were_frozen_learn_again_as_the_policy_s_own(tmp_path):
    build(GMPG, critic=OneStepCritic(advantage=False), pretraining_steps=2).learn(3).save(tmp_path / "model")
    for critic, learns in ((None, False), ("onestep", False), ("policy", True)):
        model = GMPG.load(tmp_path / "model", critic=critic)
        before = model.critic.layers[0].weight.clone()
        assert th.equal(go_on(model).critic.layers[0].weight, before) is not learns


REFUSED = [
    ("iql", dict(critic="onstep"), "critic='onstep' is unknown. Did you mean 'onestep'?"),
    ("iql", dict(critic=5), "critic must be one of 'iql', 'onestep', 'policy', or an object"),
    ("iql", dict(critic={}), "critic must be one of 'iql', 'onestep', 'policy', or an object"),
    ("iql", dict(critic=OneStepCritic), "critic=OneStepCritic is a class: give an object of it"),
    ("iql", dict(expectile=2.0), "expectile must be a number > 0.0 and < 1.0, not 2.0"),
    ("iql", dict(critics="iql"), "GMPO has no option 'critics'. Did you mean 'critic'?"),
    ("iql", dict(critic="onestep", expectile=0.9), "expectile=0.9 is the critic 'iql''s, but critic='onestep' is given"),
    ("iql", dict(critic=PolicyCritic(layer_norm=False, density_penalty=0.1)), "this GMPO has none: take GMPG"),
    ("onestep", dict(expectile=0.9), "but this model has OneStepCritic(n_critics=3, aggregation='lower_bound', rho=0.3, n_"),
    ("iql", dict(policy_kwargs=5), "policy_kwargs must be a dictionary of options by their names, not 5."),
    (
        "onestep",
        dict(critic=IQLCritic(n_critics=3)),
        "keeps its networks, and layer_norm, relative_actions and n_quantiles of IQLCritic(n_critics=3) would change them",
    ),
    ("densities", dict(critic=PolicyCritic()), "keeps its networks, and net_arch of PolicyCritic() would change them"),
]


@pytest.mark.parametrize(("name", "options", "sentence"), REFUSED, ids=str)
def test_other_networks_and_mistakes_get_a_sentence(saved, name, options, sentence):
    assert sentence in answer(lambda: loaded(saved, name, **options))


MADE_WITH = [
    (GMPO, {}, TINY),
    (GMPO, dict(critic="onestep"), TINY),
    (GMPO, {}, dict(TINY, critic="onestep")),
    (GMPO, {}, dict(TINY, n_critics=3)),
    (GMPO, dict(critic="iql"), TINY),
    (GMPO, dict(critic="onestep"), dict(TINY, n_critics=3, critic=OneStepCritic())),
    (GMPO, dict(weighting="softmax", critic=PolicyCritic(penalty=0.1)), TINY),
    (GMPG, dict(expectile=0.9), TINY),
]


@pytest.mark.parametrize(("algorithm", "options", "given"), MADE_WITH, ids=lambda part: getattr(part, "__name__", str(part)))
def test_the_options_that_it_was_made_with_load_it(tmp_path, algorithm, options, given):
    model = build(algorithm, policy_kwargs=given, **options)
    model.save(tmp_path / "model")
    again = algorithm.load(tmp_path / "model", policy_kwargs=dict(given))
    assert again.critic_options == model.critic_options and again.policy_kwargs == model.policy_kwargs
    changed_too = algorithm.load(tmp_path / "model", policy_kwargs=dict(given), critic="onestep")
    assert type(changed_too.critic_options) is OneStepCritic
    assert changed_too.critic_options.n_critics == model.critic_options.n_critics
    # An object of the same networks is no other one
    same = OneStepCritic(**model.critic_options.networks())
    assert algorithm.load(tmp_path / "model", critic=same).critic_options == same
    for other in (dict(net_arch=[9]), dict(given, critic=OneStepCritic(rho=0.7)), dict(given, n_critics=7)):
        with pytest.raises(ValueError, match="The specified policy kwargs do not equal the stored policy kwargs"):
            algorithm.load(tmp_path / "model", policy_kwargs=other)


# Pickles, and absurd sizes


class Network(ConditionalMLP):
    pass


def test_options_that_are_a_pickle_load_with_trust(tmp_path):
    given = dict(TINY, network=Network)
    critic = OneStepCritic(n_critics=3, advantage=False)
    model = build(GMPO, critic=critic, policy_kwargs=given).learn(2)
    with pytest.warns(UserWarning, match=r"policy_kwargs\['network'\] is the class Network"):
        model.save(tmp_path / "model")
    path = tmp_path / "model.zip"
    assert "'policy_kwargs' in its entry 'data' is a pickle" in refusal(path)

    def load(**options):
        return GMPO.load(path, trust_pickle=True, **options)

    again = load()
    assert again.critic_options == critic and type(again.actor.model.network) is Network
    assert_same([go_on(again)], [go_on(model)], rtol=0.0, atol=0.0)
    assert load(policy_kwargs=given).critic_options == critic
    assert load(critic="policy").critic_options == PolicyCritic(n_critics=3, relative_actions=True)
    assert "n_critics and advantage of OneStepCritic() would change them" in answer(lambda: load(critic=OneStepCritic()))
    assert f"but this model has {critic}: give" in answer(lambda: load(expectile=0.9))


def number(value):
    return {":number:": "int64", "value": value}


ABSURD = [
    dict(n_critics=10**9),
    dict(n_critics=number(10**9)),
    dict(n_quantiles=10**9),
    dict(net_arch=[10**6, 10**6]),
    dict(net_arch=[number(10**5)]),
    # Each of them is no larger than the file, their product is
    dict(n_critics=4000, net_arch=[60, 60]),
    dict(n_critics=4000, n_quantiles=4000),
    dict(n_critics=4000, policy_kwargs=dict(net_arch=dict(qf=[60, 60]))),
    dict(n_critics=10**9, policy_kwargs={}),
]


@pytest.mark.parametrize("critic", ABSURD, ids=str)
@pytest.mark.parametrize("read", [GMPO.load, pretrain])
def test_critics_of_absurd_size_are_refused_before_they_are_made(saved, tmp_path, monkeypatch, critic, read):
    path = saved["onestep"][1]
    kwargs = json.loads(json.dumps(settings_of(path)["policy_kwargs"]))
    if "policy_kwargs" in critic:
        # Its other options are these
        kwargs = dict(critic["policy_kwargs"], critic=kwargs["critic"])
    kwargs["critic"].update({name: value for name, value in critic.items() if name != "policy_kwargs"})
    # Nothing is built
    monkeypatch.setattr(FlowPolicy, "build", None)
    text = refusal(changed(path, tmp_path / "model.zip", policy_kwargs=kwargs), read)
    assert "its entry 'data' describes networks of an absurd size" in text


@pytest.mark.parametrize(
    "critic", [dict(rho=-1), dict(n_critics="many"), dict(net_arch=["x"]), dict(layer_norm=None)], ids=str
)
def test_a_critic_that_is_damaged_is_refused(saved, tmp_path, critic):
    kwargs = json.loads(json.dumps(settings_of(saved["onestep"][1])["policy_kwargs"]))
    kwargs["critic"].update(critic)
    text = refusal(changed(saved["onestep"][1], tmp_path / "model.zip", policy_kwargs=kwargs))
    assert "'policy_kwargs' in its entry 'data'" in text and next(iter(critic)) in text


def test_networks_that_are_given_twice_are_no_absurd_size(tmp_path):
    """Few plain critics beside a wide actor, and more critics than the policy's options had asked for first."""
    for critic, given in (
        (OneStepCritic(n_critics=12, net_arch=[]), dict(net_arch=[64, 64])),
        (OneStepCritic(n_critics=40, net_arch=[16, 16]), dict(net_arch=[8], n_critics=1)),
    ):
        build(GMPO, critic=critic, policy_kwargs=given).save(tmp_path / "model")
        assert GMPO.load(tmp_path / "model").critic_options.net_arch == critic.net_arch


# Of release 0.1

FOLDER = Path(__file__).parent / "files_of_0_1"
ALGORITHMS = dict(gmpo_flow=GMPO, gmpo_softmax_vp=GMPO, gmpg_dict=GMPG, gmpo_integers=GMPO)


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_files_of_release_0_1_have_the_critic_that_there_was(name, tmp_path):
    algorithm, path = ALGORITHMS[name], FOLDER / f"{name}.zip"
    stored = settings_of(path)
    assert "critic" not in stored["policy_kwargs"] and stored["expectile"] == 0.7
    model = algorithm.load(changed(path, tmp_path / "other.zip", expectile=0.85))
    assert model.critic_options == IQLCritic(expectile=0.85)
    assert model.expectile == 0.85 and "expectile" not in vars(model)
    assert algorithm.load(path, expectile=0.55).critic_options == IQLCritic(expectile=0.55)
    # The options that were given to its constructor
    given = {key: value for key, value in stored["policy_kwargs"].items() if key != "behaviour_model"}
    one_step = algorithm.load(path, critic="onestep", policy_kwargs=given)
    assert one_step.critic_options == OneStepCritic(advantage=False, layer_norm=False, relative_actions=False)
    for key, value in model.policy.state_dict().items():
        assert th.equal(one_step.policy.state_dict()[key], value)
    one_step.save(tmp_path / "again")
    assert algorithm.load(tmp_path / "again").critic_options == one_step.critic_options
