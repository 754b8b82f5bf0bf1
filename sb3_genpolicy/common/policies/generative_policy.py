"""
Generative policies: an actor that samples actions by carrying noise along a learnt velocity field, beside twin Q and V.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from sb3_genpolicy.common.policies.actor import GenerativeActor
from sb3_genpolicy.common.policies.critics import ValueNetwork
from sb3_genpolicy.common.policies.normalization import ObservationNormalizer
from sb3_genpolicy.common.policies.option_checks import check_activation, check_extractor, check_kwargs, check_optimizer
from sb3_genpolicy.common.policies.options import (
    make_coupling,
    make_path,
    make_prediction,
    make_sampler,
    network_class,
    split_net_arch,
    time_features_class,
)
from sb3_genpolicy.common.policies.sampling_policy import SamplingPolicy
from sb3_genpolicy.common.policies.twin_critic import TwinCritic
from sb3_genpolicy.common.transitions.action_range import ActionRange
from sb3_genpolicy.common.utils import on_one_line
from sb3_genpolicy.generative import PATHS, Coupling, MatchingLoss, Path, Prediction, Sampler
from sb3_genpolicy.generative.checks import blaming, check_class, check_flag, check_number, named_options


class GenerativePolicy(SamplingPolicy):
    """
    Actor and critics of a generative policy. Use ``FlowPolicy`` or ``DiffusionPolicy``, which say what paths there are.

    ``actor`` is trained; ``actor_ema``, a running average of its parameters, acts; ``behaviour``, if there is one, is the
    model of the behaviour policy, which does not change any more.

    :param observation_space: observation space
    :param action_space: action space, a Box, bounded or not
    :param lr_schedule: learning rate schedule (could be constant)
    :param net_arch: widths of the hidden layers: one list for every network, or a dictionary with the keys ``pi`` (actor),
        ``qf`` and ``vf`` (critics). Default: the network's own for the actor, two layers of 256 for the critics (as in IQL).
    :param activation_fn: activation function of the actor; smooth, because its field is integrated
    :param critic_activation_fn: activation function of the critics
    :param path: path between noise and actions, a name or a :class:`~sb3_genpolicy.generative.paths.Path`
        (``VPPath(beta_max=10.0)``). Default: the first path of the policy class.
    :param prediction: what the actor's network predicts: ``velocity``, ``data``, and on diffusion paths ``noise`` or
        ``score``. Default: as published, noise on the variance-preserving path, velocity on the others.
    :param network: the actor's network, ``mlp`` (residual, three layers of 256), ``unet`` (the paper's, 512-256-128), or a
        class that is built and called as :class:`~sb3_genpolicy.generative.networks.ConditionalMLP`
    :param time_features: features of the time, ``sinusoidal``, ``gaussian_fourier`` or a class. Default: the network's own.
    :param matching_loss: ``flow``, ``score``, ``data`` or ``likelihood``, see
        :meth:`~sb3_genpolicy.generative.models.GenerativeModel.matching_loss`. Default: the one in what the network predicts.
    :param coupling: how noise is paired with actions in training, ``independent``, ``optimal_transport`` or a
        :class:`~sb3_genpolicy.generative.couplings.Coupling`
    :param solver: ``euler``, ``midpoint``, ``heun``, ``rk4``, ``dpm++``, ``dopri5``, ``sde``, or a
        :class:`~sb3_genpolicy.generative.solvers.Sampler`. Can be changed later (:meth:`set_sampler`), or for one ``predict``.
    :param sampling_steps: number of solver steps from noise to an action, positive. Default: 5, whose error drowns
        in the noise of the return (docs/guide/generative.md).
    :param time_grid: where these steps are: ``tapered`` (the default), ``uniform``, ``angle`` or ``log_snr``
    :param n_candidates: number of actions drawn for a prediction; the one with the highest minimum of the Qs is taken.
        1, the default, samples the policy itself, as the paper does. Can be changed later: ``model.policy.n_candidates = 8``.
    :param normalize_observations: whether observations are standardised inside the policy, by statistics of the dataset
        (images and discrete observations are not)
    :param normalize_actions: whether actions are modelled in the data's own range of each dimension, with half of what they
        span on either side as far as the space goes, see
        :class:`~sb3_genpolicy.common.transitions.action_range.ActionRange`. Without, in the whole space, which has to be
        bounded.
    :param features_extractor_class: features extractor. Default: the policy class's.
    :param features_extractor_kwargs: keyword arguments of the features extractor
    :param normalize_images: whether to divide images by 255
    :param optimizer_class: optimizer, ``th.optim.Adam`` (fused) by default
    :param optimizer_kwargs: keyword arguments of the optimizer, without the learning rate
    :param n_critics: number of Q networks
    :param share_features_extractor: whether the critics use the actor's extractor, trained by the actor's loss alone
        (saves time with images)
    :param behaviour_model: whether there is a frozen actor ``behaviour`` beside the one that is trained. Algorithms that
        compare with the behaviour policy ask for it themselves.
    :raises ValueError: for an unknown or undefined option, with the nearest one there is
    """

    #: Names of the paths of this class, the default first
    paths: ClassVar[tuple[str, ...]] = tuple(PATHS)
    #: Default of ``prediction``, None for what is published for the path
    default_prediction: ClassVar[Prediction | None] = None
    #: Default of ``features_extractor_class``
    default_features_extractor_class: ClassVar[type[BaseFeaturesExtractor]] = FlattenExtractor

    critic: TwinCritic
    critic_target: TwinCritic
    value_net: ValueNetwork

    @named_options
    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.SiLU,
        critic_activation_fn: type[nn.Module] = nn.ReLU,
        path: str | Path | None = None,
        prediction: Prediction | None = None,
        network: str | type[nn.Module] = "mlp",
        time_features: str | type[nn.Module] | None = None,
        matching_loss: MatchingLoss | None = None,
        coupling: str | Coupling = "independent",
        solver: str | Sampler = "midpoint",
        sampling_steps: int | None = None,
        time_grid: str | None = None,
        n_candidates: int = 1,
        normalize_observations: bool = True,
        normalize_actions: bool = True,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        n_critics: int = 2,
        share_features_extractor: bool = False,
        behaviour_model: bool = False,
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
            ("behaviour_model", behaviour_model),
        ):
            check_flag(name, flag)
        for name, activation in (("activation_fn", activation_fn), ("critic_activation_fn", critic_activation_fn)):
            check_activation(name, activation)
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class,
            # SB3 writes into it
            dict(features_extractor_kwargs or {}),
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            squash_output=True,
            normalize_images=normalize_images,
        )
        check_extractor(self.features_extractor_class, observation_space)
        if optimizer_kwargs is None and optimizer_class is th.optim.Adam:
            # The same numbers, without a pass over the parameters for each of Adam's operations
            self.optimizer_kwargs = {"fused": True}
        self.network = network_class(network)
        self.time_features = time_features_class(time_features)
        self.net_arch = split_net_arch(net_arch, self.network)
        self.activation_fn = activation_fn
        self.critic_activation_fn = critic_activation_fn
        self.path = make_path(path, self.paths, type(self).__name__)
        self.prediction = make_prediction(self.default_prediction if prediction is None else prediction, self.path)
        self.matching_loss = matching_loss
        self.coupling = make_coupling(coupling)
        # Of new actors; the one that acts is `sampler`
        self._initial_sampler = make_sampler(solver, sampling_steps, time_grid)
        for name, count in (("n_candidates", n_candidates), ("n_critics", n_critics)):
            check_number(name, count, low=1, whole=True)
        self.n_candidates = n_candidates
        self.n_critics = n_critics
        self.share_features_extractor = share_features_extractor
        self.behaviour_model = behaviour_model
        self.normalize_observations = normalize_observations
        self.normalizer = ObservationNormalizer(observation_space)
        self.normalize_actions = normalize_actions
        if not normalize_actions and not action_space.is_bounded():
            raise ValueError(
                f"normalize_actions=False needs bounds to scale actions between, but the action space is "
                f"{on_one_line(action_space)}: leave it out, and actions are modelled in the data's own range."
            )
        self.action_range = ActionRange(action_space)
        self._build(lr_schedule)

    def _build(self, lr_schedule: Schedule) -> None:
        self.actor = self.make_actor()
        self.actor.optimizer = self._make_optimizer(self.actor.parameters(), lr_schedule)
        # The one that acts: a running average of the actor's parameters
        self.actor_ema = self.make_actor()
        self.actor_ema.load_state_dict(self.actor.state_dict())
        self.actor_ema.set_training_mode(False)
        # With a shared extractor, the critics' losses do not reach it (see SB3's SAC)
        shared = self.actor.features_extractor if self.share_features_extractor else None
        self.critic = self.make_critic(shared)
        self.value_net = self.make_value_net(shared)
        self.critic_target = self.make_critic()
        self.critic_target.load_state_dict(self.critic.state_dict())
        for network in (self.critic, self.value_net):
            own = [
                p for name, p in network.named_parameters() if not (self.share_features_extractor and "features_ext" in name)
            ]
            network.optimizer = self._make_optimizer(own, lr_schedule)
        # Target networks should always be in eval mode
        self.critic_target.set_training_mode(False)
        # Last, so that the others start from the same random numbers with and without it
        self.behaviour = self._make_behaviour() if self.behaviour_model else None

    def make_features_extractor(self) -> BaseFeaturesExtractor:
        beginning = f"features_extractor_class={self.features_extractor_class.__name__} cannot be built"
        if self.features_extractor_kwargs:
            beginning += f" with features_extractor_kwargs={self.features_extractor_kwargs}"
        with blaming(
            f"{beginning} for {on_one_line(self.observation_space)}", AssertionError, RuntimeError, TypeError, ValueError
        ):
            return super().make_features_extractor()

    def _make_optimizer(self, parameters: Iterable[nn.Parameter], lr_schedule: Schedule) -> th.optim.Optimizer:
        beginning = (
            f"optimizer_class={self.optimizer_class.__name__} cannot be built with optimizer_kwargs={self.optimizer_kwargs}"
        )
        with blaming(beginning, RuntimeError, TypeError, ValueError):
            return self.optimizer_class(parameters, lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def _network_kwargs(self, features_extractor: BaseFeaturesExtractor | None) -> dict[str, Any]:
        spaces_and_images = dict(
            observation_space=self.observation_space,
            action_space=self.action_space,
            normalize_images=self.normalize_images,
            normalizer=self.normalizer,
        )
        return self._update_features_extractor(spaces_and_images, features_extractor)

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> GenerativeActor:
        """
        :param features_extractor: an extractor to share; a new one by default
        :return: a new actor
        """
        return GenerativeActor(
            **self._network_kwargs(features_extractor),
            net_arch=self.net_arch["pi"],
            path=self.path,
            prediction=self.prediction,
            network=self.network,
            time_features=self.time_features,
            matching_loss=self.matching_loss,
            coupling=self.coupling,
            sampler=self._initial_sampler,
            activation_fn=self.activation_fn,
        ).to(self.device)

    def _make_behaviour(self) -> GenerativeActor:
        behaviour = self.make_actor().requires_grad_(False)
        behaviour.set_training_mode(False)
        return behaviour

    def wake_behaviour(self, learning_rate: float) -> None:
        """
        Let the behaviour model learn from here on, with an optimizer of its own.

        :param learning_rate: the optimizer's
        """
        assert self.behaviour is not None
        self.behaviour.requires_grad_(True)
        self.behaviour.optimizer = self.optimizer_class(
            self.behaviour.parameters(), lr=learning_rate, **self.optimizer_kwargs  # type: ignore[call-arg]
        )

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> TwinCritic:
        """
        :param features_extractor: an extractor to share; a new one by default
        :return: a new twin Q
        """
        return TwinCritic(
            **self._network_kwargs(features_extractor),
            net_arch=self.net_arch["qf"],
            activation_fn=self.critic_activation_fn,
            n_critics=self.n_critics,
            share_features_extractor=features_extractor is not None,
        ).to(self.device)

    def make_value_net(self, features_extractor: BaseFeaturesExtractor | None = None) -> ValueNetwork:
        """
        :param features_extractor: an extractor to share; a new one by default
        :return: a new V
        """
        return ValueNetwork(
            **self._network_kwargs(features_extractor),
            net_arch=self.net_arch["vf"],
            activation_fn=self.critic_activation_fn,
            share_features_extractor=features_extractor is not None,
        ).to(self.device)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(
            dict(
                lr_schedule=self._dummy_schedule,
                net_arch=self.net_arch,
                activation_fn=self.activation_fn,
                critic_activation_fn=self.critic_activation_fn,
                path=self.path,
                prediction=self.prediction,
                network=self.network,
                time_features=self.time_features,
                matching_loss=self.matching_loss,
                coupling=self.coupling,
                solver=self.sampler,
                n_candidates=self.n_candidates,
                normalize_observations=self.normalize_observations,
                normalize_actions=self.normalize_actions,
                features_extractor_class=self.features_extractor_class,
                features_extractor_kwargs=self.features_extractor_kwargs,
                optimizer_class=self.optimizer_class,
                optimizer_kwargs=self.optimizer_kwargs,
                n_critics=self.n_critics,
                share_features_extractor=self.share_features_extractor,
                behaviour_model=self.behaviour_model,
            )
        )
        return data

    def set_training_mode(self, mode: bool) -> None:
        """
        Put the policy in either training or evaluation mode.

        :param mode: if true, set to training mode, else set to evaluation mode
        """
        networks = (self.actor, self.critic, self.value_net)
        # Every prediction asks for a mode that mostly is there already, and a walk over all modules takes longer than two
        # evaluations of the network
        if any(network.training != mode for network in networks):
            for network in networks:
                network.set_training_mode(mode)
        if self.actor_ema.training:
            # It is not trained, yet `policy.train()` reaches it
            self.actor_ema.set_training_mode(False)
        self.training = mode
