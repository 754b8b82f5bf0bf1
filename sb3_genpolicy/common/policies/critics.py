"""
Critics by implicit Q-learning (Kostrikov et al., 2022): a state value, and the losses of it and of the twin Q.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, create_mlp
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_genpolicy.common.files.transient import Transient
from sb3_genpolicy.common.policies.normalization import NormalizedModel, ObservationNormalizer
from sb3_genpolicy.common.policies.twin_critic import TwinCritic, in_place
from sb3_genpolicy.common.updates.batch import Batch
from sb3_genpolicy.common.updates.objective import Objective
from sb3_genpolicy.generative.networks import in_float32


class ValueNetwork(NormalizedModel):
    """
    State value V(s).

    :param observation_space: observation space
    :param action_space: action space (kept for saving, not used)
    :param net_arch: widths of the hidden layers
    :param features_extractor: network that extracts features
    :param features_dim: number of features
    :param activation_fn: activation function
    :param normalize_images: whether to divide images by 255
    :param share_features_extractor: whether the extractor is the actor's; it then gets no gradient from here
    :param normalizer: of observations, shared by every network of a policy
    """

    features_extractor: BaseFeaturesExtractor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        net_arch: list[int],
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        activation_fn: type[nn.Module] = nn.ReLU,
        normalize_images: bool = True,
        share_features_extractor: bool = False,
        normalizer: ObservationNormalizer | None = None,
    ):
        super().__init__(
            observation_space, action_space, features_extractor=features_extractor, normalize_images=normalize_images
        )
        self.normalizer = normalizer
        self.share_features_extractor = share_features_extractor
        self.value_net = nn.Sequential(*create_mlp(features_dim, 1, net_arch, in_place(activation_fn)))  # type: ignore[arg-type]

    def forward(self, obs: PyTorchObs) -> th.Tensor:
        """
        :param obs: observations
        :return: values, (batch_size, 1)
        """
        with th.set_grad_enabled(th.is_grad_enabled() and not self.share_features_extractor):
            features = self.extract_features(obs, self.features_extractor)
        *hidden, head = self.value_net
        for layer in hidden:
            features = layer(features)
        return in_float32(head, features)


def expectile_loss(difference: th.Tensor, expectile: float) -> th.Tensor:
    """
    Asymmetric squared error ``|expectile - 1[u < 0]| u^2``: its minimiser over a constant is the expectile of the targets.

    :param difference: target minus prediction, any shape
    :param expectile: in (0, 1); 0.5 gives half the squared error, towards 1 the maximum of the targets is sought
    :return: one loss per entry
    """
    return th.where(difference < 0, 1.0 - expectile, expectile) * difference.square()


def smallest_q(critic: TwinCritic, observations: PyTorchObs, actions: th.Tensor) -> th.Tensor:
    """
    :param critic: the twin Q
    :param observations: batch first
    :param actions: (batch_size, action_dim), scaled
    :return: the minimum over the Qs, (batch_size, 1)
    """
    return critic.values(observations, actions).amin(dim=0)


class IQLLosses(NamedTuple):
    """
    :param value_loss: loss of V, a scalar
    :param critic_loss: loss of the twin Q, a scalar
    :param q_value: minimum of the target Qs at the batch's actions, (batch_size, 1), without gradient
    :param advantage: ``q_value - V``, (batch_size, 1), without gradient
    """

    value_loss: th.Tensor
    critic_loss: th.Tensor
    q_value: th.Tensor
    advantage: th.Tensor

    def objective(self, **means: th.Tensor) -> Objective:
        """
        :param means: further scalars for the log
        :return: the objective of Q and V
        """
        losses = dict(critic_loss=self.critic_loss, value_loss=self.value_loss)
        return Objective(losses, ("critic", "value_net"), means)


def iql_losses(
    critic: TwinCritic,
    critic_target: TwinCritic,
    value_net: ValueNetwork,
    batch: Any,
    gamma: float,
    expectile: float,
) -> IQLLosses:
    """
    Losses of implicit Q-learning: V is drawn to an upper expectile of the target Q over the dataset's actions,
    and both Qs are regressed on ``r + gamma (1 - terminated) V(s')``. No action outside the dataset is ever valued.

    :param critic: the twin Q
    :param critic_target: its slow copy
    :param value_net: V
    :param batch: replay samples
    :param gamma: discount factor
    :param expectile: expectile of V, in (0, 1)
    :return: both losses, and the values that the policy's weights need
    """
    with th.no_grad():
        target_q = smallest_q(critic_target, batch.observations, batch.actions)
        next_value = value_net(batch.next_observations)
        # With n-step returns, rewards and the discount are those of n steps
        discounts = gamma if batch.discounts is None else batch.discounts
        q_regressand = batch.rewards + discounts * (1.0 - batch.dones) * next_value
    advantage = target_q - value_net(batch.observations)
    value_loss = expectile_loss(advantage, expectile).mean()

    errors = critic.values(batch.observations, batch.actions) - q_regressand
    critic_loss = errors.square().mean(dim=(1, 2)).sum()
    return IQLLosses(value_loss, critic_loss, target_q, advantage.detach())


class HasCritics(Protocol):
    """A policy with twin Q, their slow copy, and V."""

    critic: TwinCritic
    critic_target: TwinCritic
    value_net: ValueNetwork


class IQLCritics(Transient):
    """
    The critics of a policy, as implicit Q-learning trains them.

    :param policy: whose critics
    """

    def __init__(self, policy: HasCritics):
        self.critic, self.critic_target, self.value_net = policy.critic, policy.critic_target, policy.value_net

    def losses(self, batch: Batch, gamma: float, expectile: float) -> IQLLosses:
        """
        V towards an expectile of the target Q over the dataset's actions, Q towards r + gamma V(s').

        :param batch: rows of the dataset
        :param gamma: discount factor
        :param expectile: expectile of V, in (0, 1)
        :return: both losses, and the values that the policy's weights need
        """
        return iql_losses(self.critic, self.critic_target, self.value_net, batch, gamma, expectile)

    @th.no_grad()
    def advantage(self, batch: Batch) -> th.Tensor:
        """
        :param batch: rows of the dataset
        :return: the minimum of both target Qs minus V, (batch_size, 1), without gradient
        """
        return smallest_q(self.critic_target, batch.observations, batch.actions) - self.value_net(batch.observations)

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


@contextmanager
def frozen(networks: Iterable[nn.Module], but: Iterable[nn.Parameter] = ()) -> Iterator[None]:
    """
    Context in which networks are frozen: what is computed in it passes gradients through them to their inputs, but gives none
    to their parameters.

    :param networks: the networks
    :param but: parameters of these networks that are not frozen
    """
    kept = {id(parameter) for parameter in but}
    parameters = [
        parameter
        for network in networks
        for parameter in network.parameters()
        if parameter.requires_grad and id(parameter) not in kept
    ]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
