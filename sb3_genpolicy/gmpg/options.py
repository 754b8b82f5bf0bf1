"""
Checks and defaults of GMPG's options that depend on each other.
"""

import math

from sb3_genpolicy.common.updates.temperature import PAPERS_CLAMP, clamp_of, temperature_of
from sb3_genpolicy.generative import KL_ESTIMATORS, KLEstimator, OdeKL, PathKL
from sb3_genpolicy.generative.adjoint_matching import ADJOINTS, Adjoint
from sb3_genpolicy.generative.checks import check_choice, check_flag, check_number
from sb3_genpolicy.gmpg.losses import GradientEstimator

#: Divergence from the behaviour policy that is held where neither it nor beta is given, in nats. GMPG follows what the
#: critics make of actions that nobody took: at a tenth of a nat, which GMPO bears, it came to harm on
#: hopper/medium-expert; at this its samples were nowhere below the clone's (docs/guide/results.md)
DEFAULT_TARGET_KL = 0.03
_HEEDING = ("pathwise", "adjoint", "reinforce")


def make_kl_estimator(kl_estimator: str | KLEstimator | None, gradient_estimator: GradientEstimator) -> KLEstimator:
    """
    :param kl_estimator: a name, an estimator, or None for the default
    :param gradient_estimator: how gradients are taken; ``detached`` goes with ``ode`` alone, ``adjoint`` with ``path``
    :return: the estimator
    :raises ValueError: for an unknown name, or one that does not go with the gradient
    """
    if kl_estimator is None:
        kl_estimator = "ode" if gradient_estimator == "detached" else "path"
    if not isinstance(kl_estimator, KLEstimator):
        check_choice("kl_estimator", kl_estimator, KL_ESTIMATORS)
        kl_estimator = KL_ESTIMATORS[kl_estimator]()
    if gradient_estimator == "detached":
        if not isinstance(kl_estimator, OdeKL):
            raise ValueError("gradient_estimator='detached' is the published gradient, which belongs to kl_estimator='ode'.")
        return OdeKL(kl_estimator.likelihood, detached=True)
    if gradient_estimator == "adjoint" and not isinstance(kl_estimator, PathKL):
        raise ValueError(
            "gradient_estimator='adjoint' takes the divergence along its own rollout: leave kl_estimator out, or give "
            "PathKL(steps=...), whose steps are those of the rollout."
        )
    return kl_estimator


def check_adjoint(adjoint: Adjoint, gradient_estimator: GradientEstimator) -> Adjoint:
    """
    :param adjoint: how the gradient of Q is followed backwards
    :param gradient_estimator: how gradients are taken; it is of ``adjoint`` alone
    :return: the same
    :raises ValueError: for an unknown name, or one that nothing would heed
    """
    check_choice("adjoint", adjoint, ADJOINTS)
    if adjoint != "lean" and gradient_estimator != "adjoint":
        raise ValueError(
            f"adjoint='{adjoint}' is an option of gradient_estimator='adjoint', and here it is '{gradient_estimator}'."
        )
    return adjoint


def check_n_actions(n_actions: int | None, gradient_estimator: GradientEstimator) -> int:
    """
    :param n_actions: actions for every state, None for the default
    :param gradient_estimator: how gradients are taken
    :return: how many there are
    :raises ValueError: for too few
    """
    softmax = gradient_estimator == "reinforce_softmax"
    if n_actions is None:
        return 10 if softmax else 1
    check_number("n_actions", n_actions, low=1, whole=True)
    if softmax and n_actions == 1:
        raise ValueError("gradient_estimator='reinforce_softmax' compares actions of a state: n_actions must be 2 or more.")
    return n_actions


def check_heeding(heed_disagreement: bool, gradient_estimator: GradientEstimator) -> None:
    """
    :param heed_disagreement: whether what the critics' networks do not agree on counts for less
    :param gradient_estimator: how gradients are taken
    :raises ValueError: if it is no flag, or nothing would heed it
    """
    check_flag("heed_disagreement", heed_disagreement)
    if heed_disagreement and gradient_estimator not in _HEEDING:
        raise ValueError(
            f"heed_disagreement is for gradient_estimator {', '.join(map(repr, _HEEDING))}, and here it is "
            f"'{gradient_estimator}': leave it out."
        )


def clamp_for(weight_clamp: float | None, target_kl: float | None, gradient_estimator: GradientEstimator) -> float:
    """
    :param weight_clamp: largest weight as it is given, > 0, None for the default
    :param target_kl: divergence that beta is adapted to hold, None where it is fixed
    :param gradient_estimator: how gradients are taken; the published one has no largest weight
    :return: the largest weight
    :raises ValueError: if it is out of range
    """
    if weight_clamp is None and gradient_estimator == "detached":
        return math.inf
    return clamp_of(weight_clamp, target_kl, PAPERS_CLAMP if gradient_estimator == "reinforce" else math.inf)


def temperature_for(
    beta: float | None, target_kl: float | None, gradient_estimator: GradientEstimator
) -> tuple[float, float | None]:
    """
    :param beta: inverse temperature as it is given, or where it starts
    :param target_kl: divergence that it is adapted to hold, in nats
    :param gradient_estimator: how gradients are taken; ``matching`` has no divergence to hold, its default is beta 1
    :return: beta, and the divergence, None where beta is fixed: where neither is given it is :data:`DEFAULT_TARGET_KL`
    :raises ValueError: if one of them is out of range, or the divergence cannot be held
    """
    if gradient_estimator == "matching":
        if target_kl is not None:
            raise ValueError("gradient_estimator='matching' has no KL divergence that target_kl could hold.")
        beta = 1.0 if beta is None else beta
    return temperature_of(beta, target_kl, DEFAULT_TARGET_KL)
