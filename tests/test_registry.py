"""
One call makes an algorithm known to files and to the zoo: of the package's own, and of somebody's module outside it.
"""

import json
import warnings
from dataclasses import dataclass, field

import pytest

import sb3_genpolicy
from sb3_genpolicy import GMPG, GMPO, AffineReward, OfflineAlgorithm, register
from sb3_genpolicy.common.algorithms.registry import registered
from sb3_genpolicy.common.files import labels
from sb3_genpolicy.common.files.plain_json import NotPlainError, decode, encode
from sb3_genpolicy.common.policies.named import FlowPolicy
from sb3_genpolicy.generative.networks import ConditionalMLP
from sb3_genpolicy.generative.paths import LinearPath
from tests.helpers.arrays import SMALL, make_arrays
from tests.helpers.model_zips import changed, save_small_model, settings_of
from tests.helpers.others_module import MODULE, run

pytestmark = pytest.mark.usefixtures("forgotten_afterwards")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with somebody's module and files that it saved."""
    folder = tmp_path_factory.mktemp("saved")
    (folder / "my_offline_rl.py").write_text(MODULE)
    done = run("-c", SAVE, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


SAVE = """
import warnings
import numpy as np
from my_offline_rl import Lowered, Network, ShortGMPO
data = dict(
    observations=np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32),
    actions=np.random.default_rng(1).uniform(-1, 1, (20, 2)).astype(np.float32),
    rewards=np.ones(20), terminals=np.arange(20) % 10 == 9, timeouts=np.zeros(20),
)
options = dict(net_arch=[8], network=Network)
model = ShortGMPO("ShortPolicy", None, dataset=data, policy_kwargs=options, reward_transform=Lowered(3.0), seed=0).learn(2)
warnings.simplefilter("error")
model.save("model")
model.policy.save("policy.pth")
model.save_replay_buffer("buffer")
"""
LOAD = """
from my_offline_rl import Lowered, Network, ShortGMPO, ShortPolicy
model = ShortGMPO.load("model")
assert type(model.policy) is ShortPolicy and type(model.actor.model.network) is Network
assert model.reward_transform == model.reward_function == Lowered(3.0)
assert type(ShortPolicy.load("policy.pth").actor.model.network) is Network
model.load_replay_buffer("buffer")
assert model.replay_buffer.rows(__import__("torch").arange(3)).rewards.flatten().tolist() == [-2.0] * 3
model.learn(2, reset_num_timesteps=False)
print(model.num_timesteps)
"""


def test_models_of_a_module_outside_the_package_need_no_trust(saved):
    settings = settings_of(saved / "model.zip")
    assert settings["policy_class"] == {":class:": "short.ShortPolicy"}
    assert settings["policy_kwargs"]["network"] == {":class:": "short.Network"}
    assert settings["reward_transform"] == {":object:": "short.Lowered", "by": 3.0}
    loaded = run("-c", LOAD, cwd=saved)
    assert (loaded.returncode, loaded.stdout) == (0, "4\n"), loaded.stderr


def test_without_the_module_a_sentence_says_what_to_import(saved):
    with pytest.raises(ValueError) as caught:
        GMPO.load(saved / "model")
    assert str(caught.value) == (
        f"File {saved / 'model.zip'} was not loaded: 'policy_class' in its entry 'data' names 'short.ShortPolicy', which is "
        "no class that such a file may ask for unless it is registered; import the module that calls "
        "sb3_genpolicy.register('short', ...) before you load it."
    )
    with pytest.raises(
        ValueError, match=r"names 'short.Network', .* import the module that calls sb3_genpolicy.register\('short'"
    ):
        FlowPolicy.load(saved / "policy.pth")
    with pytest.raises(ValueError, match=r"asks for 'my_offline_rl.Lowered'"):
        GMPO("FlowPolicy", dataset=make_arrays(), policy_kwargs=SMALL).load_replay_buffer(saved / "buffer")


def test_a_module_that_has_lost_a_class_is_told_apart_from_one_that_is_missing(tmp_path):
    saved = save_small_model(tmp_path / "saved.zip")
    with pytest.raises(
        ValueError, match=r"; give Polcy to sb3_genpolicy.register\('gmpg', \.\.\.\), which does not have it\.$"
    ):
        GMPO.load(changed(saved, tmp_path / "model.zip", anything={":class:": "gmpg.Polcy"}))


# Labels


LABELS = [
    *("AffineReward", "BestEpisodes", "ClipActions", "ConditionalMLP", "CosinePath", "DiffusionCnnPolicy"),
    *("DiffusionMultiInputPolicy", "DiffusionPolicy", "DiscreteKL", "FlowCnnPolicy", "FlowMultiInputPolicy", "FlowPolicy"),
    *("GaussianCnnPolicy", "GaussianMultiInputPolicy", "GaussianPolicy", "NoCritic"),
    *("DeterministicCnnPolicy", "DeterministicMultiInputPolicy", "DeterministicPolicy"),
    *("GaussianFourierTimeFeatures", "HeldOutEpisodes", "IQLCritic", "IndependentCoupling", "Likelihood", "LinearPath"),
    *("NStepReturns", "OdeKL", "OfflineReplayBuffer", "OneStepCritic", "OptimalTransportCoupling", "PathKL", "PolicyCritic"),
    *("RescaleActions", "ReturnRange", "Sampler"),
    *("SinusoidalTimeFeatures", "UShapedMLP", "VPPath", "WeightedEpisodes"),
    *("fql.OneStepCnnPolicy", "fql.OneStepMultiInputPolicy", "fql.OneStepPolicy"),
    *(f"qgpo.{name}" for name in ("EnergyGuidedCnnPolicy", "EnergyGuidedMultiInputPolicy", "EnergyGuidedPolicy")),
    "qgpo.SupportCritic",
    *(f"srpo.ScoreRegularized{name}" for name in ("CnnPolicy", "MultiInputPolicy", "Policy")),
    *("gmpg.DiffusionCnnPolicy", "gmpg.DiffusionMultiInputPolicy", "gmpg.DiffusionPolicy"),
    *(f"gymnasium.spaces.{name}" for name in ("Box", "Dict", "Discrete", "MultiBinary", "MultiDiscrete", "Tuple")),
    "rl_zoo3.utils.SimpleLinearSchedule",
    *(f"stable_baselines3.common.torch_layers.{name}" for name in ("CombinedExtractor", "FlattenExtractor", "NatureCNN")),
    *(f"stable_baselines3.common.type_aliases.{name}" for name in ("TrainFreq", "TrainFrequencyUnit")),
    *(f"stable_baselines3.common.utils.{name}" for name in ("ConstantSchedule", "FloatSchedule", "LinearSchedule")),
]


def test_files_of_today_are_read_tomorrow():
    """A label that is taken off this list is a file that nobody can read any more."""
    found = {}
    for label in LABELS:
        tables = [table for table in (labels.CLASSES, labels.OBJECTS) if label in {*table._paths, *table._registered}]
        assert len(tables) == 1, label
        found[label] = tables[0].class_of(label)
        assert found[label].__name__ == label.rpartition(".")[2] and tables[0].label_of(found[label]) == label
    assert len(set(found.values())) == len(LABELS)


def labels_in(value):
    if isinstance(value, dict):
        for marker in (":class:", ":object:"):
            yield from [value[marker]] if marker in value else []
        yield from (label for item in value.values() for label in labels_in(item))
    if isinstance(value, list):
        yield from (label for item in value for label in labels_in(item))


def test_a_file_has_labels_and_no_modules_of_ours(tmp_path):
    options = dict(SMALL, path=sb3_genpolicy.generative.VPPath(), solver=sb3_genpolicy.generative.Sampler("euler", 2))
    transforms = [sb3_genpolicy.ClipActions(), sb3_genpolicy.HeldOutEpisodes(0.3)]
    model = GMPG(
        "DiffusionPolicy", dataset=make_arrays(), policy_kwargs=options, transforms=transforms, reward_transform=AffineReward()
    )
    model.learn(1).save(tmp_path / "model")
    settings = settings_of(tmp_path / "model.zip")
    assert "sb3_genpolicy" not in json.dumps(settings)
    assert sorted(set(labels_in(settings))) == [
        *(
            "AffineReward",
            "ClipActions",
            "HeldOutEpisodes",
            "OfflineReplayBuffer",
            "OneStepCritic",
            "PathKL",
            "Sampler",
            "VPPath",
        ),
        *("gmpg.DiffusionPolicy", "gymnasium.spaces.Box"),
        *("stable_baselines3.common.type_aliases.TrainFreq", "stable_baselines3.common.type_aliases.TrainFrequencyUnit"),
    ]


def test_labels_of_an_algorithm_are_found_before_it_is_imported():
    code = "import sys; from sb3_genpolicy.common.files.plain_json import decode; "
    done = run(
        "-c",
        code + "assert 'sb3_genpolicy.gmpg' not in sys.modules; print(decode({':class:': 'gmpg.DiffusionPolicy'}).__module__)",
    )
    assert done.stdout == "sb3_genpolicy.gmpg.policies\n", done.stderr


# What is registered


class Network(ConditionalMLP):
    pass


class Mine(GMPO):
    pass


@dataclass
class Forgetful:
    """It does not keep what it was made with."""

    value: float
    kept: list = field(init=False)

    def __post_init__(self):
        self.kept = [self.value]
        del self.value


class Bent(LinearPath):
    pass


def test_the_package_registers_its_own():
    entries = registered()
    ours = {"bc", "diffusionql", "fql", "gmpg", "gmpo", "idql", "iql", "qgpo", "rebrac", "srpo"}
    assert ours <= set(entries)
    for name, entry in entries.items():
        assert entry.policies is entry.algorithm.policy_aliases and entry.hyperparams.parent.parent.name == name
        assert getattr(sb3_genpolicy, entry.algorithm.__name__) is entry.algorithm
    assert issubclass(GMPO, OfflineAlgorithm)


def test_importing_it_imports_nothing_of_the_zoo():
    code = "import sys, sb3_genpolicy.gmpo, sb3_genpolicy.gmpg; print({'optuna', 'rl_zoo3'} & set(sys.modules))"
    assert run("-c", code).stdout == "set()\n"


def test_what_others_have_named_keeps_its_label():
    register("mine", Mine, classes=[Network, Network], objects=[Bent])
    register("yours", type("Yours", (GMPO,), {}), classes=[Network])
    assert encode(Network, "it") == {":class:": "mine.Network"} and decode({":class:": "mine.Network"}) is Network
    assert encode(FlowPolicy, "it") == {":class:": "FlowPolicy"}
    assert encode(Bent(0.2), "it") == {":object:": "mine.Bent", "extra_noise": 0.2}
    # Registered as an object, it is no class that options may be, and the other way round
    for other in ({":class:": "mine.Bent"}, {":object:": "mine.Network"}):
        with pytest.raises(ValueError, match="no class that such a file may ask for"):
            decode(other)


def test_the_warning_of_a_pickle_names_the_way_out(tmp_path):
    model = GMPO("FlowPolicy", dataset=make_arrays(), policy_kwargs=dict(SMALL, network=Network))
    with pytest.warns(
        UserWarning, match=r"need trust_pickle=True. A class that sb3_genpolicy.register was given needs no pickle.$"
    ):
        model.save(tmp_path / "model")
    register("mine", Mine, classes=[Network])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.save(tmp_path / "model")
    model.learning_rate = lambda _: 1e-3
    with pytest.warns(UserWarning, match=r"need trust_pickle=True.$"):
        model.save(tmp_path / "model")


def test_an_object_has_to_keep_its_options():
    register("mine", Mine, objects=[Forgetful])
    with pytest.raises(NotPlainError, match="it is a Forgetful, which has no attribute for its option 'value'"):
        encode(Forgetful(1.0), "it")


def test_registering_again_is_fine_and_another_algorithm_is_not():
    register("mine", Mine)
    register("mine", Mine, classes=[Network])
    # As a notebook does whose cell is run again
    again = type("Mine", (GMPO,), {"__module__": Mine.__module__})
    register("mine", again)
    assert registered()["mine"].algorithm is again
    with pytest.raises(ValueError, match=r"'mine' is tests.test_registry.Mine already. Take another name.$"):
        register("mine", GMPG)
    with pytest.raises(ValueError, match=r"'gmpo' is sb3_genpolicy.gmpo.gmpo.GMPO already"):
        register("gmpo", Mine)
    with pytest.raises(ValueError, match=r"GMPO is registered as 'gmpo'. Derive a class from it.$"):
        register("yours", GMPO, {"MlpPolicy": FlowPolicy})
    assert "CnnPolicy" in GMPO.policy_aliases


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("Mine", Mine), {}, "name must be of lower-case letters, digits and underscores, as 'gmpo', not 'Mine'."),
        (("my.rl", Mine), {}, "name must be of lower-case letters"),
        ((3, Mine), {}, "name must be of lower-case letters, digits and underscores, as 'gmpo', not 3."),
        (("mine", FlowPolicy), {}, "algorithm must be a class that derives from OfflineAlgorithm, as GMPO, not FlowPolicy."),
        (("mine", OfflineAlgorithm), {}, "OfflineAlgorithm cannot be registered: it has no "),
        (("mine", Mine, {"Policy": Network}), {}, r"policies\['Policy'\] must be a class that derives from BasePolicy"),
        (("mine", Mine), dict(classes=Network), "classes must be a list of classes, not Network."),
        (("mine", Mine), dict(objects=[Bent()]), "objects must be a class"),
        (("mine", Mine), dict(classes=[Network, type("Network", (), {})]), "two classes are called Network. Give one another"),
        (("mine", Mine), dict(hyperparams="no.yml"), "there is no file hyperparams='no.yml'."),
        (("mine", Mine), dict(sampler=3), "sampler must be a function, not 3."),
    ],
)
def test_mistakes_get_a_sentence_and_register_nothing(arguments, options, message):
    before = dict(labels.CLASSES._registered), registered(), Mine.policy_aliases
    with pytest.raises(ValueError, match=message):
        register(*arguments, **options)
    assert (labels.CLASSES._registered, registered(), Mine.policy_aliases) == before


# The zoo
