"""
Datasets from elsewhere: what is said without a network, and that a download happens once.
"""

import shutil
import time

import minari
import pytest

from sb3_genpolicy import load_dataset
from sb3_genpolicy.common.datasets import download
from tests.helpers.data_formats import write_minari
from tests.helpers.dataset_faults import EPISODES


def test_without_a_network_the_message_comes_at_once_and_says_where_to_put_the_files(minari_root, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setattr(minari, "download_dataset", lambda name: pytest.fail("Minari was asked, and would retry"))
    folder = minari_root / "D4RL/door/human-v2"
    expected = rf"127.0.0.1 does not answer .*`minari download D4RL/door/human-v2`, and put what it fetches at {folder}"
    start = time.monotonic()
    with pytest.raises(ValueError, match=expected):
        load_dataset("D4RL/door/human-v2", download=True)
    with pytest.raises(ValueError, match=expected):
        load_dataset("hf://farama-minari/D4RL/door/human-v2")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set"):
        load_dataset("D4RL/door/human-v2", download=True)
    # Minari's own retries take 23 s each
    assert time.monotonic() - start < 20.0
    with pytest.raises(ValueError, match="'D4RL/door/human' is no complete Minari id: ids end in a version"):
        load_dataset("D4RL/door/human", download=True)


def test_a_download_goes_through_minari_and_happens_once(minari_root, monkeypatch):
    asked = []

    def fetch(name):
        asked.append(name)
        written = write_minari(EPISODES)
        (minari_root / "remote").mkdir(parents=True)
        (minari_root / written).rename(minari_root / "remote" / "set-v0")

    monkeypatch.setattr(download, "_no_way_to", lambda remote: None)
    monkeypatch.setattr(minari, "download_dataset", fetch)
    for _ in range(2):
        assert load_dataset("hf://somebody/remote/set-v0").n_rows == 26
    assert load_dataset("remote/set-v0", download=True).n_rows == 26
    shutil.rmtree(minari_root / "remote")
    assert load_dataset(["remote/set-v0"], download=True).n_rows == 26
    assert asked == ["hf://somebody/remote/set-v0", "remote/set-v0"]

    def fail(name):
        raise ConnectionError("reset")

    monkeypatch.setattr(minari, "download_dataset", fail)
    with pytest.raises(
        ValueError, match=r"could not be fetched from gcp://bucket.*\(reset\). On a machine with a network run"
    ):
        load_dataset("gcp://bucket/remote/other-v0")
