"""
The page about a model: its numbers, that it stands alone, and that it opens.
"""

import base64
import re
import shlex
import warnings

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from scipy.integrate import simpson
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env

from sb3_genpolicy import (
    BC,
    FQL,
    GMPG,
    GMPO,
    IQL,
    BestEpisodes,
    FittedQOptions,
    HeldOutEpisodes,
    IQLCritic,
    OfflineEvalCallback,
    OneStepCritic,
    evaluate_offline,
    load_dataset,
    normalized_score,
    report,
)
from sb3_genpolicy.common.algorithms.kept_log import KeptLog
from sb3_genpolicy.generative import LinearPath
from sb3_genpolicy.reporting.behaviour import find_behaviour
from sb3_genpolicy.reporting.critic_checks import check_critics
from sb3_genpolicy.reporting.curves import find_curves
from sb3_genpolicy.reporting.divergence import divergence_from
from sb3_genpolicy.reporting.looked_at import look_at
from sb3_genpolicy.reporting.options import command_to_repeat, given_options, options_now
from sb3_genpolicy.zoo import run_report
from sb3_genpolicy.zoo.__main__ import main
from tests.helpers.arrays import SMALL, make_arrays
from tests.helpers.observation_spaces import SPACES, dataset_of
from tests.helpers.pages import BROWSER, Page, seen_in_browser
from tests.helpers.zoo_runs import make_two_datasets, train

DATASET = "pendulum-mixed"
# Four episodes, so few that all of their rows are looked at
HELD_OUT = HeldOutEpisodes(share=0.018)


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """A trained model with all there can be, its page, and the evaluation that the page shows."""
    folder = tmp_path_factory.mktemp("report")
    own = dict(policy_kwargs=dict(SMALL, sampling_steps=2), batch_size=32, seed=0, learning_rate=3e-3, actor_tau=0.1)
    model = GMPG("FlowPolicy", "Pendulum-v1", dataset=DATASET, transforms=[HELD_OUT], pretraining_steps=30, **own)
    callback = OfflineEvalCallback(make_vec_env("Pendulum-v1"), n_eval_episodes=2, eval_freq=20, log_path=folder, verbose=0)
    model.learn(60, log_interval=10, callback=callback)
    fast = dict(options=FittedQOptions(steps=5, first_steps=5), behaviour_steps=2, n_actions=1)
    found = evaluate_offline(model, max_rows=400, **fast)
    before = states_of(model)
    path = report(model, folder / "page", offline_evaluation=found, logs=None, command="python <train>.py")
    assert all(map(th.equal, before, states_of(model)))
    return model, path, found


def states_of(model):
    networks = [value for network in model.policy.networks().values() for value in network.state_dict().values()]
    numbers = [th.as_tensor(np.random.get_state()[1].astype(np.int64)), th.get_rng_state(), model.random_state]
    return [value.clone() for value in (*networks, *numbers)]


@pytest.fixture(scope="module")
def page(reported):
    return Page(reported[1].read_text())


def number_after(text, words):
    return float(re.search(re.escape(words) + r" *(-?[\d.,e-]*\d)", text).group(1).replace(",", ""))


# That it stands alone


def check_alone(text):
    addresses = Page(text).addresses
    assert all(address.startswith(("data:image/svg+xml;base64,", "#")) for address in addresses)
    assert {a[1:] for a in addresses if a[0] == "#"} <= set(re.findall(r' id="([^"]*)"', text))
    assert "http" not in text and "url(" not in text and "@import" not in text
    drawn = [base64.b64decode(address.partition(",")[2]).decode() for address in addresses if address[0] != "#"]
    for picture in drawn:
        references = re.findall(r'(?:href|src)="([^"]*)"|url\(([^)]*)\)', picture)
        inside = [one for pair in references for one in pair if one]
        assert picture.rstrip().endswith("</svg>") and all(one.startswith(("#", "data:image/png;base64,")) for one in inside)
    return drawn


def test_the_page_stands_alone_and_is_dark_where_the_reader_is(reported):
    assert reported[1].name == "page.html"
    text = reported[1].read_text()
    drawn = check_alone(text)
    # Six of the data, evaluations, what is logged, four states, two of the critics, three of the evaluation
    assert len(drawn) > 6 + 1 + 5 + 4 + 2
    assert text.count("prefers-color-scheme: dark") == 1 and all("prefers-color-scheme: dark" in each for each in drawn)
    assert not any("#000000" in each for each in drawn)
    assert "python &lt;train&gt;.py" in text


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine")
def test_a_browser_opens_it_on_a_phone(reported, tmp_path):
    seen, console = seen_in_browser(reported[1], tmp_path)
    assert console == [] and len(seen["images"]) > 18 and all(seen["images"])
    assert seen["width"] <= 360
    for words in (
        "GMPG on pendulum-mixed",
        "KL(policy || behaviour)",
        "advantage and what followed",
        str(reported[2].verdict),
    ):
        assert words in seen["text"]


# Its numbers


def test_data_and_evaluations(reported, page):
    data = load_dataset(DATASET)
    told = page.facts("dataset")
    assert number_after(told["returns"], "mean") == pytest.approx(data.episode_returns().mean(), abs=0.01)
    assert told["steps"].startswith(f"{data.n_rows:,} ")
    with np.load(reported[1].parent / "evaluations.npz") as stored:
        last, step = stored["results"][-1].mean(), stored["timesteps"][-1]
    score = normalized_score(last, data.reference_scores)
    summary = page.facts("summary")
    assert summary["last evaluation"] == f"normalised score {score:.1f} (return {last:.1f}), after {step} steps"
    assert summary["gradient steps"] == "60, of which 30 of the first phase, 32 rows each"
    assert summary["without a simulator"] == str(reported[2].verdict)


def test_what_it_does_in_a_state(reported, page):
    model, _, _ = reported
    data = load_dataset(DATASET)
    best = data.episode_returns().argmax()
    first = data.observations[data.episode_starts[best]]
    row = page.tables["states"][1]
    assert row[0].startswith(f"the best episode ({best}) begins({first[0]:.3g}, ")
    actions, _ = model.predict(np.tile(first, (4000, 1)))
    mean, deviation = map(float, row[1].split(" ± "))
    assert mean == pytest.approx(actions.mean(), abs=0.15) and deviation == pytest.approx(actions.std(), rel=0.1)
    # Logged near it, by a tree that somebody else wrote
    from scipy.spatial import KDTree

    rows = np.linspace(0, data.n_rows - 1, 20_000).astype(int)
    observations = data.observations[rows]
    _, near = KDTree(observations / observations.std(axis=0)).query(first / observations.std(axis=0), 100)
    assert float(row[3].split(" ± ")[0]) == pytest.approx(data.actions[rows[near]].mean(), abs=0.01)


def test_critics_are_judged_as_the_training_judges_them(reported, page):
    model, _, _ = reported
    checks = page.facts("checks")
    assert "800 held-out rows" in checks["advantage and what followed"]
    known = float(model.held_out.advantage_correlation(model.policy))
    assert number_after(checks["advantage and what followed"], "correlation") == pytest.approx(known, abs=6e-4)
    # Every reward as the training scaled it, paid for ever
    worst = float(model.replay_buffer.rewards.min()) / (1.0 - model.critic_gamma)
    assert number_after(checks["values"], "discount allow") == pytest.approx(worst, rel=1e-3)


def test_values_that_no_reward_allows_are_said(reported, tmp_path):
    model = GMPG.load(save(reported[0], tmp_path))
    assert "within what is possible" in check_critics(look_at(model, None, seed=0)).lines()["values"]
    model.policy.critic_target.layers[-1].bias.data += 1e6
    assert "BEYOND what is possible" in check_critics(look_at(model, None, seed=0)).lines()["values"]


def save(model, folder):
    model.save(folder / "model")
    return folder / "model.zip"


def test_the_verdict_and_its_table(reported, page):
    _, _, found = reported
    rows = page.tables["estimates"][1:]
    assert len(rows) == len(found.estimates)
    for row, line in zip(rows, found.estimates, strict=True):
        assert row[:3] == [line.kind, line.of, line.method]
        if line.value is not None:
            assert float(row[3].removesuffix(line.withheld)) == pytest.approx(line.value, rel=1e-3)


@pytest.fixture(scope="module")
def gaussians():
    """A policy and a clone whose densities are normal distributions, truncated."""
    own = dict(dataset=DATASET, policy_kwargs=SMALL, batch_size=64, seed=0, learning_rate=3e-3, actor_tau=0.1)
    weighed = dict(beta=0.5, weight_clamp=20.0, critic=IQLCritic(gamma=0.9))
    model = IQL("GaussianPolicy", transforms=[HELD_OUT], **weighed, **own).learn(80)
    assert model.horizon_ratio > 2.0
    # Farther than it has come
    model.policy.actor_ema.layers[-1].bias.data += 0.6
    return model, BC("GaussianPolicy", **own).learn(80)


def test_the_divergence_is_the_integral(gaussians):
    model, clone = gaussians
    looked = look_at(model, None, seed=0)
    found = divergence_from(looked, find_behaviour(looked, clone, 0))
    chosen = np.linspace(0, len(looked.rows) - 1, found.n_states).astype(int)
    grid = np.linspace(-2.0, 2.0, 201, dtype=np.float32)
    exact = []
    for observation in looked.observations[chosen]:
        states, actions = th.as_tensor(np.tile(observation, (len(grid), 1))), th.as_tensor(grid[:, None])
        with th.no_grad():
            own, other = (each.policy.log_prob(states, actions).numpy() for each in (model, clone))
        exact.append(simpson(np.exp(own) * (own - other), x=grid))
    assert found.kl > 5.0 * found.error
    assert found.kl == pytest.approx(np.mean(exact), abs=4.0 * found.error)


def test_effective_sample_size_of_what_counts(gaussians, tmp_path):
    model, clone = gaussians
    path = report(model, tmp_path / "iql.html", behaviour=clone, states=load_dataset(DATASET).observations[:1])
    page = Page(path.read_text())
    told = page.facts("divergences")
    looked = look_at(model, None, seed=0)
    with th.no_grad():
        states = th.as_tensor(looked.observations)
        q = model.policy.critic_target.q_values(states, th.as_tensor(looked.logged / 2.0).float())
        advantage = (q - model.policy.value_net(states)).numpy()[:, 0]
    weights = np.minimum(np.exp(0.5 * model.horizon_ratio * advantage), 20.0)
    share = weights.sum() ** 2 / (len(weights) * (weights**2).sum())
    assert float(told["effective sample size"].partition("%")[0]) == pytest.approx(100.0 * share, abs=0.1)
    assert "the behaviour is the given BC" in told["KL(policy || behaviour)"]
    assert [row[0].partition("(")[0] for row in page.tables["states"][1:]] == ["given state 0"]


# What there is not


def test_dictionaries_and_images_without_names_or_logs(tmp_path):
    model = FQL("MultiInputPolicy", dataset=dataset_of(SPACES["dict"]), policy_kwargs=dict(net_arch=[16]), batch_size=4)
    model.learn(2, log_interval=None)
    text = report(model, tmp_path / "fql.html").read_text()
    check_alone(text)
    page = Page(text)
    assert {row[1] for row in page.tables["states"][1:]} != {""} and "vector: (" in page.tables["states"][1][0]
    for words in (
        "Nothing was played",
        "has to be shorter than the training",
        "No episode was held out",
        "Nobody has asked yet",
    ):
        assert words in text
    assert "as its actions have none" in page.facts("divergences")["KL(policy || behaviour)"]
    assert "DATA" in text


def test_a_file_whose_data_are_not_here(tmp_path):
    own = dict(policy_kwargs=SMALL, batch_size=8)
    path = save(BC("FlowPolicy", dataset=make_arrays(action_dim=3), **own).learn(2), tmp_path)
    text = report(path, tmp_path / "bc.html").read_text()
    assert text.count("The data cannot be looked at.") == 4 and "report(model, dataset=...)" in text
    # With them, what is clearly wanted is told
    page = Page(report(path, tmp_path / "bc.html", make_arrays(action_dim=3)).read_text())
    assert len(page.tables["states"][0]) == 1 + 2 * 3 and "checks" not in page.tables
    assert "is itself a clone" in page.facts("divergences")["KL(policy || behaviour)"]


@pytest.mark.parametrize(
    ("arguments", "kind", "sentence"),
    [
        (dict(model="sac"), TypeError, "report tells of models of this package, or of their files, not of SAC."),
        (dict(model=3), TypeError, "not of 3."),
        (dict(offline_evaluation=0.9), TypeError, "has to be True, False or what evaluate_offline gave, not 0.9"),
        (dict(logs="nowhere"), ValueError, "There is neither progress.csv nor evaluations.npz in logs='nowhere'"),
        (dict(dataset="pendulum-mixt"), ValueError, "There is no dataset 'pendulum-mixt'"),
        (dict(behaviour_step=1), TypeError, "report has no option 'behaviour_step'. Did you mean 'behaviour_steps'?"),
        (dict(behaviour_steps=-1), ValueError, "behaviour_steps must be a number >= 0"),
    ],
)  # fmt: skip
def test_faults_are_sentences(arguments, kind, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = dict(arguments)
    model = given.pop("model", None) or GMPO("FlowPolicy", "Pendulum-v1", policy_kwargs=SMALL)
    model = SAC("MlpPolicy", "Pendulum-v1", buffer_size=10) if model == "sac" else model
    with pytest.raises(kind, match=re.escape(sentence)):
        report(model, **given)
    assert not (tmp_path / "report.html").exists()


# What is logged


def test_the_log_is_kept_until_another_training_begins():
    model = GMPO("FlowPolicy", dataset=make_arrays(), policy_kwargs=SMALL, batch_size=8, seed=0)
    model.learn(6, log_interval=2)
    curves = find_curves(model, None)
    assert list(curves.frame.index) == [2, 4, 6] and curves.last("train/n_updates") == 6.0
    assert curves.last("train/matching_loss") == model.kept_log.lines[-1][1]["train/matching_loss"]
    model.learn(3, log_interval=1, reset_num_timesteps=False)
    assert list(find_curves(model, None).frame.index) == [2, 4, 6, 7, 8, 9]
    model.learn(2, log_interval=1)
    assert list(find_curves(model, None).frame.index) == [1, 2]


def test_a_long_log_is_thinned_but_not_its_evaluations():
    log = KeptLog()
    for step in range(5000):
        log.write({("eval/mean_reward" if step % 1000 == 999 else "train/loss"): float(step), "train/text": "x"}, {}, step)
    steps = [step for step, _ in log.lines]
    assert len(steps) <= 1000 and steps == sorted(steps) and steps[-1] == 4999
    assert [step for step, line in log.lines if "eval/mean_reward" in line] == [999, 1999, 2999, 3999, 4999]
    assert not any("train/text" in line for _, line in log.lines)


# Settings, and the command


def a_schedule(left):
    return 1e-3 * left


MODELS = {
    "defaults": lambda env: GMPO("FlowPolicy", env),
    "beta": lambda env: GMPO("FlowPolicy", env, beta=1.0),
    "the default, asked for": lambda env: GMPG("FlowPolicy", env, target_kl=0.03),
    "objects": lambda env: IQL(
        "GaussianPolicy", env, transforms=[BestEpisodes(0.2), HeldOutEpisodes()], critic=OneStepCritic(n_steps=3), seed=4
    ),
    "networks": lambda env: GMPO(
        "DiffusionPolicy", env, weighting="softmax", policy_kwargs=dict(net_arch=dict(pi=[8], qf=[9], vf=[7]), path="vp")
    ),
    "a path": lambda env: BC(
        "FlowPolicy", env, policy_kwargs=dict(path=LinearPath(extra_noise=0.1), activation_fn=th.nn.Tanh)
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_command_makes_the_same_model(name):
    model = MODELS[name]("Pendulum-v1")
    model.dataset_name = DATASET
    made = {}
    text = command_to_repeat(model)
    exec(text.replace("model.learn(0)", ""), made)
    again = made["model"]
    assert type(again) is type(model) and type(again.policy) is type(model.policy) and again.dataset == DATASET
    settings = (options_now(each) for each in (model, again))
    assert repr(next(settings)) == repr(next(settings))
    assert getattr(model, "kl_was_given", None) == getattr(again, "kl_was_given", None)
    if name == "defaults":
        assert given_options(model) == {} and "beta" not in text
    if name == "beta":
        assert given_options(model) == {"beta": 1.0}


def test_the_command_trains_the_same_parameters(tmp_path):
    own = dict(policy_kwargs=dict(SMALL, sampling_steps=1), batch_size=8, seed=3)
    model = GMPO("FlowPolicy", "Pendulum-v1", dataset=DATASET, **own).learn(8)
    # Three quarters are the first phase, as nobody said, and critics go on learning then
    assert model.pretraining_steps == 6 and "pretraining_steps" not in given_options(model)
    made = {}
    exec(command_to_repeat(GMPO.load(save(model, tmp_path), env="Pendulum-v1")), made)
    for name, network in model.policy.networks().items():
        again = made["model"].policy.networks()[name].state_dict()
        assert all(th.equal(value, again[key]) for key, value in network.state_dict().items()), name


def test_what_cannot_be_written_down_is_said():
    space = spaces.Box(-1, 1, (2,), np.float32)
    model = GMPO("FlowPolicy", dataset={**make_arrays(), "action_space": space}, learning_rate=a_schedule)
    text = command_to_repeat(model)
    assert "# learning_rate is something of your own, a_schedule: put it in place of ..." in text
    assert "learning_rate=..." in text and "dataset=DATA" in text


# The zoo


def test_runs_of_the_zoo(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    make_two_datasets()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train("--report", "--log-interval", 5, algo="iql")
    (path,) = (tmp_path / "logs" / "iql").glob("*/report.html")
    text = path.read_text()
    page = Page(text)
    assert page.facts("summary")["last evaluation"].endswith("after 20 steps")
    assert "progress.csv and " in text and "Nothing was played" not in text
    (command,) = (tmp_path / "logs" / "iql").glob("*/*/command.txt")
    # By itself the same, of the same files
    asked = []
    monkeypatch.setattr(run_report, "report", lambda *args, **options: asked.append((args, options)) or "there")
    assert main(["report", str(tmp_path / "logs")]) == 0
    assert "Report: there" in capsys.readouterr().out
    (model, where, dataset), options = asked[0]
    assert (model.parent, where, dataset, options["logs"]) == (path.parent, path, None, path.parent)
    # rl_zoo3's file has the words without quotes
    assert " ".join(shlex.split(options["command"])).split()[1:] == command.read_text().split()[1:]


def test_reports_of_the_zoo_that_cannot_be(capsys):
    assert main(["train", "--algo", "sac", "--env", "Pendulum-v1", "--report"]) == 1
    assert "--report tells of bc, " in capsys.readouterr().err
    assert main(["train", "--algo", "gmpo", "--dataset", DATASET, "-optimize", "--report"]) == 1
    assert "--report tells of one training" in capsys.readouterr().err
    assert main(["report", "nowhere.zip"]) == 1
    assert "There is no model nowhere.zip" in capsys.readouterr().err
