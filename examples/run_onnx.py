"""
Act by a policy in an ONNX file, with numpy and onnxruntime alone: copy this file to the robot.

    python run_onnx.py policy.onnx
"""

import json
import sys
from typing import Any

import numpy as np
import onnxruntime

TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(uint8)": np.uint8, "tensor(int64)": np.int64}


class Runner:
    def __init__(self, path: str, seed: int = 0):
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.about = {k: json.loads(v) for k, v in self.session.get_modelmeta().custom_metadata_map.items()}
        self.random = np.random.default_rng(seed)
        self.reset()

    def reset(self) -> None:  # when an episode begins
        self.frames: dict[str, list[Any]] = {}
        self.plans: list[np.ndarray] = []
        self.steps_left = 0

    def act(self, observation: Any) -> np.ndarray:  # an array, or a dictionary of arrays; images with their channels first
        parts = observation if isinstance(observation, dict) else {"observation": observation}
        for name, frame in parts.items():
            self.frames[name] = [*self.frames.get(name, [frame] * self.about["history"])[1:], frame]
        if self.steps_left == 0:
            actions = self.session.run(None, {put.name: self.input(put) for put in self.session.get_inputs()})[0][0]
            self.plans.append(actions if self.about["chunk_length"] > 1 else actions[None])
            self.steps_left = self.about["execute_length"]
        self.plans, blending = [plan for plan in self.plans if len(plan)], self.about["plan_blending"]
        weights = np.exp(-(blending or 0.0) * np.arange(len(self.plans))) if blending is not None else np.ones(1)
        action = np.average([plan[0] for plan in self.plans[-len(weights) :]], axis=0, weights=weights)
        self.plans, self.steps_left = [plan[1:] for plan in self.plans], self.steps_left - 1
        return action

    def input(self, put: Any) -> np.ndarray:
        shape, dtype = [1 if size == "batch" else size for size in put.shape], TYPES[put.type]
        if put.name in self.frames:  # the oldest frame first, along the first axis
            return np.stack([np.asarray(frame, dtype) for frame in self.frames[put.name]]).reshape(shape)
        draw = self.random.random if put.name == "uniform" else self.random.standard_normal
        return np.asarray(draw(shape), dtype)


if __name__ == "__main__":
    runner = Runner(sys.argv[1])
    print(runner.about)
    print(runner.act({p.name: np.zeros(p.shape[1:], TYPES[p.type]) for p in runner.session.get_inputs() if p.name != "noise"}))
