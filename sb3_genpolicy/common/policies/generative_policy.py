"""
Generative policies: an actor that samples actions by carrying noise along a learnt velocity field, beside Q and V.
"""

from typing import Any, ClassVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import nn
from torch.optim import Optimizer

from sb3_genpolicy.common.policies.actor import GenerativeActor
from sb3_genpolicy.common.policies.critics import CriticOptions
from sb3_genpolicy.common.policies.option_checks import check_activation
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
from sb3_genpolicy.generative import PATHS, Coupling, MatchingLoss, Path, Prediction, Sampler
from sb3_genpolicy.generative.checks import check_flag, check_number, named_options


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
        :meth:`~sb3_genpolicy.generative.models.GenerativeModel.matching_loss`. Default: the error in what is predicted.
    :param coupling: how noise is paired with actions in training, ``independent``, ``optimal_transport`` or a
        :class:`~sb3_genpolicy.generative.couplings.Coupling`
    :param solver: ``euler``, ``midpoint``, ``heun``, ``rk4``, ``dpm++``, ``dopri5``, ``sde``, or a
        :class:`~sb3_genpolicy.generative.solvers.Sampler`. Can be changed later (:meth:`set_sampler`), or for one ``predict``.
    :param sampling_steps: number of solver steps from noise to an action, positive. Default: 5, whose effect on the return is
        smaller than the return's own noise (docs/guide/generative.md).
    :param time_grid: where these steps are: ``tapered`` (the default), ``uniform``, ``angle`` or ``log_snr``
    :param n_candidates: number of actions drawn for a prediction, of which one is chosen by its Q.
        1, the default, samples the policy itself, as the paper does. Can be changed later: ``model.policy.n_candidates = 8``.
    :param candidate_temperature: temperature at which a candidate is drawn, in proportion to the exponential of the advantage,
        in units of the spread of Q in a state. The default, 3, leaves the policy by a twentieth of a nat, 1 by less than half
        a nat; 0 takes the best, by up to ``log(n_candidates)``, which few critics bear (docs/guide/critics.md). What is drawn
        has no part in ``predict(deterministic=True)``. Can be changed later, as the next four.
    :param candidate_expectile: in (0, 1); where it is given, a candidate is drawn with weights
        ``|candidate_expectile - 1[Q < V]|`` (IDQL, arXiv 2304.10573), whatever the temperature
    :param guidance: by how many of its standard deviations Q pulls the policy while it acts, see
        :mod:`~sb3_genpolicy.common.policies.guidance`; 0, the default, for none
    :param deterministic_action: what ``predict(deterministic=True)`` does: ``zero_noise`` (the default), ``mean``,
        ``one_step_mean``, ``densest``, ``mode_mean``, ``weighted_mean``, ``best_q`` or ``auto``, see
        :mod:`~sb3_genpolicy.common.policies.deterministic`
    :param deterministic_draws: number of fixed draws that it looks at
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
    :param n_critics: number of Q networks. Default: what ``critic`` says.
    :param share_features_extractor: whether the critics use the actor's extractor, trained by the actor's loss alone
        (saves time with images)
    :param behaviour_model: whether there is a frozen actor ``behaviour`` beside the one that is trained. Algorithms that
        compare with the behaviour policy ask for it themselves.
    :param critic: which networks Q and V are, and what they are trained for, see
        :class:`~sb3_genpolicy.common.policies.critics.base_options.CriticOptions`. Algorithms give it, from their own
        ``critic=``.
    :param chunk_length: number of actions that are planned together; ``predict`` still gives one, and keeps the rest of the
        plan. 1, the default, acts step by step. Where an episode ends within a plan, its last action is repeated.
    :param execute_length: how many actions of a plan are executed before the next one is made, and valued by the critics,
        whose returns have at least so many steps. Default: all.
    :param history: number of observations that are seen together, the newest last, within an episode; its first is repeated
    :param plan_blending: where plans overlap, the action is their mean with weights ``exp(-plan_blending * i)``, i = 0 for the
        oldest (temporal ensembling, arXiv 2304.13705; published: 0.01). Default: the newest plan alone acts. Can be changed
        later.
    :raises ValueError: for an unknown or undefined option, with the nearest one there is
    """

    #: Names of the paths of this class, the default first
    paths: ClassVar[tuple[str, ...]] = tuple(PATHS)
    #: Default of ``prediction``, None for what is published for the path
    default_prediction: ClassVar[Prediction | None] = None

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
        candidate_temperature: float = 3.0,
        candidate_expectile: float | None = None,
        guidance: float = 0.0,
        deterministic_action: str = "zero_noise",
        deterministic_draws: int = 32,
        normalize_observations: bool = True,
        normalize_actions: bool = True,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        n_critics: int | None = None,
        share_features_extractor: bool = False,
        behaviour_model: bool = False,
        critic: str | CriticOptions = "iql",
        chunk_length: int = 1,
        execute_length: int | None = None,
        history: int = 1,
        plan_blending: float | None = None,
    ):
        check_flag("behaviour_model", behaviour_model)
        check_activation("activation_fn", activation_fn)
        network = network_class(network)
        super().__init__(
            observation_space,
            action_space,
            net_arch=split_net_arch(net_arch, getattr(network, "default_net_arch", (256, 256, 256))),
            critic_activation_fn=critic_activation_fn,
            normalize_observations=normalize_observations,
            normalize_actions=normalize_actions,
            features_extractor_class=features_extractor_class,
            features_extractor_kwargs=features_extractor_kwargs,
            normalize_images=normalize_images,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            n_critics=n_critics,
            share_features_extractor=share_features_extractor,
            critic=critic,
            chunk_length=chunk_length,
            execute_length=execute_length,
            history=history,
            plan_blending=plan_blending,
        )
        self.network = network
        self.time_features = time_features_class(time_features)
        self.activation_fn = activation_fn
        self.path = make_path(path, self.paths, type(self).__name__)
        self.prediction = make_prediction(self.default_prediction if prediction is None else prediction, self.path)
        self.matching_loss = matching_loss
        self.coupling = make_coupling(coupling)
        # The sampler that new actors get; that of the acting one is `sampler`
        self._initial_sampler = make_sampler(solver, sampling_steps, time_grid)
        check_number("n_candidates", n_candidates, low=1, whole=True)
        self.n_candidates = n_candidates
        self.candidate_temperature, self.guidance = candidate_temperature, guidance
        self.candidate_expectile = candidate_expectile
        self.deterministic_action, self.deterministic_draws = deterministic_action, deterministic_draws
        self.behaviour_model = behaviour_model
        self.build(lr_schedule)

    def build(self, lr_schedule: Schedule) -> None:
        super().build(lr_schedule)
        # Made last, so that the other networks have the same initial parameters with and without a behaviour model
        self.behaviour = self._make_behaviour() if self.behaviour_model else None
        self._behaviour_is_frozen = True

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> GenerativeActor:
        """
        :param features_extractor: an extractor to share; a new one by default
        :return: a new actor
        """
        return GenerativeActor(
            **self.network_kwargs(features_extractor),
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

    def unfreeze_behaviour(self, learning_rate: float) -> None:
        """
        Let the behaviour model learn from here on, with an optimizer of its own.

        :param learning_rate: the optimizer's
        """
        assert self.behaviour is not None
        self.behaviour.requires_grad_(True)
        self.behaviour.optimizer = self.make_optimizer(self.behaviour.parameters(), learning_rate)
        self._behaviour_is_frozen = False

    def optimizers(self) -> dict[str, Optimizer]:
        optimizers = super().optimizers()
        if self.behaviour is not None and not self._behaviour_is_frozen:
            optimizers["behaviour"] = self.behaviour.optimizer
        return optimizers

    def kind(self) -> dict[str, Any]:
        return {**super().kind(), "path": self.path, "prediction": self.prediction}

    def settings_that_change(self) -> dict[str, Any]:
        return {"sampler": self.sampler}

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(
            dict(
                activation_fn=self.activation_fn,
                path=self.path,
                prediction=self.prediction,
                network=self.network,
                time_features=self.time_features,
                matching_loss=self.matching_loss,
                coupling=self.coupling,
                solver=self.sampler,
                n_candidates=self.n_candidates,
                **self.acting_options(),
                behaviour_model=self.behaviour_model,
            )
        )
        return data
