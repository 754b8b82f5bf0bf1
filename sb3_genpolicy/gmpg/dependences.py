"""
What the contribution of one row to an update of GMPG depends on, besides that row.
"""

from sb3_genpolicy.common.policies.actor import ADAPTIVE_STEPS
from sb3_genpolicy.common.updates.dependence import Dependence, Scope
from sb3_genpolicy.generative import DiscreteKL, KLEstimator, OdeKL, Sampler

_INVERSION = Dependence(
    Scope.BATCH,
    "kl_estimator='discrete' inverts a sampler for a whole batch, from starts that it draws for all of it and in as many "
    "iterations as it takes",
    "Take 'path' or 'ode'",
)
_ADJOINT = Dependence(
    Scope.MODEL, "the adjoint's gradient solves another equation for each model", "Take Likelihood(gradient='backprop')"
)


def of_estimator(estimator: KLEstimator, sampler: Sampler) -> tuple[Dependence, ...]:
    """
    :param estimator: of the KL divergence
    :param sampler: of the actor
    :return: what the estimate for one row depends on besides that row
    """
    if isinstance(estimator, DiscreteKL):
        return (_INVERSION,)
    if not isinstance(estimator, OdeKL):
        return ()
    adjoint = (_ADJOINT,) if estimator.likelihood.gradient == "adjoint" else ()
    own = estimator.likelihood.resolve_sampler(sampler).solver
    is_adaptive = "dopri5" in (own, sampler.solver if estimator.detached else "")
    return (*adjoint, *((ADAPTIVE_STEPS,) if is_adaptive else ()))
