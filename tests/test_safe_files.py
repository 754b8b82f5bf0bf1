"""
Files of models hold plain settings and tensors; what else somebody puts into one is refused in a sentence and runs nothing.
"""

import io
import pickle
import re
import zipfile

import pytest
import torch as th
from stable_baselines3 import SAC

from sb3_genpolicy import GMPG, GMPO
from sb3_genpolicy.common.files.tensor_files import check_tensor_file
from sb3_genpolicy.generative import VPPath
from tests.helpers.arrays import SMALL
from tests.helpers.model_zips import (
    READERS,
    TENSORS,
    Runs,
    changed,
    entries_of,
    pickled,
    pretrain,
    refusal,
    save_small_model,
    saved_by_torch,
    write,
)


@pytest.fixture
def witness(tmp_path):
    path = tmp_path / "witness"
    yield path
    assert not path.exists()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model") / "gmpo.zip")


# Pickles


@pytest.mark.parametrize("name", ["policy_class", "learning_rate", "anything"])
@pytest.mark.parametrize("read", [GMPO.load, pretrain])
def test_a_pickle_among_the_settings_is_named_and_not_run(saved, tmp_path, witness, name, read):
    path = changed(saved, tmp_path / "model.zip", **{name: pickled(Runs(witness))})
    message = refusal(path, read)
    assert f"'{name}' in its entry 'data' is a pickle, which can run anything" in message
    assert ("trust_pickle=True" in message) == (read == GMPO.load)


def test_a_pickle_runs_for_who_trusts_it(saved, tmp_path):
    path = changed(saved, tmp_path / "model.zip", anything=pickled(Runs(tmp_path / "ran")))
    GMPO.load(path, trust_pickle=True)
    assert (tmp_path / "ran").exists()


def test_a_pickle_that_is_replaced_is_not_read(saved, tmp_path, witness):
    path = changed(saved, tmp_path / "model.zip", learning_rate=pickled(Runs(witness)))
    assert GMPO.load(path, custom_objects={"learning_rate": 0.5}).learning_rate == 0.5


@pytest.mark.parametrize("entry", TENSORS)
@pytest.mark.parametrize("form", [pickle.dumps, saved_by_torch])
@pytest.mark.parametrize("read", READERS)
def test_a_pickle_among_the_tensors_is_named_and_not_run(saved, tmp_path, witness, entry, form, read):
    path = write(tmp_path / "model.zip", {**entries_of(saved), entry: form({"a": Runs(witness)})})
    assert f"its entry '{entry}' " in refusal(path, read)


@pytest.mark.parametrize("entry", ["evil.pkl", "evil", "code/data.pkl", "model.pth/x"])
@pytest.mark.parametrize("read", READERS)
def test_a_pickle_in_an_entry_of_its_own_is_refused(saved, tmp_path, witness, entry, read):
    path = write(tmp_path / "model.zip", {**entries_of(saved), entry: pickle.dumps(Runs(witness))})
    assert f"its entry '{entry}' is none that a model's file has" in refusal(path, read)


def test_a_pickle_in_an_entry_that_nobody_reads_is_not_run(saved, tmp_path, witness):
    path = write(tmp_path / "model.zip", {**entries_of(saved), "system_info.txt": pickle.dumps(Runs(witness))})
    GMPO.load(path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({":class:": "os.system"}, "names 'os.system', which is no class that such a file may ask for"),
        ({":class:": "torch.nn.functional"}, "names 'torch.nn.functional'"),
        ({":object:": "subprocess.Popen", "args": ["true"]}, "names 'subprocess.Popen'"),
        ({":object:": "torch.nn.Linear", "in_features": 1, "out_features": 1}, "names 'torch.nn.Linear'"),
        ({":object:": "sb3_genpolicy.generative.paths.LinearPath", "extra_nois": 0.1}, "no option|unexpected keyword"),
        ({":objekt:": "x"}, "is of an unknown kind"),
        ({":tuple:": [], ":dict:": []}, "is of an unknown kind"),
        ({":array:": "object", "shape": [1], "base64": "AAAAAAAAAAA="}, "is of dtype object"),
        (
            {":array:": "float32", "shape": [10**12], "base64": "AAAAAA=="},
            "an array of shape .1000000000000., float32, in 4 bytes",
        ),
        ({":array:": "float32", "shape": [-1], "base64": "AAAAAA=="}, "an array of shape"),
    ],
)
def test_settings_make_nothing_but_what_is_listed(saved, tmp_path, value, message):
    for place in (value, [{"deep": value}]):
        text = refusal(changed(saved, tmp_path / "model.zip", anything=place))
        assert "'anything' in its entry 'data'" in text and re.search(message, text)


@pytest.mark.parametrize("name", ["env", "device", "predict", "_setup_model", "not a name"])
def test_settings_that_no_model_has_are_refused(saved, tmp_path, name):
    """SB3 makes an environment of a name, and imports the module in it."""
    assert f"sets '{name}'" in refusal(changed(saved, tmp_path / "model.zip", **{name: "antigravity:Env-v0"}))


# Paths, sizes, damage


@pytest.mark.parametrize("entry", ["../evil.pth", "/tmp/evil.pth", "a/../../evil.pth", "C:\\evil.pth", "..\\evil.pth"])
@pytest.mark.parametrize("read", READERS)
def test_a_path_that_leaves_the_folder_is_refused(saved, tmp_path, entry, read):
    path = write(tmp_path / "model.zip", {**entries_of(saved), entry: b""})
    assert f"its entry {entry!r} leaves the folder" in refusal(path, read)
    assert not (tmp_path.parent / "evil.pth").exists()


@pytest.mark.parametrize("entry", ["policy.pth", "actor.optimizer.pth", "pytorch_variables.pth"])
@pytest.mark.parametrize("read", READERS)
def test_a_tensor_of_absurd_size_is_refused(saved, tmp_path, entry, read):
    # One number that is said to be 4 terabytes
    path = write(tmp_path / "model.zip", {**entries_of(saved), entry: saved_by_torch({"a": th.zeros(1).expand(10**12)})})
    assert f"its entry '{entry}' describes a tensor of size (1000000000000,) over 1 numbers" in refusal(path, read)
    # A storage that is shorter than the file says
    parts = entries_of(io.BytesIO(saved_by_torch({"a": th.zeros(300)})))
    short = write(io.BytesIO(), {name: part[:4] if name.endswith("data/0") else part for name, part in parts.items()})
    path = write(tmp_path / "model.zip", {**entries_of(saved), entry: short.getvalue()})
    assert f"its entry '{entry}' claims 300 numbers (Float) where it has 4 bytes" in refusal(path, read)


def test_tensors_that_add_up_to_an_absurd_size_are_refused(saved, tmp_path):
    numbers = th.zeros(100_000)
    many = saved_by_torch({str(k): numbers[k:] for k in range(50)})
    path = write(tmp_path / "model.zip", {**entries_of(saved), "actor.optimizer.pth": many})
    assert "describes tensors of 19995100 bytes in " in refusal(path)


@pytest.mark.parametrize("entry", ["data", "policy.pth", "system_info.txt"])
def test_an_entry_that_unpacks_to_an_absurd_size_is_refused(saved, tmp_path, entry):
    path = write(tmp_path / "model.zip", {**entries_of(saved), entry: b" " * 50_000_000}, zipfile.ZIP_DEFLATED)
    assert f"its entry '{entry}' has an absurd size (50000000 bytes unpacked from " in refusal(path)


@pytest.mark.parametrize(
    "settings",
    [
        dict(observation_space={":object:": "gymnasium.spaces.Discrete", "n": 10**12, "start": 0}),
        dict(policy_kwargs={"net_arch": [10**12]}),
        dict(policy_kwargs={"net_arch": {"qf": [10**6, 10**6]}}),
        dict(policy_kwargs={"n_critics": 10**9}),
    ],
    ids=str,
)
def test_networks_of_absurd_size_are_refused(saved, tmp_path, settings):
    for read in (GMPO.load, pretrain):
        path = changed(saved, tmp_path / "model.zip", **settings)
        assert "its entry 'data' describes networks of an absurd size" in refusal(path, read)


@pytest.mark.parametrize("read", READERS)
def test_a_truncated_file_is_refused(saved, tmp_path, read):
    content = saved.read_bytes()
    for share in (0.001, 0.3, 0.9, 0.999):
        path = tmp_path / "model.zip"
        path.write_bytes(content[: int(share * len(content))])
        assert "it was cut off" in refusal(path, read)


def test_damaged_bytes_are_noticed(saved, tmp_path):
    with zipfile.ZipFile(saved) as archive:
        places = {info.filename: info.header_offset + 200 for info in archive.infolist() if info.file_size > 400}
    assert {"data", *TENSORS} <= set(places)
    for entry, place in places.items():
        content = bytearray(saved.read_bytes())
        content[place] ^= 0xFF
        path = tmp_path / "model.zip"
        path.write_bytes(content)
        assert f"its entry '{entry}' is damaged" in refusal(path)


@pytest.mark.parametrize("content", [b"", b"no zip", b"\x80\x04N."])
@pytest.mark.parametrize("read", READERS)
def test_what_is_no_zip_is_refused(tmp_path, content, read):
    path = tmp_path / "model.zip"
    path.write_bytes(content)
    assert "it is no zip file" in refusal(path, read)


@pytest.mark.parametrize("read", READERS)
def test_a_folder_is_refused(tmp_path, read):
    assert "it is a folder" in refusal(tmp_path, read)


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b'{"a": ', b"[" * 100_000, b'{"a": ' * 5_000 + b"1" + b"}" * 5_000])
def test_settings_that_are_no_settings_are_refused(saved, tmp_path, data):
    assert "its entry 'data' " in refusal(write(tmp_path / "model.zip", {**entries_of(saved), "data": data}))


@pytest.mark.parametrize("name", ["policy_class", "policy_kwargs", "observation_space", "action_space"])
def test_settings_that_describe_no_policy_are_refused(saved, tmp_path, name):
    assert f"'{name}'" in refusal(changed(saved, tmp_path / "model.zip", **{name: None}))


def test_entries_that_are_there_twice_are_refused(saved, tmp_path):
    path = tmp_path / "model.zip"
    path.write_bytes(saved.read_bytes())
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("data", "{}")
    assert "its entry 'data' is there twice" in refusal(path)


def test_files_of_other_algorithms_are_refused(saved, tmp_path):
    SAC("MlpPolicy", "Pendulum-v1", policy_kwargs=dict(net_arch=[8]), buffer_size=10).save(tmp_path / "sac.zip")
    for read in READERS:
        message = refusal(tmp_path / "sac.zip", read)
        assert "it has no entry 'value_net.optimizer.pth', and is no model of this package" in message
    assert "it is a model of GMPO, not of GMPG; use GMPO.load" in refusal(saved, GMPG.load)


# What torch reads


def tensor_file(structure, **parts):
    """A file of torch's, with another structure."""
    entries = {"archive/data.pkl": structure, "archive/version": b"3\n"}
    return write(io.BytesIO(), {**entries, **{f"archive/data/{key}": part for key, part in parts.items()}}).getvalue()


def structure_of(size, stride, offset=0, n_numbers=4):
    """Of a tensor over a storage of floats."""

    class Storage:
        pass

    class Tensor:
        def __reduce__(self):
            return th._utils._rebuild_tensor_v2, (Storage(), offset, size, stride, False, None)

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", th.FloatStorage, "0", "cpu", n_numbers) if isinstance(value, Storage) else None

    file = io.BytesIO()
    Pickler(file, protocol=2).dump({"a": Tensor()})
    return file.getvalue()


def test_a_tensor_within_its_storage_is_let_through():
    for size, stride, offset in (((4,), (1,), 0), ((2, 2), (1, 2), 0), ((2,), (1,), 2), ((0, 10**9), (1, 1), 0), ((), (), 3)):
        check_tensor_file(tensor_file(structure_of(size, stride, offset), **{"0": bytes(16)}))


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((5,), (1,), 0),
        ((4,), (1,), 1),
        ((2,), (4,), 0),
        ((2,), (-1,), 1),
        ((2,), (1,), -1),
        ((-1,), (1,), 0),
        ((2, 3), (0, 1), 0),
    ],
)
def test_a_tensor_beyond_its_storage_is_refused(size, stride, offset):
    with pytest.raises(ValueError, match="describes a tensor of size .* over 4 numbers"):
        check_tensor_file(tensor_file(structure_of(size, stride, offset), **{"0": bytes(16)}))


def test_a_storage_that_claims_what_is_not_there_is_refused():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", structure_of((10**9,), (1,), n_numbers=10**9))
        archive.writestr("archive/data/0", bytes(16))
        info = archive.getinfo("archive/data/0")
        info.file_size = info.compress_size = 4 * 10**9
    with pytest.raises(ValueError, match="claims more bytes than it has"):
        check_tensor_file(file.getvalue())


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        # Room for 2^40 bytes, which a reader makes before it looks for them
        (b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b".", "is damaged|BYTEARRAY8"),
        (b"\x80\x04\x95" + bytes(8) + b"}.", r"holds a pickle that torch did not write \(FRAME"),
        (pickle.dumps([1], protocol=2), "holds a list, not a dictionary of tensors"),
        (
            pickle.dumps({"a": bytearray(5)}, protocol=2),
            r"asks for '\w+.bytearray'",
        ),
        (pickle.dumps({"a": 1}, protocol=2)[:-3], "is damaged"),
        (b"", "is damaged"),
    ],
)
def test_a_structure_that_torch_did_not_write_is_refused(structure, message):
    with pytest.raises(ValueError, match=message):
        check_tensor_file(tensor_file(structure))


def test_entries_that_torch_does_not_write_are_refused():
    plain = pickle.dumps({"a": 1}, protocol=2)
    check_tensor_file(tensor_file(plain))
    with pytest.raises(ValueError, match="holds 'archive/constants.pkl', which is no part of what torch saves"):
        check_tensor_file(write(io.BytesIO(), {"archive/data.pkl": plain, "archive/constants.pkl": b""}).getvalue())
    with pytest.raises(ValueError, match="holds 'archive/data.pkl' compressed"):
        check_tensor_file(write(io.BytesIO(), {"archive/data.pkl": plain}, zipfile.ZIP_DEFLATED).getvalue())
    with pytest.raises(ValueError, match="it has no list of tensors"):
        check_tensor_file(write(io.BytesIO(), {"archive/version": b"3"}).getvalue())
    two = write(io.BytesIO(), {"archive/data.pkl": plain, "other/data.pkl": plain}).getvalue()
    with pytest.raises(ValueError, match="it has no list of tensors"):
        check_tensor_file(two)


def test_entries_that_are_larger_than_the_file_are_refused(saved, tmp_path):
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries_of(saved).items():
            archive.writestr(name, content)
        info = archive.getinfo("system_info.txt")
        info.file_size = info.compress_size = 10**9
    assert "its entries are larger than itself" in refusal(path)


# Policies and replay buffers alone


def test_a_policy_alone_is_plain_too(arrays, tmp_path, witness):
    policy = GMPO("DiffusionPolicy", dataset=arrays, policy_kwargs=dict(SMALL, path=VPPath(0.2, 9.0))).policy
    policy.save(tmp_path / "policy.pth")
    plain = (tmp_path / "policy.pth").read_bytes()
    assert set(th.load(io.BytesIO(plain), weights_only=True)) == {"state_dict", "data"}
    loaded = type(policy).load(tmp_path / "policy.pth")
    assert vars(loaded.path) == vars(policy.path) and loaded.observation_space == policy.observation_space
    evil = {"state_dict": policy.state_dict(), "data": {"path": Runs(witness)}}
    (tmp_path / "policy.pth").write_bytes(saved_by_torch(evil))
    assert "asks for 'posix.system'" in refusal(tmp_path / "policy.pth", type(policy).load)
    huge = {**th.load(io.BytesIO(plain)), "data": {**th.load(io.BytesIO(plain))["data"], "net_arch": {"pi": [10**6, 10**6]}}}
    (tmp_path / "policy.pth").write_bytes(saved_by_torch(huge))
    assert "describes networks of an absurd size" in refusal(tmp_path / "policy.pth", type(policy).load)
    (tmp_path / "policy.pth").write_bytes(saved_by_torch({"a": 1}))
    assert "is no DiffusionPolicy that was saved alone" in refusal(tmp_path / "policy.pth", type(policy).load)


def test_a_replay_buffer_makes_nothing_but_itself(arrays, tmp_path, witness):
    model = GMPO("FlowPolicy", dataset=arrays, policy_kwargs=SMALL).learn(2)
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Runs(witness)))
    with pytest.raises(ValueError, match=r"evil.pkl asks for 'posix.system'.* pass trust_pickle=True"):
        model.load_replay_buffer(tmp_path / "evil.pkl")
    # A storage is a pickle within the pickle

    class Storage:
        def __reduce__(self):
            return th.storage._load_from_bytes, (saved_by_torch(Runs(witness)),)

    (tmp_path / "inner.pkl").write_bytes(pickle.dumps(Storage()))
    with pytest.raises(ValueError, match="no replay buffer of SB3, or damaged"):
        model.load_replay_buffer(tmp_path / "inner")
