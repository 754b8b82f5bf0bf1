"""
Modules that release 0.1 had elsewhere: their old paths, in programs and in pickles, lead to where they are.
"""

import importlib
import sys
import warnings
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from sb3_genpolicy.common.deprecation import KNOWN, Deprecation

_COMMON = "sb3_genpolicy.common"
_OLD_PATHS = Deprecation("an import by a path of release 0.1", "the present path", since="0.2")
KNOWN.append(_OLD_PATHS)
# Folder -> what came into it, with its new name where that is another
_MOVED = {
    "files": "model_files plain_json plain_names>labels tensor_files whole_files essential_settings",
    "transitions": "transforms rewards outliers action_range",
    "updates": "guards recorded_update precision device_means averages data_parallel>processes",
    "datasets": "dataset_info>info dataset_picture>picture recording recorded_steps envs vec_wrappers",
    "replay": "buffers>buffer row_store added_rows streaming tensor_normalizer vec_normalize",
    "policies": (
        "generative_policy sampling_policy actor candidates critics twin_critic>critics.ensemble policy_options>options "
        "option_checks shape_checks onnx_export normalization policy_files"
    ),
    "algorithms": (
        "offline_algorithm resumable_algorithm>offline_algorithm offline_to_online>online gradient_steps>offline_algorithm "
        "pretraining pretrained data_parallel_checks>begin_together callbacks space_checks value_watch scales"
    ),
    "side_by_side": "side_by_side_checks>checks model_batch model_stack",
}
_PATHS = {
    f"{_COMMON}.{old}": f"{_COMMON}.{folder}.{new or old}"
    for folder, names in _MOVED.items()
    for old, _, new in (name.partition(">") for name in names.split())
}
# Modules whose name is a folder's now -> where what they had is
_FOLDERS = {
    f"{_COMMON}.policies": f"{_COMMON}.policies.named",
    f"{_COMMON}.side_by_side": f"{_COMMON}.side_by_side.learn",
    f"{_COMMON}.transitions": f"{_COMMON}.transitions.transitions",
}


def present_path(module: str) -> str:
    """
    :param module: path of a module, of this release or of an earlier one
    :return: where it is now
    """
    return _PATHS.get(module) or _FOLDERS.get(module) or module


class _Moved(MetaPathFinder, Loader):
    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in _PATHS else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        path = _PATHS[spec.name]
        warnings.warn(
            f"{spec.name} is {path} since release 0.2: import it from there, or from sb3_genpolicy where that has it. "
            f"Release {_OLD_PATHS.gone} will be without the old path in programs; files that name it are read for good.",
            DeprecationWarning,
            stacklevel=2,
        )
        module = importlib.import_module(path)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It was executed under its own name, and is known by that."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


def find_moved_modules() -> None:
    """Let imports of old paths find the modules, with a warning for whoever writes them."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.append(_Moved())


def names_of_module(folder: str) -> Callable[[str], Any]:
    """
    :param folder: path of a folder that has the name of a former module
    :return: the folder's ``__getattr__``, which finds what that module had
    """

    def get(name: str) -> Any:
        if not name.startswith("_"):
            module = importlib.import_module(_FOLDERS[folder])
            if hasattr(module, name):
                return getattr(module, name)
        raise AttributeError(f"module {folder!r} has no attribute {name!r}")

    return get
