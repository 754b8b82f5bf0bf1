"""
Mistakes on the zoo's command line are answered with a sentence.
"""

import sys

import pytest

from sb3_genpolicy.common.algorithms.registry import registered
from sb3_genpolicy.zoo import results
from sb3_genpolicy.zoo.__main__ import main
from tests.helpers.zoo_runs import make_two_datasets


@pytest.fixture(autouse=True)
def folder(tmp_path, minari_root, monkeypatch):
    """A folder of the test's own with two datasets of one environment."""
    monkeypatch.chdir(tmp_path)
    make_two_datasets()
    return tmp_path


FIRST = ["--dataset", "tiny/walk/first-v0"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--env", "Tiny-v0"], "gmpo learns from a dataset: add --dataset (a Minari id, a file, or an embedded name). On this "
         "machine there are, for Tiny-v0: tiny/walk/first-v0, tiny/walk/second-v0."),
        (["--env", "Tiny-v0", "--dataset", "tiny/walk/frist-v0"], "There is no dataset 'tiny/walk/frist-v0' on this machine"),
        (["--dataset", "tiny/walk/frist-v0"], "There is no dataset 'tiny/walk/frist-v0' on this machine"),
        (["--dataset"], "--dataset needs the name of a dataset"),
        ([*FIRST, "-params", "betta:1"], "gmpo has no hyper-parameter 'betta'. Did you mean 'beta'?"),
        ([*FIRST, "-params", "n_envs:4"], "gmpo does not step its environment: leave out n_envs."),
        ([*FIRST, "-params", "seed:1"], "'seed' is no hyper-parameter: give it by the flag --seed."),
        ([*FIRST, "-params", "policy:FlowPolice"], "Policy 'FlowPolice' is unknown. Did you mean 'Flow"),
        ([*FIRST, "-params", "weighting:softmx"], "weighting='softmx' is unknown. Did you mean 'softmax'?"),
        ([*FIRST, "-params", "transforms:['Clip']"], "transforms: 'Clip' is unknown."),
        ([*FIRST, "-params", "transforms:ClipActions"], "transforms: 'ClipActions' is no list"),
        ([*FIRST, "-params", "dataset:tiny/walk/second-v0"], "--dataset says 'tiny/walk/first-v0' and"),
        ([*FIRST, "--env", "Pendulum-v1"], "actions of dataset 'tiny/walk/first-v0' have shape (2,)"),
        ([*FIRST, "--env", "Tinny-v0"], "Environment `Tinny` doesn't exist."),
        ([*FIRST, "-conf", "published-cosin"], "Did you mean 'published-cosine'?"),
        ([*FIRST, "-conf", "published-cosine"], "neither an entry for tiny/walk/first-v0"),
    ],
)  # fmt: skip
def test_faults_are_sentences_and_leave_nothing_behind(arguments, sentence, folder, capsys):
    assert main(["train", "--algo", "gmpo", "-n", "2", "-P", *arguments]) == 1
    message = capsys.readouterr().err
    assert sentence in message and "Traceback" not in message
    assert list(folder.glob("logs/*/*")) == []


def test_a_dataset_is_for_offline_algorithms(capsys):
    assert main(["train", "--algo", "sac", "--env", "Tiny-v0", "--dataset", "tiny/walk/first-v0"]) == 1
    assert capsys.readouterr().err == f"sac learns in its environment: --dataset is for {', '.join(sorted(registered()))}.\n"


def test_unknown_commands_are_answered(capsys):
    assert main(["trian"]) == 1
    assert "There is no command 'trian'. Did you mean 'train'?" in capsys.readouterr().err
    assert main([]) == 0
    assert "push_to_hub" in capsys.readouterr().out


def test_rl_zoo3_is_asked_for_where_it_is_missing(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rl_zoo3", None)
    assert main(["train"]) == 1
    assert capsys.readouterr().err == "The zoo needs rl_zoo3: `pip install 'sb3_genpolicy[zoo]'`.\n"


def test_bugs_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(results, "find_runs", lambda *arguments: 5)
    with pytest.raises(TypeError, match="not iterable"):
        main(["results"])
