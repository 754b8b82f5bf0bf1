"""
The comparison of methods: what is shared, who does which run, what is told of it.
"""

import base64
import re
import signal
import threading
import time

import gymnasium as gym
import numpy as np
import optuna
import pandas as pd
import pytest
import torch as th
from optuna.trial import TrialState
from rliable import library as rly
from rliable import metrics

from sb3_genpolicy import GMPG, GMPO, IQL, ReBRAC, load_dataset, normalized_score, register
from sb3_genpolicy.zoo.__main__ import main
from sb3_genpolicy.zoo.comparison import Method, command, compare, shared_work, trainings
from sb3_genpolicy.zoo.comparison.evaluation import scores_of
from sb3_genpolicy.zoo.comparison.methods import line_up
from sb3_genpolicy.zoo.comparison.shared_study import SharedStudy
from sb3_genpolicy.zoo.comparison.shared_work import Comparison
from sb3_genpolicy.zoo.comparison.statistics import probability_of_improvement, statistics_of
from sb3_genpolicy.zoo.comparison.trainings import Conditions
from sb3_genpolicy.zoo.storage import open_storage
from tests.helpers.arrays import SMALL
from tests.helpers.pages import Page
from tests.helpers.stuck_comparison import STUCK
from tests.helpers.warm_processes import WarmProcess

DATASET = "pendulum-mixed"
FAST = dict(policy_kwargs=dict(SMALL, sampling_steps=1))
METHODS = [Method("gmpo", FAST), Method("gmpg", FAST), Method("iql", dict(policy_kwargs=SMALL))]
CONDITIONS = dict(steps=8, batch_size=8, episodes=2, curve_points=2, curve_episodes=1, reps=100, progress_bar=False)


def studies_in(folder, storage=None):
    opened = open_storage(storage or f"sqlite:///{folder}/study.db")
    return [optuna.load_study(study_name=name, storage=opened) for name in ("comparison", "comparison pretraining")]


def states_of(study):
    return [trial.state for trial in study.trials]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Two seeds of three methods, two of which share a pretraining: the frame, and the folder."""
    folder = tmp_path_factory.mktemp("comparison")
    return compare(DATASET, METHODS, seeds=2, output=folder, **CONDITIONS), folder


@pytest.fixture
def model_of(compared):
    classes = {"GMPO": GMPO, "GMPG": GMPG, "IQL": IQL, "pretraining-1": GMPO}
    return lambda label, seed=0: classes[label].load(compared[1] / "models" / DATASET / f"{label}-{seed}.zip")


# What is shared


def test_behaviour_and_critics_are_trained_once_and_handed_on(compared, model_of):
    _, folder = compared
    runs, pretrainings = studies_in(folder)
    assert sorted(trial.params["seed"] for trial in pretrainings.trials) == [0, 1]
    assert states_of(runs) == [TrialState.COMPLETE] * 6
    shared, gmpo, gmpg, iql = (model_of(label) for label in ("pretraining-1", "GMPO", "GMPG", "IQL"))
    for name, value in shared.policy.critic.state_dict().items():
        assert th.equal(value, gmpo.policy.critic.state_dict()[name]) and th.equal(
            value, gmpg.policy.critic.state_dict()[name]
        )
    for name, value in shared.policy.actor_ema.state_dict().items():
        assert th.equal(value, gmpg.policy.behaviour.state_dict()[name])
    assert not th.equal(next(shared.policy.critic.parameters()), next(iql.policy.critic.parameters()))
    # Equal steps: four of the pretraining, and four of one's own
    assert [model.num_timesteps for model in (shared, gmpo, gmpg, iql)] == [4, 4, 4, 8]


def test_evaluations_along_the_way_leave_no_trace(compared, model_of):
    env = dict(env="Pendulum-v1", dataset=DATASET, seed=0, batch_size=8)
    pretrained = GMPO("FlowPolicy", beta=0.0, episode_kl=1.0, **FAST, **env).learn(4, log_interval=None)
    gmpo = GMPO("FlowPolicy", pretrained=pretrained, **FAST, **env).learn(4, log_interval=None)
    iql = IQL("GaussianPolicy", policy_kwargs=SMALL, **env).learn(8, log_interval=None)
    for alone, there in ((gmpo, model_of("GMPO")), (iql, model_of("IQL"))):
        for network in ("actor", "actor_ema", "critic"):
            for name, value in alone.policy.networks()[network].state_dict().items():
                assert th.equal(value, there.policy.networks()[network].state_dict()[name]), (network, name)
    # Nor in the numbers that others draw
    states = th.get_rng_state(), np.random.get_state()[1].copy()
    scores = [scores_of(iql, "Pendulum-v1", 2, deterministic=False) for _ in range(2)]
    assert th.equal(states[0], th.get_rng_state()) and (states[1] == np.random.get_state()[1]).all()
    assert (scores[0] == scores[1]).all()


def test_scores_are_those_of_episodes_played_by_hand(compared, model_of):
    rows, _ = compared
    model, returns = model_of("IQL", seed=1), []
    for episode in range(CONDITIONS["episodes"]):
        env, total, done = gym.make("Pendulum-v1"), 0.0, False
        observation, _ = env.reset(seed=10_000 + episode)
        while not done:
            action, _ = model.predict(observation, deterministic=True)
            observation, reward, terminated, truncated, _ = env.step(action)
            total, done = total + reward, terminated or truncated
        returns.append(total)
    score = normalized_score(np.mean(returns), load_dataset(DATASET).reference_scores)
    row = rows[(rows.algorithm == "IQL") & (rows.seed == 1)].iloc[0]
    assert row.deterministic == pytest.approx(score, rel=1e-4) and row.normalized


def test_rows_say_what_was_shared_and_what_it_cost(compared):
    rows, folder = compared
    assert list(rows.algorithm) == ["GMPO"] * 2 + ["GMPG"] * 2 + ["IQL"] * 2 and list(rows.seed) == [0, 1] * 3
    assert list(rows.pretraining) == ["pretraining 1"] * 4 + ["its own"] * 2
    assert (rows.pretraining_steps + rows.steps == 8).all() and list(rows.steps) == [4] * 4 + [8] * 2
    assert (rows.seconds > 0).all() and (rows.acting_ms > 0).all() and rows.diverged.isna().all()
    assert ((rows.pretraining_seconds > 0) == (rows.pretraining != "its own")).all()
    by_seed = rows[rows.seed == 0].pretraining_seconds
    assert by_seed.iloc[0] == by_seed.iloc[1]
    written = pd.read_csv(folder / "runs.csv")
    assert list(written) == list(rows)
    pd.testing.assert_frame_equal(written.drop(columns="diverged"), rows.drop(columns="diverged"))


def test_curves_go_on_where_the_pretraining_ended(compared):
    curves = pd.read_csv(compared[1] / "curves.csv")
    steps = {label: sorted(set(group.step)) for label, group in curves.groupby("algorithm")}
    assert steps == {"cloning (pretraining 1)": [4], "GMPO": [8], "GMPG": [8], "IQL": [4, 8]}


def test_what_is_shared_follows_from_the_classes():
    contenders = line_up(["gmpo", "gmpg", "bc", "iql", "idql", "diffusionql", "fql", "rebrac", "qgpo", "srpo"])
    shared = {contender.label for contender in contenders if contender.pretraining is not None}
    assert shared == {"GMPO", "GMPG", "IDQL"} and contenders[0].pretraining is contenders[1].pretraining
    # The same clone of all episodes alike, and critics of implicit Q-learning, as GMPO would have
    alike = Method("gmpo", dict(critic="iql", beta=0.0))
    idql, gmpo = line_up(["idql", alike])
    assert idql.pretraining is gmpo.pretraining and "IQLCritic" in idql.pretraining.described()["critic"]
    assert all(bool(contender.reason) == (contender.pretraining is None) for contender in contenders)
    reasons = {contender.label: contender.reason for contender in contenders}
    assert reasons["IQL"] == "its GaussianPolicy is another kind of policy"
    assert "needs no critics" in reasons["BC"] and "PolicyCritic" in reasons["DiffusionQL"]


@pytest.mark.parametrize(
    ("options", "shares"),
    [
        (dict(target_kl=0.3), True),
        # A given beta clones all episodes alike
        (dict(beta=2.0), False),
        (dict(beta=2.0, episode_kl=1.0), True),
        (dict(critic="onestep"), True),
        (dict(critic="iql"), False),
        (dict(gamma=0.9), False),
        (dict(policy="DiffusionPolicy"), False),
        (dict(policy_kwargs=SMALL), False),
    ],
)
def test_what_was_trained_otherwise_is_not_shared(options, shares):
    one, other = line_up(["gmpg", Method("gmpo", options)])
    assert (one.pretraining == other.pretraining) == shares
    assert one.pretraining.label == "pretraining 1" and other.pretraining.label == f"pretraining {2 - shares}"


def test_algorithms_of_ones_own_are_asked_too(forgotten_afterwards, tmp_path):
    class Mine(GMPO):
        pass

    class Short(IQL):
        pass

    register("mine", Mine)
    register("short", Short)
    mine, short, gmpg = line_up(["mine", "short", "gmpg"])
    assert mine.pretraining == gmpg.pretraining is not None and short.pretraining is None
    assert (mine.label, short.label) == ("Mine", "Short")
    methods = [Method("mine", dict(FAST, critic="iql")), Method("short", dict(policy_kwargs=SMALL))]
    rows = compare(DATASET, methods, seeds=1, output=tmp_path, **CONDITIONS)
    assert list(rows.pretraining) == ["pretraining 1", "its own"] and list(rows.steps) == [4, 8]
    own_phase = line_up([Method("mine", dict(pretraining_steps=3))])[0]
    assert own_phase.pretraining is None and "pretraining_steps=3" in own_phase.reason


# Who does which run


def test_what_is_done_is_not_done_again_and_seeds_can_be_added(tmp_path, monkeypatch):
    methods = [Method("rebrac", dict(policy_kwargs=SMALL))]
    first = compare(DATASET, methods, seeds=[3], output=tmp_path, **CONDITIONS)
    trained = []
    train = trainings.train
    monkeypatch.setattr(shared_work, "train", lambda *args: trained.append(args[1].seed) or train(*args))
    pd.testing.assert_frame_equal(compare(DATASET, methods, seeds=[3], output=tmp_path, **CONDITIONS), first)
    assert trained == []
    more = compare(DATASET, methods, seeds=[3, 5], output=tmp_path, **CONDITIONS)
    assert trained == [5] and list(more.seed) == [3, 5]
    pd.testing.assert_frame_equal(more[:1], first)
    with pytest.raises(ValueError, match="has other settings \\(steps: 8 there, 9 here\\)"):
        compare(DATASET, methods, seeds=[3], output=tmp_path, **dict(CONDITIONS, steps=9, pretraining_steps=4))
    with pytest.raises(ValueError, match="other settings .*'actor_penalty'"):
        other = [Method("rebrac", dict(policy_kwargs=SMALL, actor_penalty=1.0))]
        compare(DATASET, other, seeds=[3], output=tmp_path, **CONDITIONS)


def test_a_pretraining_that_is_not_there_yet_is_trained_first(tmp_path):
    # As a process meets it that takes a method's run while nobody has begun the pretraining
    contenders = line_up([Method("gmpo", FAST)])
    conditions = Conditions(steps=4, pretraining_steps=2, batch_size=8, episodes=1, curve_points=0, curve_episodes=1)
    runs = Comparison([DATASET], contenders, [0], conditions, None, tmp_path, None, "comparison", 60.0, "cpu")
    runs.runs.take_part()
    assert [states_of(study) for study in studies_in(tmp_path)] == [[TrialState.COMPLETE]] * 2
    # Models that were deleted are not trained again in silence, nor taken from elsewhere
    (tmp_path / "models" / DATASET / "pretraining-1-0.zip").unlink()
    with pytest.raises(ValueError, match="all need one folder"):
        runs._pretrained(contenders[0].pretraining, dict(dataset=DATASET, seed=0))


class Work(SharedStudy):
    """A study whose pieces of work are numbers that are written down."""

    def __init__(self, storage, run, patience=0.5, n=4, name="work"):
        axes = dict(what=["a", "b"], seed=list(range(n // 2)))
        super().__init__(name, open_storage(storage), axes, {}, run, patience, lambda waiting: None)


@pytest.mark.parametrize("kind", ["sqlite:///{}/work.db", "{}/work.log"])
def test_a_piece_whose_process_has_died_is_done_again(kind, tmp_path):
    storage, done = kind.format(tmp_path), []
    study = Work(storage, lambda trial, point: done.append(point) or 1.0)
    # A process that has begun a piece and is no more
    trial = study.study.ask()
    dead = dict(what=trial.suggest_categorical("what", ["a", "b"]), seed=trial.suggest_int("seed", 0, 2**32 - 1))
    study.take_part()
    assert sorted(map(str, done)) == sorted(map(str, study.points)) and dead in done
    assert study.study.trials[trial.number].state == TrialState.FAIL
    # At once, and not when the sampler comes upon it by chance
    assert len(study.study.trials) == 5 and states_of(study.study).count(TrialState.COMPLETE) == 4


def test_a_process_may_die_before_it_has_said_what_it_begins(tmp_path):
    done = []
    study = Work(f"sqlite:///{tmp_path}/work.db", lambda trial, point: done.append(str(point)) or 1.0)
    study.study.ask()
    study.take_part()
    assert sorted(done) == sorted(map(str, study.points))


def test_a_process_that_was_taken_for_dead_goes_on_with_other_pieces(tmp_path, capsys):
    storage, taken = f"sqlite:///{tmp_path}/work.db", []

    def run(trial, point):
        if not taken:
            taken.append(point)
            study._without_grid.tell(trial.number, state=TrialState.FAIL)
        trial.set_user_attr("result", str(point))
        return 1.0

    study = Work(storage, run)
    study.take_part()
    assert "A run of 'work' was lost: for 0.5 seconds others saw no sign of life" in capsys.readouterr().out
    assert states_of(study.study).count(TrialState.COMPLETE) == 4 and taken[0] in [t.params for t in study.done().values()]


def test_a_piece_that_another_process_is_at_is_left_to_it(tmp_path):
    storage, done = f"sqlite:///{tmp_path}/work.db", []
    study = Work(storage, lambda trial, point: done.append(point) or 1.0, patience=60.0)
    trial = study.study.ask()
    others = dict(what=trial.suggest_categorical("what", ["a", "b"]), seed=trial.suggest_int("seed", 0, 2**32 - 1))
    study.take_part(stay=False)
    assert len(done) == 3 and others not in done
    # Also where both have begun it: the one that began later leaves it
    later = study.study.ask(fixed_distributions=trial.distributions)
    assert study._is_anothers(later.number, others) and not study._is_anothers(trial.number, others)
    optuna.load_study(study_name="work", storage=open_storage(storage)).tell(trial.number, 1.0)
    assert study._is_anothers(later.number, others)


def test_a_fault_ends_the_work_and_the_next_attempt_does_the_rest(tmp_path):
    storage, done = f"sqlite:///{tmp_path}/work.db", []

    def fails_once(trial, point):
        done.append(point)
        if len(done) == 2:
            raise ValueError("a fault")
        return 1.0

    with pytest.raises(ValueError, match="a fault"):
        Work(storage, fails_once).take_part()
    study = Work(storage, fails_once)
    study.take_part()
    assert len(study.study.trials) == 5
    assert len(done) == 5 and done.count(done[1]) == 2
    # Seeds are added, names are not
    Work(storage, fails_once, n=6).take_part()
    assert len(done) == 7
    with pytest.raises(ValueError, match="what: \\['a', 'b'\\] there, \\['a', 'c'\\] here"):
        SharedStudy("work", open_storage(storage), dict(what=["a", "c"], seed=[0]), {}, fails_once, 1.0, lambda waiting: None)


COMMAND = ["sb3_genpolicy.zoo", "compare", "--dataset", DATASET, "--algos", "rebrac,srpo", "--seeds", 3, "-n", 8]
COMMAND += ["--batch-size", 8, "--eval-episodes", 1, "--n-evaluations", 1, "--curve-episodes", 1, "--patience", 2]
COMMAND += ["--reps", 50, "-params", "policy_kwargs:dict(net_arch=[32, 32])", "rebrac.actor_penalty:0.5"]


def wait_until(true, seconds=120.0):
    give_up = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.05)


@pytest.mark.parametrize("kind", ["sqlite:///{}/work.db", "{}/work.log"])
def test_pieces_are_divided_and_none_is_done_twice(kind, tmp_path):
    storage, done = kind.format(tmp_path), []

    def do(trial, point):
        time.sleep(0.05)
        done.append((threading.get_ident(), tuple(point.values())))
        return 1.0

    open_storage(storage)
    workers = [threading.Thread(target=lambda: Work(storage, do, patience=60.0, n=8).take_part()) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(done) == len({point for _, point in done}) == 8 and len({worker for worker, _ in done}) > 1


def test_two_processes_divide_the_runs_and_one_is_killed(tmp_path):
    command = [*COMMAND, "--storage", "sqlite:///study.db"]
    storage = f"sqlite:///{tmp_path}/study.db"
    dying = WarmProcess("tests.helpers.stuck_comparison", *command[1:], folder=tmp_path)
    wait_until(lambda: (tmp_path / STUCK).exists() or dying.poll() is not None)
    other = WarmProcess(*command, folder=tmp_path)
    # It lives, and what it is at is its own, while the other does runs
    study = optuna.load_study(study_name="comparison", storage=open_storage(storage))
    wait_until(lambda: len(study.get_trials(states=[TrialState.COMPLETE])) > 2 or other.poll() is not None)
    assert dying.poll() is None, dying.finish().stderr
    dying.kill()
    assert dying.finish().returncode == -signal.SIGKILL
    finished = other.finish()
    assert finished.returncode == 0, finished.stderr
    complete = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    points = {tuple(trial.params.values()) for trial in complete}
    assert len(complete) == len(points) == 6
    # The killed one did a run, and what it had begun was done by the other
    (failed,) = [trial for trial in study.trials if trial.state == TrialState.FAIL]
    (again,) = [trial for trial in complete if trial.params == failed.params]
    process = {trial.number: trial.user_attrs["process"] for trial in study.trials if "process" in trial.user_attrs}
    assert [process[trial.number] for trial in complete].count(process[failed.number]) == 1
    assert process[again.number] != process[failed.number]
    rows = pd.read_csv(tmp_path / "report" / "runs.csv")
    assert len(rows) == 6 and set(rows.algorithm) == {"ReBRAC", "SRPO"}
    page = (tmp_path / "report" / "index.html").read_text()
    assert "actor_penalty: 0.5" in page and "OneStepCritic" not in page


# What is told of it


def test_the_page_stands_alone(compared):
    text = (compared[1] / "index.html").read_text()
    page = Page(text)
    # Intervals and profiles of both ways to act, and the curves
    assert len(page.addresses) == 5 and all(address.startswith("data:image/svg+xml;base64,") for address in page.addresses)
    assert "http" not in text.replace("http-equiv", "") and "url(" not in text and "@import" not in text
    for address in page.addresses:
        drawn = base64.b64decode(address.partition(",")[2]).decode()
        references = re.findall(r'(?:href|src)="([^"]*)"|url\(([^)]*)\)', drawn)
        assert drawn.rstrip().endswith("</svg>") and all(one.startswith("#") for pair in references for one in pair if one)


@pytest.mark.parametrize("way", ["deterministic", "sampled"])
def test_the_page_has_the_numbers_of_the_frame_and_of_rliable(compared, way):
    rows, folder = compared
    table = Page((folder / "index.html").read_text()).tables[f"scores-{way}"]
    assert table[0] == ["dataset", "behaviour", "GMPO", "GMPG", "IQL"] and table[1][:2] == [DATASET, "54.4"]
    for label, shown in zip(table[0][2:], table[1][2:], strict=True):
        values = rows[rows.algorithm == label][way].to_numpy()
        np.random.seed(0)
        _, intervals = rly.get_interval_estimates(
            {"": values[:, None]}, lambda matrix: np.array([metrics.aggregate_mean(matrix)]), reps=CONDITIONS["reps"]
        )
        low, high = intervals[""][:, 0]
        assert shown == f"{values.mean():.1f}[{low:.1f}, {high:.1f}]"
    assert [row[0] for row in table[2:]] == ["mean", "IQM"] and table[2][2:] == table[1][2:]


def test_the_page_says_who_shared_what_and_why_not(compared):
    shared = {row[0]: row[1:] for row in Page((compared[1] / "index.html").read_text()).tables["shared"]}
    assert shared["GMPO"] == ["4 + 4", "takes behaviour model and critics of pretraining 1, as GMPG"]
    settings = {row[0]: row[1] for row in Page((compared[1] / "index.html").read_text()).tables["settings"]}
    given, _, defaults = settings["IQL"].partition("Defaults: ")
    assert "net_arch" in given and "beta: 3.0" in defaults and "critic: iql" in defaults
    assert "OneStepCritic()" in settings["pretraining 1"]
    assert shared["IQL"] == ["8", "trains all its own: its GaussianPolicy is another kind of policy"]


def frame_of(scores, normalized=True):
    """A frame of scores (n_seeds, n_datasets) by method."""
    rows = [
        dict(dataset=f"d{column}", algorithm=method, seed=seed, sampled=matrix[seed, column], normalized=normalized)
        for method, matrix in scores.items()
        for column in range(matrix.shape[1])
        for seed in range(matrix.shape[0])
    ]
    return pd.DataFrame(rows)


def test_statistics_are_rliables():
    rng = np.random.default_rng(0)
    scores = {name: rng.normal(50 + 10 * number, 15, size=(4, 3)).round() for number, name in enumerate("xyz")}
    statistics = statistics_of(frame_of(scores), "sampled", reps=60, seed=3)
    np.random.seed(3)
    _, intervals = rly.get_interval_estimates(
        {name: scores[name] for name in "xyz"},
        lambda matrix: np.array([metrics.aggregate_mean(matrix), metrics.aggregate_iqm(matrix)]),
        reps=60,
    )
    for row, name in enumerate(("mean", "IQM")):
        assert statistics.aggregates[name]["y"].interval == pytest.approx(tuple(intervals["y"][:, row]))
    np.random.seed(3)
    shares, bands = rly.create_performance_profile(scores, statistics.profiles.thresholds, reps=60)
    for name in "xyz":
        np.testing.assert_allclose(statistics.profiles.shares[name], shares[name])
        np.testing.assert_allclose(statistics.profiles.intervals[name], bands[name])
    np.random.seed(3)
    points, intervals = rly.get_interval_estimates(
        {"": (scores["x"], scores["y"])}, lambda x, y: np.array([metrics.probability_of_improvement(x, y)]), reps=60
    )
    found, turned = statistics.improvement["x", "y"], statistics.improvement["y", "x"]
    assert found.point == pytest.approx(points[""][0]) and found.interval == pytest.approx(tuple(intervals[""][:, 0]))
    assert turned.point == pytest.approx(1 - found.point)
    assert probability_of_improvement(scores["x"], scores["x"]) == pytest.approx(0.5)


def test_returns_are_in_no_mean_and_one_seed_has_no_interval():
    one = frame_of({"x": np.array([[1.0]]), "y": np.array([[2.0]])})
    statistics = statistics_of(one, "sampled", reps=10)
    assert statistics.cells["d0", "x"] == (1.0, None) and statistics.improvement["y", "x"] == (1.0, None)
    assert statistics.profiles.intervals is None
    statistics = statistics_of(frame_of({"x": np.array([[1.0], [3.0]])}, normalized=False), "sampled", reps=10)
    assert statistics.cells["d0", "x"].point == 2.0
    assert statistics.aggregates == {} and statistics.profiles is None and statistics.improvement == {}


def test_divergence_is_said_and_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(ReBRAC, "objective", lambda self, batch: _diverge())
    rows = compare(DATASET, Method("rebrac", dict(policy_kwargs=SMALL)), seeds=1, output=tmp_path, **CONDITIONS)
    assert rows.diverged[0] == "Training diverged: a number was infinite." and np.isfinite(rows.deterministic[0])
    assert "ReBRAC on pendulum-mixed, seed 0: Training diverged" in (tmp_path / "index.html").read_text()


def _diverge():
    raise FloatingPointError("Training diverged: a number was infinite.")


# The command line, and faults


def test_options_of_all_and_of_one(monkeypatch):
    calls = []
    monkeypatch.setattr(command, "compare", lambda *args, **options: calls.append((*args, options)))
    arguments = ["--dataset", "a", "b", "--algos", "gmpo,iql", "bc", "-params", "policy_kwargs:dict(net_arch=[8])"]
    command.main([*arguments, "gmpo.beta:2", "iql.critic:onestep", "--seeds", "3", "4", "-o", "here"])
    ((datasets, methods, options),) = calls
    assert datasets == ["a", "b"] and options["options"] == dict(policy_kwargs=dict(net_arch=[8]))
    assert methods == [Method("gmpo", dict(beta=2)), Method("iql", dict(critic="onestep")), Method("bc", {})]
    assert options["seeds"] == [3, 4] and options["output"] == "here"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--algos", "gmpoo"], "algos='gmpoo' is unknown. Did you mean 'gmpo'?"),
        (["--algos", "gmpo", "-params", "betta:1"], "gmpo has no option 'betta'. Did you mean 'beta'?"),
        (["--algos", "gmpo,bc", "-params", "beta:1"], "bc has no option 'beta'."),
        (["--algos", "gmpo", "-params", "iql.beta:1"], "-params iql.beta: iql is not among --algos gmpo."),
        (["--algos", "gmpo", "-params", "seed:1"], "gmpo: seed is the same for all methods of a comparison"),
        (["--algos", "gmpo", "-params", "policy:FlowPolice"], "gmpo: policy='FlowPolice' is unknown. Did you mean 'Flow"),
        (["--algos", "gmpo,gmpo"], "Two methods are called 'GMPO'"),
        (["--algos", "gmpo", "--seed", "3"], "compare does not know '--seed'. Did you mean '--seeds'?"),
        (["--algos", "gmpo", "--seeds", "0"], "seeds must be a number >= 1"),
        (["--algos", "gmpo", "--seeds", "1", "1"], "seeds must be how many, or different seeds, not [1, 1]."),
        (["--algos", "gmpo", "-n", "5", "--pretraining-steps", "5"], "pretraining_steps=5 leave nothing of 5 steps"),
        (["--algos", "gmpo", "--eval-episodes", "0"], "episodes must be a number >= 1"),
        (["--algos", "gmpo", "--dataset", "pendulum-mixt"], "There is no dataset 'pendulum-mixt' on this machine"),
    ],
)  # fmt: skip
def test_faults_are_sentences(arguments, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    dataset = [] if "--dataset" in arguments else ["--dataset", DATASET]
    assert main(["compare", *dataset, *arguments]) == 1
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.glob("report/*")) == []


def test_a_misspelt_argument_of_the_function_is_named():
    with pytest.raises(TypeError, match="compare has no option 'seed'. Did you mean 'seeds'?"):
        compare(DATASET, "gmpo", seed=3)
