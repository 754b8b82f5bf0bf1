"""
Files of a policy alone: what its constructor was given, as plain JSON, and its tensors.
"""

import io
import pathlib
import pickle
from typing import Any, ClassVar, TypeVar

import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import get_device

from sb3_genpolicy.common.files.essential_settings import check_essentials
from sb3_genpolicy.common.files.labels import NotRegisteredError
from sb3_genpolicy.common.files.model_files import TRUST, encode_settings
from sb3_genpolicy.common.files.plain_json import decode
from sb3_genpolicy.common.files.tensor_files import check_tensor_file

SelfPlainPolicy = TypeVar("SelfPlainPolicy", bound="PlainPolicy")


class PlainPolicy(BasePolicy):
    """
    A policy whose files hold no pickle, unless an option is something of the user's own.
    """

    #: Options that files of an earlier release do not have, as they were then
    former_options: ClassVar[dict[str, Any]] = {}

    def save(self, path: str) -> None:
        """
        Save the policy alone.

        :param path: path to the file, which is named as given
        """
        options = self._get_constructor_parameters()
        # Whoever loads a policy alone does not train it
        options.pop("lr_schedule", None)
        th.save({"state_dict": self.state_dict(), "data": encode_settings(options)}, path)

    @classmethod
    def load(
        cls: type[SelfPlainPolicy], path: str, device: th.device | str = "auto", trust_pickle: bool = False
    ) -> SelfPlainPolicy:
        """
        Load a policy that was saved alone.

        :param path: path to the file
        :param device: device on which the policy should be loaded
        :param trust_pickle: whether pickles are read, which can run anything: only for files whose maker you trust. Policies
            with a class of your own among their options need it.
        :return: the policy
        :raises ValueError: if the file is damaged, or holds what could do harm
        """
        device = get_device(device)
        saved = _read(pathlib.Path(path), device, trust_pickle)
        try:
            options = {name: decode(value) for name, value in saved["data"].items()}
            if not trust_pickle:
                check_essentials({**options, "policy_class": cls, "policy_kwargs": options}, pathlib.Path(path).stat().st_size)
            policy = cls(**{"lr_schedule": cls._dummy_schedule, **cls.former_options, **options})
            policy.load_state_dict(saved["state_dict"])
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"File {path} was not loaded: it {_reason(error, cls)}.") from error
        return policy.to(device)


def _read(path: pathlib.Path, device: th.device, trust_pickle: bool) -> dict[str, Any]:
    content = path.read_bytes()
    try:
        if not trust_pickle:
            check_tensor_file(content)
        return th.load(io.BytesIO(content), map_location=device, weights_only=not trust_pickle)
    except (ValueError, pickle.UnpicklingError) as error:
        raise ValueError(f"File {path} was not loaded: it {str(error).splitlines()[0]}; {TRUST}.") from error


def _reason(error: Exception, cls: type) -> str:
    if type(error) is ValueError or isinstance(error, NotRegisteredError):
        return str(error).rstrip(".")
    return f"is no {cls.__name__} that was saved alone ({error})"
