"""
Critics: Q by several networks at once and V, what their targets are made of, and how several values become one.
"""

from sb3_genpolicy.common.policies.critics.base_options import CriticOptions as CriticOptions
from sb3_genpolicy.common.policies.critics.ensemble import CriticEnsemble as CriticEnsemble
from sb3_genpolicy.common.policies.critics.freezing import frozen as frozen
from sb3_genpolicy.common.policies.critics.learner import CriticLosses as CriticLosses
from sb3_genpolicy.common.policies.critics.learner import Critics as Critics
from sb3_genpolicy.common.policies.critics.missing import MissingCritics as MissingCritics
from sb3_genpolicy.common.policies.critics.options import IQLCritic as IQLCritic
from sb3_genpolicy.common.policies.critics.options import NoCritic as NoCritic
from sb3_genpolicy.common.policies.critics.options import OneStepCritic as OneStepCritic
from sb3_genpolicy.common.policies.critics.options import PolicyCritic as PolicyCritic
from sb3_genpolicy.common.policies.critics.value_network import ValueNetwork as ValueNetwork
