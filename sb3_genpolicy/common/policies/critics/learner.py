"""
How critics learn: V from Q over the dataset's actions, Q from rewards and from values of what they led to.
"""

from typing import Any, NamedTuple, Protocol

import torch as th

from sb3_genpolicy.common.files.transient import Transient
from sb3_genpolicy.common.policies.critics.aggregation import agreement
from sb3_genpolicy.common.policies.critics.base_options import CriticOptions
from sb3_genpolicy.common.policies.critics.ensemble import CriticEnsemble
from sb3_genpolicy.common.policies.critics.layers import masks_from
from sb3_genpolicy.common.policies.critics.losses import expectile_loss, quantile_loss, squared_loss
from sb3_genpolicy.common.policies.critics.options import PolicyCritic
from sb3_genpolicy.common.policies.critics.value_network import ValueNetwork
from sb3_genpolicy.common.updates.batch import Batch
from sb3_genpolicy.common.updates.objective import Objective
from sb3_genpolicy.generative.draws import Source


class HasCritics(Protocol):
    """A policy with Q, its slow copy, and V."""

    critic: CriticEnsemble
    critic_target: CriticEnsemble
    value_net: ValueNetwork
    critic_options: CriticOptions


class Acts(Protocol):
    """What a critic of the policy's own actions asks of an algorithm."""

    def policy_actions(self, observations: Any, generator: Source) -> th.Tensor:
        """
        :param observations: batch first
        :param generator: source of random numbers
        :return: actions of the policy, (batch_size, action_dim), scaled, without gradient
        """

    def behaviour_log_prob(self, observations: Any, actions: th.Tensor) -> th.Tensor | None:
        """
        :param observations: batch first
        :param actions: (batch_size, action_dim), scaled
        :return: their log-density under the behaviour model, (batch_size,), without gradient; None while there is none
        """


class CriticLosses(NamedTuple):
    """
    :param value_loss: loss of V, a scalar
    :param critic_loss: loss of Q, a scalar
    :param q_value: the target networks' Q at the batch's actions, (batch_size, 1), without gradient
    :param advantage: ``q_value - V``, (batch_size, 1), without gradient
    :param means: further scalars for the log
    """

    value_loss: th.Tensor
    critic_loss: th.Tensor
    q_value: th.Tensor
    advantage: th.Tensor
    means: dict[str, th.Tensor]

    def objective(self, **means: th.Tensor) -> Objective:
        """
        :param means: further scalars for the log
        :return: the objective of Q and V
        """
        losses = dict(critic_loss=self.critic_loss, value_loss=self.value_loss)
        return Objective(losses, ("critic", "value_net"), {**self.means, **means})


class Critics(Transient):
    """
    The critics of a policy, trained as its ``critic_options`` say.

    :param policy: whose critics
    :param algorithm: whose actions Q is of, where it is of the policy's
    """

    def __init__(self, policy: HasCritics, algorithm: Acts):
        self.critic, self.critic_target, self.value_net = policy.critic, policy.critic_target, policy.value_net
        self.options = policy.critic_options
        self.algorithm = algorithm

    # Values

    @th.no_grad()
    def advantage(self, batch: Batch) -> th.Tensor:
        """
        :param batch: rows of the dataset
        :return: the target networks' Q minus V, (batch_size, 1), without gradient
        """
        if self.options.learns_advantage:
            return self.critic_target.preferences(batch.observations, batch.actions)
        return self.critic_target.q_values(batch.observations, batch.actions) - self.value_net(batch.observations)

    @th.no_grad()
    def agreement_on(self, observations: Any, actions: th.Tensor) -> th.Tensor:
        """
        :param observations: batch first
        :param actions: (batch_size, action_dim), scaled
        :return: how far the target networks agree on what the actions are above V, see
            :func:`~sb3_genpolicy.common.policies.critics.aggregation.agreement`, (batch_size,), without gradient
        """
        critic = self.critic_target
        outputs = critic.preferences_of_members(critic.features_of(observations), actions)
        if not self.options.learns_advantage:
            outputs = outputs - self.value_net(observations)
        return agreement(outputs.mean(dim=2))

    # Losses

    def losses(self, batch: Batch, gamma: float) -> CriticLosses:
        """
        V towards an expectile of the target Q over the dataset's actions, Q towards the return of some steps and a value of
        what they led to.

        :param batch: rows of the dataset
        :param gamma: discount factor, in [0, 1]
        :return: both losses, and the values that the policy's weights need
        """
        losses_of = self._losses_of_advantage if self.options.learns_advantage else self._losses_of_q
        if self.options.distilled_from is not None:
            losses_of = self._losses_of_distilled
        # Held-out rows are looked at in evaluation mode
        if not (self.options.dropout and self.critic.training):
            return losses_of(batch, gamma)
        with masks_from(batch.generator, self.critic, self.value_net):
            losses = losses_of(batch, gamma)
        # Weights of the policy leave nothing out
        return losses._replace(advantage=self.advantage(batch))

    def _losses_of_q(self, batch: Batch, gamma: float) -> CriticLosses:
        """V towards an expectile of the target Q, Q towards the return."""
        with th.no_grad():
            target_q = self.critic_target.q_values(batch.observations, batch.actions)
            targets = self._targets(batch, gamma)
        advantage = target_q - self.value_net(batch.observations)
        value_loss = expectile_loss(advantage, self.options.value_expectile).mean()
        outputs, usual = self._outputs(batch)
        critic_loss = (squared_loss if self.options.n_quantiles is None else quantile_loss)(outputs, targets)
        further = self._further_losses(batch, usual)
        return CriticLosses(value_loss, critic_loss + sum(further.values()), target_q, advantage.detach(), _detached(further))

    def _losses_of_advantage(self, batch: Batch, gamma: float) -> CriticLosses:
        """
        V towards the return, the advantage towards what the return is above V. Losses are in units of what the networks give,
        not of rewards: SGD steps by a loss's size, which would grow with the square of the scale of the outputs.
        """
        with th.no_grad():
            returns = self._targets(batch, gamma)
            advantage = self.critic_target.preferences(batch.observations, batch.actions)
        values = self.value_net(batch.observations)
        value_loss = expectile_loss((returns - values) / self.value_net.scale, self.options.value_expectile).mean()
        advantages, usual = self._outputs(batch)
        targets = returns - values.detach()
        scale = self.critic.scale
        if self.options.n_quantiles is None:
            critic_loss = squared_loss(advantages / scale, targets / scale)
        else:
            critic_loss = quantile_loss(advantages, targets) / scale
        further = self._further_losses(batch, usual)
        q_value = values.detach() + advantage
        return CriticLosses(value_loss, critic_loss + sum(further.values()), q_value, advantage, _detached(further))

    def _losses_of_distilled(self, batch: Batch, gamma: float) -> CriticLosses:
        """
        The teacher, Q of logged windows, towards the return; Q towards an expectile of the teacher's values over what was
        logged after the actions that Q is of, each network towards that of the same number, so that pessimism counts once
        (arXiv 2512.10926). V towards an expectile of the target Q.

        Where networks learn what is above V, V's own value would be in that target. There V is trained towards the return with
        what the target networks say of the rest of the window, ``Q(s, a_1..k) - Q(s, a_1..h)``, put right. The fixed point is
        the same; the mean of this is the return's for the expectile 0.5.
        """
        with th.no_grad():
            returns = self._targets(batch, gamma)
            features = self.critic_target.features_of(batch.observations)
            of_windows = _teacher_of(self.critic_target).preferences_of_members(features, _windows_of(batch))
            of_plans = self.critic_target.preferences_of_members(features, batch.actions)
            preference = self.critic_target.aggregated(of_plans)
        values = self.value_net(batch.observations)
        baseline, towards = th.zeros_like(returns), preference
        scale: th.Tensor | float = 1.0
        scale_of_v: th.Tensor | float = 1.0
        if self.options.learns_advantage:
            baseline, towards = values.detach(), returns + (of_plans - of_windows).mean(dim=0)
            scale, scale_of_v = self.critic.scale, self.value_net.scale
        value_loss = expectile_loss((towards - values) / scale_of_v, self.options.value_expectile).mean()
        # Once: an extractor may note what it sees
        features = self.critic.features_of(batch.observations)
        taught, its_usual = self._of_features(_teacher_of(self.critic), features, _windows_of(batch))
        outputs, usual = self._of_features(self.critic, features, batch.actions)
        losses = {"teacher_loss": squared_loss(taught / scale, (returns - baseline) / scale)}
        # Twice, so that the expectile 0.5 is the squared loss
        distilled = 2.0 * expectile_loss((of_windows - outputs) / scale, self.options.continuation_expectile)
        losses |= self._further_losses(batch, usual)
        if its_usual is not None:
            losses["usual_window_loss"] = _usual_loss(_teacher_of(self.critic), its_usual, _windows_of(batch))
        critic_loss = distilled.mean(dim=(1, 2)).sum() + sum(losses.values())
        q_value = baseline + preference
        advantage = preference if self.options.learns_advantage else q_value - values.detach()
        return CriticLosses(value_loss, critic_loss, q_value, advantage, _detached(losses))

    def _of_features(
        self, critic: CriticEnsemble, features: th.Tensor, actions: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor | None]:
        """What networks give, an advantage or all of Q, and the usual actions, if they see these."""
        usual = critic.usual_actions(features) if self.options.relative_actions else None
        return critic.preferences_of_members(features, actions, usual), usual

    def _outputs(self, batch: Batch) -> tuple[th.Tensor, th.Tensor | None]:
        """What Q networks give for the batch's actions, an advantage or all of Q, and the usual actions, if they see these."""
        if not self.options.relative_actions:
            values_of = self.critic.values if self.options.n_quantiles is None else self.critic.quantiles
            values_of = self.critic.advantages if self.options.learns_advantage else values_of
            return values_of(batch.observations, batch.actions), None
        # Once: an extractor may note what it sees
        features = self.critic.features_of(batch.observations)
        return self._of_features(self.critic, features, batch.actions)

    def _further_losses(self, batch: Batch, usual: th.Tensor | None) -> dict[str, th.Tensor]:
        """What else Q's parameters descend on, scalars by name."""
        losses = {}
        penalty = self._density_penalty(batch)
        if penalty is not None:
            losses["density_penalty"] = penalty
        if usual is not None:
            losses["usual_action_loss"] = _usual_loss(self.critic, usual, batch.actions)
        return losses

    def _targets(self, batch: Batch, gamma: float) -> th.Tensor:
        """What Q is trained towards, (batch_size, 1), or samples of the return, (batch_size, n_samples)."""
        values = self._policy_values(batch) if self.options.follows_policy else self.value_net(batch.next_observations)
        # With n-step returns, rewards and the discount are those of n steps
        discounts = gamma if batch.discounts is None else batch.discounts
        return batch.rewards + discounts * (1.0 - batch.dones) * values

    def _policy_values(self, batch: Batch) -> th.Tensor:
        """Q of what the policy would do next, (batch_size, 1), or its quantiles."""
        assert isinstance(self.options, PolicyCritic)
        actions = self.algorithm.policy_actions(batch.next_observations, batch.generator)
        if self.options.n_quantiles is None:
            values = self.critic_target.q_values(batch.next_observations, actions)
        else:
            values = self.critic_target.pooled_quantiles(batch.next_observations, actions)
        if self.options.penalty and batch.next_actions is not None:
            distance = self.critic.valued(actions - batch.next_actions).square().sum(dim=1, keepdim=True)
            # Not a number where no next action was logged
            values = values - self.options.penalty * distance.nan_to_num(nan=0.0)
        return values

    def _density_penalty(self, batch: Batch) -> th.Tensor | None:
        """Q is pushed down where the policy acts as the behaviour model would hardly do; None if nothing is asked for."""
        weight = self.options.density_penalty if isinstance(self.options, PolicyCritic) else 0.0
        if weight == 0.0:
            return None
        actions = self.algorithm.policy_actions(batch.observations, batch.generator)
        log_mu = self.algorithm.behaviour_log_prob(batch.observations, actions)
        log_mu_of_logged = self.algorithm.behaviour_log_prob(batch.observations, batch.actions)
        if log_mu is None or log_mu_of_logged is None:
            return None
        unlikely = (1.0 - (log_mu - log_mu_of_logged).exp()).clamp(0.0, 1.0)
        values = self.critic.values(batch.observations, actions)[..., 0]
        return weight * (unlikely * values).mean(dim=1).sum()

    # Freezing

    def freeze(self) -> None:
        """Freeze Q and V: their parameters get no gradient."""
        for network in (self.critic, self.critic_target, self.value_net):
            network.requires_grad_(False)
        self.set_training_mode(False)

    def unfreeze(self) -> None:
        """Unfreeze Q and V."""
        for network in (self.critic, self.value_net):
            network.requires_grad_(True)

    def set_training_mode(self, mode: bool) -> None:
        """
        :param mode: whether layers behave as in training (batch normalisation, dropout)
        """
        self.critic.set_training_mode(mode)
        self.value_net.set_training_mode(mode)


def _detached(losses: dict[str, th.Tensor]) -> dict[str, th.Tensor]:
    return {name: loss.detach() for name, loss in losses.items()}


def _usual_loss(critic: CriticEnsemble, usual: th.Tensor, actions: th.Tensor) -> th.Tensor:
    assert critic.usual_action is not None
    return critic.usual_action.losses(usual, critic.valued(actions)).mean()


def _teacher_of(critic: CriticEnsemble) -> CriticEnsemble:
    assert critic.teacher is not None
    return critic.teacher


def _windows_of(batch: Batch) -> th.Tensor:
    if batch.logged_windows is None:
        raise ValueError(
            "These critics are distilled from logged actions beyond those of the batch: give them with it, as "
            "Batch.of(..., logged_windows=model.replay_buffer.logged_windows(rows, n_steps))."
        )
    return batch.logged_windows
