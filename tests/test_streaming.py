"""
Flat files on a disk, and batches gathered ahead from them: the same rows, the same training, the same resumed run.
"""

import errno
import os
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecNormalize

from sb3_genpolicy import GMPG, GMPO, RescaleActions, load_dataset
from sb3_genpolicy.common.datasets import arrays as arrays_module
from sb3_genpolicy.common.datasets import cache, loading
from sb3_genpolicy.common.datasets.envs import SpacesVecEnv
from sb3_genpolicy.common.replay.buffer import OfflineReplayBuffer
from sb3_genpolicy.common.replay.streaming import Prefetcher
from sb3_genpolicy.common.transitions.rewards import AffineReward
from tests.helpers.arrays import SMALL
from tests.helpers.data_formats import flat_columns, make_episodes, write_hdf5, write_minari, write_npz
from tests.helpers.warm_processes import WarmProcess

OPTIONS = dict(pretraining_steps=0, policy_kwargs=SMALL, batch_size=8, seed=0, device="cpu")


@pytest.fixture
def path(tmp_path):
    return write_npz(tmp_path / "own.npz", flat_columns(make_episodes()))


def buffer_of(data):
    buffer = OfflineReplayBuffer(1000, data.observation_space, data.action_space, device="cpu")
    buffer.fill(data, AffineReward())
    buffer.seed_rows(3)
    return buffer


def same_parameters(one, other):
    return all(th.equal(mine, theirs) for mine, theirs in zip(one.policy.parameters(), other.policy.parameters(), strict=True))


def test_streamed_batches_are_those_from_memory(path):
    streamed, held = buffer_of(load_dataset(path, memory_map=True)), buffer_of(load_dataset(path))
    assert streamed.streams and not held.streams
    for batch_size in (5, 5, 5, 3, 3, 7):  # what was gathered ahead for another size is drawn again
        for ours, theirs in zip(streamed.sample(batch_size), held.sample(batch_size), strict=True):
            assert ours is theirs or th.equal(ours, theirs)
    rows, samples = streamed.draw(6)
    assert th.equal(samples.rewards, streamed.rows(rows).rewards)


def test_rows_can_be_added_to_those_on_a_disk(path):
    """The parts of a batch that come from the dataset are those that come from memory."""
    buffers = [buffer_of(load_dataset(path, memory_map=True)), buffer_of(load_dataset(path))]
    for buffer in buffers:
        for k in range(6):
            buffer.add(np.full((1, 3), k), np.ones((1, 3)), np.full((1, 2), 0.5), np.array([k]), np.zeros(1), [{}])
    for batch_size in (4, 4, 6):
        for buffer in buffers:
            rows, batch = buffer.draw(batch_size)
            assert (rows >= buffer.n_from_dataset).sum() == batch_size // 2
            for drawn, looked_up in zip(batch, buffer.rows(rows), strict=True):
                assert drawn is looked_up or th.equal(drawn, looked_up)
    streamed, held = buffers
    assert th.equal(streamed.actions, held.actions) and streamed.actions[-1].tolist() == [0.5, 0.5]
    # Rows of the dataset are drawn as if there were no others
    alone, beside = buffer_of(load_dataset(path, memory_map=True)), streamed
    beside.seed_rows(3)
    for batch_size in (2, 2, 3):
        assert th.equal(alone.draw(batch_size)[0], beside.draw(2 * batch_size)[0][:batch_size])


def test_parts_of_a_batch_are_parts_of_what_is_drawn(path):
    """As processes that share a batch have them, from a disk and from memory, also where the part changes on the way."""
    streamed, held, whole = (buffer_of(load_dataset(path, memory_map=mapped)) for mapped in (True, False, False))
    for part in (slice(0, 4), slice(0, 4), slice(4, 8), slice(None)):
        expected_rows, expected = whole.draw(8)
        for buffer in (streamed, held):
            rows, batch = buffer.draw(8, None, part)
            assert th.equal(rows, expected_rows[part]) and th.equal(batch.actions, expected.actions[part])


@pytest.mark.parametrize("algorithm", [GMPO, GMPG])
def test_training_from_a_disk_equals_training_from_memory(algorithm, path):
    options = dict(OPTIONS, pretraining_steps=6) if algorithm is GMPG else OPTIONS
    streamed = algorithm("FlowPolicy", dataset=load_dataset(path, memory_map=True), **options).learn(12)
    held = algorithm("FlowPolicy", dataset=load_dataset(path), **options).learn(12)
    assert streamed.replay_buffer.streams and same_parameters(streamed, held)


def test_softmax_weights_from_a_disk_equal_those_from_memory(path):
    options = dict(OPTIONS, weighting="softmax", redraw_actions=False, n_actions=3, pretraining_steps=4)
    streamed = GMPO("FlowPolicy", dataset=load_dataset(path, memory_map=True), **options).learn(8)
    assert same_parameters(streamed, GMPO("FlowPolicy", dataset=load_dataset(path), **options).learn(8))


def test_a_resumed_run_draws_the_rows_that_were_gathered_ahead_again(path, tmp_path):
    whole = GMPO("FlowPolicy", dataset=load_dataset(path, memory_map=True), **OPTIONS).learn(20)
    GMPO("FlowPolicy", dataset=load_dataset(path, memory_map=True), **OPTIONS).learn(9).save(tmp_path / "model")
    # By its name, and from the disk again
    resumed = GMPO.load(tmp_path / "model", device="cpu").learn(11, reset_num_timesteps=False)
    assert resumed.replay_buffer.streams and same_parameters(whole, resumed)
    held = GMPO.load(tmp_path / "model", device="cpu").learn(11, reset_num_timesteps=False, dataset=load_dataset(path))
    assert not held.replay_buffer.streams and same_parameters(whole, held)


def test_a_list_of_files_is_learnt_from_and_found_again_by_its_name(path, tmp_path):
    other = write_hdf5(tmp_path / "other.hdf5", flat_columns(make_episodes(seed=1)))
    whole = GMPO("FlowPolicy", dataset=[path, other], **OPTIONS).learn(12)
    assert whole.replay_buffer.size() == 52
    GMPO("FlowPolicy", dataset=[path, other], **OPTIONS).learn(5).save(tmp_path / "model")
    resumed = GMPO.load(tmp_path / "model", device="cpu").learn(7, reset_num_timesteps=False)
    assert resumed.dataset_name == f"{path} + {other}" and same_parameters(whole, resumed)


def test_lists_on_a_disk_are_others_where_their_actions_are(path, tmp_path):
    other = write_hdf5(tmp_path / "other.hdf5", flat_columns(make_episodes(seed=1)))
    plain = load_dataset([path, other], memory_map=True)
    halved = load_dataset([path, other], memory_map=True, action_transforms=[RescaleActions(-2.0, 2.0)])
    np.testing.assert_allclose(halved.actions, plain.actions / 2.0, atol=1e-6)


def test_reference_scores_of_a_file_are_told_once_and_stay(path, tmp_path):
    data = load_dataset(path, reference_scores=(0.0, 10.0))
    assert data.reference_scores == (0.0, 10.0)
    GMPO("FlowPolicy", dataset=data, **OPTIONS).learn(1).save(tmp_path / "model")
    model = GMPO.load(tmp_path / "model", device="cpu").learn(1, reset_num_timesteps=False)
    assert model.reference_scores == (0.0, 10.0)
    # Those of one dataset are not another's
    assert model.learn(1, dataset=flat_columns(make_episodes(seed=1))).reference_scores is None


def test_a_seed_set_later_decides_the_rows_from_then_on(path):
    def drawn(seed, steps):
        model = GMPO("FlowPolicy", dataset=path, **{**OPTIONS, "seed": seed}).learn(steps)
        model.set_random_seed(9)
        return model.learn(2).replay_buffer.random_state()

    assert th.equal(drawn(0, 3), drawn(1, 6))


def test_vec_normalize_sees_the_same_statistics_from_a_disk(path):
    def train(memory_map):
        data = load_dataset(path, memory_map=memory_map)
        env = VecNormalize(SpacesVecEnv(data.observation_space, data.action_space), gamma=0.9)
        return GMPO("FlowPolicy", env, dataset=data, **OPTIONS).learn(6)

    assert same_parameters(train(True), train(False))


def test_rows_are_drawn_in_one_order_whatever_the_threads_do():
    """Gathering that takes turns at random changes no batch; the state is that of the first batch nobody has had."""
    generator, rng = th.Generator().manual_seed(0), np.random.default_rng(0)
    pause = threading.Event()

    def slow(rows):
        pause.wait(rng.random() * 0.01)
        return rows * 10

    def draw(size):
        return th.randint(0, 1000, (size,), generator=generator)

    prefetcher = Prefetcher(draw, slow, generator)
    taken = [prefetcher.next(4) for _ in range(10)]
    state = prefetcher.random_state()
    rest = [prefetcher.next(4)[0] for _ in range(3)]
    prefetcher.close()
    expected = th.Generator().manual_seed(0)
    for rows, batch in taken:
        assert th.equal(rows, th.randint(0, 1000, (4,), generator=expected)) and th.equal(batch, rows * 10)
    assert th.equal(expected.get_state(), state)
    assert all(th.equal(rows, th.randint(0, 1000, (4,), generator=expected)) for rows in rest)


def test_an_error_on_a_thread_reaches_the_training():
    def fail(rows):
        raise OSError("the disk is gone")

    generator = th.Generator().manual_seed(0)
    with pytest.raises(OSError, match="the disk is gone"):
        Prefetcher(lambda size: th.zeros(size), fail, generator).next(2)


def test_rows_on_a_disk_are_not_written_to_and_not_pickled(path, arrays):
    buffer = buffer_of(load_dataset(path, memory_map=True))
    with pytest.raises(ValueError, match="streamed from elsewhere and are not saved"):
        pickle.dumps(buffer)
    data = load_dataset(path, memory_map=True)
    with pytest.raises(ValueError, match="read-only"):
        data.states[0] = 0.0


def test_images_on_a_disk_are_turned_batch_by_batch(tmp_path):
    rng = np.random.default_rng(0)
    episodes = [
        episode._replace(observations=rng.integers(0, 256, (episode.steps + 1, 36, 40, 3), dtype=np.uint8))
        for episode in make_episodes((3, 4))
    ]
    path = write_npz(tmp_path / "images.npz", flat_columns(episodes))
    models = [
        GMPO("CnnPolicy", dataset=load_dataset(path, memory_map=memory_map), **dict(OPTIONS, batch_size=4)).learn(2)
        for memory_map in (True, False)
    ]
    batch = models[0].replay_buffer.sample(5)
    assert batch.observations.dtype == th.uint8 and batch.observations.shape == (5, 3, 36, 40)
    assert same_parameters(*models)


# Flat files


def test_flat_files_are_used_as_long_as_the_source_is_the_same(path, cache_root, monkeypatch):
    first = load_dataset(path, memory_map=True)
    reads = []
    read_file = loading.read_file
    monkeypatch.setattr(loading, "read_file", lambda *args: reads.append(1) or read_file(*args))
    load_dataset(path, memory_map=True)
    assert not reads
    np.testing.assert_array_equal(first.rewards, flat_columns(make_episodes())["rewards"])
    # Written anew: the files are, too, and those of before go
    other = make_episodes(seed=1)
    write_npz(path, flat_columns(other))
    os.utime(path, ns=(1, 1))
    np.testing.assert_array_equal(load_dataset(path, memory_map=True).rewards, flat_columns(other)["rewards"])
    assert len(reads) == 1 and len(list(cache_root.iterdir())) == 1
    # The name is the way that was taken to the file this time
    monkeypatch.chdir(path.parent)
    assert load_dataset(path.name, memory_map=True).name == path.name and len(reads) == 1
    # Read another way, they are others
    bounds = spaces.Box(-2, 2, (2,), np.float32)
    assert load_dataset(path, memory_map=True, action_space=bounds).action_space == bounds
    assert len(list(cache_root.iterdir())) == 2


def test_processes_that_read_one_source_at_once_do_not_disturb_each_other(path):
    """Each finds the source changed, again and again, and writes the flat files anew."""
    program = f"""
import os
from sb3_genpolicy import load_dataset
for k in range(30):
    os.utime({str(path)!r}, ns=(k, k))
    data = load_dataset({str(path)!r}, memory_map=True)
    assert data.memory_mapped and data.n_rows == 26 and data.observations[25, 0] == 307.0
"""
    (script := path.parent / "reads.py").write_text(program)
    finished = [process.finish() for process in [WarmProcess(script, folder=path.parent) for _ in range(3)]]
    assert [(process.returncode, process.stderr) for process in finished] == [(0, "")] * 3


def test_damaged_flat_files_are_written_again(path, cache_root):
    load_dataset(path, memory_map=True)
    folder = next(cache_root.iterdir())
    for file in folder.iterdir():
        data = file.read_bytes()
        file.write_bytes(data[: len(data) // 2])
        np.testing.assert_array_equal(
            load_dataset(path, memory_map=True).rewards, flat_columns(make_episodes())["rewards"], err_msg=file.name
        )


def test_sources_that_are_slow_to_read_are_kept_and_others_are_not(minari_root, cache_root, monkeypatch):
    name = write_minari(make_episodes())
    load_dataset(name)
    assert not cache_root.exists()
    monkeypatch.setattr(loading, "_SLOW", 0.0)
    expected = load_dataset(name)
    monkeypatch.setattr(loading, "read_minari", lambda *args: pytest.fail("read again"))
    data = load_dataset(name)
    assert not data.memory_mapped and data.observation_space == expected.observation_space and data.name == name
    np.testing.assert_array_equal(data.next_observations, expected.next_observations)


def test_large_datasets_stay_on_disk_by_themselves(path, minari_root, monkeypatch):
    name = write_minari(make_episodes())
    assert not load_dataset(path).memory_mapped
    monkeypatch.setattr(loading, "_LARGE", 1e-9)
    assert load_dataset(path).memory_mapped and load_dataset(name).memory_mapped
    assert not load_dataset(path, memory_map=False).memory_mapped
    # Several that are small are large together; none of them is read into memory first
    monkeypatch.setattr(loading, "_LARGE", 1e-9 + 1.5 * 26 * 3 * 4 / loading.machine_memory())
    assert not load_dataset(path).memory_mapped and load_dataset([path, name]).memory_mapped
    assert not load_dataset([flat_columns(make_episodes()), path]).memory_mapped


def test_a_containers_limit_counts_as_the_machines_memory(tmp_path, monkeypatch):
    physical = arrays_module.machine_memory()
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "none").write_text("max\n")
    monkeypatch.setattr(arrays_module, "_LIMITS", (tmp_path / "none", tmp_path / "absent"))
    assert arrays_module.machine_memory() >= physical
    monkeypatch.setattr(arrays_module, "_LIMITS", (tmp_path / "none", tmp_path / "memory.max"))
    assert arrays_module.machine_memory() == 1e6


def test_an_unwritable_folder_is_a_sentence_where_files_are_needed_and_nothing_where_not(path, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SB3_GENPOLICY_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(ValueError, match="cannot be written to .*file/below .* name another folder in .* SB3_GENPOLICY_CACHE"):
        load_dataset(path, memory_map=True)
    monkeypatch.setattr(loading, "_SLOW", 0.0)
    assert load_dataset(path).n_rows == 26


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="room cannot be asked for here")
def test_a_full_disk_is_not_taken_for_a_damaged_source(path, monkeypatch, cache_root):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ValueError, match=r"rows cannot be written to .*No space left on device.*make room, or name another"):
        load_dataset(path, memory_map=True)
    assert not list(cache_root.iterdir())


def test_a_conversion_that_fails_leaves_nothing(tmp_path, cache_root):
    columns = flat_columns(make_episodes())
    columns["rewards"][3] = np.nan
    path = write_hdf5(tmp_path / "broken.hdf5", columns)
    with pytest.raises(ValueError, match="rewards has a NaN"):
        load_dataset(path, memory_map=True)
    assert not list(cache_root.iterdir())


def test_a_record_copied_to_files_is_the_same(tmp_path):
    data = load_dataset(flat_columns(make_episodes()))
    source = tmp_path / "source"
    source.write_text("")
    entry = cache.CacheEntry([source], "test")
    entry.keep(data)
    back = entry.load(memory_map=False)
    for name, array in cache.named_arrays(data):
        np.testing.assert_array_equal(dict(cache.named_arrays(back))[name], array, err_msg=name)


# Memory


def peak_growth(code, small, tmp_path):
    """
    Bytes by which a process' peak memory grows over what it has after its imports.

    :param small: a file of the kind that the code reads, read first: libraries are imported when they are needed.
    """
    program = f"""
import re
import numpy as np
import sb3_genpolicy
from sb3_genpolicy import GMPO, load_dataset
load_dataset("pendulum-mixed")
load_dataset({str(small)!r})
def peak():
    # Of this program alone; what getrusage counts starts with the parent's
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
before = peak()
{code}
print(peak() - before)
"""
    environment = {**os.environ, "SB3_GENPOLICY_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    return int(done.stdout.split()[-1])


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is counted otherwise elsewhere")
@pytest.mark.parametrize("kind", ["npz", "hdf5"])
def test_loading_and_filling_take_less_than_twice_the_data(kind, tmp_path):
    write = write_npz if kind == "npz" else write_hdf5
    small = write(tmp_path / f"small.{kind}", flat_columns(make_episodes((10, 10), obs_dim=40)))
    path = write(tmp_path / f"large.{kind}", flat_columns(make_episodes((1000,) * 300, obs_dim=40)))
    bytes_of_rows = 300_000 * (40 + 2 + 1 + 2 + 2) * 4
    assert bytes_of_rows > 50e6
    growth = peak_growth(
        f"""
from sb3_genpolicy.common.replay.buffer import OfflineReplayBuffer
from sb3_genpolicy.common.datasets.envs import SpacesVecEnv
from sb3_genpolicy.common.transitions.rewards import AffineReward
data = load_dataset({str(path)!r})
buffer = OfflineReplayBuffer(10, data.observation_space, data.action_space, device="cpu")
buffer.fill(data, AffineReward())
buffer.sample(256)
""",
        small,
        tmp_path,
    )
    # The record itself, a piece that is read, and the columns of one number that are transformed
    assert 0.9 * bytes_of_rows < growth < 2.0 * bytes_of_rows
