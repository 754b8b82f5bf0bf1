"""
Files of models, and what somebody might make of them.
"""

import base64
import io
import json
import os
import pickle
import re
import zipfile

import pytest
import torch as th

from sb3_genpolicy import GMPG, GMPO
from tests.helpers.arrays import SMALL, make_arrays

TENSORS = ["policy.pth", "actor.optimizer.pth", "critic.optimizer.pth", "value_net.optimizer.pth", "pytorch_variables.pth"]


class Runs:
    """A pickle that leaves a file behind when it is read."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return os.system, (f"touch '{self.witness}'",)


def save_small_model(path):
    """A trained model's file."""
    GMPO("FlowPolicy", dataset=make_arrays(), policy_kwargs=SMALL, seed=0, beta=0.0).learn(3).save(path)
    return path


def entries_of(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def settings_of(path):
    return json.loads(entries_of(path)["data"])


def write(path, entries, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def changed(saved, path, **settings):
    """The file with other settings."""
    entries = entries_of(saved)
    entries["data"] = json.dumps({**json.loads(entries["data"]), **settings})
    return write(path, entries)


def saved_by_torch(value):
    file = io.BytesIO()
    th.save(value, file)
    return file.getvalue()


def pickled(value):
    return {":type:": "a type", ":serialized:": base64.b64encode(pickle.dumps(value)).decode()}


def refusal(path, read=GMPO.load):
    """The one sentence that it is refused with."""
    with pytest.raises(ValueError) as caught:
        read(path)
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text and not re.search(r"\. [A-Z]", text)
    assert str(path) in text
    return text


def pretrain(path):
    return GMPG("FlowPolicy", pretrained=path)


def set_parameters(path):
    GMPO("FlowPolicy", dataset=make_arrays(), policy_kwargs=SMALL).set_parameters(path)


READERS = [GMPO.load, pretrain, set_parameters]
