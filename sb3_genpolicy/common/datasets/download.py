"""
Remote Minari datasets. Minari fetches them; what is said here comes before it retries for half a minute in vain.
"""

import os
import re
import socket
import threading
import urllib.parse
import urllib.request
from pathlib import Path

import minari
from minari.storage.datasets_root_dir import get_dataset_path

#: Minari's address of the datasets that its foundation keeps
DEFAULT_REMOTE = "hf://farama-minari"
# Seconds to wait for an answer
_TIMEOUT = 3.0


def is_remote(name: str) -> bool:
    """
    :param name: a source
    :return: whether it is a remote Minari dataset, such as ``hf://farama-minari/D4RL/door/human-v2``
    """
    return re.match(r"(hf|gcp)://", name) is not None


def local_id(name: str) -> str:
    """
    :param name: a Minari id, possibly with its remote in front
    :return: the id that it has on this machine
    """
    return name.split("://", 1)[1].split("/", 1)[-1] if is_remote(name) else name


def download_minari(name: str) -> None:
    """
    Fetch a Minari dataset that is not on this machine.

    :param name: its id, possibly with its remote in front
    :raises ValueError: if there is no such dataset, or no way to it; the message says where files may be put by hand
    """
    dataset_id = local_id(name)
    folder = Path(get_dataset_path(dataset_id))
    if (folder / "data").exists():
        return
    if not re.search(r"-v\d+$", dataset_id):
        raise ValueError(f"'{dataset_id}' is no complete Minari id: ids end in a version, as 'mujoco/hopper/medium-v0' does.")
    by_hand = (
        f"On a machine with a network run `minari download {dataset_id}`, and put what it fetches at {folder}, "
        "so that the folder 'data' lies in there."
    )
    remote = name if is_remote(name) else os.environ.get("MINARI_REMOTE", DEFAULT_REMOTE)
    fault = _no_way_to(remote)
    if fault is not None:
        raise ValueError(f"Dataset '{dataset_id}' is not on this machine and cannot be fetched: {fault}. {by_hand}")
    try:
        minari.download_dataset(name)
    except ImportError as error:
        raise ValueError(f"Dataset '{dataset_id}' cannot be fetched: {error}") from error
    except Exception as error:
        raise ValueError(f"Dataset '{dataset_id}' could not be fetched from {remote} ({error}). {by_hand}") from error


def _no_way_to(remote: str) -> str | None:
    """What is in the way of a connection, None if nothing is."""
    if remote.startswith("gcp://"):
        address = "https://storage.googleapis.com"
    else:
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
            return "HF_HUB_OFFLINE is set"
        address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    scheme = urllib.parse.urlsplit(address).scheme
    # Behind a proxy, the proxy is what has to answer
    target = urllib.parse.urlsplit(urllib.request.getproxies().get(scheme, address))
    faults: list[str] = ["no answer in time"]

    def connect() -> None:
        try:
            port = target.port or (443 if target.scheme == "https" else 80)
            socket.create_connection((target.hostname or "", port), timeout=_TIMEOUT).close()
            faults.clear()
        except OSError as error:
            faults[:] = [str(error)]

    # On a thread: looking up a name knows no time limit
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_TIMEOUT)
    return f"{target.hostname} does not answer ({faults[0]})" if faults else None
