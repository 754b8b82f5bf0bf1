"""
Time of `predict`, and of the same policy as an ONNX file, of one observation and of 256, on one core: Hopper's shapes, default
network and sampler. Then of every deterministic action that has a file.

    python benchmarks/acting.py
"""

import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import onnxruntime
import torch as th

from sb3_genpolicy import GMPO
from sb3_genpolicy.common.policies.deterministic import DETERMINISTIC_ACTIONS

N_OBSERVATIONS, N_ACTIONS = 11, 3


def make_model(policy: str) -> GMPO:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2, 40, N_OBSERVATIONS)).astype(np.float32)
    arrays = dict(observations=rows[0], next_observations=rows[1], actions=rng.uniform(-1, 1, (40, N_ACTIONS)))
    zeros = dict(rewards=np.zeros(40), terminals=np.ones(40))
    return GMPO(policy, dataset={**arrays, **zeros}, device="cpu", batch_size=8).learn(1, log_interval=None)


def microseconds(act: Callable[[], object], n: int) -> str:
    times = []
    for _ in range(n + 20):
        start = time.perf_counter()
        act()
        times.append(1e6 * (time.perf_counter() - start))
    times = times[20:]
    return f"median {np.median(times):6.0f} us, shortest {min(times):6.0f} us, 99 % under {np.quantile(times, 0.99):6.0f} us"


def make_session(model: GMPO, folder: str, deterministic: bool = False) -> onnxruntime.InferenceSession:
    model.policy.export_onnx(f"{folder}/policy.onnx", deterministic)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(f"{folder}/policy.onnx", options, providers=["CPUExecutionProvider"])


def main() -> None:
    warnings.simplefilter("ignore")
    th.set_num_threads(1)
    for policy in ("FlowPolicy", "DiffusionPolicy"):
        model = make_model(policy)
        with tempfile.TemporaryDirectory() as folder:
            session = make_session(model, folder)
        for batch, n in ((1, 2000), (256, 300)):
            observations = np.random.default_rng(1).normal(size=(batch, N_OBSERVATIONS)).astype(np.float32)
            given = observations[0] if batch == 1 else observations
            inputs = dict(observation=observations, noise=np.zeros((batch, N_ACTIONS), np.float32))
            acts = {
                "deterministic": partial(model.predict, given, deterministic=True),
                "sampled": partial(model.predict, given),
                "onnxruntime": partial(session.run, None, inputs),
            }
            for name, act in acts.items():
                print(f"{policy:15} {batch:3} x {name:13} {microseconds(act, n)}")
    model = make_model("FlowPolicy")
    # No file has the densest
    for choice in (name for name in DETERMINISTIC_ACTIONS if name != "densest"):
        model.policy.deterministic_action = choice
        with tempfile.TemporaryDirectory() as folder:
            session = make_session(model, folder, deterministic=True)
        act = partial(session.run, None, dict(observation=np.zeros((1, N_OBSERVATIONS), np.float32)))
        print(f"{choice:15}   1 x onnxruntime   {microseconds(act, 400)}")


if __name__ == "__main__":
    main()
