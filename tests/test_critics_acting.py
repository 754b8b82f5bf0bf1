"""
Critics where the policy acts, and of observations of other kinds: they choose among candidates, in an ONNX file too, and
share the actor's extractor.
"""

import json

import numpy as np
import pytest
import torch as th

from sb3_genpolicy import GMPG, GMPO, OneStepCritic, PolicyCritic
from tests.helpers.arrays import BEST, make_arrays
from tests.helpers.observation_spaces import SPACES, dataset_of, policy_for, rows_of

TINY = dict(net_arch=[8])
ARRAYS = make_arrays()

# Candidates


class Choice:
    """Linear critics of the second action, set by hand, and what is chosen of the candidates for one observation."""

    def __init__(self, **critic):
        options = OneStepCritic(net_arch=[], layer_norm=False, relative_actions=False, **critic)
        kwargs = dict(TINY, n_candidates=7, **BEST)
        self.model = GMPO("FlowPolicy", dataset=ARRAYS, policy_kwargs=kwargs, critic=options, seed=0)
        policy, self.observation = self.model.policy, ARRAYS["observations"][:1]
        actor = policy.actor_ema
        features = actor.extract_features(th.as_tensor(self.observation), actor.features_extractor)
        with th.no_grad():
            drawn = actor.sample(features.repeat_interleave(7, dim=0), policy.candidate_noise(7), True)
        #: Second actions of the candidates, scaled, ascending
        self.candidates = drawn[:, 1].sort().values

    def is_for(self, slopes):
        """
        :param slopes: of each critic or quantile, which are all zero at the fourth candidate
        :return: which candidate is chosen
        """
        (layer,) = self.model.critic.layers
        with th.no_grad():
            layer.weight.zero_()
            # Behind three observations and the first action
            slopes = th.tensor(slopes).reshape(layer.bias.shape)
            layer.weight[:, 4] = slopes[:, 0]
            layer.bias.copy_(-slopes * self.candidates[3])
        action, _ = self.model.predict(self.observation, deterministic=True)
        chosen = self.model.policy.scale_action(action)[0, 1]
        return (self.candidates - chosen).abs().argmin().item()


@pytest.mark.parametrize(
    ("critic", "chosen"),
    [
        # Half of 10 a - 9 a, which grows with a
        (dict(aggregation="mean"), 6),
        (dict(aggregation="lower_bound", rho=0.0), 6),
        # -9 a or 10 a, whichever is lower, is highest where both are 0; so is a / 2 less 9.5 |a|
        (dict(aggregation="minimum"), 3),
        (dict(aggregation="lower_bound", rho=1.0), 3),
    ],
    ids=str,
)
def test_how_values_become_one_decides_which_candidate_is_taken(critic, chosen):
    choice = Choice(**critic)
    assert choice.candidates.diff().min() > 1e-3
    assert choice.is_for([10.0, -9.0]) == chosen
    # The critics themselves choose, not their slow copy
    assert choice.is_for([-10.0, -9.0]) == 0


def test_the_largest_quantiles_may_be_left_out():
    """Four quantiles of two critics grow with the action and two fall; of the six, the two that are largest are left out."""
    slopes = [[1.0, 1.0, -1.5], [1.0, 1.0, -1.5]]
    assert Choice(n_quantiles=3).is_for(slopes) == 6
    # Above 0 the largest two are of those that grow, so that 2 a - 3 a remains; below 0 those that fall, so that 4 a does
    assert Choice(n_quantiles=3, dropped_quantiles=1).is_for(slopes) == 3


def test_a_file_chooses_as_the_policy_does(tmp_path):
    """Layer norm, quantiles and what is left out of them are in the ONNX file."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    critic = OneStepCritic(n_critics=3, n_quantiles=5, dropped_quantiles=2)
    model = GMPO(
        "FlowPolicy",
        dataset=ARRAYS,
        policy_kwargs=dict(TINY, n_candidates=6, **BEST),
        critic=critic,
        seed=0,
        batch_size=16,
        learning_rate=1e-2,
        actor_tau=0.5,
    ).learn(20)
    with th.no_grad():
        # Norms that have learnt something
        for norm in model.critic.norms:
            norm.weight.copy_(th.linspace(-2.0, 2.0, norm.weight.numel()).reshape(norm.weight.shape))
            norm.bias.copy_(th.linspace(1.0, -1.0, norm.bias.numel()).reshape(norm.bias.shape))
    model.policy.export_onnx(tmp_path / "policy.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "policy.onnx"), providers=["CPUExecutionProvider"])
    noise = np.array(json.loads(session.get_modelmeta().custom_metadata_map["deterministic_noise"]), np.float32)
    for n_rows in (1, 9):
        observation = np.random.default_rng(0).normal(scale=200.0, size=(n_rows, 3)).astype(np.float32)
        (action,) = session.run(["action"], dict(observation=observation, noise=np.repeat(noise[None], n_rows, axis=0)))
        np.testing.assert_allclose(action, model.predict(observation, deterministic=True)[0], atol=1e-5)
    # Of several critics, others are chosen
    model.policy.n_candidates = 1
    assert np.abs(model.predict(observation, deterministic=True)[0] - action).max() > 1e-2


# Observations of other kinds

KINDS = {
    "onestep": OneStepCritic(n_critics=3, n_steps=2),
    "policy": PolicyCritic(penalty=0.1, n_quantiles=3, dropped_quantiles=1),
    "densities": PolicyCritic(density_penalty=0.1),
}
#: Wide enough that not all of it is dead
EXTRACTOR = dict(image=dict(features_dim=16), dict=dict(cnn_output_dim=16))


def of_space(space, algorithm, critic, share=True, **options):
    kwargs = dict(TINY, share_features_extractor=share, features_extractor_kwargs=EXTRACTOR[space])
    options = dict(policy_kwargs=kwargs, dataset=dataset_of(SPACES[space]), batch_size=6, seed=0, critic=critic, **options)
    options.update(reward_transform=None)
    return algorithm(policy_for(space, "Flow"), **options)


def changed_parts(model, before):
    """Networks of which some parameter is another, the extractor by itself."""
    parts = set()
    for name, value in model.policy.state_dict().items():
        if not th.equal(value, before[name]):
            network, *rest = name.split(".")
            parts.add(f"{network} extractor" if rest[0] == "features_extractor" else network)
    return parts


@pytest.mark.filterwarnings("ignore:.*lead to another observation than the next row")
@pytest.mark.parametrize("space", ["dict", "image"])
@pytest.mark.parametrize("name", KINDS)
def test_critics_share_the_actor_s_extractor(space, name):
    """No loss of theirs trains it. In the second phase it stays with critics that do, and learns with those that learn."""
    options = dict(pretraining_steps=3)
    model = of_space(space, GMPG, KINDS[name], **options).learn(3)
    assert model.critic.features_extractor is model.actor.features_extractor
    # The actor is the one that it is beside any other critic
    other = of_space(space, GMPG, "iql", **options).learn(3)
    if not model.critic_options.follows_policy:
        for mine, theirs in zip(model.actor.parameters(), other.actor.parameters(), strict=True):
            assert th.equal(mine, theirs)
    own = {id(parameter) for parameter in model.actor.features_extractor.parameters()}
    for network in (model.critic, model.value_net):
        trained = {id(parameter) for parameter in network.optimizer.param_groups[0]["params"]}
        assert own and not trained & own
    before = {key: value.clone() for key, value in model.policy.state_dict().items()}
    model.learn(2, reset_num_timesteps=False)
    changed = changed_parts(model, before)
    of_critics = {"critic", "value_net", "critic_target"} & changed
    assert {"actor", "actor_ema"} <= changed and len(of_critics) == (3 if model.critic_options.follows_policy else 0)
    # The actor itself began anew as its average, the extractor with it
    assert ("actor_ema extractor" in changed) == model.critic_options.follows_policy
    observation = rows_of(model.observation_space, 3)
    model.policy.n_candidates = 3
    assert all(model.action_space.contains(action) for action in model.predict(observation)[0])


@pytest.mark.filterwarnings("ignore:.*lead to another observation than the next row")
@pytest.mark.parametrize("space", ["dict", "image"])
def test_critics_with_extractors_of_their_own(space):
    model = of_space(space, GMPO, KINDS["policy"], share=False)
    before = {key: value.clone() for key, value in model.policy.state_dict().items()}
    changed = changed_parts(model.learn(2), before)
    assert {"actor extractor", "critic extractor", "critic_target extractor", "value_net extractor"} <= changed
