"""
Going on online: a model that was trained on a dataset acts in an environment, and learns from both. A method of
:class:`~sb3_genpolicy.common.algorithms.offline_algorithm.OfflineAlgorithm`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import MaybeCallback, TrainFreq, TrainFrequencyUnit

from sb3_genpolicy.common.algorithms.obstacles import online_obstacle
from sb3_genpolicy.common.algorithms.spreads import forget_spreads
from sb3_genpolicy.common.datasets import DatasetSource
from sb3_genpolicy.common.replay.arriving import Window
from sb3_genpolicy.common.replay.vec_normalize import check_known, seeing_transformed_rewards
from sb3_genpolicy.common.utils import attributes
from sb3_genpolicy.generative.checks import check_number, named_arguments

Model = TypeVar("Model", bound=Any)


@named_arguments
def learn_online(
    self: Model,
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
) -> Model:
    """
    Act in the environment and go on learning, by SB3's loop of off-policy algorithms: one step of the environment is one
    timestep and one ``callback.on_step()``, here. The policy samples its actions, and this is all the exploration there is.

    The dataset's rows stay in the replay buffer, beside those that are collected. From here on, also in later calls of
    ``learn``, all networks go on learning, also those that were frozen.

    :param total_timesteps: number of steps in the environment, over all its copies
    :param callback: callback(s) called after every step in the environment
    :param log_interval: number of episodes between two lines of the log (None for no log)
    :param tb_log_name: the name of the run for TensorBoard logging
    :param reset_num_timesteps: whether to start counting (and the schedules) anew; by default the curve goes on
    :param progress_bar: display a progress bar using tqdm and rich
    :param dataset: the logged data, in place of those that the model was trained on
    :param offline_share: share of each batch that is drawn from the dataset, in [0, 1]. Half is the choice of RLPD
        (https://arxiv.org/abs/2302.02948): new rows count at once, and old ones are not forgotten. None: rows are drawn
        uniformly from all rows, old and new. With 0 a trained model needs no dataset. While there are fewer new rows than
        their share of a batch, as many are drawn as there are, and the dataset makes up the rest.
    :param train_freq: steps in the environment between updates, or a pair like ``(1, "episode")``
    :param gradient_steps: updates each time, -1 for as many as steps were made in the environment
    :param learning_starts: number of steps in the environment before the first update
    :return: the model
    :raises ValueError: if there is no environment, or no dataset, or an option is out of range
    """
    obstacle = online_obstacle(self)
    if obstacle is not None:
        raise ValueError(f"This model cannot go on online: {obstacle}.")
    _check_options(total_timesteps, log_interval, offline_share, gradient_steps, learning_starts)
    _set_train_freq(self, train_freq)
    self.gradient_steps = gradient_steps
    self.learning_starts = learning_starts + (0 if reset_num_timesteps else self.num_timesteps)
    self.replay_buffer.offline_share = offline_share
    # Again: when a model is loaded, its parameters are restored after its replay buffer was first connected
    self.connect_replay_buffer()
    if dataset is not None or needs_dataset(self):
        self.fill_replay_buffer(dataset)
    if not self.online:
        self.go_online()
        self.online = True
    # Forces a reset: the environment may have been stepped by others in the meantime
    self._last_obs = None
    _begin_episodes(self)
    with attributes(self, collects=True), _vec_normalize_seeing_what_critics_see(self):
        # SB3's own loop, which works with `log_interval=None` though its type hints do not allow it
        arguments: Any = (total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
        OffPolicyAlgorithm.learn(self, *arguments)
    forget_spreads(self)
    return self


def needs_dataset(model: Any) -> bool:
    """
    :param model: a model that goes on online
    :return: whether it needs the dataset to go on
    """
    return model.replay_buffer.offline_share != 0.0 or model.reward_function is None


def _begin_episodes(model: Any) -> None:
    horizon, n_envs = model.policy.horizon, model.env.num_envs
    longer = model.critic_options.distilled_from or 1
    window = Window(horizon.history, horizon.chunk_length, max(horizon.valued_length, longer), longer)
    model.replay_buffer.begin_episodes(window, model.critic_gamma)
    model.collecting.begin(n_envs)
    if model.replay_buffer.size() == 0:
        # Nothing to learn from before a step has become a row
        model.learning_starts = max(model.learning_starts, model.num_timesteps + (window.n_awaited - 1) * n_envs)


def _check_options(
    total_timesteps: int, log_interval: int | None, offline_share: float | None, gradient_steps: int, learning_starts: int
) -> None:
    check_number("total_timesteps", total_timesteps, low=0, infinite=True)
    if log_interval is not None:
        check_number("log_interval", log_interval, low=1)
    if offline_share is not None:
        check_number("offline_share", offline_share, low=0.0, high=1.0)
    check_number("gradient_steps", gradient_steps, low=-1, whole=True)
    check_number("learning_starts", learning_starts, low=0, whole=True)


@contextmanager
def _vec_normalize_seeing_what_critics_see(model: Any) -> Iterator[None]:
    wrapper = model._vec_normalize_env
    if wrapper is None or not wrapper.norm_reward or model.reward_function is None:
        yield
        return
    if not model._vec_rewards_are_fitted:
        check_known(wrapper, model.reward_function)
        model._vec_rewards_are_fitted = True
    with (
        seeing_transformed_rewards(wrapper, model.reward_function),
        attributes(model.replay_buffer, rewards_arrive_transformed=True),
    ):
        yield


def _set_train_freq(model: Any, train_freq: int | tuple[int, str]) -> None:
    model.train_freq = train_freq
    model._convert_train_freq()
    assert isinstance(model.train_freq, TrainFreq) and model.env is not None
    check_number("train_freq", model.train_freq.frequency, low=1, whole=True)
    if model.train_freq.unit == TrainFrequencyUnit.EPISODE and model.env.num_envs > 1:
        raise ValueError(
            f"train_freq={train_freq!r} counts episodes, but there are {model.env.num_envs} environments side by side: "
            "count steps, as train_freq=1."
        )
