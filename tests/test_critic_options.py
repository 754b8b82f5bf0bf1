"""
The option ``critic=``: what it may be, and what is answered to mistakes.
"""

import re

import numpy as np
import pytest
import torch as th

from sb3_genpolicy import GMPG, GMPO, IQLCritic, NStepReturns, OfflineAlgorithm, OneStepCritic, PolicyCritic
from sb3_genpolicy.common.policies.critics.options import CRITICS, DEFAULT_CRITIC
from sb3_genpolicy.common.policies.named import FlowPolicy
from tests.helpers.arrays import make_arrays
from tests.helpers.sentences import fault_of

TINY = dict(net_arch=[8])
ARRAYS = make_arrays()


def build(algorithm=GMPO, **options):
    return algorithm("FlowPolicy", **{"dataset": ARRAYS, "policy_kwargs": TINY, **options})


def answer(make):
    """The sentence that a mistake is answered with."""
    with pytest.raises((ValueError, TypeError)) as caught:
        make()
    assert fault_of(caught.value) is None
    return str(caught.value)


# What it may be


@pytest.mark.parametrize(("name", "kind"), [("iql", IQLCritic), ("onestep", OneStepCritic), ("policy", PolicyCritic)])
@pytest.mark.parametrize("algorithm", [GMPO, GMPG])
def test_a_name_an_object_and_options_of_the_policy_say_the_same(algorithm, name, kind):
    by_name, by_object = build(algorithm, critic=name), build(algorithm, critic=kind())
    beside = build(algorithm, policy_kwargs=dict(TINY, critic=name))
    twice = build(algorithm, policy_kwargs=dict(TINY, critic=name), critic=kind())
    for model in (by_name, by_object, beside, twice):
        assert type(model.critic_options) is kind and model.critic_options == kind()
        assert model.policy.critic_options is model.critics.options is model.critic_options
        assert model.policy_kwargs["critic"] == kind()
    # What the user has is not written into
    assert TINY == dict(net_arch=[8]) and list(CRITICS) == ["iql", "onestep", "policy"]


def test_nothing_is_the_default_and_expectile_is_short_for_iql():
    for options in ({}, dict(critic=None), dict(policy_kwargs=dict(TINY, critic=None))):
        assert build(**options).critic_options == build(GMPG, **options).critic_options == DEFAULT_CRITIC
    for options in (dict(expectile=0.9), dict(expectile=0.9, critic="iql"), dict(critic=IQLCritic(expectile=0.9))):
        model = build(**options)
        assert model.expectile == 0.9 and model.critic_options == IQLCritic(expectile=0.9)
    # Of the others V is the mean, which is the expectile 0.5
    assert [build(critic=name).expectile for name in ("onestep", "policy")] == [0.5, 0.5]


def test_the_default_is_one_step_of_advantages():
    assert type(DEFAULT_CRITIC) is OneStepCritic and DEFAULT_CRITIC == OneStepCritic()
    assert vars(DEFAULT_CRITIC) == dict(
        n_critics=2,
        aggregation="mean",
        rho=0.5,
        layer_norm=True,
        dropout=0.0,
        relative_actions=True,
        net_arch=None,
        gamma=None,
        n_steps=1,
        return_lambda=None,
        n_quantiles=None,
        dropped_quantiles=0,
        passes=10.0,
        chunk_length=None,
        distilled_from=None,
        continuation_expectile=0.7,
        advantage=True,
    )
    assert DEFAULT_CRITIC.trace == 0.95 and DEFAULT_CRITIC.learns_advantage and not DEFAULT_CRITIC.follows_policy


def test_release_0_1_s_critics_are_two_plain_networks_whose_minimum_counts():
    critic = IQLCritic()
    assert (critic.n_critics, critic.aggregation, critic.layer_norm, critic.n_steps) == (2, "minimum", False, 1)
    assert critic.n_quantiles is None and critic.net_arch is None and not critic.follows_policy
    assert (critic.expectile, critic.gamma, critic.trace, critic.learns_advantage) == (0.7, None, 0.0, False)


def test_networks_are_as_many_and_as_wide_as_was_asked_for():
    model = build(critic=OneStepCritic(n_critics=3, net_arch=[5, 6], n_quantiles=4))
    shapes = [tuple(layer.weight.shape) for layer in model.critic.layers]
    # Three observations, two actions
    assert shapes == [(3, 5, 5), (3, 5, 6), (3, 6, 4)] and model.critic_options.net_arch == (5, 6)
    values = model.value_net.state_dict().values()
    assert {tuple(value.shape) for value in values if value.ndim == 2} == {(5, 3), (6, 5), (1, 6)}
    # The actor's stay as policy_kwargs has them
    assert model.actor.model.network.layers[0].weight.shape[0] == 8
    for own in (dict(n_critics=4), dict(n_critics=4, critic="onestep"), dict(n_critics=4, critic=OneStepCritic(n_critics=4))):
        model = build(policy_kwargs={**TINY, **own})
        assert model.critic_options.n_critics == model.policy.n_critics == len(model.critic.layers[0].weight) == 4


CRITICS_TO_WRITE = [
    (IQLCritic(), "IQLCritic()"),
    (IQLCritic(n_critics=1, aggregation="mean", expectile=0.9), "IQLCritic(n_critics=1, aggregation='mean', expectile=0.9)"),
    (OneStepCritic(net_arch=[8, 8], n_steps=3), "OneStepCritic(net_arch=(8, 8), n_steps=3)"),
    (PolicyCritic(n_quantiles=25, dropped_quantiles=2, penalty=0.1), None),
]


@pytest.mark.parametrize(("critic", "text"), CRITICS_TO_WRITE, ids=str)
def test_a_critic_is_shown_as_one_would_write_it(critic, text):
    assert text is None or repr(critic) == text
    assert eval(repr(critic)) == critic and len(repr(critic)) < 80


# Mistakes in an object

OBJECTS = [
    (OneStepCritic, dict(layernorm=True), "OneStepCritic has no option 'layernorm'. Did you mean 'layer_norm'?"),
    (OneStepCritic, dict(expectile=0.9), "OneStepCritic has no option 'expectile'. There are: advantage, aggregation"),
    (PolicyCritic, dict(density_penality=1.0), "Did you mean 'density_penalty'?"),
    (OneStepCritic, dict(dropped_quantiles=2), "dropped_quantiles are left out of n_quantiles: give both"),
    (OneStepCritic, dict(n_quantiles=5, dropped_quantiles=5), "dropped_quantiles=5 leaves none of 5 quantiles: drop fewer"),
    (IQLCritic, dict(n_quantiles=5, dropped_quantiles=1), "takes the place of aggregation='minimum': give aggregation='mean'"),
    (OneStepCritic, dict(n_quantiles=5, dropped_quantiles=1, aggregation="lower_bound"), "takes the place of aggregation="),
    (OneStepCritic, dict(n_critics=1, aggregation="lower_bound"), "is of how networks differ: n_critics must be 2 or more"),
    (OneStepCritic, dict(aggregation="minimun"), "aggregation='minimun' is unknown. Did you mean 'minimum'?"),
    (OneStepCritic, dict(aggregation=None), "aggregation must be one of 'lower_bound', 'mean', 'minimum', not None"),
    (OneStepCritic, dict(rho=-1), "OneStepCritic: rho must be a number >= 0.0, not -1"),
    (OneStepCritic, dict(rho=np.inf), "rho must be finite"),
    (OneStepCritic, dict(rho=np.nan), "rho must be a number"),
    (OneStepCritic, dict(n_critics=0), "n_critics must be a number >= 1, not 0"),
    (OneStepCritic, dict(n_critics=2.5), "n_critics must be whole, not 2.5"),
    (OneStepCritic, dict(n_critics=True), "n_critics must be a number"),
    (OneStepCritic, dict(n_steps=0), "n_steps must be a number >= 1, not 0"),
    (OneStepCritic, dict(n_quantiles=1), "n_quantiles must be a number >= 2, not 1"),
    (OneStepCritic, dict(n_quantiles=4, dropped_quantiles=-1), "dropped_quantiles must be a number >= 0, not -1"),
    (OneStepCritic, dict(layer_norm="yes"), "layer_norm must be True or False, not 'yes'"),
    (OneStepCritic, dict(net_arch=8), "net_arch must be widths, as (256, 256), not 8"),
    (OneStepCritic, dict(net_arch=dict(qf=[8])), "net_arch must be widths, as (256, 256), not {'qf': [8]}"),
    (OneStepCritic, dict(net_arch=[8, 0]), "each width in net_arch must be a number >= 1, not 0"),
    (IQLCritic, dict(expectile=1.0), "IQLCritic: expectile must be a number > 0.0 and < 1.0, not 1.0"),
    (PolicyCritic, dict(penalty=-0.1), "PolicyCritic: penalty must be a number >= 0.0, not -0.1"),
    (PolicyCritic, dict(density_penalty="1"), "PolicyCritic: density_penalty must be a number >= 0.0, not '1'"),
]


@pytest.mark.parametrize(("kind", "options", "sentence"), OBJECTS, ids=lambda part: str(part)[:40])
def test_options_of_a_critic_are_checked(kind, options, sentence):
    assert sentence in answer(lambda: kind(**options))


# Mistakes in what an algorithm is given

NAMES = "critic must be one of 'iql', 'onestep', 'policy', or an object as OneStepCritic(n_critics=4), not "
GIVEN = [
    (dict(critic="onstep"), "critic='onstep' is unknown. Did you mean 'onestep'?"),
    (dict(policy_kwargs=dict(TINY, critic="onstep")), "critic='onstep' is unknown. Did you mean 'onestep'?"),
    (dict(critic=5), NAMES + "5."),
    (dict(critic=["iql"]), NAMES + "['iql']."),
    (dict(critic=dict(n_critics=3)), NAMES + "{'n_critics': 3}."),
    (dict(critic=np.ones(2), expectile=0.9), NAMES + "array([1., 1.])."),
    (dict(critic=IQLCritic), "critic=IQLCritic is a class: give an object of it, as IQLCritic(n_critics=4)."),
    (dict(policy_kwargs=dict(TINY, critic=PolicyCritic)), "critic=PolicyCritic is a class: give an object of it"),
    (dict(expectile=0.9, critic="onestep"), "expectile=0.9 is the critic 'iql''s, but critic='onestep' is given"),
    (dict(expectile=0.9, critic=PolicyCritic()), "is the critic 'iql''s, but critic=PolicyCritic() is given"),
    (dict(expectile=0.9, critic=IQLCritic()), "given beside IQLCritic(): say it there, IQLCritic(expectile=0.9)."),
    (dict(expectile=0.9, critic="ikl"), "critic='ikl' is unknown. Did you mean 'iql'?"),
    (dict(expectile=1.5), "expectile must be a number > 0.0 and < 1.0, not 1.5."),
    (dict(expectile="high"), "expectile must be a number > 0.0 and < 1.0, not 'high'."),
    (
        dict(critic="iql", policy_kwargs=dict(TINY, critic=OneStepCritic(n_steps=3, n_critics=5))),
        "critic='iql' is given beside policy_kwargs=dict(critic=OneStepCritic(n_critics=5, n_steps=3)): leave the latter out.",
    ),
    (
        dict(expectile=0.9, policy_kwargs=dict(TINY, critic="iql")),
        "critic=IQLCritic(expectile=0.9) is given beside policy_kwargs=dict(critic='iql'): leave the latter out.",
    ),
    (dict(policy_kwargs=dict(TINY, n_critics=0)), "n_critics must be a number >= 1, not 0."),
    (
        dict(policy_kwargs=dict(TINY, n_critics=1), critic=OneStepCritic(aggregation="lower_bound")),
        "aggregation='lower_bound' is of how networks differ: n_critics must be 2 or more.",
    ),
]


@pytest.mark.parametrize(("options", "sentence"), GIVEN, ids=lambda part: str(part)[:60])
def test_a_critic_that_is_none_gets_a_sentence(options, sentence):
    for algorithm in (GMPO, GMPG):
        assert sentence in answer(lambda algorithm=algorithm: build(algorithm, **options))


def test_a_misspelt_critic_gets_the_nearest_option():
    assert "GMPO has no option 'critics'. Did you mean 'critic'?" in answer(lambda: build(critics="iql"))


def test_a_penalty_of_densities_asks_for_a_behaviour_model():
    critic = PolicyCritic(density_penalty=0.1)
    for options in ({}, dict(pretraining_steps=3)):
        sentence = answer(lambda options=options: build(critic=critic, **options))
        assert sentence == (
            "density_penalty=0.1 compares with the densities of a behaviour model, and this GMPO has none: take GMPG, or "
            "GMPO(weighting='softmax')."
        )
    for having in (build(GMPG, critic=critic), build(weighting="softmax", critic=critic)):
        assert having.critic_options == critic


def test_steps_of_a_critic_and_of_a_transform_must_agree():
    model = build(critic=OneStepCritic(n_steps=3), transforms=[NStepReturns(2)])
    assert answer(lambda: model.learn(1)) == (
        "The critic asks for returns of 3 steps, and transforms= for NStepReturns(2): leave out the transform."
    )
    for critic, transforms in ((OneStepCritic(n_steps=3), [NStepReturns(3)]), (OneStepCritic(), [NStepReturns(3)])):
        model = build(critic=critic, transforms=transforms, gamma=0.5).learn(1)
        # Of the first episode's five steps, the last two have fewer before them
        assert model.replay_buffer.rows(th.arange(5)).discounts.flatten().tolist() == [0.125, 0.125, 0.125, 0.25, 0.5]


# Somebody's own algorithm


class Cloned(OfflineAlgorithm):
    """Behaviour cloning with critics beside it, which does not say what its actions are."""

    def __init__(self, **options):
        super().__init__(FlowPolicy, None, 1e-3, dataset=ARRAYS, policy_kwargs=TINY, batch_size=8, seed=0, **options)
        self._setup_model()

    def objective(self, batch):
        critics = self.critics.losses(batch, self.gamma).objective()
        loss = self.policy.actor.matching_loss(batch.observations, batch.actions, batch.generator).mean()
        return critics + type(critics)(dict(actor_loss=loss), ("actor",))


class Acting(Cloned):
    def policy_actions(self, observations, generator):
        return self.policy.value_net(observations).detach().repeat(1, 2).clamp(-1.0, 1.0)


def test_critics_of_the_policy_s_actions_ask_an_algorithm_what_these_are():
    sentence = answer(lambda: Cloned(critic="policy"))
    assert re.search(r"Cloned does not say .* define Cloned\.policy_actions\(observations, generator\), or take", sentence)
    assert Cloned(critic="onestep").learn(2).critic_options == OneStepCritic()
    assert Acting(critic="policy").learn(2).critic_options == PolicyCritic()
    sentence = answer(lambda: Acting(critic=PolicyCritic(density_penalty=0.1)))
    assert "and this Acting has none: take GMPG" in sentence
