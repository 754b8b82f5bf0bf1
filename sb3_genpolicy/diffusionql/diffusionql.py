"""
Diffusion-QL: a diffusion policy by matching and Q at once.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from sb3_genpolicy.common.algorithms.pretraining import PretrainingAlgorithm
from sb3_genpolicy.common.datasets import DatasetSource
from sb3_genpolicy.common.policies.critics import CriticOptions, PolicyCritic
from sb3_genpolicy.common.transitions.rewards import RewardTransform
from sb3_genpolicy.common.transitions.transforms import Transform
from sb3_genpolicy.common.updates.batch import Batch
from sb3_genpolicy.common.updates.dependence import Dependence
from sb3_genpolicy.common.updates.objective import Objective
from sb3_genpolicy.common.updates.precision import Precision
from sb3_genpolicy.diffusionql.policies import POLICY_ALIASES
from sb3_genpolicy.generative.checks import check_number, named_options
from sb3_genpolicy.generative.draws import draw

# As published: clipped double Q-learning, of networks without layer norm
_CRITIC = PolicyCritic(aggregation="minimum", layer_norm=False)


class DiffusionQL(PretrainingAlgorithm):
    """
    Diffusion-QL: one loss of a diffusion or flow policy, matching of the dataset's actions minus ``eta Q(s, a) / mean |Q|``
    at the policy's own actions, with gradients through the sampler. Critics are of the policy's own actions.

    Paper: https://arxiv.org/abs/2208.06193

    :param policy: The policy model to use (DiffusionPolicy, FlowPolicy, DiffusionMultiInputPolicy, ...)
    :param env: The environment that the policy is for (if registered in Gym, can be str). ``learn`` does not step it.
        None where there is no simulator: the spaces then come from ``dataset``.
    :param learning_rate: learning rate of actor and critics; can be a function of the progress remaining (from 1 to 0).
        Default: as published
    :param batch_size: rows of the dataset for each gradient step
    :param tau: the soft update coefficient of the target critics (between 0 and 1)
    :param gamma: the discount factor, in [0, 1]
    :param eta: weight of Q beside the matching loss, >= 0; it has no unit, since Q is divided by the batch's mean of abs(Q)
        (paper: 1 for locomotion, 0.001 to 5 elsewhere). 0 clones the behaviour policy.
    :param actor_tau: the soft update coefficient of the averaged actor, which acts and whose actions the critics value (in
        (0, 1]; paper: 0.005)
    :param critic: what Q is of and by which networks. Default: two networks, their minimum, bootstrapped from the policy's own
        actions (``PolicyCritic(aggregation="minimum", layer_norm=False)``), as published
    :param max_grad_norm: largest norm of the policy's gradient, > 0; None for no clipping (paper: 1 to 15 by task)
    :param reward_transform: ``locomotion`` (the default: returns of the dataset span 1000), ``antmaze`` (reward - 1),
        ``none`` (or None), an object (``AffineReward``, ``ReturnRange``) or a function of an array of rewards
    :param transforms: what else is done to the dataset, in the order given: ``BestEpisodes``, ``WeightedEpisodes``,
        ``HeldOutEpisodes``, ``NStepReturns``, ``ClipActions``, ``RescaleActions``, see
        :mod:`sb3_genpolicy.common.transitions.transforms`
    :param dataset: the logged data: a Minari id, a file, an SB3 replay buffer, a mapping of arrays, a list of these, or
        anything else that ``load_dataset`` takes. They are read in ``learn``. Default: what the environment carries
        (``env.get_dataset()``).
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

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = POLICY_ALIASES
    batched_settings: ClassVar[tuple[str, ...]] = ("eta",)
    needs_behaviour = False

    @named_options
    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None = None,
        learning_rate: float | Schedule = 3e-4,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float = 0.99,
        eta: float = 1.0,
        actor_tau: float = 0.005,
        critic: str | CriticOptions = _CRITIC,
        max_grad_norm: float | None = 9.0,
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
        super().__init__(
            policy,
            env,
            learning_rate,
            batch_size=batch_size,
            tau=tau,
            gamma=gamma,
            critic=critic,
            expectile=None,
            actor_tau=actor_tau,
            pretraining_steps=0,
            pretrained=None,
            reward_transform=reward_transform,
            transforms=transforms,
            precision=precision,
            capture=capture,
            dataset=dataset,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            seed=seed,
        )
        check_number("eta", eta, low=0.0)
        if max_grad_norm is not None:
            check_number("max_grad_norm", max_grad_norm, low=0.0, low_open=True, infinite=True)
        self.eta = eta
        self.max_grad_norm = max_grad_norm
        if _init_setup_model:
            self._setup_model()

    def objective(self, batch: Batch) -> Objective:
        # Policy: matching loss of the dataset's actions, minus eta Q / |Q| at its own
        matching_loss = self.actor.matching_loss(batch.observations, batch.actions, batch.generator).mean()
        features = self.actor.extract_features(batch.observations, self.actor.features_extractor)
        noise = draw("normal", (len(features), self.actor.action_dim), features, batch.generator)
        actions = self.actor.sample(features, noise, generator=batch.generator)
        with self.frozen_but_the_policy():
            q_values = self.critics.critic.q_values(batch.observations, actions)[:, 0]
        q_loss = -q_values.mean() / batch.mean(q_values.abs()).clamp(min=1e-6)
        means = dict(matching_loss=matching_loss, q_value=q_values.mean())
        policy = Objective(dict(actor_loss=matching_loss + self.eta * q_loss), ("actor",), means)
        # Critics: r + gamma Q(s', a'), a' of the policy
        return self.with_what_learns(policy, batch)

    def before_step(self, objective: Objective) -> dict[str, th.Tensor]:
        parameters = [parameter for parameter in self.actor.optimizer.param_groups[0]["params"] if parameter.grad is not None]
        largest = math.inf if self.max_grad_norm is None else self.max_grad_norm
        return dict(gradient_norm=th.nn.utils.clip_grad_norm_(parameters, largest))

    def dependences(self) -> tuple[Dependence, ...]:
        return (self.actor.sampling_dependence, *super().dependences())
