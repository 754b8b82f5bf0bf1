"""
Several Q networks computed as one: their layers are batches of matrices.
"""

from itertools import pairwise

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel, ContinuousCritic
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_genpolicy.common.policies.critics.aggregation import aggregate, agreement, smallest_quantiles
from sb3_genpolicy.common.policies.critics.base_options import CriticOptions
from sb3_genpolicy.common.policies.critics.layers import BatchedLayerNorm, BatchedLinear, DrawnDropout, in_place
from sb3_genpolicy.common.policies.critics.options import IQLCritic
from sb3_genpolicy.common.policies.critics.usual_action import UsualAction
from sb3_genpolicy.common.policies.normalization import NormalizedModel, ObservationNormalizer
from sb3_genpolicy.generative.networks import in_float32
from sb3_genpolicy.generative.tracing import sizes_are_known

# Up to so many rows, a CPU computes all Q networks by one batched product. For more rows the intermediate results no longer
# fit its caches, which costs more than fewer calls save
_TOGETHER = 1024


# As SB3's: two plain networks
_TWINS = IQLCritic()


class CriticEnsemble(NormalizedModel, ContinuousCritic):
    """
    Q networks of one architecture, with SB3's interface: a tuple of values. One batched matrix product computes a layer of
    all of them. Without layer norm and quantiles, results equal those of ``ContinuousCritic``, and so do the initial
    parameters for the same seed.

    :param observation_space: observation space
    :param action_space: action space; of plans, that of the part which is valued
    :param net_arch: widths of the hidden layers
    :param features_extractor: network that extracts features
    :param features_dim: number of features
    :param activation_fn: activation function
    :param normalize_images: whether to divide images by 255
    :param options: number of networks, layer norm, quantiles, and how their values become one
    :param share_features_extractor: whether the extractor is the actor's; it then gets no gradient from here
    :param normalizer: of observations, shared by every network of a policy
    """

    #: Where networks give an advantage: what their outputs are multiplied by, so that these are of the order of 1
    scale: th.Tensor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        net_arch: list[int],
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        activation_fn: type[nn.Module] = nn.ReLU,
        normalize_images: bool = True,
        options: CriticOptions = _TWINS,
        share_features_extractor: bool = True,
        normalizer: ObservationNormalizer | None = None,
    ):
        BaseModel.__init__(
            self, observation_space, action_space, features_extractor=features_extractor, normalize_images=normalize_images
        )
        self.normalizer = normalizer
        self.share_features_extractor = share_features_extractor
        self.options = options
        self.n_critics = options.n_critics
        self.action_dim = get_action_dim(action_space)
        widths = [features_dim + self.action_dim, *net_arch, options.n_quantiles or 1]
        # Initialised network by network, as in SB3, so that the same seed gives the same parameters
        drawn = [[nn.Linear(n_in, n_out) for n_in, n_out in pairwise(widths)] for _ in range(self.n_critics)]
        self.layers = nn.ModuleList(BatchedLinear(list(layers)) for layers in zip(*drawn, strict=True))
        normed = net_arch if options.layer_norm else []
        self.norms = nn.ModuleList(BatchedLayerNorm(self.n_critics, width) for width in normed)
        self.activation = in_place(activation_fn)()
        self.dropout = DrawnDropout(options.dropout)
        #: The critic of more logged actions, which this one is distilled from, if there is one
        self.teacher: CriticEnsemble | None = None
        # V, where the networks give what Q is above it; another's module, whose parameters are not this one's
        self._baseline: list[NormalizedModel] = []
        if options.learns_advantage:
            self.register_buffer("scale", th.ones(()))
        self.usual_action: UsualAction | None = None
        if options.relative_actions:
            self.usual_action = UsualAction(
                features_dim, self.action_dim, net_arch, activation_fn, options.layer_norm, options.dropout
            )

    def stand_on(self, value_net: NormalizedModel) -> None:
        """
        :param value_net: V, which Q is the sum of and of what the networks give
        """
        self._baseline = [value_net]
        if self.teacher is not None:
            self.teacher.stand_on(value_net)

    def learn_from(self, teacher: "CriticEnsemble") -> None:
        """
        :param teacher: a critic of more logged actions, with the same extractor, which becomes a part of this one: it is
            trained, averaged, frozen and saved with it
        """
        self.teacher = teacher

    def fit_scale(self, scale: float) -> None:
        """
        :param scale: what outputs are multiplied by, where they are advantages
        """
        self.scale.fill_(scale)
        if self.teacher is not None:
            self.teacher.fit_scale(scale)

    def advantages(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        """
        :param obs: observations
        :param actions: (batch_size, action_dim), scaled
        :return: what Q is above V, by every network and quantile, (n_critics, batch_size, n_quantiles or 1)
        """
        return self.scale * self._outputs(obs, actions)

    def values(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        """
        :param obs: observations
        :param actions: (batch_size, action_dim), scaled
        :return: Q by every network, (n_critics, batch_size, 1), in float32 at any precision
        """
        outputs = self.quantiles(obs, actions)
        return outputs if self.options.n_quantiles is None else outputs.mean(dim=2, keepdim=True)

    def quantiles(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        """
        :param obs: observations
        :param actions: (batch_size, action_dim), scaled
        :return: quantiles of the return by every network, (n_critics, batch_size, n_quantiles); without quantiles, the values
        """
        if self.options.learns_advantage:
            return self._baseline[0](obs) + self.advantages(obs, actions)
        return self._outputs(obs, actions)

    def pooled_quantiles(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        """
        :param obs: observations
        :param actions: (batch_size, action_dim), scaled
        :return: quantiles of all networks but the largest ``dropped_quantiles`` for each, (batch_size, n)
        """
        return smallest_quantiles(self.quantiles(obs, actions), self.options.dropped_quantiles)

    def q_values(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        """
        :param obs: observations
        :param actions: (batch_size, action_dim), scaled
        :return: Q of all networks together, as the options aggregate them, (batch_size, 1)
        """
        return self.aggregated(self.quantiles(obs, actions))

    def preferences(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        """
        :param obs: observations
        :param actions: (batch_size, action_dim), scaled
        :return: Q, up to what it has in common for all actions of a state, (batch_size, 1)
        """
        return self.aggregated(
            self.advantages(obs, actions) if self.options.learns_advantage else self.quantiles(obs, actions)
        )

    def aggregated(self, outputs: th.Tensor) -> th.Tensor:
        """
        :param outputs: values or quantiles of every network, (n_critics, batch_size, n_quantiles or 1)
        :return: one value, as the options aggregate them, (batch_size, 1)
        """
        options = self.options
        if options.dropped_quantiles:
            return smallest_quantiles(outputs, options.dropped_quantiles).mean(dim=1, keepdim=True)
        values = outputs if options.n_quantiles is None else outputs.mean(dim=2, keepdim=True)
        return aggregate(values, options.aggregation, options.rho)

    def usual_actions(self, features: th.Tensor) -> th.Tensor:
        """
        :param features: see :meth:`features_of`, (batch_size, features_dim)
        :return: mean of the logged actions there, scaled, (batch_size, action_dim), where the options ask for relative actions
        """
        assert self.usual_action is not None
        # The extractor learns what Q needs
        return self.usual_action(features.detach())

    def features_of(self, obs: PyTorchObs) -> th.Tensor:
        """
        :param obs: observations
        :return: what the networks see of them beside the actions, (batch_size, features_dim)
        """
        # Learn the features extractor using the policy loss only when it is shared with the actor
        with th.set_grad_enabled(th.is_grad_enabled() and not self.share_features_extractor):
            return self.extract_features(obs, self.features_extractor)

    def preferences_of_members(self, features: th.Tensor, actions: th.Tensor, usual: th.Tensor | None = None) -> th.Tensor:
        """
        :param features: see :meth:`features_of`, (batch_size, features_dim)
        :param actions: (batch_size, action_dim), scaled
        :param usual: see :meth:`usual_actions`, where they are known already
        :return: as :meth:`preferences`, by every network and quantile, (n_critics, batch_size, n_quantiles or 1)
        """
        outputs = self._of_features(features, actions, usual)
        return self.scale * outputs if self.options.learns_advantage else outputs

    def slopes(self, features: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """
        :param features: see :meth:`features_of`, (batch_size, features_dim)
        :param actions: (batch_size, action_dim), scaled
        :return: the gradient of Q, as the options aggregate it, in the actions, (batch_size, action_dim); no gradient passes
        """
        slopes = self.slopes_of_given(features, self.given(features, actions))
        if self.usual_action is not None:
            slopes = slopes / self.usual_action.deviation.detach()
        return self.of_whole_plans(slopes, actions)

    def valued(self, actions: th.Tensor) -> th.Tensor:
        """
        :param actions: (batch_size, action_dim), or whole plans
        :return: the part that has a value, (batch_size, action_dim)
        """
        return actions if actions.shape[1] == self.action_dim else actions[:, : self.action_dim]

    def of_whole_plans(self, slopes: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """
        :param slopes: of Q in what has a value, (batch_size, action_dim)
        :param actions: whose, perhaps whole plans
        :return: in all of these, of their shape: Q does not change with the rest
        """
        n_further = actions.shape[1] - self.action_dim
        return slopes if n_further == 0 else th.nn.functional.pad(slopes, (0, n_further))

    def slopes_of_given(self, features: th.Tensor, given: th.Tensor) -> th.Tensor:
        """
        :param features: see :meth:`features_of`, (batch_size, features_dim)
        :param given: what networks see of the actions, see :meth:`given`, (batch_size, action_dim)
        :return: the gradient of Q in that, (batch_size, action_dim); no gradient passes
        """
        with th.enable_grad():
            given = given.detach().requires_grad_()
            # V, where Q is a sum with it, does not change with the action
            preferences = self.aggregated(self._together(th.cat([features.detach(), given], dim=1)))
            (slopes,) = th.autograd.grad(preferences.sum(), given)
        return slopes * self.scale if self.options.learns_advantage else slopes

    @th.no_grad()
    def agreement_on_slopes(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        """
        :param obs: observations
        :param actions: (batch_size, action_dim), scaled
        :return: how far the networks agree on where better actions lie, see
            :func:`~sb3_genpolicy.common.policies.critics.aggregation.agreement`, (batch_size,), without gradient
        """
        features = self.features_of(obs).expand(self.n_critics, -1, -1)
        given = self.given(features[0], actions).expand(self.n_critics, -1, -1)
        # No network's output depends on the actions that another one sees
        outputs, pull_back = th.func.vjp(lambda given: self._together(th.cat([features, given], dim=2)), given)  # type: ignore[misc]
        (slopes,) = pull_back(th.ones_like(outputs))
        return agreement(slopes, whole=1)

    def _outputs(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        return self._of_features(self.features_of(obs), actions)

    def given(self, features: th.Tensor, actions: th.Tensor, usual: th.Tensor | None = None) -> th.Tensor:
        """
        :param features: see :meth:`features_of`, (batch_size, features_dim)
        :param actions: (batch_size, action_dim), scaled
        :param usual: see :meth:`usual_actions`, where they are known already
        :return: what networks see of the actions: these, or how far they are from the usual ones, (batch_size, action_dim)
        """
        actions = self.valued(actions)
        if self.usual_action is None:
            return actions
        if usual is None:
            with th.no_grad():
                usual = self.usual_action(features)
        return self.usual_action.relative(usual, actions)

    def _of_features(self, features: th.Tensor, actions: th.Tensor, usual: th.Tensor | None = None) -> th.Tensor:
        inputs = th.cat([features, self.given(features, actions, usual)], dim=1)
        if inputs.device.type == "cpu" and sizes_are_known() and len(inputs) > _TOGETHER:
            return self._one_by_one(inputs)
        return self._together(inputs)

    def _together(self, inputs: th.Tensor) -> th.Tensor:
        h = inputs.expand(self.n_critics, -1, -1)
        *hidden, head = self.layers
        for index, layer in enumerate(hidden):
            h = self.activation(layer(h))
            if self.norms:
                h = self.norms[index](h)
            h = self.dropout(h)
        return in_float32(head, h)

    def _masks(self, inputs: th.Tensor) -> list[th.Tensor] | None:
        """Of the units of every hidden layer, (n_critics, batch_size, width); None where none is left out."""
        if not self.dropout.is_drawing:
            return None
        *hidden, _ = (layer for layer in self.layers if isinstance(layer, BatchedLinear))
        shapes = [(self.n_critics, len(inputs), layer.bias.shape[-1]) for layer in hidden]
        return [self.dropout.mask(shape, inputs) for shape in shapes]

    def _one_by_one(self, inputs: th.Tensor) -> th.Tensor:
        outputs = []
        # The numbers that all networks together would draw
        masks = self._masks(inputs)
        layers = (layer.unbind() for layer in self.layers if isinstance(layer, BatchedLinear))
        for member, (*hidden, head) in enumerate(zip(*layers, strict=True)):
            h = inputs
            for index, layer in enumerate(hidden):
                h = self.activation(layer(h))
                if self.norms:
                    h = self.norms[index].of_one(member, h)  # type: ignore[operator]
                h = h if masks is None else h * masks[index][member].to(h.dtype)
            outputs.append(in_float32(head, h))
        return th.stack(outputs)

    def forward(self, obs: PyTorchObs, actions: th.Tensor) -> tuple[th.Tensor, ...]:
        return self.values(obs, actions).unbind(0)

    def q1_forward(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        """
        :param obs: observations
        :param actions: (batch_size, action_dim), scaled
        :return: Q by the first network, (batch_size, 1)
        """
        return self.values(obs, actions)[0]


#: Release 0.1's name
TwinCritic = CriticEnsemble
