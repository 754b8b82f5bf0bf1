"""
Choosing while a training goes on, with a few real episodes, and from the command line.
"""

import numpy as np
import pandas as pd
import pytest

from sb3_genpolicy import BC, FittedQOptions, HeldOutEpisodes, OfflineSelectionCallback, PolicyBandit
from sb3_genpolicy.evaluation.intervals import Resamples
from sb3_genpolicy.zoo.__main__ import main

PENDULUM = "pendulum-mixed"
TINY = FittedQOptions(n_members=2, net_arch=(32,), steps=60, first_steps=60, tau=0.1)


def bc():
    options = dict(net_arch=[32, 32])
    return BC("GaussianPolicy", dataset=PENDULUM, transforms=[HeldOutEpisodes()], seed=0, policy_kwargs=options)


def test_the_best_checkpoint_is_kept(tmp_path):
    callback = OfflineSelectionCallback(
        eval_freq=20,
        best_model_save_path=str(tmp_path),
        log_path=str(tmp_path),
        behaviour_steps=20,
        options=TINY,
        verbose=0,
    )
    model = bc().learn(50, log_interval=None, callback=callback)
    assert callback.evaluations_timesteps == [20, 40, 50]
    kept = np.load(tmp_path / "offline_evaluations.npz")
    assert list(kept["timesteps"]) == [20, 40, 50] and np.isfinite(kept["values"]).all()
    known = [value for value, word in zip(kept["values"], kept["verdicts"], strict=True) if word != "cannot be told"]
    assert callback.best_value == max(known, default=-np.inf)
    assert (tmp_path / "best_model.zip").is_file() == bool(known)
    # Nothing of the training is changed by looking at it
    alone = bc().learn(50, log_interval=None)
    for name, value in alone.policy.state_dict().items():
        assert value.equal(model.policy.state_dict()[name]), name


def test_members_disagreement_is_a_part_of_the_interval():
    resamples = Resamples.draw(20_000, 50, 6, 0)
    of_episodes = np.random.default_rng(0).normal(size=50)
    alike = np.broadcast_to(of_episodes, (6, 50))
    assert resamples.of(alike).std() == pytest.approx(of_episodes.std(ddof=1) / np.sqrt(50), rel=0.05)
    apart = alike + np.array([-3.0, -1.0, 0.0, 0.0, 1.0, 3.0])[:, None]
    # Student's t of five degrees of freedom has a variance of 5 / 3
    expected = np.sqrt(np.var(of_episodes, ddof=1) / 50 + 4.0 * 5.0 / 3.0)
    assert resamples.of(apart).std() == pytest.approx(expected, rel=0.1)


def test_a_bandit_finds_the_best_and_spends_its_episodes_on_it():
    random = np.random.default_rng(0)
    truth = {"good": 10.0, "fair": 8.0, "bad": 0.0}
    found = []
    for seed in range(20):
        bandit = PolicyBandit(dict.fromkeys(truth, 5.0), dict.fromkeys(truth, 10.0), noise=3.0, seed=seed)
        for _ in range(30):
            name = bandit.next()
            bandit.record(name, truth[name] + 3.0 * random.normal())
        tried = {name: len(returns) for name, returns in bandit.returns.items()}
        assert tried["bad"] < tried["fair"] and sum(tried.values()) == 30
        found.append(bandit.best)
    assert found.count("good") >= 17


def test_a_bandits_belief_is_the_normal_posterior():
    bandit = PolicyBandit({"a": 0.0, "b": 1.0}, {"a": 2.0, "b": 2.0}, noise=4.0)
    bandit.record("a", 6.0)
    # Precisions 1 / 4 and 1 / 16
    assert bandit.belief("a").mean == pytest.approx(6.0 / 16 / (1 / 4 + 1 / 16))
    assert bandit.belief("a").deviation == pytest.approx((1 / 4 + 1 / 16) ** -0.5)
    assert bandit.best == "a" and bandit.belief("b") == (1.0, 2.0, 0)
    with pytest.raises(ValueError, match="'c'"):
        bandit.record("c", 0.0)
    with pytest.raises(ValueError, match="not finite"):
        bandit.record("a", float("nan"))


def test_the_command_says_and_draws(tmp_path, capsys):
    model = bc().learn(5, log_interval=None)
    model.save(tmp_path / "one")
    model.save(tmp_path / "two")
    quick = ["--steps", "20", "--first-steps", "20", "--behaviour-steps", "20", "--n-actions", "1", "--max-rows", "4000"]
    table, picture = str(tmp_path / "table.csv"), str(tmp_path / "picture.png")
    assert main(["evaluate_offline", str(tmp_path / "one.zip"), *quick, "--csv", table, "--picture", picture]) == 0
    assert "by 20 episodes (4000 steps) of Dataset 'pendulum-mixed'" in capsys.readouterr().out
    assert set(pd.read_csv(table)["of"]) == {"policy", "behaviour", "difference"}
    assert main(["evaluate_offline", str(tmp_path), *quick, "--csv", table]) == 0
    assert len(pd.read_csv(table)) == 2
    assert main(["evaluate_offline", str(tmp_path / "three.zip")]) == 1
    assert "There is no model" in capsys.readouterr().err
    assert main(["evaluate_offline", str(tmp_path / "one.zip"), "--step", "3"]) == 1
    assert "--steps" in capsys.readouterr().err
