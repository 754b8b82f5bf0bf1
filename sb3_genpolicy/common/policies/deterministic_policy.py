"""
Policies whose action is one evaluation of a network: of the observation alone, or of the observation and noise.
"""

import os
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

from sb3_genpolicy.common.policies.critic_policy import CriticPolicy
from sb3_genpolicy.common.policies.critics import CriticOptions
from sb3_genpolicy.common.policies.critics.layers import dense_layers
from sb3_genpolicy.common.policies.dict_extractor import DictExtractor
from sb3_genpolicy.common.policies.direct_onnx import export_direct
from sb3_genpolicy.common.policies.normalization import NormalizedModel, ObservationNormalizer
from sb3_genpolicy.common.policies.option_checks import check_activation
from sb3_genpolicy.common.policies.options import split_net_arch
from sb3_genpolicy.common.updates.dependence import ON_ROWS, Dependence
from sb3_genpolicy.generative.checks import check_flag, handed_on, named_options
from sb3_genpolicy.generative.draws import Source
from sb3_genpolicy.generative.networks import in_float32


class DirectActor(NormalizedModel):
    """
    A network from observations, and noise if it takes any, to actions scaled to [-1, 1].

    :param observation_space: observation space
    :param action_space: action space
    :param net_arch: widths of the hidden layers
    :param features_extractor: network that extracts features
    :param features_dim: number of features
    :param activation_fn: activation function
    :param layer_norm: whether every hidden activation is normalised over its entries
    :param takes_noise: whether it takes noise, of the action's dimension
    :param squashed: whether a hyperbolic tangent bounds its output; without, it may go beyond [-1, 1] while it is trained
    :param normalize_images: whether to divide images by 255
    :param normalizer: of observations, shared by every network of a policy
    """

    features_extractor: BaseFeaturesExtractor
    #: What a row's cloning loss depends on
    cloning_dependence: Dependence = ON_ROWS

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        net_arch: list[int],
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        activation_fn: type[nn.Module] = nn.ReLU,
        layer_norm: bool = False,
        takes_noise: bool = False,
        squashed: bool = True,
        normalize_images: bool = True,
        normalizer: ObservationNormalizer | None = None,
    ):
        super().__init__(
            observation_space, action_space, features_extractor=features_extractor, normalize_images=normalize_images
        )
        self.normalizer = normalizer
        self.action_dim = get_action_dim(action_space)
        self.noise_dim = self.action_dim if takes_noise else 0
        self.squashed = squashed
        n_in = features_dim + self.noise_dim
        self.layers = nn.ModuleList(dense_layers(n_in, self.action_dim, net_arch, activation_fn, layer_norm))

    def forward(self, obs: PyTorchObs, noise: th.Tensor | None = None) -> th.Tensor:
        """
        :param obs: observations
        :param noise: standard normal draws, (batch_size, action_dim); None for one that takes no noise
        :return: actions, (batch_size, action_dim); beyond [-1, 1] where they are not squashed
        """
        h = self.extract_features(obs, self.features_extractor)
        if noise is not None:
            h = th.cat([h, noise], dim=1)
        *hidden, head = self.layers
        for layer in hidden:
            h = layer(h)
        actions = in_float32(head, h)
        return actions.tanh() if self.squashed else actions

    def cloning_loss(self, obs: PyTorchObs, actions: th.Tensor, generator: Source = None) -> th.Tensor:
        """
        :param obs: observations
        :param actions: (batch_size, action_dim), in [-1, 1]
        :param generator: not used
        :return: squared distance of each action, of an actor that takes no noise, (batch_size,)
        """
        return (self(obs) - actions).square().sum(dim=1)


class DirectPolicy(CriticPolicy):
    """
    :class:`DirectActor` beside Q and V. Use a class that says whether it takes noise.

    :param observation_space: observation space
    :param action_space: action space, a Box, bounded or not
    :param lr_schedule: learning rate schedule (could be constant)
    :param net_arch: widths of the hidden layers: one list for every network, or a dictionary with the keys ``pi`` (actor),
        ``qf`` and ``vf`` (critics). Default: three layers of 256 for the actor, two for critics that say nothing of theirs.
    :param activation_fn: activation function of the actor
    :param layer_norm: whether every hidden activation of the actor is normalised over its entries (those of the critics:
        ``critic=PolicyCritic(layer_norm=...)``)
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
    :param share_features_extractor: whether the critics use the actor's extractor, trained by the actor's loss alone
        (saves time with images)
    :param critic: which networks Q and V are, and what they are trained for. Algorithms give it, from their own ``critic=``.
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

    #: Whether the actor takes noise: then actions are samples, and the deterministic one is of noise zero
    takes_noise: bool = False
    #: Widths of the actor's hidden layers where none are given
    default_net_arch: tuple[int, ...] = (256, 256, 256)

    @named_options
    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        layer_norm: bool = False,
        critic_activation_fn: type[nn.Module] = nn.ReLU,
        normalize_observations: bool = True,
        normalize_actions: bool = True,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        n_critics: int | None = None,
        share_features_extractor: bool = False,
        critic: str | CriticOptions = "policy",
        chunk_length: int = 1,
        execute_length: int | None = None,
        history: int = 1,
        plan_blending: float | None = None,
    ):
        super().__init__(**{**handed_on(CriticPolicy, locals()), "net_arch": split_net_arch(net_arch, self.default_net_arch)})
        check_activation("activation_fn", activation_fn)
        check_flag("layer_norm", layer_norm)
        self.activation_fn, self.layer_norm = activation_fn, layer_norm
        self.build(lr_schedule)

    def make_actor(self) -> DirectActor:
        return DirectActor(
            **self.network_kwargs(),
            net_arch=self.net_arch["pi"],
            activation_fn=self.activation_fn,
            layer_norm=self.layer_norm,
            takes_noise=self.takes_noise,
            squashed=not self.takes_noise,
        ).to(self.device)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        if not self.takes_noise:
            return self.actor_ema(observation)
        first = next(iter(observation.values())) if isinstance(observation, dict) else observation
        shape = first.shape[0], self.actor_ema.action_dim
        noise = th.zeros(shape, device=first.device) if deterministic else th.randn(shape, device=first.device)
        return self.actor_ema(observation, noise).clamp(-1.0, 1.0)

    def export_onnx(self, path: str | os.PathLike[str], deterministic: bool = False) -> None:
        """
        Write the policy that acts to one ONNX file, which onnxruntime alone can run. Needs the extra ``[onnx]``.

        Its inputs, of any number of rows, are ``observation``, as :meth:`predict` takes it (for a dictionary one input for
        each key, by its name), and, for a policy that takes noise, ``noise``, standard normal, (batch_size, action_dim),
        unless ``deterministic``. Its output is ``action``, (batch_size, \\*action_shape), float32, in the environment's units
        and within their bounds.

        :param path: the file
        :param deterministic: whether the file acts as ``predict(deterministic=True)``, without noise
        :raises ImportError: if onnx or onnxscript is not installed
        :raises ValueError: for a key of the observations that is named as an input or output is, or a network of your own that
            looks at values of tensors
        """
        export_direct(self, path, deterministic)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        return {**data, "activation_fn": self.activation_fn, "layer_norm": self.layer_norm}


class DeterministicPolicy(DirectPolicy):
    """
    One action for each observation, bounded by a hyperbolic tangent, as in TD3.

    The parameters are those of :class:`DirectPolicy`.
    """


class DeterministicCnnPolicy(DeterministicPolicy):
    """:class:`DeterministicPolicy` for images."""

    default_features_extractor_class = NatureCNN


class DeterministicMultiInputPolicy(DeterministicPolicy):
    """:class:`DeterministicPolicy` for dictionaries of observations."""

    default_features_extractor_class = DictExtractor
