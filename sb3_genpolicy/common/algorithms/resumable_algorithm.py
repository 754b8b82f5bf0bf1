"""
Random state and files of a training that can be stopped and goes on where it was.
"""

import inspect
import io
import pathlib
from itertools import takewhile
from typing import Any, TypeVar

import torch as th
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.save_util import open_path, recursive_getattr, save_to_zip_file
from stable_baselines3.common.type_aliases import GymEnv, TensorDict

from sb3_genpolicy.common.files.buffer_pickles import unpickle_buffer
from sb3_genpolicy.common.files.model_files import ALGORITHM, encode_settings, open_model_file
from sb3_genpolicy.common.files.whole_files import whole_file
from sb3_genpolicy.common.replay.buffer import OfflineReplayBuffer
from sb3_genpolicy.common.updates.processes import processes
from sb3_genpolicy.generative.checks import check_option_names

SelfResumableAlgorithm = TypeVar("SelfResumableAlgorithm", bound="ResumableAlgorithm")

# Keeps the draws of rows apart from the training's other draws
_ROW_STREAM = 0x5DEECE66D


class ResumableAlgorithm(OffPolicyAlgorithm):
    """
    An off-policy algorithm whose draws are its own, and are saved and taken up again. Rows have a random state apart from all
    else, since batches may be gathered ahead of the step that they are for.
    """

    replay_buffer: OfflineReplayBuffer  # type: ignore[assignment]

    def _setup_model(self) -> None:
        # The training draws from a generator of its own, so that evaluations in between do not change it
        self.generator = th.Generator(self.device)
        self.generator.manual_seed(int(th.randint(2**62, ())))
        self._row_seed = int(th.randint(2**62, ()))
        super()._setup_model()
        # Saved as tensors; the generators themselves cannot be
        self.random_state = self.generator.get_state()
        self.row_random_state = th.empty(0, dtype=th.uint8)
        self._resume_random_state = True

    def set_random_seed(self, seed: int | None = None) -> None:
        """
        Set the seed of the pseudo-random generators (python, numpy, pytorch, gym, action_space, and the training's own)

        :param seed: the seed; None changes nothing
        """
        super().set_random_seed(seed)
        if seed is not None:
            self.generator.manual_seed(seed)
            self._row_seed = seed ^ _ROW_STREAM
            if self.replay_buffer is not None:
                self.replay_buffer.generator = None
            self._resume_random_state = False

    def _prepare_random_state(self) -> None:
        """Rows are drawn by a generator where they are; a loaded model goes on with the draws after the last it had."""
        generator = self.replay_buffer.generator
        if generator is None or generator.device.type != self.replay_buffer.rows_device.type:
            self.replay_buffer.seed_rows(self._row_seed)
        if self._resume_random_state:
            self._restore_random_state()

    def _restore_random_state(self) -> None:
        state = self.random_state.cpu()
        if state.shape == self.generator.get_state().shape:
            self.generator.set_state(state)
        else:
            # Saved on another kind of device, whose states do not carry over: go on with fresh draws, not with the first ones
            self.generator.manual_seed((self.seed or 0) + self.num_timesteps)
        if len(self.row_random_state) and not self.replay_buffer.set_random_state(self.row_random_state.cpu()):
            self.replay_buffer.seed_rows(self._row_seed + self.num_timesteps)
        self._resume_random_state = False

    def _connect_replay_buffer(self) -> None:
        """Let another replay buffer treat rows as this model does."""

    def _note_random_state(self) -> None:
        """Where files have it."""
        if not self._resume_random_state:
            self.random_state = self.generator.get_state()
            if self.replay_buffer is not None and self.replay_buffer.generator is not None:
                self.row_random_state = self.replay_buffer.random_state()

    # Files

    def _excluded_save_params(self) -> list[str]:
        # Schedules are made of the learning rates again
        return [*super()._excluded_save_params(), "generator", "lr_schedule"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return [], ["random_state", "row_random_state"]

    def save(self, path: str | pathlib.Path | io.BufferedIOBase, exclude: Any = None, include: Any = None) -> None:
        """
        Save the model: networks, optimizers, settings and random state, and the dataset's name, not its rows.

        The layout is SB3's. Settings are plain JSON; one that is something of your own (a function as learning rate, a class
        in ``policy_kwargs``) is pickled, with a warning, since ``load`` then has to be told to trust the file.

        A file is there whole or not at all, and replaces an earlier one when it is: a run that is killed while it saves has
        its last checkpoint.

        :param path: path to the file where the model should be saved
        :param exclude: name of parameters that should be excluded in addition to the default ones
        :param include: name of parameters that might be excluded but should be included anyway
        :raises OSError: if the file cannot be written
        """
        if not processes().is_first:
            return
        self._note_random_state()
        _, variables = self._get_torch_save_params()
        settings = encode_settings(self._settings_to_save(exclude or (), include or ()))
        # In memory first: torch hides what a full disk says
        content = io.BytesIO()
        save_to_zip_file(
            content,
            data=settings,
            params=self.get_parameters(),
            pytorch_variables={name: recursive_getattr(self, name) for name in variables},
        )
        with whole_file(path, "zip") as file:
            file.write(content.getbuffer())

    def save_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """
        Save the replay buffer as a pickle file, whole or not at all; of several processes, the first one does.

        :param path: path to the file where the replay buffer should be saved
        :raises OSError: if it cannot be written
        """
        if not processes().is_first:
            return
        with whole_file(path, "pkl") as file:
            super().save_replay_buffer(file)

    def _settings_to_save(self, exclude: Any, include: Any) -> dict[str, Any]:
        tensors = {name.split(".")[0] for names in self._get_torch_save_params() for name in names}
        left_out = {*exclude, *self._excluded_save_params()}.difference(include) | tensors
        settings = {name: value for name, value in vars(self).items() if name not in left_out}
        # A model that is loaded takes the random state up when it goes on learning
        return {ALGORITHM: self._algorithm_names(), **settings, "_resume_random_state": True}

    @classmethod
    def _algorithm_names(cls) -> list[str]:
        """Of this algorithm and those that it derives from."""
        ours = takewhile(lambda base: base is not ResumableAlgorithm, cls.__mro__)
        return [base.__name__ for base in ours if not inspect.isabstract(base)]

    def get_parameters(self) -> dict[str, dict]:
        """
        Return the parameters of the agent. This includes parameters from different networks, e.g.
        critics (value functions) and policies (pi functions).

        :return: Mapping of from names of the objects to PyTorch state-dicts.
        """
        parameters = super().get_parameters()
        clones: dict[Any, th.Tensor] = {}
        for state_dict in parameters.values():
            # In place, since a network's has its version as an attribute
            for name, value in state_dict.items():
                state_dict[name] = _without_neighbours(value, clones)
        return parameters

    @classmethod
    def load(  # type: ignore[override]
        cls: type[SelfResumableAlgorithm],
        path: str | pathlib.Path | io.BufferedIOBase,
        env: GymEnv | str | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        trust_pickle: bool = False,
        **kwargs: Any,
    ) -> SelfResumableAlgorithm:
        """
        Load a model. The dataset is not opened; ``learn`` reads it again, by its name or as given.

        The file may come from anyone: it is checked before it is read, and what is no plain setting and no tensor is refused.

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
        with open_model_file(path) as file:
            file.check_state_dicts()
            if not trust_pickle:
                file.check_tensors()
            # SB3 takes these in place of what it finds in the file
            settings = file.read_settings(cls, trust_pickle, custom_objects or {})
            # `_wrap_env` makes what is only named
            model = super().load(
                file.file,
                env,  # type: ignore[arg-type]
                device,
                settings,
                print_system_info,
                force_reset,
                **kwargs,
            )
        vars(model).pop(ALGORITHM, None)
        return model

    def set_parameters(
        self,
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
            super().set_parameters(load_path_or_dict, exact_match, device)
            return
        with open_model_file(load_path_or_dict) as file:
            if exact_match:
                file.check_state_dicts()
            file.check_tensors()
            super().set_parameters(file.file, exact_match, device)  # type: ignore[arg-type]

    def load_replay_buffer(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        truncate_last_traj: bool = True,
        trust_pickle: bool = False,
    ) -> None:
        """
        Load a replay buffer from a pickle file, which may make nothing but what such a buffer consists of.

        :param path: path to the pickled replay buffer
        :param truncate_last_traj: has no effect here
        :param trust_pickle: whether it may make anything: only for files whose maker you trust. Buffers with a reward function
            of your own need it.
        :raises ValueError: if the file is damaged, holds something else, or would run something else
        """
        if trust_pickle:
            super().load_replay_buffer(path, truncate_last_traj)
        else:
            with open_path(path, "r", suffix="pkl") as file:
                label = f"File {getattr(file, 'name', '')}".rstrip()
                self.replay_buffer = unpickle_buffer(file, label, "pass trust_pickle=True")  # type: ignore[assignment]
        if not isinstance(self.replay_buffer, OfflineReplayBuffer):
            raise ValueError("This is a replay buffer of SB3: give it as `dataset=`, which learns from it.")
        self.replay_buffer.to(self.device)
        self._connect_replay_buffer()


def _without_neighbours(tree: Any, clones: dict[Any, th.Tensor]) -> Any:
    """
    A file has all of the memory that a tensor is a part of: a model that is trained beside others would bring them along.
    Tensors that several networks share are cloned once, and stay shared.
    """
    if isinstance(tree, dict):
        return {key: _without_neighbours(value, clones) for key, value in tree.items()}
    if isinstance(tree, th.Tensor) and tree.untyped_storage().nbytes() > tree.nbytes:
        place = tree.data_ptr(), tree.dtype, tree.shape, tree.stride()
        if place not in clones:
            clones[place] = tree.clone()
        return clones[place]
    return tree
