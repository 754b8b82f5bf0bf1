"""
What held-out episodes say against the critics, and what follows from it: where their advantage foretells nothing of what
followed, they lead a policy nowhere.
"""

import warnings
from typing import Any

# Of critics that have learnt less, nothing is said
_ENOUGH_UPDATES = 1000
# Of the divergence that is held by default, where critics foretell nothing
_NEAR_CLONING = 0.1


def heed_held_out(model: Any) -> None:
    """
    Before a policy leaves its clone: where on held-out rows the advantage foretells nothing of what followed, it is said, and
    the divergence that is held by default falls to a tenth. One that was given stays.

    :param model: a model whose first phase is over
    """
    correlation = _correlation_of_nothing(model)
    if model.target_kl is None or correlation is None:
        return
    if model.kl_was_given:
        remedy = f"target_kl={model.target_kl:g} was asked for, and is held all the same"
    else:
        model.kl_share = _NEAR_CLONING
        remedy = (
            f"the policy stays near cloning, {model.held_kl:g} nats away in place of {model.target_kl:g}. Give target_kl or "
            "beta to have it otherwise"
        )
    _say(model, correlation, remedy)


def watch_advantage(model: Any) -> None:
    """
    Warn if on held-out rows the advantage foretells nothing of what followed.

    :param model: a model that has learnt
    """
    correlation = _correlation_of_nothing(model)
    if correlation is not None:
        _say(
            model,
            correlation,
            "where the policy leaves the behaviour policy, it follows noise. Stay near it, by a smaller beta or target_kl or "
            "by cloning (BC), or give the critics more data",
        )


def _correlation_of_nothing(model: Any) -> float | None:
    """The correlation of advantage and what followed, if it is not above 0; None where it is, or cannot be told."""
    if model.held_out is None or not model.policy.has_critics or model._n_updates < _ENOUGH_UPDATES:
        return None
    was_training = model.policy.training
    model.policy.set_training_mode(False)
    correlation = float(model.held_out.advantage_correlation(model.policy))
    if was_training:
        model.set_training_mode()
    return correlation if correlation <= 0.0 else None


def _say(model: Any, correlation: float, what_follows: str) -> None:
    if model.held_out.has_spoken:
        return
    model.held_out.has_spoken = True
    warnings.warn(
        f"On the held-out rows the critics' advantage foretells nothing of what followed (their correlation is "
        f"{correlation:.3f}): {what_follows}.",
        stacklevel=4,
    )
