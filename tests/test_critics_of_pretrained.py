"""
Critics of ``pretrained=``: they come with their options, are no other networks, and stay as they are, but for those of the
policy's own actions.
"""

from dataclasses import replace

import pytest
import torch as th

from sb3_genpolicy import GMPG, GMPO, IQLCritic, OneStepCritic, PolicyCritic
from tests.helpers.arrays import make_arrays
from tests.helpers.sentences import fault_of

TINY = dict(net_arch=[8])
ARRAYS = make_arrays()
THREE = OneStepCritic(n_critics=3, n_quantiles=3, advantage=False)


def gmpg(**options):
    return GMPG("FlowPolicy", **{"seed": 0, "batch_size": 8, **options})


@pytest.fixture(scope="module")
def plain():
    """With a critic that can be changed into every other kind."""
    return gmpg(dataset=ARRAYS, policy_kwargs=TINY, pretraining_steps=3, critic=IQLCritic()).learn(3)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A model with other critics, and its file."""
    path = tmp_path_factory.mktemp("pretrained") / "other.zip"
    model = gmpg(dataset=ARRAYS, policy_kwargs=TINY, pretraining_steps=3, critic=THREE).learn(3)
    model.save(path)
    return model, path


def copies(network):
    return [parameter.detach().clone() for parameter in network.parameters()]


def moved(network, before):
    return any(not th.equal(parameter, copy) for parameter, copy in zip(network.parameters(), before, strict=True))


def test_the_critic_comes_with_the_model(other):
    model, path = other
    for source in (model, path):
        for given in (None, TINY, dict(TINY, n_critics=3), dict(TINY, critic=THREE)):
            second = gmpg(pretrained=source, policy_kwargs=given)
            assert second.critic_options == THREE
            assert not moved(second.critic, copies(model.critic)) and not moved(second.value_net, copies(model.value_net))
    assert GMPO("FlowPolicy", pretrained=path).critic_options == THREE
    assert GMPO("FlowPolicy", pretrained=path, weighting="softmax", n_actions=2).critic_options == THREE


def test_its_options_are_saved_with_the_second_model(other, tmp_path):
    gmpg(pretrained=other[0]).learn(2, dataset=ARRAYS).save(tmp_path / "second")
    assert GMPG.load(tmp_path / "second").critic_options == THREE
    assert gmpg(pretrained=tmp_path / "second.zip").critic_options == THREE


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (dict(critic="policy"), PolicyCritic(n_critics=3, n_quantiles=3, relative_actions=True)),
        (dict(critic="iql"), IQLCritic(n_critics=3, n_quantiles=3, layer_norm=True, relative_actions=True)),
        (
            dict(critic="iql", expectile=0.9),
            IQLCritic(n_critics=3, n_quantiles=3, layer_norm=True, relative_actions=True, expectile=0.9),
        ),
        (dict(critic=PolicyCritic(n_critics=3, n_quantiles=3, relative_actions=True, penalty=0.1)), None),
        (dict(policy_kwargs=dict(TINY, critic=replace(THREE, n_steps=2))), None),
    ],
    ids=str,
)
def test_a_name_or_an_object_of_the_same_networks_takes_its_place(other, given, expected):
    second = gmpg(pretrained=other[0], **given)
    if expected is None:
        expected = given.get("critic") or given["policy_kwargs"]["critic"]
    assert second.critic_options == expected and type(second.critic_options) is type(expected)
    assert not moved(second.critic, copies(other[0].critic))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (dict(critic=OneStepCritic()), "has another critic (n_critics) (3) than this one (2)"),
        (dict(critic=OneStepCritic(n_critics=3)), "has another critic (n_quantiles) (3) than this one (None)"),
        (
            dict(critic=OneStepCritic(n_critics=3, n_quantiles=3)),
            "has another critic (advantage) (False) than this one (True)",
        ),
        (dict(policy_kwargs=dict(TINY, n_critics=2)), "has another critic (n_critics) (3) than this one (2)"),
        (dict(critic=replace(THREE, layer_norm=False)), "has another critic (layer_norm) (True)"),
        (dict(critic=replace(THREE, net_arch=[8])), "has another critic (net_arch) (None)"),
        (dict(policy_kwargs=dict(TINY, critic="onestep")), "has another critic (n_critics) (3) than this one (2)"),
        (dict(expectile=0.9), f"but this model has {THREE}: give critic='iql' too."),
        (dict(critic=THREE, expectile=0.9), "is given: leave one of them out."),
        (dict(critic=OneStepCritic), "critic=OneStepCritic is a class: give an object of it"),
        (dict(critic="polcy"), "critic='polcy' is unknown. Did you mean 'policy'?"),
        (dict(policy_kwargs=5), "policy_kwargs must be a dictionary of options by their names, not 5."),
    ],
    ids=str,
)
def test_other_networks_and_mistakes_get_a_sentence(other, given, sentence):
    with pytest.raises(ValueError) as caught:
        gmpg(pretrained=other[0], **given)
    assert sentence in str(caught.value) and fault_of(caught.value) is None


def test_a_number_of_critics_among_the_policy_s_options_counts():
    model = gmpg(dataset=ARRAYS, policy_kwargs=dict(TINY, n_critics=4), pretraining_steps=2).learn(2)
    for given in ({}, dict(policy_kwargs=TINY), dict(critic=OneStepCritic(n_critics=4)), dict(critic="onestep")):
        assert gmpg(pretrained=model, **given).critic_options == OneStepCritic(n_critics=4)
    with pytest.raises(ValueError, match=r"has another critic \(n_critics\) \(4\) than this one \(2\)"):
        gmpg(pretrained=model, critic=OneStepCritic())


@pytest.mark.parametrize("critic", [None, "iql", "onestep", "policy"])
@pytest.mark.parametrize("algorithm", ["gmpg", "gmpo", "softmax"])
def test_only_critics_of_the_policy_s_actions_go_on_learning(plain, algorithm, critic):
    options = dict(pretrained=plain, critic=critic, seed=0, batch_size=8)
    if algorithm == "gmpg":
        model = GMPG("FlowPolicy", **options)
    else:
        model = GMPO("FlowPolicy", **options, **(dict(weighting="softmax", n_actions=2) if algorithm == "softmax" else {}))
    trained = [model.critic, model.critic_target, model.value_net]
    before, actor = [copies(network) for network in trained], copies(model.actor)
    model.learn(3, dataset=ARRAYS)
    learns = [moved(network, copied) for network, copied in zip(trained, before, strict=True)]
    assert learns == [critic == "policy"] * 3 and moved(model.actor, actor) and model.phase == "policy"
    if model.behaviour is not None:
        assert not moved(model.behaviour, copies(plain.actor_ema))


def test_a_penalty_of_densities_learns_from_the_behaviour_model_that_was_taken(plain):
    critic = PolicyCritic(layer_norm=False, density_penalty=0.5)
    model = gmpg(pretrained=plain, critic=critic).learn(3, dataset=ARRAYS)
    assert "density_penalty" in model.means.pop()
    with pytest.raises(ValueError, match="this GMPO has none: take GMPG"):
        GMPO("FlowPolicy", pretrained=model)
    assert GMPO("FlowPolicy", pretrained=model, critic="policy").critic_options == PolicyCritic(layer_norm=False)


def test_advantages_stay_advantages(tmp_path):
    """Of the default critic: its networks are no other kind's, on load and in pretrained=; what is no network may change."""
    model = gmpg(dataset=ARRAYS, policy_kwargs=TINY, pretraining_steps=3).learn(3)
    path = tmp_path / "model.zip"
    model.save(path)

    def pretrained(critic):
        return gmpg(pretrained=path, critic=critic)

    def loaded(critic):
        return GMPG.load(path, critic=critic)

    for take in (pretrained, loaded):
        for name, shown in (
            ("iql", "IQLCritic(layer_norm=True, relative_actions=True)"),
            ("policy", "PolicyCritic(relative_actions=True)"),
        ):
            with pytest.raises(ValueError) as caught:
                take(name)
            assert str(caught.value) == (
                f"The critic of a trained model keeps its networks, and advantage of {shown} would change them: it is "
                "OneStepCritic()."
            )
        for critic, expected in (
            (None, OneStepCritic()),
            ("onestep", OneStepCritic()),
            (OneStepCritic(aggregation="minimum"), OneStepCritic(aggregation="minimum")),
        ):
            second = take(critic)
            assert second.critic_options == expected
            # Frozen
            second.learn(2, dataset=ARRAYS)
            assert not moved(second.critic, copies(model.critic)) and not moved(second.value_net, copies(model.value_net))
    # Objects of the other kinds
    for other in (
        PolicyCritic(relative_actions=True),
        IQLCritic(layer_norm=True, relative_actions=True),
        OneStepCritic(advantage=False),
    ):
        with pytest.raises(ValueError, match=r"has another critic \(advantage\) \(True\) than this one \(False\)"):
            pretrained(other)
        with pytest.raises(ValueError, match="keeps its networks, and advantage of .* would change them: it is OneStepCritic"):
            loaded(other)
