"""
The base of our policies: all but the actor, which a subclass adds. Q and V, the normaliser of observations, the range of
actions, optimizers, and the methods by which an algorithm asks for these.
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn
from torch.optim import Optimizer

from sb3_genpolicy.common.policies.critics import CriticEnsemble, CriticOptions, NoCritic, ValueNetwork, making
from sb3_genpolicy.common.policies.critics.options import make_critic, resized
from sb3_genpolicy.common.policies.normalization import ObservationNormalizer
from sb3_genpolicy.common.policies.option_checks import check_activation, check_extractor, check_kwargs, check_optimizer
from sb3_genpolicy.common.policies.planning import Horizon
from sb3_genpolicy.common.policies.planning_policy import PlanningPolicy
from sb3_genpolicy.common.transitions.action_range import ActionRange
from sb3_genpolicy.common.updates.averages import PolyakAverage
from sb3_genpolicy.common.utils import on_one_line
from sb3_genpolicy.generative.checks import blaming, check_class, check_flag


class CriticPolicy(PlanningPolicy):
    """
    A policy of an offline algorithm. A subclass has :meth:`make_actor` and ``_predict``, sets what its actor is made of after
    ``super().__init__``, and calls :meth:`build` then.

    ``actor`` is trained; ``actor_ema``, a running average of its parameters, acts; ``critic`` is Q, ``critic_target`` its
    slow copy, and ``value_net`` V. Every network that is trained has an ``optimizer``.

    :param observation_space: observation space
    :param action_space: action space, a Box, bounded or not
    :param net_arch: widths of the hidden layers of each network, with the keys ``pi`` (actor), ``qf`` and ``vf`` (critics),
        see :func:`~sb3_genpolicy.common.policies.options.split_net_arch`
    :param critic_activation_fn: activation function of the critics
    :param normalize_observations: whether observations are standardised inside the policy, by statistics of the dataset
        (images and discrete observations are not)
    :param normalize_actions: whether actions are modelled in the data's own range of each dimension, see
        :class:`~sb3_genpolicy.common.transitions.action_range.ActionRange`. Without, in the whole space, which has to be
        bounded.
    :param features_extractor_class: features extractor. Default: the policy class's.
    :param features_extractor_kwargs: keyword arguments of the features extractor
    :param normalize_images: whether to divide images by 255
    :param optimizer_class: optimizer, ``th.optim.Adam`` (fused) by default
    :param optimizer_kwargs: keyword arguments of the optimizer, without the learning rate
    :param n_critics: number of Q networks. Default: what ``critic`` says.
    :param critic: which networks Q and V are, and what they are trained for, see
        :class:`~sb3_genpolicy.common.policies.critics.base_options.CriticOptions`. Algorithms give it, from their own
        ``critic=``.
    :param share_features_extractor: whether the critics use the actor's extractor, trained by the actor's loss alone
        (saves time with images)
    :param chunk_length: number of actions that are planned together; ``predict`` still gives one, and keeps the rest of the
        plan. 1, the default, acts step by step. Where an episode ends within a plan, its last action is repeated.
    :param execute_length: how many actions of a plan are executed before the next one is made, and valued by the critics,
        whose returns have at least so many steps. Default: all.
    :param history: number of observations that are seen together, the newest last, within an episode; its first is repeated
    :param plan_blending: where plans overlap, the action is their mean with weights ``exp(-plan_blending * i)``, i = 0 for the
        oldest (temporal ensembling, arXiv 2304.13705; published: 0.01). Default: the newest plan alone acts. Can be changed
        later.
    :raises ValueError: for an option of a wrong type or out of range
    """

    #: Default of ``features_extractor_class``
    default_features_extractor_class: ClassVar[type[BaseFeaturesExtractor]] = FlattenExtractor
    #: Names of the networks that are trained from the beginning
    trained: tuple[str, ...] = ("actor", "critic", "value_net")
    #: Name of a running average -> name of the network that it follows
    running_averages: Mapping[str, str] = {"actor_ema": "actor", "critic_target": "critic"}
    #: Name of the running average that acts, which follows at the rate ``actor_tau``; the others follow at ``tau``
    acting: ClassVar[str] = "actor_ema"

    action_space: spaces.Box
    actor: Any
    actor_ema: Any
    critic: CriticEnsemble
    critic_target: CriticEnsemble
    value_net: ValueNetwork

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        *,
        net_arch: dict[str, list[int]],
        critic_activation_fn: type[nn.Module] = nn.ReLU,
        normalize_observations: bool = True,
        normalize_actions: bool = True,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        n_critics: int | None = None,
        share_features_extractor: bool = False,
        critic: str | CriticOptions = "iql",
        chunk_length: int = 1,
        execute_length: int | None = None,
        history: int = 1,
        plan_blending: float | None = None,
    ):
        if features_extractor_class is None:
            features_extractor_class = self.default_features_extractor_class
        check_class("features_extractor_class", features_extractor_class, BaseFeaturesExtractor, "FlattenExtractor")
        check_kwargs("features_extractor_kwargs", features_extractor_kwargs)
        check_optimizer(optimizer_class, optimizer_kwargs)
        for name, flag in (
            ("normalize_observations", normalize_observations),
            ("normalize_actions", normalize_actions),
            ("normalize_images", normalize_images),
            ("share_features_extractor", share_features_extractor),
        ):
            check_flag(name, flag)
        check_activation("critic_activation_fn", critic_activation_fn)
        self.critic_options = resized(make_critic(critic), n_critics)
        horizon = Horizon.of(chunk_length, execute_length, history, self.critic_options.chunk_length)
        self.critic_options.check_valued(horizon.valued_length)
        super().__init__(
            horizon.seen(observation_space),
            horizon.planned(action_space),
            features_extractor_class,
            # SB3 writes into it
            dict(features_extractor_kwargs or {}),
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            squash_output=True,
            normalize_images=normalize_images,
        )
        self.plan_by(horizon, observation_space, action_space, plan_blending)
        check_extractor(self.features_extractor_class, self.observation_space)
        if optimizer_kwargs is None and optimizer_class is th.optim.Adam:
            # The same numbers, without a pass over the parameters for each of Adam's operations
            self.optimizer_kwargs = {"fused": True}
        self.net_arch = net_arch
        self.critic_activation_fn = critic_activation_fn
        self.n_critics = self.critic_options.n_critics
        self.share_features_extractor = share_features_extractor
        self.normalize_observations = normalize_observations
        self.normalizer = ObservationNormalizer(self.observation_space)
        self.normalize_actions = normalize_actions
        if not normalize_actions and not action_space.is_bounded():
            raise ValueError(
                f"normalize_actions=False needs bounds to scale actions between, but the action space is "
                f"{on_one_line(action_space)}: leave it out, and actions are modelled in the data's own range."
            )
        self.action_range = ActionRange(action_space)

    # Networks

    def build(self, lr_schedule: Schedule) -> None:
        """
        Make all networks and their optimizers.

        :param lr_schedule: learning rate schedule, of which the rate at the start is taken
        """
        self.actor = self.make_actor()
        self.actor.optimizer = self.make_optimizer(self.actor.parameters(), lr_schedule(1))
        # The one that acts: a running average of the actor's parameters
        self.actor_ema = self.make_actor()
        self.actor_ema.load_state_dict(self.actor.state_dict())
        self.actor_ema.set_training_mode(False)
        if self.has_critics:
            making.build_critics(self, lr_schedule)
        else:
            making.do_without_critics(self)

    @property
    def has_critics(self) -> bool:
        """Whether there are Q and V."""
        return not isinstance(self.critic_options, NoCritic)

    def make_actor(self) -> Any:
        """
        :return: a new actor, a :class:`~sb3_genpolicy.common.policies.normalization.NormalizedModel` on the policy's device
        """
        raise NotImplementedError

    def make_features_extractor(self) -> BaseFeaturesExtractor:
        """
        :return: an extractor as the options say
        :raises ValueError: if it cannot be built with them, with a sentence that names them
        """
        beginning = f"features_extractor_class={self.features_extractor_class.__name__} cannot be built"
        if self.features_extractor_kwargs:
            beginning += f" with features_extractor_kwargs={self.features_extractor_kwargs}"
        with blaming(
            f"{beginning} for {on_one_line(self.observation_space)}", AssertionError, RuntimeError, TypeError, ValueError
        ):
            return super().make_features_extractor()

    def make_optimizer(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> Optimizer:
        """
        :param parameters: of a network
        :param learning_rate: the optimizer's at the start, > 0
        :return: an optimizer as the options say
        :raises ValueError: if it cannot be built with them
        """
        beginning = (
            f"optimizer_class={self.optimizer_class.__name__} cannot be built with optimizer_kwargs={self.optimizer_kwargs}"
        )
        with blaming(beginning, RuntimeError, TypeError, ValueError):
            return self.optimizer_class(parameters, lr=learning_rate, **self.optimizer_kwargs)  # type: ignore[call-arg]

    def network_kwargs(self, features_extractor: BaseFeaturesExtractor | None = None) -> dict[str, Any]:
        """
        :param features_extractor: an extractor to share; a new one by default
        :return: what the constructor of every network takes
        """
        spaces_and_images = dict(
            observation_space=self.observation_space,
            action_space=self.action_space,
            normalize_images=self.normalize_images,
            normalizer=self.normalizer,
        )
        return self._update_features_extractor(spaces_and_images, features_extractor)

    make_critic = making.make_critic
    make_value_net = making.make_value_net
    fit_critic_scales = making.fit_critic_scales

    # What an algorithm asks for

    def networks(self) -> dict[str, nn.Module]:
        """
        :return: all networks by name, those that are trained and their running averages
        """
        return {name: getattr(self, name) for name in (*self.trained, *self.running_averages)}

    def optimizers(self) -> dict[str, Optimizer]:
        """
        :return: optimizers of the networks that are trained now, by their names
        """
        return {name: getattr(self, name).optimizer for name in self.trained}

    def polyak_averages(self) -> dict[str, tuple[str, PolyakAverage]]:
        """
        :return: name of a running average -> name of the network that it follows, and the average
        """
        return {
            average: (name, PolyakAverage(getattr(self, average), getattr(self, name)))
            for average, name in self.running_averages.items()
        }

    def values_of(self, batch: Any) -> dict[str, th.Tensor]:
        """
        :param batch: rows
        :return: the critics' values of these rows, by a name for messages; only values that the size of the rewards bounds
        """
        if not self.has_critics:
            return {}
        return {
            "Q": self.critic_target.values(batch.observations, batch.actions),
            "V": self.value_net(batch.observations),
            "V of what steps led to": self.value_net(batch.next_observations),
        }

    def kind(self) -> dict[str, Any]:
        """
        :return: options that have to be equal in two policies for networks to be copied from one to the other, by name
        """
        networks = {f"critic ({name})": value for name, value in self.critic_options.networks().items()}
        own = {"observation_space": self.observation_space, "action_space": self.action_space, "horizon": self.horizon}
        return {**own, **networks}

    def settings_that_change(self) -> dict[str, Any]:
        """
        :return: settings that may have been changed since the policy was made, by name; they have to be equal in models that
            are trained together
        """
        return {}

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(
            dict(
                **self.planning_options(),
                lr_schedule=self._dummy_schedule,
                net_arch=self.net_arch,
                critic_activation_fn=self.critic_activation_fn,
                normalize_observations=self.normalize_observations,
                normalize_actions=self.normalize_actions,
                features_extractor_class=self.features_extractor_class,
                features_extractor_kwargs=self.features_extractor_kwargs,
                optimizer_class=self.optimizer_class,
                optimizer_kwargs=self.optimizer_kwargs,
                share_features_extractor=self.share_features_extractor,
                critic=self.critic_options,
            )
        )
        return data

    def set_training_mode(self, mode: bool) -> None:
        """
        Put the policy in either training or evaluation mode.

        :param mode: if true, set to training mode, else set to evaluation mode
        """
        networks = [getattr(self, name) for name in self.trained]
        # Every prediction sets a mode that is mostly set already, and a walk over all modules takes longer than two
        # evaluations of the network
        if any(network.training != mode for network in networks):
            for network in networks:
                network.set_training_mode(mode)
        for name in self.running_averages:
            # They are not trained, yet `policy.train()` reaches them
            if getattr(self, name).training:
                getattr(self, name).set_training_mode(False)
        self.training = mode

    # Acting

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """
        :param obs: observations as tensors, (batch_size, \\*observation_shape), or a dictionary of such
        :param deterministic: whether actions are the deterministic ones
        :return: actions scaled to [-1, 1], (batch_size, action_dim)
        """
        return self._predict(obs, deterministic=deterministic)

    def scale_action(self, action: np.ndarray) -> np.ndarray:
        """
        Rescale the action to [-1, 1], between the ends of the range that the policy models.

        :param action: in the environment's units, (n, \\*action_shape)
        :return: the scaled action, (n, \\*action_shape)
        """
        return self.action_range.scale_array(action)

    def unscale_action(self, scaled_action: np.ndarray) -> np.ndarray:
        """
        Rescale the action from [-1, 1] to the environment's units.

        :param scaled_action: (n, \\*action_shape), between the ends of the range that the policy models
        :return: the action, (n, \\*action_shape), of the space's type and within its bounds
        """
        return self.action_range.unscale_array(scaled_action)

    def log_scale(self) -> float:
        """
        :return: log of the volume of what the policy models, in the environment's units, over that of scaled actions
        """
        return self.horizon.chunk_length * self.action_range.log_scale()
