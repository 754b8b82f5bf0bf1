"""
A policy of one network evaluation, with a generative model of the behaviour policy that is trained beside it.
"""

from typing import Any, ClassVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from sb3_genpolicy.common.policies.actor import GenerativeActor
from sb3_genpolicy.common.policies.critics import CriticOptions
from sb3_genpolicy.common.policies.deterministic_policy import DirectPolicy
from sb3_genpolicy.common.policies.option_checks import check_activation
from sb3_genpolicy.common.policies.options import (
    make_path,
    make_prediction,
    make_sampler,
    network_class,
)
from sb3_genpolicy.generative import PATHS, IndependentCoupling, Path, Prediction, Sampler
from sb3_genpolicy.generative.checks import handed_on, named_options


class CloningPolicy(DirectPolicy):
    """
    Beside what :class:`~sb3_genpolicy.common.policies.deterministic_policy.DirectPolicy` has, ``behaviour``, a generative
    model of the behaviour policy. The policy acts without it.

    :param path: path between noise and actions of the behaviour model, a name or a
        :class:`~sb3_genpolicy.generative.paths.Path`. Default: the first path of the policy class.
    :param prediction: what its network predicts, ``velocity``, ``data``, and on diffusion paths ``noise`` or ``score``.
        Default: noise on the variance-preserving path, velocity on the others.
    :param network: its network, ``mlp``, ``unet``, or a class that is built and called as
        :class:`~sb3_genpolicy.generative.networks.ConditionalMLP`; its layers are as wide as the actor's
    :param behaviour_activation_fn: activation function of its network; smooth, because its field is integrated
    :param solver: how it is sampled, a name or a :class:`~sb3_genpolicy.generative.solvers.Sampler`
    :param sampling_steps: number of solver steps. Default: 5.

    The other parameters are those of :class:`~sb3_genpolicy.common.policies.deterministic_policy.DirectPolicy`.
    """

    #: Names of the paths of this class, the default first
    paths: ClassVar[tuple[str, ...]] = tuple(PATHS)
    trained = (*DirectPolicy.trained, "behaviour")

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
        path: str | Path | None = None,
        prediction: Prediction | None = None,
        network: str | type[nn.Module] = "mlp",
        behaviour_activation_fn: type[nn.Module] = nn.SiLU,
        solver: str | Sampler = "midpoint",
        sampling_steps: int | None = None,
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
        self._behaviour_options: dict[str, Any] = dict(
            path=make_path(path, self.paths, type(self).__name__),
            network=network_class(network),
            sampler=make_sampler(solver, sampling_steps),
        )
        self._behaviour_options["prediction"] = make_prediction(prediction, self._behaviour_options["path"])
        check_activation("behaviour_activation_fn", behaviour_activation_fn)
        self.behaviour_activation_fn = behaviour_activation_fn
        super().__init__(**handed_on(DirectPolicy, locals()))

    def build(self, lr_schedule: Schedule) -> None:
        super().build(lr_schedule)
        self.behaviour = GenerativeActor(
            **self.network_kwargs(),
            net_arch=self.net_arch["pi"],
            **self._behaviour_options,
            time_features=None,
            matching_loss=None,
            coupling=IndependentCoupling(),
            activation_fn=self.behaviour_activation_fn,
        ).to(self.device)
        self.behaviour.optimizer = self.make_optimizer(self.behaviour.parameters(), lr_schedule(1))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        options = dict(self._behaviour_options)
        own = dict(solver=options.pop("sampler"), behaviour_activation_fn=self.behaviour_activation_fn)
        return {**super()._get_constructor_parameters(), **options, **own}
