"""
How a policy makes its critics: Q and its slow copy, V, and their optimizers. What takes ``self`` is a method of
:class:`~sb3_genpolicy.common.policies.critic_policy.CriticPolicy`.
"""

from typing import Any

from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule

from sb3_genpolicy.common.policies.critics import CriticEnsemble, MissingCritics, ValueNetwork
from sb3_genpolicy.common.transitions.time_windows import planned_space


def build_critics(policy: Any, lr_schedule: Schedule) -> None:
    """
    Make Q, V and their optimizers.

    :param policy: whose
    :param lr_schedule: learning rate schedule, of which the rate at the start is taken
    """
    # With a shared extractor, the critics' losses do not reach it (see SB3's SAC)
    shared = policy.actor.features_extractor if policy.share_features_extractor else None
    policy.critic = policy.make_critic(shared)
    policy.value_net = policy.make_value_net(shared)
    policy.critic_target = policy.make_critic()
    policy.critic_target.load_state_dict(policy.critic.state_dict())
    for critic in (policy.critic, policy.critic_target):
        critic.stand_on(policy.value_net)
    for network in (policy.critic, policy.value_net):
        own = [p for name, p in network.named_parameters() if shared is None or "features_ext" not in name]
        network.optimizer = policy.make_optimizer(own, lr_schedule(1))
    # Target networks should always be in eval mode
    policy.critic_target.set_training_mode(False)


def do_without_critics(policy: Any) -> None:
    """
    Stand in for Q and V what says, when it is asked, that there are none.

    :param policy: without critics
    """
    names = {"critic", "value_net"}
    policy.trained = tuple(name for name in policy.trained if name not in names)
    policy.running_averages = {own: name for own, name in policy.running_averages.items() if name not in names}
    missing: Any = MissingCritics()
    policy.critic = policy.critic_target = policy.value_net = missing


def make_critic(self: Any, features_extractor: BaseFeaturesExtractor | None = None) -> CriticEnsemble:
    """
    :param features_extractor: an extractor to share; a new one by default
    :return: a new Q
    """
    action_space, longer = self.planning.action_space, self.critic_options.distilled_from
    shares = features_extractor is not None
    critic = _make_ensemble(self, self.horizon.valued(action_space), features_extractor, shares)
    if longer is not None:
        windows = planned_space(action_space, longer)
        critic.learn_from(_make_ensemble(self, windows, critic.features_extractor, shares))
    return critic


def _make_ensemble(
    policy: Any, action_space: spaces.Box, features_extractor: BaseFeaturesExtractor | None, shares: bool
) -> CriticEnsemble:
    return CriticEnsemble(
        **{**policy.network_kwargs(features_extractor), "action_space": action_space},
        net_arch=_widths(policy, "qf"),
        activation_fn=policy.critic_activation_fn,
        options=policy.critic_options,
        share_features_extractor=shares,
    ).to(policy.device)


def make_value_net(self: Any, features_extractor: BaseFeaturesExtractor | None = None) -> ValueNetwork:
    """
    :param features_extractor: an extractor to share; a new one by default
    :return: a new V
    """
    return ValueNetwork(
        **self.network_kwargs(features_extractor),
        net_arch=_widths(self, "vf"),
        activation_fn=self.critic_activation_fn,
        layer_norm=self.critic_options.layer_norm,
        dropout=self.critic_options.dropout,
        scaled=self.critic_options.learns_advantage,
        share_features_extractor=features_extractor is not None,
    ).to(self.device)


def _widths(policy: Any, key: str) -> list[int]:
    own = policy.critic_options.net_arch
    return policy.net_arch[key] if own is None else list(own)


def fit_critic_scales(self: Any, mean: float, deviation: float, of_reward: float) -> None:
    """
    Where the critics learn an advantage, let their networks give numbers of the order of 1.

    :param mean: of the returns that V is trained towards
    :param deviation: standard deviation of these returns
    :param of_reward: standard deviation of the rewards of a step, in which advantages are measured
    """
    if not self.critic_options.learns_advantage:
        return
    self.value_net.shift.fill_(mean)
    self.value_net.scale.fill_(deviation)
    for network in (self.critic, self.critic_target):
        network.fit_scale(of_reward)
