"""
What critics, and what is matched beside them, ask of an algorithm: methods of
:class:`~sb3_genpolicy.common.algorithms.offline_algorithm.OfflineAlgorithm`.
"""

from collections.abc import Sequence
from typing import Any

import torch as th

from sb3_genpolicy.common.policies.critics import CriticOptions, NoCritic, PolicyCritic
from sb3_genpolicy.common.policies.critics.options import changed_critic
from sb3_genpolicy.generative.draws import Source, draw

# Critics learn at least so many updates, however few the rows
_LEAST_UPDATES = 8000
# Steps of an episode, where no dataset has told yet
_SOME_LENGTH = 1000.0


def critic_options(self: Any) -> CriticOptions:
    """What Q is of and by which networks, as the option ``critic`` says."""
    return self.policy.critic_options


def critic_gamma(self: Any) -> float:
    """Discount factor of the critics: their own, one fitted to the first dataset, or the algorithm's."""
    own = self.critic_options.gamma
    if own == "auto":
        return self.gamma if self.fitted_gamma is None else min(self.fitted_gamma, self.gamma)
    return self.gamma if own is None else own


def horizon_ratio(self: Any) -> float:
    """
    How many times as far as the critics ``gamma`` looks, within the length of an episode, at least 1. Their advantages are
    multiplied by it before beta weighs them: an advantage that is kept up at every step adds up to so much more over the
    algorithm's horizon, and beta means about the same for critics that look ahead ten steps or a hundred.
    """
    length = _SOME_LENGTH if self.fitted_length is None else self.fitted_length
    return max(1.0, _discounted_steps(self.gamma, length) / _discounted_steps(self.critic_gamma, length))


def _discounted_steps(gamma: float, length: float) -> float:
    """``1 + gamma + gamma^2 + ...``, so many terms."""
    return length if gamma == 1.0 else (1.0 - gamma**length) / (1.0 - gamma)


def policy_actions(self: Any, observations: Any, generator: Source) -> th.Tensor:
    """
    What critics of the policy's own actions (``critic="policy"``) ask for. An algorithm that has this method can take them.

    :param observations: batch first
    :param generator: source of random numbers
    :return: actions of the policy, (batch_size, action_dim), scaled, without gradient
    """
    raise NotImplementedError


def behaviour_log_prob(self: Any, observations: Any, actions: th.Tensor) -> th.Tensor | None:
    """
    What the penalty of densities (``PolicyCritic(density_penalty=...)``) asks for. An algorithm that has this method can take
    it.

    :param observations: batch first
    :param actions: (batch_size, action_dim), scaled
    :return: their log-density under the behaviour model, (batch_size,), without gradient; None while there is none
    """
    raise NotImplementedError


def check_critic(model: Any) -> None:
    """
    :param model: a model that was just made
    :raises ValueError: if its critics ask for what the algorithm does not have
    """
    options, algorithm = model.critic_options, type(model)
    if isinstance(options, NoCritic) and algorithm.needs_critics:
        raise ValueError(
            f"{algorithm.__name__} needs critics, and here there are none (NoCritic): give it critic='iql' or another one, "
            "and as pretrained= a model that has some."
        )
    if not isinstance(options, PolicyCritic):
        return
    if algorithm.policy_actions is policy_actions:
        raise ValueError(
            f"critic='policy' is of the policy's own actions, and {algorithm.__name__} does not say what these are: define "
            f"{algorithm.__name__}.policy_actions(observations, generator), or take critic='onestep'."
        )
    if options.density_penalty and (algorithm.behaviour_log_prob is behaviour_log_prob or model.policy.behaviour is None):
        raise ValueError(
            f"density_penalty={options.density_penalty} compares with the densities of a behaviour model, and this "
            f"{algorithm.__name__} has none: take GMPG, or GMPO(weighting='softmax')."
        )


def rows_for_critics(model: Any, rows: th.Tensor, samples: Any, sources: Sequence[Source]) -> tuple[Any, th.Tensor | None]:
    """
    What critics want of rows beyond a step.

    :param model: a model
    :param rows: indices of rows, (batch_size,), or (n_models * batch_size,) of several models side by side
    :param samples: these rows
    :param sources: of random numbers, one for each model
    :return: the rows, with lambda-returns for critics that ask for them; and the logged actions at their next observations,
        (batch_size, action_dim), for critics that ask for these
    """
    options, buffer = model.critic_options, model.replay_buffer
    if buffer.return_lambda > 0.0:
        shape, like = (len(rows) // len(sources),), samples.rewards
        uniform = th.cat([draw("uniform", shape, like, source) for source in sources])
        samples, rows = buffer.with_lambda_returns(rows, samples, uniform, model._vec_normalize_env)
    wanted = isinstance(options, PolicyCritic) and options.penalty > 0.0
    return samples, buffer.next_actions(rows) if wanted else None


def windows_for_critics(model: Any, rows: th.Tensor) -> th.Tensor | None:
    """
    :param model: a model
    :param rows: indices of rows, (batch_size,)
    :return: the logged actions from there on that its critics are distilled from, (batch_size, n_steps * action_dim); None for
        other critics
    """
    n_steps = model.critic_options.distilled_from
    return None if n_steps is None else model.replay_buffer.logged_windows(rows, n_steps)


def rows_for_policy(model: Any, rows: th.Tensor, sources: Sequence[Source]) -> tuple[Any, th.Tensor] | None:
    """
    What a policy is matched to, where better episodes weigh more (``episode_kl``), while its critics see all rows alike.

    :param model: a model
    :param rows: indices of rows, (batch_size,), or (n_models * batch_size,) of several models side by side
    :param sources: of random numbers, one for each model
    :return: as many rows, drawn as often as their episodes weigh, and their indices; rows that were collected online stay as
        they are. None where all are the same
    """
    if not model.replay_buffer.has_matched_rows:
        return None
    shape, like = (len(rows) // len(sources),), th.empty(0, dtype=th.float64, device=model.device)
    uniform = th.cat([draw("uniform", shape, like, source) for source in sources])
    matched = model.replay_buffer.matched_rows(uniform)
    if model.online:
        at = rows.to(matched)
        matched = th.where(at < model.replay_buffer.n_from_dataset, matched, at)
    return model.replay_buffer.rows(matched, model._vec_normalize_env), matched


@classmethod  # type: ignore[misc]
def critic_to_load(cls: Any, saved: CriticOptions, kwargs: dict[str, Any]) -> CriticOptions:
    """
    :param saved: the critic that a file has
    :param kwargs: options that are to be changed; afterwards without those of the critic
    :return: the critic that the model is loaded with
    :raises ValueError: if it has other networks
    """
    return changed_critic(saved, kwargs.pop("critic", None))


def share_of_learning_rate(model: Any) -> float:
    """
    Near the end of their passes over the rows critics are to forget the order in which they saw them: two trainings at a rate
    that stays what it is agree less on which advantages are larger (docs/guide/critics.md).

    :param model: an algorithm with rows
    :return: by what the learning rate of Q and V is multiplied. It falls from 1 to 0 until they have seen the rows as often as
        their options want, and stays 0; 1 where they learn as long as the policy does, and online
    """
    passes = model.critic_options.passes
    if passes is None or model.online:
        return 1.0
    updates = max(_LEAST_UPDATES, passes * model.replay_buffer.n_drawn_from / model.batch_size)
    return max(0.0, 1.0 - model._n_updates / updates)
