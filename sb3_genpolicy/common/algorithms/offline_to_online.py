"""
Going on online: a model that was trained on a dataset acts in an environment, and learns from both.
"""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import MaybeCallback, TrainFreq, TrainFrequencyUnit

from sb3_genpolicy.common.algorithms.offline_algorithm import OfflineAlgorithm
from sb3_genpolicy.common.datasets import DatasetSource
from sb3_genpolicy.common.datasets.envs import SpacesVecEnv
from sb3_genpolicy.common.replay.vec_normalize import check_known, seeing_transformed_rewards
from sb3_genpolicy.common.updates.processes import world_size
from sb3_genpolicy.common.utils import attributes
from sb3_genpolicy.generative.checks import check_number, named_arguments

SelfOfflineToOnlineAlgorithm = TypeVar("SelfOfflineToOnlineAlgorithm", bound="OfflineToOnlineAlgorithm")


class OfflineToOnlineAlgorithm(OfflineAlgorithm):
    """
    Base of algorithms that go on in an environment after a dataset.

    :param kwargs: see :class:`~sb3_genpolicy.common.algorithms.offline_algorithm.OfflineAlgorithm`
    """

    def __init__(self, policy: Any, env: Any, learning_rate: Any, **kwargs: Any):
        super().__init__(policy, env, learning_rate, **kwargs)
        #: Whether the model has gone on online: what it learns from is then no longer fixed, and nothing of it rests
        self.online = False
        self._collecting = False

    @abstractmethod
    def _go_online(self) -> None:
        """Wake whatever rests once a dataset has been learnt. Called once, with networks that are there."""

    def _online_obstacle(self) -> str | None:
        """
        :return: why the model cannot go on online, and what could be done; None if it may
        """
        if world_size() > 1:
            return f"{world_size()} processes train it together, of which each would see rows of its own. Take one process"
        if self.env is None or isinstance(self.env, SpacesVecEnv):
            return "it has no environment to act in. Give it one by `model.set_env(env)` or `load(path, env=env)`"
        return None

    @named_arguments
    def learn_online(
        self: SelfOfflineToOnlineAlgorithm,
        total_timesteps: int = 50_000,
        callback: MaybeCallback = None,
        log_interval: int | None = 4,
        tb_log_name: str = "online",
        reset_num_timesteps: bool = False,
        progress_bar: bool = False,
        dataset: DatasetSource | None = None,
        *,
        offline_share: float | None = 0.5,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        learning_starts: int = 0,
    ) -> SelfOfflineToOnlineAlgorithm:
        """
        Act in the environment and go on learning, by SB3's loop of off-policy algorithms: one step of the environment is one
        timestep and one ``callback.on_step()``, here. The policy samples its actions; nothing is random but that.

        The dataset's rows stay in the replay buffer, beside those that are collected. From here on, also in later calls of
        ``learn``, critics and behaviour model go on learning too, where they had come to rest.

        :param total_timesteps: number of steps in the environment, over all its copies
        :param callback: callback(s) called after every step in the environment
        :param log_interval: number of episodes between two lines of the log (None for no log)
        :param tb_log_name: the name of the run for TensorBoard logging
        :param reset_num_timesteps: whether to start counting (and the schedules) anew; by default the curve goes on
        :param progress_bar: display a progress bar using tqdm and rich
        :param dataset: the logged data, in place of those that the model was trained on
        :param offline_share: share of each batch that is drawn from the dataset, in [0, 1]. Half is the choice of RLPD
            (https://arxiv.org/abs/2302.02948): new rows count at once, and old ones are not forgotten. None: all rows
            count alike. With 0 a trained model needs no dataset. While there are fewer new rows than their share of a batch,
            each makes up one row of it, on average, and the dataset the rest.
        :param train_freq: steps in the environment between updates, or a pair like ``(1, "episode")``
        :param gradient_steps: updates each time, -1 for as many as steps were made in the environment
        :param learning_starts: number of steps in the environment before the first update
        :return: the model
        :raises ValueError: if there is no environment, or no dataset, or an option is out of range
        """
        obstacle = self._online_obstacle()
        if obstacle is not None:
            raise ValueError(f"This model cannot go on online: {obstacle}.")
        check_number("total_timesteps", total_timesteps, low=0, infinite=True)
        if log_interval is not None:
            check_number("log_interval", log_interval, low=1)
        if offline_share is not None:
            check_number("offline_share", offline_share, low=0.0, high=1.0)
        check_number("gradient_steps", gradient_steps, low=-1, whole=True)
        check_number("learning_starts", learning_starts, low=0, whole=True)
        self._set_train_freq(train_freq)
        self.gradient_steps = gradient_steps
        self.learning_starts = learning_starts + (0 if reset_num_timesteps else self.num_timesteps)
        self.replay_buffer.offline_share = offline_share
        # Of a model that was loaded, parameters were not there before
        self._connect_replay_buffer()
        if dataset is not None or self._needs_dataset(offline_share):
            self._fill_replay_buffer(dataset)
        if not self.online:
            self._go_online()
            self.online = True
        # It may have been stepped elsewhere since this model saw it
        self._last_obs = None
        self._collecting = True
        try:
            with self._vec_normalize_seeing_what_critics_see():
                # SB3's own loop
                OffPolicyAlgorithm.learn(
                    self, total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar  # type: ignore
                )
        finally:
            self._collecting = False
        return self

    @contextmanager
    def _vec_normalize_seeing_what_critics_see(self) -> Iterator[None]:
        wrapper = self._vec_normalize_env
        if wrapper is None or not wrapper.norm_reward or self.reward_function is None:
            yield
            return
        if not self._vec_rewards_are_fitted:
            check_known(wrapper, self.reward_function)
            self._vec_rewards_are_fitted = True
        with (
            seeing_transformed_rewards(wrapper, self.reward_function),
            attributes(self.replay_buffer, rewards_arrive_transformed=True),
        ):
            yield

    def _set_train_freq(self, train_freq: int | tuple[int, str]) -> None:
        self.train_freq = train_freq  # type: ignore[assignment]
        self._convert_train_freq()
        assert isinstance(self.train_freq, TrainFreq) and self.env is not None
        check_number("train_freq", self.train_freq.frequency, low=1, whole=True)
        if self.train_freq.unit == TrainFrequencyUnit.EPISODE and self.env.num_envs > 1:
            raise ValueError(
                f"train_freq={train_freq!r} counts episodes, but there are {self.env.num_envs} environments side by side: "
                "count steps, as train_freq=1."
            )

    def _needs_dataset(self, offline_share: float | None) -> bool:
        return offline_share != 0.0 or self.reward_function is None

    def _fill_replay_buffer(self, dataset: DatasetSource | None) -> None:
        if self._collecting and not self._needs_dataset(self.replay_buffer.offline_share):
            return
        super()._fill_replay_buffer(dataset)

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        # The policy is trained: actions at random are no better a start
        return super()._sample_action(0, action_noise, n_envs)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_collecting"]
