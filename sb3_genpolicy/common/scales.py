"""
What a policy takes from the first dataset that it sees, once: networks that were trained on one set of statistics cannot go
over to another.
"""

from stable_baselines3.common.vec_env import VecNormalize

from sb3_genpolicy.common.buffers import OfflineReplayBuffer
from sb3_genpolicy.common.generative_policy import GenerativePolicy
from sb3_genpolicy.common.normalization import check_float32_suffices
from sb3_genpolicy.common.transitions import Transitions, label_of


def fit_action_range(policy: GenerativePolicy, data: Transitions, first: bool) -> None:
    """
    :param policy: a policy, whose range of actions is fitted
    :param data: the dataset
    :param first: whether it is the first one; of others it is said where they go beyond the range
    """
    if not policy.normalize_actions:
        return
    least, largest = data.action_extent()
    if first:
        policy.action_range.fit(least, largest)
        policy.action_range.say(label_of(data))
    else:
        policy.action_range.say_beyond(least, largest, label_of(data))


def fit_normalizer(policy: GenerativePolicy, buffer: OfflineReplayBuffer, env: VecNormalize | None, label: str) -> None:
    """
    :param policy: a policy, whose statistics of observations are fitted
    :param buffer: the rows of the first dataset
    :param env: VecNormalize wrapper, which normalises some of the observations itself
    :param label: what the dataset is called
    :raises ValueError: if the policy does not normalise, and float32 would merge some of the observations
    """
    if not policy.normalize_observations:
        check_float32_suffices(buffer.store.states, label)
        return
    by_wrapper: list[str | None] = []
    if env is not None and env.norm_obs:
        by_wrapper = [*env.obs_rms] if isinstance(env.obs_rms, dict) else [None]
    policy.normalizer.fit(buffer.observation_chunks(), left_alone=by_wrapper)
