"""
QGPO: Q-guided policy optimization, by contrastive energy prediction.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from sb3_genpolicy.common.algorithms.pretraining import PretrainingAlgorithm
from sb3_genpolicy.common.algorithms.support import SupportActions, SupportCritic, SupportCritics, values_of
from sb3_genpolicy.common.datasets import DatasetSource
from sb3_genpolicy.common.policies.energy import contrastive_loss
from sb3_genpolicy.common.transitions.rewards import RewardTransform
from sb3_genpolicy.common.transitions.transforms import Transform
from sb3_genpolicy.common.updates.batch import Batch
from sb3_genpolicy.common.updates.dependence import Dependence, Scope
from sb3_genpolicy.common.updates.objective import Objective
from sb3_genpolicy.common.updates.precision import Precision
from sb3_genpolicy.generative.checks import check_flag, check_number, handed_on, named_options
from sb3_genpolicy.generative.draws import draw
from sb3_genpolicy.qgpo.policies import CnnPolicy, EnergyGuidedPolicy, MlpPolicy, MultiInputPolicy

# The share of the first `learn` that clones
_PRETRAINING_SHARE = 0.5
_KEPT_ACTIONS = Dependence(
    Scope.DATASET, "redraw_actions=False keeps actions for the rows of a fixed dataset", "Take redraw_actions=True"
)


class QGPO(PretrainingAlgorithm):
    """
    Q-Guided Policy Optimization (QGPO): a diffusion model clones the behaviour policy mu, in a first phase, and stays as it
    is. K of its actions for each state stand for what the data support. Critics are trained towards the softmax of Q over
    them, and an energy network by contrast between them, given noise, towards the logarithm of what exp(beta Q) is to be
    expected at the end. Its gradient guides the sampler at every step, to ``mu exp(beta Q) / Z`` where networks are exact.

    Paper: https://arxiv.org/abs/2304.12824

    :param policy: The policy model to use (MlpPolicy, CnnPolicy, MultiInputPolicy)
    :param env: The environment that the policy is for (if registered in Gym, can be str). ``learn`` does not step it.
        None where there is no simulator: the spaces then come from ``dataset``.
    :param learning_rate: learning rate of all networks; can be a function of the current progress remaining (from 1 to 0)
    :param batch_size: rows of the dataset for each gradient step
    :param tau: the soft update coefficient of the target critics (between 0 and 1)
    :param gamma: the discount factor, in [0, 1]
    :param beta: inverse temperature, > 0, in units of the transformed reward, of the energy and of the critics' softmax
    :param n_actions: K, actions of the behaviour model for each state, >= 2 (published: 16)
    :param redraw_actions: whether they are drawn anew for every batch, or, as published, once for the whole dataset (faster,
        and 2 n_rows \\* n_actions \\* action_dim floats of memory)
    :param pretraining_steps: updates of the first phase, >= 1. Default: half of the first call of ``learn``.
    :param actor_tau: the soft update coefficient of the averaged behaviour model, which acts and gives the actions, in (0, 1]
    :param critic: by which networks, an object: see :class:`~sb3_genpolicy.common.algorithms.support.SupportCritic`
    :param reward_transform: ``locomotion`` (the default: returns of the dataset span 1000), ``antmaze`` (reward - 1),
        ``none`` (or None), an object (``AffineReward``, ``ReturnRange``) or a function of an array of rewards
    :param transforms: what else is done to the dataset, in the order given, see
        :mod:`sb3_genpolicy.common.transitions.transforms`
    :param dataset: the logged data, anything that ``load_dataset`` takes. They are read in ``learn``. Default: what the
        environment carries (``env.get_dataset()``).
    :param precision: of matrix products while training: ``float32``, ``tf32`` or ``bfloat16``
    :param capture: on a CUDA device, whether a whole update is recorded once as a CUDA graph and replayed
    :param stats_window_size: number of episodes that the rollout log is a mean of, when the model goes on online
    :param tensorboard_log: the log location for tensorboard (if None, no logging)
    :param policy_kwargs: Additional arguments to be passed to the policy on creation,
        see :class:`~sb3_genpolicy.common.policies.generative_policy.GenerativePolicy`
    :param verbose: Verbosity level: 0 for no output, 1 for info messages (such as device or wrappers used),
        2 for debug messages
    :param seed: seed of all pseudo random generators, a whole number >= 0; None: not repeatable
    :param device: Device (cpu, cuda, ...) on which the code should run, also where the dataset lives
    :param _init_setup_model: Whether or not to build the network at the creation of the instance
    """

    policy: EnergyGuidedPolicy
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    needs_behaviour = False

    @named_options
    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None = None,
        learning_rate: float | Schedule = 1e-3,
        batch_size: int = 256,
        tau: float = 0.01,
        gamma: float = 0.99,
        beta: float = 1.0,
        n_actions: int = 16,
        redraw_actions: bool = False,
        pretraining_steps: int | None = None,
        actor_tau: float = 0.001,
        critic: SupportCritic = SupportCritic(),  # noqa: B008
        reward_transform: RewardTransform | None = "locomotion",
        transforms: Sequence[Transform] = (),
        dataset: DatasetSource | None = None,
        precision: Precision = "float32",
        capture: bool = False,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ):
        expectile = pretrained = None
        policy_kwargs = {"guidance": 1.0, **(policy_kwargs or {})}
        super().__init__(**handed_on(PretrainingAlgorithm, locals()))
        check_number("beta", beta, low=0.0, low_open=True)
        check_number("n_actions", n_actions, low=2, whole=True)
        check_flag("redraw_actions", redraw_actions)
        if pretraining_steps is not None:
            check_number("pretraining_steps", pretraining_steps, low=1, whole=True)
        self.beta, self.n_actions, self.redraw_actions = beta, n_actions, redraw_actions
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        super()._setup_model()
        if not isinstance(self.critic_options, SupportCritic):
            raise ValueError(
                f"QGPO's critics are of the behaviour model's actions: give a SupportCritic, not {self.critic_options}."
            )
        self.critics = SupportCritics(self.policy, self)
        self._support: SupportActions | None = None

    def objective(self, batch: Batch) -> Objective:
        if self.pretraining:
            return self._behaviour_objective(batch)
        # Critics: Q towards r + gamma sum_k w_k Q(s', a_k), w = softmax(beta Q)
        losses = self.critic_losses(batch)
        objective = losses.objective(advantage=losses.advantage.mean()) + self._energy_objective(batch)
        return objective + self._behaviour_objective(batch) if self.online else objective

    def _behaviour_objective(self, batch: Batch) -> Objective:
        loss = self.actor.matching_loss(batch.observations, batch.actions, batch.generator).mean()
        return Objective(dict(matching_loss=loss), ("actor",))

    def _energy_objective(self, batch: Batch) -> Objective:
        """Which of a state's actions, given noise, will be that of large Q: by the energy, and by Q."""
        energy, path = self.policy.energy, self.actor.model.path
        actions = self.supported_actions("observations", batch)
        q_values = values_of(self.critics.critic_target, batch.observations, actions)
        n_rows, n_actions, dim = actions.shape
        t = path.t_max * draw("uniform", (n_rows, 1), actions, batch.generator)
        noise = draw("normal", (n_rows, n_actions * dim), actions, batch.generator).reshape(actions.shape)
        alpha, sigma, _, _ = path(t[:, None])
        features = energy.extract_features(batch.observations, energy.features_extractor).repeat_interleave(n_actions, dim=0)
        scaled = (alpha * (alpha * actions + sigma * noise)).flatten(0, 1)
        energies = energy(features, t.repeat_interleave(n_actions, dim=0), scaled).reshape(n_rows, n_actions)
        loss = contrastive_loss(energies, self.beta * q_values).mean()
        return Objective(dict(energy_loss=loss), ("energy",), dict(q_value=q_values.mean()))

    def supported_actions(self, part: str, batch: Batch) -> th.Tensor:
        """
        :param part: ``observations`` or ``next_observations``
        :param batch: rows of the dataset
        :return: actions of the behaviour model there, (batch_size, n_actions, action_dim), scaled
        """
        if self._support is None:
            self._support = SupportActions(self.actor_ema, self.n_actions, None if self.redraw_actions else self.seed or 0)
        return self._support.draw(part, batch, self.replay_buffer, self._vec_normalize_env)

    def held_out_losses(self, batch: Batch) -> dict[str, th.Tensor]:
        return self.objective(batch).losses

    def dependences(self) -> tuple[Dependence, ...]:
        own = () if self.redraw_actions else (_KEPT_ACTIONS,)
        return (*own, *super().dependences())

    def _default_pretraining_steps(self, total_timesteps: int) -> int:
        return max(1, int(_PRETRAINING_SHARE * total_timesteps))

    def fill_replay_buffer(self, dataset: DatasetSource | None) -> None:
        # Of the dataset that there was
        self._support = None
        super().fill_replay_buffer(dataset)
