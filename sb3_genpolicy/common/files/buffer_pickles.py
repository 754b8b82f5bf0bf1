"""
Replay buffers are pickles. These may make what a buffer consists of and objects that were registered, and nothing else.
"""

import io
import pickle
from typing import IO, Any

import torch as th
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_genpolicy.common.files.labels import OBJECTS
from sb3_genpolicy.common.moved import present_path


def unpickle_buffer(file: IO[bytes], label: str, if_trusted: str) -> ReplayBuffer:
    """
    Read a replay buffer that SB3, or a model of this package, saved. A pickle may run whatever its author liked; here it may
    make nothing but what such a buffer consists of.

    :param file: the file, open
    :param label: what it is called in messages
    :param if_trusted: what to do with a file that needs more, for whoever trusts it
    :return: the buffer
    :raises ValueError: if the file is damaged, holds something else, or would run something else
    """
    try:
        buffer = _BufferUnpickler(file).load()
    except _Refused as error:
        raise ValueError(
            f"{label} asks for '{error}', which no replay buffer of SB3 needs, and was not read further. If you trust "
            f"it, {if_trusted}."
        ) from error
    except Exception as error:
        raise ValueError(f"{label} is no replay buffer of SB3, or damaged ({error or type(error).__name__}).") from error
    if not isinstance(buffer, ReplayBuffer):
        raise ValueError(f"{label} holds a {type(buffer).__name__}, not a replay buffer of SB3.")
    return buffer


class _Refused(Exception):
    pass


class _BufferUnpickler(pickle.Unpickler):
    """
    Makes the objects that SB3's replay buffers consist of, and no others.
    """

    ALLOWED = frozenset(
        {
            ("stable_baselines3.common.buffers", "ReplayBuffer"),
            ("stable_baselines3.common.buffers", "DictReplayBuffer"),
            ("stable_baselines3.common.buffers", "NStepReplayBuffer"),
            ("stable_baselines3.her.her_replay_buffer", "HerReplayBuffer"),
            ("stable_baselines3.her.goal_selection_strategy", "GoalSelectionStrategy"),
            *((f"gymnasium.spaces.{name}", cls) for name, cls in (
                ("box", "Box"), ("dict", "Dict"), ("discrete", "Discrete"),
                ("multi_discrete", "MultiDiscrete"), ("multi_binary", "MultiBinary"),
            )),
            ("sb3_genpolicy.common.replay.added_rows", "AddedRows"),
            *(("sb3_genpolicy.common.replay.arriving", name) for name in ("ArrivingSteps", "Step", "Window")),
            ("sb3_genpolicy.common.replay.buffer", "OfflineReplayBuffer"),
            ("sb3_genpolicy.common.replay.drawing", "RowDraws"),
            ("sb3_genpolicy.common.replay.row_store", "RowStore"),
            ("sb3_genpolicy.common.replay.tensor_normalizer", "TensorNormalizer"),
            ("sb3_genpolicy.common.transitions.rewards", "AffineReward"),
            ("torch._utils", "_rebuild_tensor_v2"),
            ("torch", "device"),
            ("collections", "OrderedDict"),
            ("numpy", "dtype"),
            ("numpy", "ndarray"),
            *((f"numpy.{core}.{module}", name) for core in ("core", "_core") for module, name in (
                ("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"),
            )),
            *(("numpy.random._pickle", f"__{name}_ctor") for name in ("generator", "bit_generator")),
            ("numpy.random._pcg64", "PCG64"),
            ("numpy.random.bit_generator", "SeedSequence"),
            ("numpy.random.bit_generator", "__pyx_unpickle_SeedSequence"),
        }
    )  # fmt: skip

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            # Torch's own reads a pickle within the pickle as it comes
            return _storage_of
        registered = OBJECTS.found_at(module, name)
        if registered is not None:
            return registered
        # Release 0.1 had some of them elsewhere
        module = present_path(module)
        if (module, name) not in self.ALLOWED:
            raise _Refused(f"{module}.{name}")
        return super().find_class(module, name)


def _storage_of(content: bytes) -> Any:
    return th.load(io.BytesIO(content), weights_only=True)
