"""
Critics in the hyper-parameters of the zoo: a name, or a mapping from a name to options.
"""

from dataclasses import dataclass

import pytest
import yaml

from sb3_genpolicy import GMPG, GMPO, IQLCritic, OneStepCritic, PolicyCritic, register
from sb3_genpolicy.common.algorithms.registry import registered
from sb3_genpolicy.zoo.__main__ import main
from sb3_genpolicy.zoo.settings import with_objects
from tests.helpers import tiny_envs
from tests.helpers.arrays import make_arrays

ALGORITHMS = dict(gmpo=GMPO, gmpg=GMPG)


def built(text, algo="gmpo"):
    """What an algorithm makes of a line of YAML."""
    options = with_objects(yaml.safe_load(text), registered()[algo])
    return ALGORITHMS[algo]("FlowPolicy", dataset=make_arrays(), policy_kwargs=dict(net_arch=[8]), **options)


@pytest.mark.parametrize("algo", ALGORITHMS)
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("critic: onestep", OneStepCritic()),
        ("critic: OneStepCritic", OneStepCritic()),
        ("critic: {OneStepCritic: {n_steps: 5}}", OneStepCritic(n_steps=5)),
        ("critic: {OneStepCritic: {net_arch: [8, 6]}}", OneStepCritic(net_arch=(8, 6))),
        ("critic:\n  PolicyCritic:\n    penalty: 0.1\n    n_quantiles: 25", PolicyCritic(penalty=0.1, n_quantiles=25)),
        ("critic: {IQLCritic: {}}", IQLCritic()),
        ("critic:", OneStepCritic()),
        ("{critic: iql, expectile: 0.9}", IQLCritic(expectile=0.9)),
    ],
    ids=repr,
)
def test_a_critic_is_a_name_or_a_mapping(algo, text, expected):
    model = built(text, algo)
    assert model.critic_options == expected and type(model.critic_options) is type(expected)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("critic: onestp", "critic='onestp' is unknown. Did you mean 'onestep'?"),
        ("critic: {OneStepCrtic: {n_steps: 5}}", "critic: 'OneStepCrtic' is unknown. Did you mean 'OneStepCritic'?"),
        (
            "critic: {onestep: {n_steps: 5}}",
            "critic: 'onestep' is unknown. There are: IQLCritic, OneStepCritic, PolicyCritic.",
        ),
        ("critic: {OneStepCritic: {n_step: 5}}", "OneStepCritic has no option 'n_step'. Did you mean 'n_steps'?"),
        ("critic: {OneStepCritic: {n_steps: 0}}", "OneStepCritic: n_steps must be a number >= 1, not 0."),
        ("critic: {OneStepCritic: 5}", "what is below OneStepCritic must be its options by their names, not 5."),
        ("critic: {OneStepCritic: {}, n_steps: 5}", "names 2 things; write one name, and its options below it."),
        ("critic: 5", "critic must be one of 'iql', 'onestep', 'policy', or an object"),
        ("critic: [onestep]", "critic must be one of 'iql', 'onestep', 'policy', or an object"),
        ("{critic: onestep, expectile: 0.9}", "expectile=0.9 is the critic 'iql''s, but critic='onestep' is given"),
    ],
)
def test_a_critic_that_is_none_gets_a_sentence(text, sentence):
    with pytest.raises((ValueError, TypeError)) as caught:
        built(text)
    assert sentence in str(caught.value)


@dataclass(frozen=True)
class Careful(OneStepCritic):
    """Of somebody's own."""

    care: float = 1.0


@pytest.mark.usefixtures("forgotten_afterwards")
def test_a_critic_of_your_own_is_written_the_same_way():
    class Mine(GMPO):
        pass

    register("mine", Mine, objects=[Careful])
    options = with_objects(yaml.safe_load("critic: {Careful: {care: 2.0}}"), registered()["mine"])
    assert options == dict(critic=Careful(care=2.0))
    with pytest.raises(ValueError, match="There are: IQLCritic, OneStepCritic, PolicyCritic."):
        built("critic: {Careful: {care: 2.0}}")


# The command


@pytest.fixture
def train(tmp_path, minari_root, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_envs.make_minari("tiny/walk/first-v0")

    def run(*arguments, settings=()):
        start = ["train", "--algo", "gmpo", "--dataset", "tiny/walk/first-v0", "-n", "2", "--eval-freq", "-1"]
        return main([*start, *arguments, "-params", "batch_size:8", "policy_kwargs:dict(net_arch=[8])", *settings])

    return run


def test_a_file_and_the_command_line_say_which_critic(train, tmp_path, capsys):
    settings = dict(policy="FlowPolicy", n_timesteps=2, critic=dict(OneStepCritic=dict(n_steps=5)))
    (tmp_path / "own.yml").write_text(yaml.safe_dump({"default": settings}))
    commands = [
        (["-conf", "own.yml"], [], OneStepCritic(n_steps=5)),
        ([], ["critic:{'PolicyCritic':{'penalty':0.1}}"], PolicyCritic(penalty=0.1)),
        # In place of the expectile that the package's file has
        ([], ["critic:onestep"], OneStepCritic()),
        ([], ["critic:iql", "expectile:0.9"], IQLCritic(expectile=0.9)),
    ]
    for number, (arguments, given, expected) in enumerate(commands, start=1):
        assert train(*arguments, settings=given) == 0
        saved = f"logs/gmpo/tiny-walk-first-v0_{number}/tiny-walk-first-v0.zip"
        assert GMPO.load(saved).critic_options == expected
    capsys.readouterr()
    for given, sentence in (
        (["critic:onestp"], "critic='onestp' is unknown. Did you mean 'onestep'?"),
        (["critic:onestep", "expectile:0.9"], "expectile=0.9 is the critic 'iql''s, but critic='onestep' is given"),
        (["crtic:onestep"], "gmpo has no hyper-parameter 'crtic'. Did you mean 'critic'?"),
    ):
        assert train(settings=given) == 1
        message = capsys.readouterr().err
        assert sentence in message and "Traceback" not in message
