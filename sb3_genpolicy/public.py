"""
The names that the package offers at its top, each listed here alone. Importing this module registers all its algorithms.
"""

from sb3_genpolicy.bc import BC as BC
from sb3_genpolicy.common.algorithms.callbacks import OfflineEvalCallback as OfflineEvalCallback
from sb3_genpolicy.common.algorithms.offline_algorithm import OfflineAlgorithm as OfflineAlgorithm
from sb3_genpolicy.common.algorithms.policy_card import write_policy_card as write_policy_card
from sb3_genpolicy.common.algorithms.registry import register as register
from sb3_genpolicy.common.datasets import load_dataset as load_dataset
from sb3_genpolicy.common.datasets.envs import make_offline_env as make_offline_env
from sb3_genpolicy.common.datasets.info import dataset_info as dataset_info
from sb3_genpolicy.common.datasets.lerobot_export import export_lerobot as export_lerobot
from sb3_genpolicy.common.datasets.recording import record_dataset as record_dataset
from sb3_genpolicy.common.files.whole_files import last_checkpoint as last_checkpoint
from sb3_genpolicy.common.policies.critic_policy import CriticPolicy as CriticPolicy
from sb3_genpolicy.common.policies.critics import IQLCritic as IQLCritic
from sb3_genpolicy.common.policies.critics import OneStepCritic as OneStepCritic
from sb3_genpolicy.common.policies.critics import PolicyCritic as PolicyCritic
from sb3_genpolicy.common.side_by_side.learn import learn_side_by_side as learn_side_by_side
from sb3_genpolicy.common.transitions.rewards import AffineReward as AffineReward
from sb3_genpolicy.common.transitions.rewards import ReturnRange as ReturnRange
from sb3_genpolicy.common.transitions.transforms import BestEpisodes as BestEpisodes
from sb3_genpolicy.common.transitions.transforms import ClipActions as ClipActions
from sb3_genpolicy.common.transitions.transforms import HeldOutEpisodes as HeldOutEpisodes
from sb3_genpolicy.common.transitions.transforms import NStepReturns as NStepReturns
from sb3_genpolicy.common.transitions.transforms import RescaleActions as RescaleActions
from sb3_genpolicy.common.transitions.transforms import WeightedEpisodes as WeightedEpisodes
from sb3_genpolicy.common.transitions.transitions import Transitions as Transitions
from sb3_genpolicy.common.transitions.transitions import normalized_score as normalized_score
from sb3_genpolicy.common.updates.batch import Batch as Batch
from sb3_genpolicy.common.updates.dependence import Dependence as Dependence
from sb3_genpolicy.common.updates.objective import Objective as Objective
from sb3_genpolicy.common.updates.processes import data_parallel as data_parallel
from sb3_genpolicy.diffusionql import DiffusionQL as DiffusionQL
from sb3_genpolicy.fql import FQL as FQL
from sb3_genpolicy.gmpg import GMPG as GMPG
from sb3_genpolicy.gmpg.callbacks import StopTrainingOnTargetKL as StopTrainingOnTargetKL
from sb3_genpolicy.gmpo import GMPO as GMPO
from sb3_genpolicy.idql import IDQL as IDQL
from sb3_genpolicy.iql import IQL as IQL
from sb3_genpolicy.qgpo import QGPO as QGPO
from sb3_genpolicy.qgpo import SupportCritic as SupportCritic
from sb3_genpolicy.rebrac import ReBRAC as ReBRAC
from sb3_genpolicy.srpo import SRPO as SRPO
