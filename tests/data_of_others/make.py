"""
Write small files with the libraries that such files are of, and what these read from them.

Run from this folder in an environment of its own, with d3rlpy 2.8.1, tianshou 2.0.1, torchrl 0.14.1, imitation 1.0.1,
robomimic 0.3.0 and lerobot 0.4.4: ``python make.py``. robomimic has no function that writes demonstrations: its file is
written here as its documentation says, and it reads it.
"""

import shutil
import sys
import types
from pathlib import Path

import h5py
import numpy as np

HERE = Path(__file__).parent
LENGTHS = (5, 4, 6)


def episodes(seed=0, obs_dim=3, action_dim=2):
    """T steps, T + 1 observations; the second is cut off, the others end by themselves."""
    rng = np.random.default_rng(seed)
    for number, length in enumerate(LENGTHS):
        yield (
            rng.normal(size=(length + 1, obs_dim)).astype(np.float32),
            rng.uniform(-1, 1, (length, action_dim)).astype(np.float32),
            rng.normal(size=length).astype(np.float32),
            number != 1,
        )


def keep(name, observations, actions, rewards, next_observations, terminals):
    columns = dict(observations=observations, actions=actions, rewards=rewards, next_observations=next_observations)
    arrays = {key: np.asarray(value, dtype=np.float32) for key, value in columns.items()}
    arrays["rewards"], arrays["terminals"] = arrays["rewards"].reshape(-1), np.asarray(terminals, dtype=bool).reshape(-1)
    np.savez_compressed(HERE / f"{name}.expected.npz", **arrays)
    print(name, {key: array.shape for key, array in arrays.items()})


def d3rlpy():
    import d3rlpy

    made = [
        d3rlpy.dataset.Episode(states[:-1], actions, rewards[:, None], terminated)
        for states, actions, rewards, terminated in episodes()
    ]
    buffer = d3rlpy.dataset.create_infinite_replay_buffer(made)
    with (HERE / "d3rlpy.h5").open("w+b") as file:
        buffer.dump(file)
    with (HERE / "d3rlpy.h5").open("rb") as file:
        buffer = d3rlpy.dataset.ReplayBuffer.load(file, d3rlpy.dataset.InfiniteBuffer())
    picker = d3rlpy.dataset.BasicTransitionPicker()
    steps = [picker(episode, index) for episode in buffer.episodes for index in range(episode.transition_count)]
    keep(
        "d3rlpy",
        [step.observation for step in steps],
        [step.action for step in steps],
        [step.reward for step in steps],
        [step.next_observation for step in steps],
        [step.terminal for step in steps],
    )


def tianshou():
    from tianshou.data import Batch, ReplayBuffer, VectorReplayBuffer

    def rows(seed=0):
        for states, actions, rewards, terminated in episodes(seed):
            for step in range(len(rewards)):
                last = step == len(rewards) - 1
                yield dict(
                    obs=states[step],
                    act=actions[step],
                    rew=float(rewards[step]),
                    terminated=last and terminated,
                    truncated=last and not terminated,
                    obs_next=states[step + 1],
                )

    ring = ReplayBuffer(11)
    for row in rows():
        ring.add(Batch(info={}, **row))
    several = VectorReplayBuffer(24, 2)
    for number, (one, other) in enumerate(zip(rows(1), rows(2), strict=True)):
        if number < 14:
            both = {key: np.stack([one[key], other[key]]) for key in one}
            several.add(Batch(info=np.array([{}, {}]), **both))
    for name, buffer in (("tianshou_ring", ring), ("tianshou_vector", several)):
        buffer.save_hdf5(str(HERE / f"{name}.hdf5"), compression="gzip")
        with h5py.File(HERE / f"{name}.hdf5", "r+") as file:
            # Pickled Python objects, large and of no use here
            for key in ("_random_state", "buffers"):
                if key in file and len(file[key]) > 4000:
                    attributes = dict(file[key].attrs)
                    data = file[key][()]
                    del file[key]
                    file.create_dataset(key, data=data, compression="gzip").attrs.update(attributes)
        buffer = type(buffer).load_hdf5(str(HERE / f"{name}.hdf5"))
        batch = buffer[buffer.sample_indices(0)]
        keep(name, batch.obs, batch.act, batch.rew, batch.obs_next, batch.terminated)


def torchrl():
    import torch as th
    from tensordict import TensorDict
    from torchrl.data import LazyTensorStorage, ReplayBuffer
    from torchrl.data.replay_buffers.checkpointers import H5StorageCheckpointer

    def filled(size):
        storage = LazyTensorStorage(size)
        buffer = ReplayBuffer(storage=storage)
        buffer._storage.checkpointer = H5StorageCheckpointer()
        return buffer

    for name, size in (("torchrl", 20), ("torchrl_full", sum(LENGTHS))):
        buffer = filled(size)
        for states, actions, rewards, terminated in episodes():
            last = (np.arange(len(rewards)) == len(rewards) - 1)[:, None]
            none = th.zeros(len(rewards), 1, dtype=th.bool)
            row = TensorDict(
                {
                    "observation": th.as_tensor(states[:-1]),
                    "action": th.as_tensor(actions),
                    **{key: none for key in ("done", "terminated", "truncated")},
                    "next": {
                        "observation": th.as_tensor(states[1:]),
                        "reward": th.as_tensor(rewards)[:, None],
                        "done": th.as_tensor(last),
                        "terminated": th.as_tensor(last & terminated),
                        "truncated": th.as_tensor(last & (not terminated)),
                    },
                },
                [len(rewards)],
            )
            buffer.extend(row)
        folder = HERE / "torchrl.tmp"
        buffer.dumps(folder)
        again = filled(size)
        again.loads(folder)
        rows = again[:]
        following = rows["next"]
        keep(name, rows["observation"], rows["action"], following["reward"], following["observation"], following["terminated"])
        shutil.move(folder / "storage" / "checkpoint.h5", HERE / f"{name}.h5")
        shutil.rmtree(folder)


def imitation():
    from imitation.data import rollout, serialize
    from imitation.data.types import TrajectoryWithRew

    made = []
    for states, actions, rewards, terminated in episodes():
        infos = np.array([{} for _ in rewards])
        infos[-1] = {"TimeLimit.truncated": not terminated}
        made.append(TrajectoryWithRew(obs=states, acts=actions, infos=infos, terminal=True, rews=rewards))
    shutil.rmtree(HERE / "imitation", ignore_errors=True)
    serialize.save(HERE / "imitation", made)
    np.savez_compressed(
        HERE / "imitation.npz",
        obs=np.concatenate([each.obs for each in made]),
        acts=np.concatenate([each.acts for each in made]),
        rews=np.concatenate([each.rews for each in made]),
        infos=np.concatenate([each.infos for each in made]),
        terminal=np.array([each.terminal for each in made]),
        indices=np.cumsum([len(each) for each in made[:-1]]),
    )
    for name in ("imitation", "imitation.npz"):
        read = serialize.load(HERE / name) if name == "imitation" else npz_of_imitation(HERE / name)
        flat = rollout.flatten_trajectories_with_rew(read)
        by_clock = np.array([bool(info.get("TimeLimit.truncated", False)) for info in flat.infos])
        keep(name, flat.obs, flat.acts, flat.rews, flat.next_obs, flat.dones & ~by_clock)


def npz_of_imitation(path):
    """Its own reader takes an archive for no mapping with some versions of numpy: the same lines, without that question."""
    from imitation.data.types import TrajectoryWithRew

    data = np.load(path, allow_pickle=True)
    parts = [
        np.split(data["obs"], data["indices"] + np.arange(len(data["indices"])) + 1),
        np.split(data["acts"], data["indices"]),
        np.split(data["infos"], data["indices"]),
        data["terminal"],
        np.split(data["rews"], data["indices"]),
    ]
    return [TrajectoryWithRew(*each) for each in zip(*parts, strict=True)]


def robomimic():
    from robomimic.utils import obs_utils
    from robomimic.utils.dataset import SequenceDataset

    names = ["demo_10", "demo_2", "demo_1"]
    with h5py.File(HERE / "robomimic.hdf5", "w") as file:
        file.create_group("data").attrs["env_args"] = '{"env_name": "Lift", "type": 1, "env_kwargs": {}}'
        for name, (states, actions, _, terminated) in zip(names, episodes(), strict=True):
            group = file["data"].create_group(name)
            group.attrs["num_samples"] = len(actions)
            # Sparse rewards; `dones` of mode 2: in states of success, and at the end of every demonstration
            reward = (np.arange(len(actions)) == len(actions) - 1) & terminated
            group["actions"], group["rewards"] = actions, reward.astype(np.float64)
            group["dones"] = (np.arange(len(actions)) == len(actions) - 1).astype(np.int64)
            for key, part in (("eef", states[:, :2]), ("gripper", states[:, 2:])):
                group[f"obs/{key}"], group[f"next_obs/{key}"] = part[:-1], part[1:]
            group["obs/camera"] = np.zeros((len(actions), 4, 4, 3), dtype=np.uint8)
            group["next_obs/camera"] = group["obs/camera"][()]
        file["mask/train"] = np.array([b"demo_1", b"demo_10"])
        file["data"].attrs["total"] = sum(LENGTHS)
    obs_utils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": ["eef", "gripper"], "rgb": []}})
    for name, subset in (("robomimic", None), ("robomimic_train", "train")):
        dataset = SequenceDataset(
            str(HERE / "robomimic.hdf5"),
            obs_keys=["eef", "gripper"],
            dataset_keys=("actions", "rewards", "dones"),
            frame_stack=1,
            seq_length=1,
            hdf5_cache_mode=None,
            load_next_obs=True,
            filter_by_attribute=subset,
        )
        rows = [dataset[number] for number in range(len(dataset))]

        def both(part, rows=rows):
            return [np.concatenate([row[part]["eef"][0], row[part]["gripper"][0]]) for row in rows]

        rewards = np.array([row["rewards"][0] for row in rows])
        dones = np.array([row["dones"][0] for row in rows]) > 0
        keep(name, both("obs"), [row["actions"][0] for row in rows], rewards, both("next_obs"), dones & (rewards > 0))


def lerobot():
    # torchvision's compiled part, which a build of torch for CPUs may lack, is not needed here
    sys.modules["torchvision._meta_registrations"] = types.ModuleType("torchvision._meta_registrations")
    from datasets.features.features import Value
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    encode = Value.encode_example
    # numpy 2.4 makes no number of an array of one
    Value.encode_example = lambda self, value: encode(self, value.item() if isinstance(value, np.ndarray) else value)
    numbers = dict(dtype="float32", names=None)
    flag = dict(dtype="bool", shape=(1,), names=None)
    features = {
        "observation.state": dict(numbers, shape=(3,)),
        "observation.image": dict(dtype="image", shape=(8, 8, 3), names=["height", "width", "channels"]),
        "action": dict(numbers, shape=(2,)),
        "next.reward": dict(numbers, shape=(1,)),
        "next.done": flag,
        "next.success": flag,
    }
    shutil.rmtree(HERE / "lerobot", ignore_errors=True)
    dataset = LeRobotDataset.create("tests/lerobot", fps=10, features=features, root=HERE / "lerobot", use_videos=False)
    for number, (states, actions, rewards, terminated) in enumerate(episodes()):
        for step in range(len(rewards)):
            last = step == len(rewards) - 1
            dataset.add_frame(
                {
                    "observation.state": states[step],
                    "observation.image": np.full((8, 8, 3), 10 * number + step, dtype=np.uint8),
                    "action": 3 * actions[step],
                    "next.reward": rewards[step : step + 1],
                    "next.done": np.array([last]),
                    "next.success": np.array([last and terminated]),
                    "task": "push",
                }
            )
        dataset.save_episode()
    dataset.finalize()
    dataset = LeRobotDataset("tests/lerobot", root=HERE / "lerobot")
    rows = [dataset[number] for number in range(len(dataset))]
    states = np.stack([row["observation.state"] for row in rows])
    # A frame leads to the next of its episode; of the last one nobody knows, and nobody asks where it succeeded
    episode = np.array([int(row["episode_index"]) for row in rows])
    success = np.array([bool(row["next.success"]) for row in rows])
    told = np.append(episode[1:] == episode[:-1], False)
    kept = told | success
    following = np.where(told[:, None], np.roll(states, -1, axis=0), states)
    keep(
        "lerobot",
        states[kept],
        np.stack([row["action"] for row in rows])[kept],
        np.array([float(row["next.reward"]) for row in rows])[kept],
        following[kept],
        success[kept],
    )


if __name__ == "__main__":
    for function in (d3rlpy, tianshou, torchrl, imitation, robomimic, lerobot):
        if len(sys.argv) < 2 or function.__name__ in sys.argv[1:]:
            function()
