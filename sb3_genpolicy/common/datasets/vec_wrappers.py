"""
What lies between an agent and its environment: layers of vectorised environments, one around the other.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize

from sb3_genpolicy.common.utils import attributes, on_one_line


def layers(env: VecEnv) -> list[VecEnv]:
    """
    :param env: a vectorised environment
    :return: itself and all environments that it wraps, the innermost last
    """
    found = [env]
    while isinstance(found[-1], VecEnvWrapper):
        found.append(found[-1].venv)
    return found


@contextmanager
def statistics_at_rest(env: VecEnv) -> Iterator[None]:
    """
    Context in which no ``VecNormalize`` updates its statistics.

    :param env: an environment that may have some among its layers
    """
    with ExitStack() as stack:
        for layer in layers(env):
            if isinstance(layer, VecNormalize):
                # The discounted returns so far go on after it too
                stack.enter_context(attributes(layer, training=False, returns=layer.returns))
        yield


def check_normalized_last(env: VecEnv) -> None:
    """
    A model normalises the rows of its dataset by the statistics of the ``VecNormalize`` around its environment. They have the
    shape of what that one sees, so that nothing around it may make other observations of them.

    :param env: an environment
    :raises ValueError: if a wrapper around a ``VecNormalize`` changes what it normalises
    """
    inside_out = layers(env)[::-1]
    for depth, normalizer in enumerate(inside_out):
        if not (isinstance(normalizer, VecNormalize) and normalizer.norm_obs):
            continue
        seen = _normalized_parts(normalizer, normalizer.observation_space)
        for wrapper in inside_out[depth + 1 :]:
            # Images that are turned channel-first are none that are normalised
            if _normalized_parts(normalizer, wrapper.observation_space) != seen:
                name = type(wrapper).__name__
                raise ValueError(
                    f"{name} is around VecNormalize and makes {on_one_line(wrapper.observation_space)} of the normalised "
                    f"{on_one_line(normalizer.observation_space)}: put VecNormalize outermost, "
                    f"`VecNormalize({name}(env, ...))`, so that its statistics are of what the model sees."
                )


def _normalized_parts(normalizer: VecNormalize, space: spaces.Space) -> dict[str, spaces.Space]:
    keys = normalizer.norm_obs_keys
    return {name: part for name, part in _parts(space).items() if keys is None or name in keys}


def _parts(space: spaces.Space) -> dict[str, spaces.Space]:
    return dict(space.spaces) if isinstance(space, spaces.Dict) else {"": space}
