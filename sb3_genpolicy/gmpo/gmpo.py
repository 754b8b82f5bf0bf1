"""
GMPO: generative model policy optimization by advantage-weighted matching.
"""

import math
from typing import Any, ClassVar, TypeVar

import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, ReplayBufferSamples, Schedule
from stable_baselines3.common.utils import polyak_update

from sb3_genpolicy.common.critics import iql_losses
from sb3_genpolicy.common.datasets import DatasetSource
from sb3_genpolicy.common.offline_algorithm import OfflineAlgorithm
from sb3_genpolicy.common.policies import POLICY_ALIASES
from sb3_genpolicy.common.rewards import RewardFunction
from sb3_genpolicy.common.utils import tree_map
from sb3_genpolicy.generative.checks import check_number, named_options

SelfGMPO = TypeVar("SelfGMPO", bound="GMPO")


def effective_sample_size(weights: th.Tensor) -> th.Tensor:
    """
    Kish's effective sample size as a share of the batch: 1 where all weights are equal, 1 / batch_size where one counts alone.

    :param weights: (batch_size,)
    :return: a scalar
    """
    return weights.mean().square() / weights.square().mean()


class GMPO(OfflineAlgorithm):
    """
    Generative Model Policy Optimization (GMPO): a flow or diffusion policy is matched to the dataset's actions,
    each weighted by ``min(exp(beta (Q(s, a) - V(s))), weight_clamp)`` with critics by implicit Q-learning.

    Paper: https://arxiv.org/abs/2412.01245 (section 4.1), critics: https://arxiv.org/abs/2110.06169

    :param policy: The policy model to use (FlowPolicy, DiffusionPolicy, FlowMultiInputPolicy, ...)
    :param env: The environment that the policy is for (if registered in Gym, can be str). It is not stepped.
        None where there is no simulator: the spaces then come from ``dataset``.
    :param learning_rate: learning rate of actor and critics; can be a function of the current progress remaining (from 1 to 0)
    :param batch_size: rows of the dataset for each gradient step
    :param tau: the soft update coefficient of the target critics (between 0 and 1)
    :param gamma: the discount factor
    :param beta: inverse temperature of the weights, >= 0, in units of the transformed reward. 0 clones the behaviour policy.
    :param weight_clamp: largest weight of a sample, > 0 (paper: 100)
    :param expectile: expectile of V, in (0, 1) (paper: 0.7 for locomotion, 0.9 for AntMaze)
    :param actor_tau: the soft update coefficient of the averaged actor, which acts (in (0, 1]; 1: the latest parameters act).
        The weights make each step's gradient noisy; an average over the last thousand steps acts more steadily.
    :param reward_transform: ``locomotion`` (the default: returns of the dataset span 1000), ``antmaze`` (reward - 1),
        ``none`` (or None), or a function of an array of rewards
    :param dataset: the logged data: a Minari id or dataset, the name of an embedded dataset, an SB3 replay buffer or a mapping
        of arrays. They are read in ``learn``. Default: what the environment carries (``env.get_dataset()``).
    :param stats_window_size: Window size for the rollout logging when the model goes on online
    :param tensorboard_log: the log location for tensorboard (if None, no logging)
    :param policy_kwargs: Additional arguments to be passed to the policy on creation,
        see :class:`~sb3_genpolicy.common.generative_policy.GenerativePolicy`
    :param verbose: Verbosity level: 0 for no output, 1 for info messages (such as device or wrappers used),
        2 for debug messages
    :param seed: Seed for the pseudo random generators
    :param device: Device (cpu, cuda, ...) on which the code should run, also where the dataset lives
    :param _init_setup_model: Whether or not to build the network at the creation of the instance
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = POLICY_ALIASES

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
        weight_clamp: float = 100.0,
        expectile: float = 0.7,
        actor_tau: float = 0.001,
        reward_transform: str | RewardFunction | None = "locomotion",
        dataset: DatasetSource | None = None,
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
            actor_tau=actor_tau,
            reward_transform=reward_transform,
            dataset=dataset,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            seed=seed,
        )
        check_number("beta", beta, low=0.0)
        check_number("weight_clamp", weight_clamp, low=0.0, low_open=True)
        check_number("expectile", expectile, low=0.0, high=1.0, low_open=True)
        self.beta = beta
        self.weight_clamp = weight_clamp
        self.expectile = expectile

        if _init_setup_model:
            self._setup_model()

    def train(self, gradient_steps: int, batch_size: int = 256) -> None:
        # Switch to train mode (this affects batch norm / dropout)
        self.policy.set_training_mode(True)
        self._update_learning_rate([self.actor.optimizer, self.critic.optimizer, self.value_net.optimizer])

        for _ in range(gradient_steps):
            batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)

            # Critics: V towards an expectile of the target Q over the dataset's actions, Q towards r + gamma V(s')
            losses = iql_losses(self.critic, self.critic_target, self.value_net, batch, self.gamma, self.expectile)
            self.value_net.optimizer.zero_grad()
            losses.value_loss.backward()
            self.value_net.optimizer.step()
            self.critic.optimizer.zero_grad()
            losses.critic_loss.backward()
            self.critic.optimizer.step()
            polyak_update(self.critic.parameters(), self.critic_target.parameters(), self.tau)
            polyak_update(self.batch_norm_stats, self.batch_norm_stats_target, 1.0)

            # Policy: matching loss of the dataset's actions, weighted by their advantage
            weights = self.advantage_weights(losses.advantage)
            actor_loss, matching_loss = self._weighted_matching_loss(batch, weights)
            self.actor.optimizer.zero_grad()
            actor_loss.backward()
            self.actor.optimizer.step()
            self._update_actor_ema()
            self._n_updates += 1

            self.means.add(
                actor_loss=actor_loss,
                matching_loss=matching_loss,
                critic_loss=losses.critic_loss,
                value_loss=losses.value_loss,
                q_value=losses.q_value.mean(),
                advantage=losses.advantage.mean(),
                weight=weights.mean(),
                effective_sample_size=effective_sample_size(weights),
                weight_clamped=(weights >= 0.999 * self.weight_clamp).float().mean(),
            )

    def _weighted_matching_loss(self, batch: ReplayBufferSamples, weights: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        :param batch: rows of the dataset
        :param weights: (batch_size,)
        :return: the weighted mean of their matching losses, and the plain mean
        """
        if self.actor.model.coupling.independent:
            losses = self.actor.matching_loss(batch.observations, batch.actions, self.generator)
            return (weights * losses).mean(), losses.mean()
        # Where noise is paired with actions, weights would teach each noise its own action more or less well, and move no
        # probability from one action to another. Rows drawn in proportion to their weights do, paired after that.
        rows = th.multinomial(weights, len(weights), replacement=True, generator=self.generator)
        observations = tree_map(lambda array: array[rows], batch.observations)
        loss = self.actor.matching_loss(observations, batch.actions[rows], self.generator).mean()
        return weights.mean() * loss, loss

    def advantage_weights(self, advantage: th.Tensor) -> th.Tensor:
        """
        :param advantage: Q - V, (batch_size, 1)
        :return: ``min(exp(beta advantage), weight_clamp)``, (batch_size,)
        """
        # Clamped before the exponential, which cannot overflow then
        return (self.beta * advantage.squeeze(1)).clamp(max=math.log(self.weight_clamp)).exp()

    def learn(  # type: ignore[override]
        self: SelfGMPO,
        total_timesteps: int = 100_000,
        callback: MaybeCallback = None,
        log_interval: int | None = 1000,
        tb_log_name: str = "GMPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
        dataset: DatasetSource | None = None,
    ) -> SelfGMPO:
        return super().learn(
            total_timesteps=total_timesteps,
            callback=callback,
            log_interval=log_interval,
            tb_log_name=tb_log_name,
            reset_num_timesteps=reset_num_timesteps,
            progress_bar=progress_bar,
            dataset=dataset,
        )
