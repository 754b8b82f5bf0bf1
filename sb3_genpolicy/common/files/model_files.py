"""
The zip files of models, looked at before anything in them is read. The layout is SB3's: settings as JSON in ``data``, tensors
in ``*.pth``. Ours hold no pickle, unless a setting is something of the user's own.
"""

import io
import json
import pathlib
import re
import warnings
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from stable_baselines3.common.save_util import json_to_data, open_path

from sb3_genpolicy.common.files.essential_settings import check_essentials
from sb3_genpolicy.common.files.labels import NotRegisteredError
from sb3_genpolicy.common.files.plain_json import NotPlainError, decode, encode
from sb3_genpolicy.common.files.tensor_files import check_tensor_file

#: Where a model can be read from
ModelSource = str | pathlib.Path | io.BufferedIOBase

#: The setting that says whose file it is: names of the algorithm and of those that it derives from
ALGORITHM = "algorithm"

_TEXTS = ("data", "_stable_baselines3_version", "system_info.txt")
_TENSORS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\.pth", re.ASCII)
# What the first models of this package had, whose files do not name their algorithm
_BEFORE_NAMES = ("policy", "actor.optimizer", "critic.optimizer", "value_net.optimizer")
# So much larger than its compressed bytes an entry may be; SB3 does not compress at all
_RATIO, _FREE = 100, 1 << 20
# SB3 makes an environment of a name that it finds here, and imports what the name says. No model is saved with them
_LEFT_OUT = ("env", "policy", "device", "replay_buffer", "rollout_buffer", "_vec_normalize_env", "_logger", "_custom_logger")

#: What can be done about a pickle
TRUST = "pass trust_pickle=True if you trust whoever made it"
_FETCH = "save the model or fetch the file again"


def encode_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """
    :param settings: attributes of a model
    :return: the same for JSON; those that it cannot hold stay as they are, and SB3 pickles them
    """
    encoded = {}
    for name, value in settings.items():
        try:
            encoded[name] = encode(value, name)
        except (NotPlainError, RecursionError) as error:
            reason = str(error) if isinstance(error, NotPlainError) else f"{name} holds itself"
            register = isinstance(error, NotPlainError) and error.of_a_class
            warnings.warn(
                f"{reason}, which plain JSON cannot hold: '{name}' is pickled, and loading will need trust_pickle=True."
                + (" A class that sb3_genpolicy.register was given needs no pickle." if register else ""),
                stacklevel=3,
            )
            encoded[name] = value
    return encoded


@contextmanager
def open_model_file(source: ModelSource) -> Iterator["ModelFile"]:
    """
    :param source: a path, with or without ``.zip``, or a file that is open
    :return: the file, as long as the context lasts
    :raises ValueError: if it is a folder, no zip file, or damaged, or holds what no model's file holds
    """
    if not isinstance(source, (str, pathlib.Path)):
        yield ModelFile(open_path(source, "r"), "The file")
        return
    if pathlib.Path(source).is_dir():
        raise ValueError(f"{source} was not loaded: it is a folder, where the zip file of a model is needed.")
    with open_path(source, "r", suffix="zip") as file:
        yield ModelFile(file, f"File {getattr(file, 'name', source)}")


class ModelFile:
    """
    A model's file. It is checked as it is opened; nothing of it was read yet but its directory.

    :param file: the open file
    :param label: what it is called in messages
    :raises ValueError: if it is no zip file, or damaged, or holds what no model's file holds
    """

    def __init__(self, file: Any, label: str):
        self.file: io.BufferedIOBase = file
        self.label = label
        try:
            self.archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise self._no_zip() from error
        # Of what was cut off, an entry that is a zip file itself may be taken for the whole
        if min((info.header_offset for info in self.archive.infolist()), default=0) > 0:
            raise self._no_zip()
        self._check_entries()

    def _no_zip(self) -> ValueError:
        self.file.seek(0)
        begins = self.file.read(4) == b"PK\x03\x04"
        return self.refusal("it was cut off (its end is missing)" if begins else "it is no zip file", _FETCH)

    def refusal(self, reason: str, remedy: str) -> ValueError:
        """
        :param reason: what is wrong
        :param remedy: what can be done
        :return: the error to raise
        """
        # Texts of the file itself may be among them
        return ValueError(f"{self.label} was not loaded: {' '.join(reason.split())}; {remedy}.")

    def _check_entries(self) -> None:
        infos, seen = self.archive.infolist(), set[str]()
        elsewhere = "no model is saved so"
        for info in infos:
            name = info.orig_filename
            if ".." in name or name.startswith(("/", "\\")) or ":" in name:
                raise self.refusal(f"its entry {name!r} leaves the folder", elsewhere)
            if name != info.filename or not (name in _TEXTS or _TENSORS.fullmatch(name)):
                raise self.refusal(f"its entry {name!r} is none that a model's file has", elsewhere)
            if name in seen:
                raise self.refusal(f"its entry {name!r} is there twice", elsewhere)
            seen.add(name)
            if info.file_size > _RATIO * info.compress_size + _FREE:
                sizes = f"{info.file_size} bytes unpacked from {info.compress_size}"
                raise self.refusal(f"its entry {name!r} has an absurd size ({sizes})", elsewhere)
        self.file.seek(0, io.SEEK_END)
        if sum(info.compress_size for info in infos) > self.file.tell():
            raise self.refusal("its entries are larger than itself", elsewhere)

    def _read(self, name: str) -> bytes:
        try:
            return self.archive.read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError) as error:
            raise self.refusal(f"its entry {name!r} is damaged", _FETCH) from error

    def check_state_dicts(self, needed: Iterable[str] = ("policy",)) -> None:
        """
        :param needed: what has a state dict of its own in a model's file
        :raises ValueError: if networks or optimizers of the model are missing
        """
        names = self.archive.namelist()
        missing = [name for name in ("data", *(f"{name}.pth" for name in needed)) if name not in names]
        if missing:
            raise self.refusal(
                f"it has no entry {missing[0]!r}, and is no model of this package",
                "load it with the algorithm that saved it",
            )

    def check_tensors(self) -> None:
        """
        :raises ValueError: if there is something else than tensors in the ``.pth`` files, or they claim more than they have
        """
        for name in self.archive.namelist():
            if name.endswith(".pth"):
                content = self._read(name)
                try:
                    check_tensor_file(content)
                except ValueError as error:
                    raise self.refusal(f"its entry {name!r} {error}", "nothing of it was run") from error

    def plain_settings(self) -> dict[str, Any]:
        """
        :return: all settings but the pickled ones, of a model of this package or of SB3
        :raises ValueError: if they are damaged
        """
        stored = self._stored_settings()
        return self._decoded(stored, _pickled(stored))

    def read_settings(
        self, cls: type | None, trust_pickle: bool, replaced: Mapping[str, Any], if_trusted: str = TRUST
    ) -> dict[str, Any]:
        """
        :param cls: the algorithm that is to be loaded, None for any of this package
        :param trust_pickle: whether pickles are allowed; then the policy's options are read though they may be one
        :param replaced: settings that take the place of the file's, which are not read
        :param if_trusted: what to do with pickles, for whoever trusts them
        :return: all settings but the pickled ones
        :raises ValueError: if it is another algorithm's file, holds pickles, or is damaged
        """
        stored = self._stored_settings()
        self._check_algorithm(stored.get(ALGORITHM), cls)
        stored = {name: value for name, value in stored.items() if name not in replaced}
        pickled = _pickled(stored)
        if trust_pickle:
            options = {name: stored[name] for name in pickled if name == "policy_kwargs"}
            return {**self._decoded(stored, pickled), **json_to_data(json.dumps(options)), **replaced}
        if pickled:
            which = ", ".join(repr(name) for name in pickled[:3]) + (f" and {len(pickled) - 3} more" if pickled[3:] else "")
            several = "are pickles, which" if pickled[1:] else "is a pickle, which"
            raise self.refusal(f"{which} in its entry 'data' {several} can run anything when read", if_trusted)
        self._check_names(stored, cls)
        settings = {**self._decoded(stored), **replaced}
        try:
            check_essentials(settings, self.archive.getinfo("policy.pth").file_size)
        except ValueError as error:
            raise self.refusal(f"its entry 'data' {error}", _FETCH) from error
        return settings

    def _stored_settings(self) -> dict[str, Any]:
        content = self._read("data")
        try:
            stored = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise self.refusal("its entry 'data' is no JSON", _FETCH) from error
        if not isinstance(stored, dict):
            raise self.refusal("its entry 'data' holds no settings", _FETCH)
        return stored

    def _check_algorithm(self, names: Any, cls: type | None) -> None:
        if names is None:
            self.check_state_dicts(_BEFORE_NAMES)
        if cls is None or names is None:
            return
        given = names if isinstance(names, list) else [names]
        names = [name for name in given if isinstance(name, str) and name.isidentifier()] or ["Nothing"]
        if cls.__name__ not in names and names[0] not in [base.__name__ for base in cls.__mro__]:
            raise self.refusal(f"it is a model of {names[0]}, not of {cls.__name__}", f"use {names[0]}.load")

    def _check_names(self, stored: dict[str, Any], cls: type | None) -> None:
        for name in stored:
            if name in _LEFT_OUT or callable(getattr(cls, name, None)) or not name.isidentifier():
                raise self.refusal(f"its entry 'data' sets {name!r}, which no model is saved with", TRUST)

    def _decoded(self, stored: dict[str, Any], pickled: Collection[str] = ()) -> dict[str, Any]:
        return {name: self._decode(name, value) for name, value in stored.items() if name not in pickled}

    def _decode(self, name: str, value: Any) -> Any:
        try:
            return decode(value)
        except RecursionError as error:
            raise self.refusal(f"{name!r} in its entry 'data' is nested too deeply", _FETCH) from error
        except NotRegisteredError as error:
            raise self.refusal(f"{name!r} in its entry 'data' {error.reason}", error.remedy) from error
        except Exception as error:
            reason = str(error) if type(error) is ValueError else f"is damaged ({error or type(error).__name__})"
            raise self.refusal(f"{name!r} in its entry 'data' {reason}".rstrip("."), _FETCH) from error


def _pickled(stored: dict[str, Any]) -> list[str]:
    # As SB3 tells them
    return [name for name, value in stored.items() if isinstance(value, dict) and ":serialized:" in value]
