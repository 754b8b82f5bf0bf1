"""
Generative policies: an actor that samples actions by carrying noise along a learnt velocity field, beside twin Q and V.
"""

from typing import Any, ClassVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy, ContinuousCritic
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

from sb3_genpolicy.common.actor import GenerativeActor
from sb3_genpolicy.common.critics import ValueNetwork
from sb3_genpolicy.common.normalization import NormalizedExtractor, ObservationNormalizer
from sb3_genpolicy.common.utils import check_choice, check_number, did_you_mean, named_options, tree_map
from sb3_genpolicy.generative import PATHS, SOLVERS, Path
from sb3_genpolicy.generative.models import PREDICTIONS, Prediction

# The fixed noise of deterministic actions is drawn from this seed, the same for every policy
_CANDIDATE_SEED = 0


class GenerativePolicy(BasePolicy):
    """
    Actor and critics of a generative policy. Use ``FlowPolicy`` or ``DiffusionPolicy``, which say what paths there are.

    ``actor`` is trained; ``actor_ema``, a running average of its parameters, acts.

    :param observation_space: observation space
    :param action_space: action space, a bounded Box
    :param lr_schedule: learning rate schedule (could be constant)
    :param net_arch: widths of the hidden layers: one list for every network, or a dictionary with the keys ``pi`` (actor),
        ``qf`` and ``vf`` (critics). Default: three layers of 256 for the actor, two of 256 for the critics (as in IQL).
    :param activation_fn: activation function of the actor; smooth, because its field is integrated
    :param critic_activation_fn: activation function of the critics
    :param path: path between noise and actions, a name or a :class:`~sb3_genpolicy.generative.paths.Path`
        (``VPPath(beta_max=10.0)``). Default: the first path of the policy class.
    :param prediction: what the actor's network predicts, ``velocity`` or ``noise``. Default: as published, noise on the
        variance-preserving path, velocity on the others.
    :param solver: ``euler``, ``midpoint``, ``heun`` or ``rk4``
    :param sampling_steps: number of solver steps from noise to an action, positive. Default: the policy class's.
    :param n_candidates: number of actions drawn for a prediction; the one with the highest minimum of the Qs is taken.
        1, the default, samples the policy itself, as the paper does. Can be changed later: ``model.policy.n_candidates = 8``.
    :param normalize_observations: whether observations are standardised inside the policy, by statistics of the dataset
        (images and discrete observations are not)
    :param features_extractor_class: features extractor. Default: the policy class's.
    :param features_extractor_kwargs: keyword arguments of the features extractor
    :param normalize_images: whether to divide images by 255
    :param optimizer_class: optimizer, ``th.optim.Adam`` (fused) by default
    :param optimizer_kwargs: keyword arguments of the optimizer, without the learning rate
    :param n_critics: number of Q networks
    :param share_features_extractor: whether the critics use the actor's extractor, trained by the actor's loss alone
        (saves time with images)
    :raises ValueError: for an unknown or undefined option, with the nearest one there is
    """

    #: Names of the paths of this class, the default first
    paths: ClassVar[tuple[str, ...]] = tuple(PATHS)
    #: Default of ``sampling_steps``
    default_sampling_steps: ClassVar[int] = 5
    #: Default of ``features_extractor_class``
    default_features_extractor_class: ClassVar[type[BaseFeaturesExtractor]] = FlattenExtractor

    actor: GenerativeActor
    actor_ema: GenerativeActor
    critic: ContinuousCritic
    critic_target: ContinuousCritic
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
        solver: str = "midpoint",
        sampling_steps: int | None = None,
        n_candidates: int = 1,
        normalize_observations: bool = True,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        n_critics: int = 2,
        share_features_extractor: bool = False,
    ):
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class or self.default_features_extractor_class,
            features_extractor_kwargs,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            squash_output=True,
            normalize_images=normalize_images,
        )
        if isinstance(observation_space, spaces.Dict) and issubclass(self.features_extractor_class, FlattenExtractor):
            raise ValueError(
                f"The observations are a dictionary ({', '.join(observation_space.spaces)}): use the policy "
                "'FlowMultiInputPolicy' or 'DiffusionMultiInputPolicy' instead."
            )
        if optimizer_kwargs is None and optimizer_class is th.optim.Adam:
            # The same numbers, without a pass over the parameters for each of Adam's operations
            self.optimizer_kwargs = {"fused": True}
        self.net_arch = _split_net_arch(net_arch)
        self.activation_fn = activation_fn
        self.critic_activation_fn = critic_activation_fn
        self.path = self._make_path(path)
        self.prediction = self._check_prediction(prediction)
        check_choice("solver", solver, SOLVERS)
        self.solver = solver
        self.sampling_steps = self.default_sampling_steps if sampling_steps is None else sampling_steps
        for name, count in (("sampling_steps", self.sampling_steps), ("n_candidates", n_candidates), ("n_critics", n_critics)):
            check_number(name, count, low=1)
        self.n_candidates = n_candidates
        self.n_critics = n_critics
        self.share_features_extractor = share_features_extractor
        self.normalize_observations = normalize_observations
        self.normalizer = ObservationNormalizer(observation_space)
        self._build(lr_schedule)

    def _make_path(self, path: str | Path | None) -> Path:
        if path is None:
            path = self.paths[0]
        if isinstance(path, str):
            check_choice(f"path of {type(self).__name__}", path, self.paths)
            return PATHS[path]()
        if not isinstance(path, tuple(PATHS[name] for name in self.paths)):
            raise ValueError(f"{type(self).__name__} has no path {type(path).__name__}. There are: {', '.join(self.paths)}.")
        return path

    def _check_prediction(self, prediction: Prediction | None) -> Prediction:
        is_vp, is_linear = isinstance(self.path, PATHS["vp"]), isinstance(self.path, PATHS["linear"])
        if prediction is None:
            return "noise" if is_vp else "velocity"
        check_choice("prediction", prediction, PREDICTIONS)
        if prediction == "noise" and is_linear:
            raise ValueError(
                "The linear path is learnt by its velocity: use prediction='velocity', or a DiffusionPolicy for noise."
            )
        return prediction

    def _build(self, lr_schedule: Schedule) -> None:
        self.actor = self.make_actor()
        self.actor.optimizer = self.optimizer_class(
            self.actor.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs  # type: ignore[call-arg]
        )
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
            network.optimizer = self.optimizer_class(own, lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]
        # Target networks should always be in eval mode
        self.critic_target.set_training_mode(False)

    def make_features_extractor(self) -> BaseFeaturesExtractor:
        return NormalizedExtractor(self.observation_space, self.normalizer, super().make_features_extractor())

    def _network_kwargs(self, features_extractor: BaseFeaturesExtractor | None) -> dict[str, Any]:
        spaces_and_images = dict(
            observation_space=self.observation_space, action_space=self.action_space, normalize_images=self.normalize_images
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
            solver=self.solver,
            sampling_steps=self.sampling_steps,
            activation_fn=self.activation_fn,
        ).to(self.device)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> ContinuousCritic:
        """
        :param features_extractor: an extractor to share; a new one by default
        :return: a new twin Q
        """
        return ContinuousCritic(
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
                solver=self.solver,
                sampling_steps=self.sampling_steps,
                n_candidates=self.n_candidates,
                normalize_observations=self.normalize_observations,
                features_extractor_class=self.features_extractor_class,
                features_extractor_kwargs=self.features_extractor_kwargs,
                optimizer_class=self.optimizer_class,
                optimizer_kwargs=self.optimizer_kwargs,
                n_critics=self.n_critics,
                share_features_extractor=self.share_features_extractor,
            )
        )
        return data

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        return self._predict(obs, deterministic=deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        if self.n_candidates == 1:
            return self.actor_ema(observation, deterministic)
        return self._best_candidate(observation, deterministic)

    def candidate_noise(self, n_candidates: int) -> th.Tensor:
        """
        :param n_candidates: number of candidates
        :return: the noise that deterministic candidates start from, (n_candidates, action_dim): zero, then fixed draws
        """
        generator = th.Generator().manual_seed(_CANDIDATE_SEED)
        noise = th.randn((n_candidates, self.actor.action_dim), generator=generator)
        noise[0] = 0.0
        return noise

    def _best_candidate(self, obs: PyTorchObs, deterministic: bool) -> th.Tensor:
        """Draw ``n_candidates`` actions per observation and keep the one whose smallest Q is largest."""
        actor, n = self.actor_ema, self.n_candidates
        features = actor.extract_features(obs, actor.features_extractor)
        batch_size = features.shape[0]
        if deterministic:
            noise = self.candidate_noise(n).to(features).repeat(batch_size, 1)
        else:
            noise = th.randn((batch_size * n, actor.action_dim), device=features.device)
        # Row i * n + k holds candidate k of observation i
        actions = actor.sample(features.repeat_interleave(n, dim=0), noise)
        repeated = tree_map(lambda array: array.repeat_interleave(n, dim=0), obs)
        q_values = th.cat(self.critic(repeated, actions), dim=1).amin(dim=1)
        best = q_values.reshape(batch_size, n).argmax(dim=1)
        return actions.reshape(batch_size, n, -1)[th.arange(batch_size, device=best.device), best]

    def set_training_mode(self, mode: bool) -> None:
        """
        Put the policy in either training or evaluation mode.

        :param mode: if true, set to training mode, else set to evaluation mode
        """
        self.actor.set_training_mode(mode)
        self.critic.set_training_mode(mode)
        self.value_net.set_training_mode(mode)
        self.training = mode


def _split_net_arch(net_arch: list[int] | dict[str, list[int]] | None) -> dict[str, list[int]]:
    default = {"pi": [256, 256, 256], "qf": [256, 256], "vf": [256, 256]}
    if net_arch is None:
        return default
    if not isinstance(net_arch, dict):
        return {key: list(net_arch) for key in default}
    for key in net_arch:
        if key not in default:
            raise ValueError(f"net_arch has no key '{key}'. {did_you_mean(key, default)}")
    return {**default, **net_arch}


class FlowPolicy(GenerativePolicy):
    """
    Flow matching on straight lines from noise to action.

    The parameters are those of :class:`GenerativePolicy`; the path is ``linear``.
    """

    paths = ("linear",)


class DiffusionPolicy(GenerativePolicy):
    """
    Diffusion on the variance-preserving (``vp``, the default) or the ``cosine`` path.

    The parameters are those of :class:`GenerativePolicy`.
    """

    paths = ("vp", "cosine")
    # Its paths bend, straight lines do not
    default_sampling_steps = 10


class FlowCnnPolicy(FlowPolicy):
    """:class:`FlowPolicy` for images."""

    default_features_extractor_class = NatureCNN


class FlowMultiInputPolicy(FlowPolicy):
    """:class:`FlowPolicy` for dictionaries of observations."""

    default_features_extractor_class = CombinedExtractor


class DiffusionCnnPolicy(DiffusionPolicy):
    """:class:`DiffusionPolicy` for images."""

    default_features_extractor_class = NatureCNN


class DiffusionMultiInputPolicy(DiffusionPolicy):
    """:class:`DiffusionPolicy` for dictionaries of observations."""

    default_features_extractor_class = CombinedExtractor


POLICY_ALIASES: dict[str, type[BasePolicy]] = {
    "FlowPolicy": FlowPolicy,
    "FlowCnnPolicy": FlowCnnPolicy,
    "FlowMultiInputPolicy": FlowMultiInputPolicy,
    "DiffusionPolicy": DiffusionPolicy,
    "DiffusionCnnPolicy": DiffusionCnnPolicy,
    "DiffusionMultiInputPolicy": DiffusionMultiInputPolicy,
    "MlpPolicy": FlowPolicy,
    "CnnPolicy": FlowCnnPolicy,
    "MultiInputPolicy": FlowMultiInputPolicy,
}
