"""
Files of a model: methods of :class:`~sb3_genpolicy.common.algorithms.offline_algorithm.OfflineAlgorithm`. The layout is
SB3's; settings are plain JSON, and a file is checked before it is read.
"""

import inspect
import io
import math
import pathlib
from typing import Any, TypeVar

import torch as th
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.save_util import open_path, recursive_getattr, save_to_zip_file
from stable_baselines3.common.type_aliases import GymEnv, TensorDict
from torch import nn

from sb3_genpolicy.common.algorithms.spreads import fit_spreads
from sb3_genpolicy.common.files.buffer_pickles import unpickle_buffer
from sb3_genpolicy.common.files.model_files import ALGORITHM, encode_settings, open_model_file
from sb3_genpolicy.common.files.transient import Transient
from sb3_genpolicy.common.files.whole_files import whole_file
from sb3_genpolicy.common.policies.acting_options import ActingOptions
from sb3_genpolicy.common.policies.critics import IQLCritic
from sb3_genpolicy.common.policies.critics.options import with_critic
from sb3_genpolicy.common.policies.option_checks import check_kwargs
from sb3_genpolicy.common.replay.buffer import OfflineReplayBuffer
from sb3_genpolicy.common.updates.processes import processes
from sb3_genpolicy.generative.checks import check_option_names, options_of

Model = TypeVar("Model", bound=OffPolicyAlgorithm)

# Attributes with this ending are not saved: they are made anew from the learning rates
_SCHEDULES = "lr_schedule"
# What an algorithm that may adapt beta has where it does not
_FIXED_BETA = {"target_kl": None, "log_beta": 0.0}
# A divergence that is given is held, whatever held-out rows say
_GIVEN_KL = {"kl_was_given": True, "kl_share": 1.0}


def save(self: Any, path: str | pathlib.Path | io.BufferedIOBase, exclude: Any = None, include: Any = None) -> None:
    """
    Save the model: networks, optimizers, settings and random state, and the dataset's name, not its rows.

    The layout is SB3's. Settings are plain JSON; one that is something of your own (a function as learning rate, a class
    in ``policy_kwargs``) is pickled, with a warning, since ``load`` then has to be told to trust the file.

    The file is written whole or not at all, and replaces an earlier one only when it is complete: a run that is killed while
    saving still has its last checkpoint.

    :param path: path to the file where the model should be saved
    :param exclude: name of parameters that should be excluded in addition to the default ones
    :param include: name of parameters that might be excluded but should be included anyway
    :raises OSError: if the file cannot be written
    """
    if not processes().is_first:
        return
    self.random.note(self.replay_buffer)
    fit_spreads(self)
    settings = encode_settings(_settings_to_save(self, exclude or (), include or ()))
    # In memory first: torch would hide the error message of a full disk
    content = io.BytesIO()
    save_to_zip_file(
        content,
        data=settings,
        params=self.get_parameters(),
        pytorch_variables={name: recursive_getattr(self, name) for name in saved_tensors(self)},
    )
    with whole_file(path, "zip") as file:
        file.write(content.getbuffer())


def save_replay_buffer(self: Any, path: str | pathlib.Path | io.BufferedIOBase) -> None:
    """
    Save the replay buffer as a pickle file, whole or not at all; of several processes, the first one does.

    :param path: path to the file where the replay buffer should be saved
    :raises OSError: if it cannot be written
    """
    if not processes().is_first:
        return
    with whole_file(path, "pkl") as file:
        OffPolicyAlgorithm.save_replay_buffer(self, file)


def get_parameters(self: Any) -> dict[str, dict]:
    """
    Return the parameters of the agent. This includes parameters from different networks, e.g.
    critics (value functions) and policies (pi functions).

    :return: Mapping of from names of the objects to PyTorch state-dicts.
    """
    parameters = OffPolicyAlgorithm.get_parameters(self)
    clones: dict[Any, th.Tensor] = {}
    for state_dict in parameters.values():
        # Changed in place: a network's state dict has its version in an attribute, which a new dictionary would lack
        for name, value in state_dict.items():
            state_dict[name] = _without_neighbours(value, clones)
    return parameters


@classmethod  # type: ignore[misc]
def load(
    cls: type[Model],
    path: str | pathlib.Path | io.BufferedIOBase,
    env: GymEnv | str | None = None,
    device: th.device | str = "auto",
    custom_objects: dict[str, Any] | None = None,
    print_system_info: bool = False,
    force_reset: bool = True,
    trust_pickle: bool = False,
    **kwargs: Any,
) -> Model:
    """
    Load a model. The dataset is not opened; ``learn`` reads it again, by its name or as given.

    The file may come from anyone: it is checked before it is read, and anything but plain settings and tensors is refused.

    :param path: path to the file (or a file-like)
    :param env: environment of the loaded model (if registered in Gym, can be str; can be None)
    :param device: device on which the code should run
    :param custom_objects: objects to take in place of saved ones, which are not read then
    :param print_system_info: whether to print system info of the saved model and of this machine
    :param force_reset: whether to reset the environment before learning
    :param trust_pickle: whether settings that were pickled are read. A pickle can run anything: only for files whose maker
        you trust. Models with a function or a class of your own among their settings need it.
    :param kwargs: options of the constructor to change, for instance ``learning_rate``
    :return: the model
    :raises TypeError: if ``kwargs`` has a name that is no option of the constructor
    :raises ValueError: if the file is damaged, another algorithm's, or holds what could do harm
    """
    check_option_names(cls, cls.__init__, kwargs)
    # A beta that is given takes the place of the one that was adapted, unless a divergence is given too
    beta_is_fixed = _fixes_beta(kwargs)
    kl_is_given = kwargs.get("target_kl") is not None
    if beta_is_fixed:
        kwargs.pop("target_kl", None)
    with open_model_file(path) as file:
        file.check_state_dicts()
        if not trust_pickle:
            file.check_tensors()
        # SB3 takes these in place of what it finds in the file
        settings = file.read_settings(cls, trust_pickle, custom_objects or {})
        kwargs = _with_options_of_the_file(cls, settings, kwargs)
        # `_wrap_env` makes what is only named
        model = OffPolicyAlgorithm.load.__func__(  # type: ignore[attr-defined]
            cls, file.file, env, device, settings, print_system_info, force_reset, **kwargs
        )
    vars(model).pop(ALGORITHM, None)
    changed = {**(_GIVEN_KL if kl_is_given else {}), **(_FIXED_BETA if beta_is_fixed else {})}
    vars(model).update({name: value for name, value in changed.items() if name in vars(model)})
    return model


def set_parameters(
    self: Any,
    load_path_or_dict: str | pathlib.Path | io.BufferedIOBase | TensorDict,
    exact_match: bool = True,
    device: th.device | str = "auto",
) -> None:
    """
    Load parameters from a file, whose settings are not read, or from a dictionary (see ``get_parameters``).

    :param load_path_or_dict: path to the file (or a file-like), or a dictionary of state dicts
    :param exact_match: whether the parameters have to be those of every network and optimizer
    :param device: device on which the code should run
    :raises ValueError: if the file is damaged, another algorithm's, or holds what could do harm
    """
    if isinstance(load_path_or_dict, dict):
        OffPolicyAlgorithm.set_parameters(self, load_path_or_dict, exact_match, device)
        return
    with open_model_file(load_path_or_dict) as file:
        if exact_match:
            file.check_state_dicts(saved_networks(self))
        file.check_tensors()
        OffPolicyAlgorithm.set_parameters(self, file.file, exact_match, device)  # type: ignore[arg-type]


def load_replay_buffer(
    self: Any,
    path: str | pathlib.Path | io.BufferedIOBase,
    truncate_last_traj: bool = True,
    trust_pickle: bool = False,
) -> None:
    """
    Load a replay buffer from a pickle file. Unpickling may create only objects of the classes that such a buffer consists of.

    :param path: path to the pickled replay buffer
    :param truncate_last_traj: has no effect here
    :param trust_pickle: whether unpickling may create any object: only for files whose maker you trust. Buffers with a reward
        function of your own need it.
    :raises ValueError: if the file is damaged, holds something else, or would run something else
    """
    if trust_pickle:
        OffPolicyAlgorithm.load_replay_buffer(self, path, truncate_last_traj)
    else:
        with open_path(path, "r", suffix="pkl") as file:
            label = f"File {getattr(file, 'name', '')}".rstrip()
            self.replay_buffer = unpickle_buffer(file, label, "pass trust_pickle=True")
    if not isinstance(self.replay_buffer, OfflineReplayBuffer):
        raise ValueError("This is a replay buffer of SB3: give it as `dataset=`, which learns from it.")
    self.replay_buffer.to(self.device)
    self.connect_replay_buffer()


# What is in a file


def saved_networks(model: Any) -> list[str]:
    """
    :param model: a model
    :return: names of what has a state dict of its own in its file: the policy, and the optimizer of every network
    """
    return ["policy", *(f"{name}.optimizer" for name in model.policy.optimizers())]


def saved_tensors(model: Any) -> list[str]:
    """
    :param model: a model
    :return: names of the tensors that are saved with it: the random states, and every attribute that is a tensor
    """
    return ["random_state", "row_random_state", *(name for name, value in vars(model).items() if isinstance(value, th.Tensor))]


def names_left_out(model: Any) -> list[str]:
    """
    :param model: a model
    :return: names of its attributes that are no settings: networks, schedules, data, and what is made anew when it is loaded
    """
    is_made_anew = (nn.Module, Transient)
    made_anew = [name for name, value in vars(model).items() if isinstance(value, is_made_anew) or name.endswith(_SCHEDULES)]
    return [*OffPolicyAlgorithm._excluded_save_params(model), *made_anew, "dataset", "pretrained", "collects"]


def algorithm_names(cls: type, base: type) -> list[str]:
    """
    :param cls: an algorithm
    :param base: the base of all
    :return: names of the algorithm and of those that it derives from
    """
    between = cls.__mro__[: cls.__mro__.index(base)]
    return [each.__name__ for each in between if not inspect.isabstract(each)]


def note_what_0_1_had(settings: dict[str, Any]) -> None:
    """
    Release 0.1 had one kind of critic, of which its files have the expectile alone; its policies took the best of candidates,
    and no tilt was clamped.

    :param settings: of a model's file; the options of its policy get what would say that now
    """
    expectile, options = settings.get("expectile"), settings["policy_kwargs"]
    if options.get("critic") is None:
        critic = IQLCritic() if expectile is None else IQLCritic(expectile=expectile)
        options = {**ActingOptions.former_options, **options, "critic": critic}
        if settings.get("gradient_estimator", "reinforce") != "reinforce":
            # GMPG's was of `reinforce` alone
            settings["weight_clamp"] = math.inf
    settings["policy_kwargs"] = with_critic(options, None)


def _fixes_beta(kwargs: dict[str, Any]) -> bool:
    """Whether options that are to be changed ask for a beta that stays as it is."""
    return kwargs["target_kl"] is None if "target_kl" in kwargs else kwargs.get("beta") is not None


def _with_options_of_the_file(cls: Any, settings: dict[str, Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """
    :param cls: the algorithm
    :param settings: of a model's file; a critic that is given takes the place of its own
    :param kwargs: options that are to be changed
    :return: those that are left to SB3
    :raises ValueError: if the critic that is given has other networks than the file
    """
    kwargs = dict(kwargs)
    if "policy_kwargs" not in settings:
        # A pickle that cannot be read, of which SB3 says more
        return kwargs
    if "target_kl" not in settings and "target_kl" in options_of(cls):
        # Before there was one beta was fixed, which is no longer the default
        kwargs.setdefault("target_kl", None)
    if "episode_kl" not in settings and "episode_kl" in options_of(cls):
        # Before there was one rows were drawn alike
        kwargs.setdefault("episode_kl", 0.0)
    named = set(settings["policy_kwargs"])
    note_what_0_1_had(settings)
    saved = settings["policy_kwargs"]
    own = settings["policy_kwargs"] = {**saved, "critic": cls.critic_to_load(saved["critic"], kwargs)}
    if "policy_kwargs" in kwargs:
        check_kwargs("policy_kwargs", kwargs["policy_kwargs"])
        given = kwargs["policy_kwargs"] or {}
        if given.get("critic") is None or with_critic(given, None)["critic"] == saved["critic"]:
            given = {**given, "critic": own["critic"]}
        # What the algorithm itself had added to those that were given, and what an older file does not say
        added = {name: own[name] for name in own if name == "behaviour_model" or name not in named}
        kwargs["policy_kwargs"] = {**added, **given}
    return kwargs


def _settings_to_save(model: Any, exclude: Any, include: Any) -> dict[str, Any]:
    tensors = {name.split(".")[0] for name in (*saved_networks(model), *saved_tensors(model))}
    left_out = {*exclude, *model._excluded_save_params()}.difference(include) | tensors
    settings = {name: value for name, value in vars(model).items() if name not in left_out}
    return {ALGORITHM: model.algorithm_names(), **settings}


def _without_neighbours(tree: Any, clones: dict[Any, th.Tensor]) -> Any:
    """
    Clone tensors that are views of larger ones. Torch saves the whole memory behind a view, so that a model trained side by
    side with others would save their parameters too. Tensors that several networks share are cloned once, and stay shared.
    """
    if isinstance(tree, dict):
        return {key: _without_neighbours(value, clones) for key, value in tree.items()}
    if isinstance(tree, th.Tensor) and tree.untyped_storage().nbytes() > tree.nbytes:
        place = tree.data_ptr(), tree.dtype, tree.shape, tree.stride()
        if place not in clones:
            clones[place] = tree.clone()
        return clones[place]
    return tree
