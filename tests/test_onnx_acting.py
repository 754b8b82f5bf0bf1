"""
Guidance, drawn candidates and deterministic actions in ONNX files: as `predict` has them.
"""

import numpy as np
import pytest
import torch as th

from sb3_genpolicy import GMPO
from sb3_genpolicy.common.policies.candidates import choose_candidates
from tests.helpers.arrays import SMALL
from tests.helpers.observation_spaces import SPACES, dataset_of, policy_for, rows_of
from tests.helpers.slow import slow_but
from tests.test_onnx import deterministic_inputs, onnxruntime, rows, run, trained

pytestmark = pytest.mark.filterwarnings("ignore:.*lead to another observation than the next row")

# An export takes seconds for every step
FAST = dict(solver="euler", sampling_steps=2)


def test_guidance_and_drawn_candidates_are_in_the_file(arrays, tmp_path):
    kwargs = dict(FAST, guidance=1.5, n_candidates=3, candidate_temperature=0.7)
    model, path, observation = trained(arrays, **kwargs), tmp_path / "policy.onnx", rows(7) / 50.0
    policy = model.policy
    policy.export_onnx(tmp_path / "deterministic.onnx", deterministic=True)
    action = run(tmp_path / "deterministic.onnx", dict(observation=observation))
    np.testing.assert_allclose(action, model.predict(observation, deterministic=True)[0], atol=1e-4)
    policy.export_onnx(path)
    inputs = dict(observation=observation, **deterministic_inputs(path, 7))
    # Deterministic actions know no chance: all candidates are that of noise zero
    uniform = np.random.default_rng(0).random((7, 3)).astype(np.float32)
    action = run(path, dict(inputs, uniform=uniform))
    np.testing.assert_allclose(action, model.predict(observation, deterministic=True)[0], atol=1e-4)
    assert np.abs(action - model.predict(observation, deterministic=True, guidance=0.0)[0]).max() > 1e-2
    noise = np.random.default_rng(1).normal(size=(7, 3, 2)).astype(np.float32)
    inputs = dict(observation=observation, noise=noise)
    # All equal: the best
    best, drawn = (run(path, dict(inputs, uniform=numbers)) for numbers in (np.full_like(uniform, 0.5), uniform))
    assert np.abs(drawn - best).max() > 1e-2
    with th.no_grad():
        seen, actor = th.as_tensor(observation), policy.actor_ema
        features = actor.extract_features(seen, actor.features_extractor).repeat_interleave(3, dim=0)
        candidates = actor.sample(
            features, th.as_tensor(noise).flatten(0, 1), guide=policy.guide(seen, 1.5).repeated(3)
        ).unflatten(0, (7, 3))
        temperature = 0.7 * policy.spreads.q
        chosen = [choose_candidates(policy.critic, seen, candidates, temperature, th.as_tensor(uniform))]
        chosen.append(choose_candidates(policy.critic, seen, candidates))
    for actions, scaled in zip((drawn, best), chosen, strict=True):
        np.testing.assert_allclose(actions, policy.unscale_action(scaled.numpy().reshape(7, 2, 1)), atol=1e-4)
    assert {one.name for one in onnxruntime.InferenceSession(str(path)).get_inputs()} == {"observation", "noise", "uniform"}


CASES = {
    "auto": ("dict", FAST),
    "mean": ("box", dict(solver="sde", sampling_steps=3)),
    "one_step_mean": ("box", FAST),
    "mode_mean": ("box", FAST),
    "weighted_mean": ("box", FAST),
    "best_q": ("dict", FAST),
    "zero_noise": ("box", dict(FAST, n_candidates=4, candidate_temperature=0.0)),
}


@pytest.mark.parametrize("name", slow_but("auto", "zero_noise", among=CASES))
def test_a_file_for_deterministic_actions_takes_observations_alone(tmp_path, name):
    kind, kwargs = CASES[name]
    space, path = SPACES[kind], tmp_path / "policy.onnx"
    kwargs = dict(SMALL, deterministic_action=name, deterministic_draws=8, **kwargs)
    model = GMPO(policy_for(kind, "Flow"), dataset=dataset_of(space), batch_size=8, policy_kwargs=kwargs, seed=0).learn(3)
    model.policy.export_onnx(path, deterministic=True)
    for n_rows in (1, 5):
        observation = rows_of(model.observation_space, n_rows, seed=2)
        parts = observation if isinstance(observation, dict) else dict(observation=observation)
        parts = {key: part.astype(np.float32) if part.dtype == np.float64 else part for key, part in parts.items()}
        np.testing.assert_allclose(run(path, parts), model.predict(observation, deterministic=True)[0], atol=1e-4)


def test_densities_cannot_be_written(arrays, tmp_path):
    policy = GMPO("FlowPolicy", dataset=arrays, policy_kwargs=dict(SMALL, deterministic_action="densest")).policy
    with pytest.raises(ValueError, match="'densest' cannot be written: densities take derivatives.*as 'mode_mean'"):
        policy.export_onnx(tmp_path / "policy.onnx", deterministic=True)
