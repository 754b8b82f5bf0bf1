"""
Algorithms whose policy improves on a model of the behaviour policy: the model and the critics are trained in a first phase, or
taken from an earlier run.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_genpolicy.common.algorithms.divergence import realised_kl
from sb3_genpolicy.common.algorithms.doubt import heed_held_out
from sb3_genpolicy.common.algorithms.offline_algorithm import OfflineAlgorithm
from sb3_genpolicy.common.algorithms.pretrained import Pretrained, PretrainedSource, copy_networks, read_pretrained
from sb3_genpolicy.common.algorithms.saving import note_what_0_1_had
from sb3_genpolicy.common.datasets import DatasetSource
from sb3_genpolicy.common.datasets.envs import SpacesVecEnv
from sb3_genpolicy.common.policies.actor import GenerativeActor
from sb3_genpolicy.common.policies.critics import CriticLosses, CriticOptions, frozen
from sb3_genpolicy.common.policies.critics.options import changed_critic, with_expectile
from sb3_genpolicy.common.policies.generative_policy import GenerativePolicy
from sb3_genpolicy.common.policies.option_checks import check_kwargs
from sb3_genpolicy.common.updates.batch import Batch
from sb3_genpolicy.common.updates.dependence import Dependence
from sb3_genpolicy.common.updates.objective import Objective
from sb3_genpolicy.generative import Likelihood, Sampler
from sb3_genpolicy.generative.checks import check_number
from sb3_genpolicy.generative.draws import Source, draw

# Fewer steps than the default: a penalty's weight takes no hundredths of a nat
_DENSITY = Likelihood(sampler=Sampler("midpoint", 8))


class PretrainingAlgorithm(OfflineAlgorithm):
    """
    Base of algorithms with two phases, counted in the same steps. In the first, the actor is the behaviour model, trained by
    matching beside the critics. In the second, which starts at the update ``pretraining_steps``, behaviour model and critics
    are frozen, and the actor, which starts as a copy of the behaviour model, is trained as the policy. Once the model goes on
    online they are unfrozen: both are trained beside the policy, on the same batches.

    :param pretraining_steps: number of updates of the first phase, >= 0. None: the algorithm's own, settled by the first
        ``learn``.
    :param pretrained: a model, or the file of one, whose behaviour model and critics are taken in place of a first phase.
        Where ``policy_kwargs``, ``env`` or the dataset are not given they are taken from there too.
    :param critic: a name, which keeps the networks of ``pretrained``, an object, or None for its critic, else the default
    :param expectile: short for ``critic=IQLCritic(expectile=...)``
    :param kwargs: see :class:`~sb3_genpolicy.common.algorithms.offline_algorithm.OfflineAlgorithm`
    :raises ValueError: if the pretrained networks differ in kind or shape from this model's, or one that is needed is missing
    """

    policy: GenerativePolicy
    actor: GenerativeActor
    actor_ema: GenerativeActor
    #: Whether the algorithm can do nothing without a behaviour model
    needs_behaviour: bool = True
    #: The critic where none is given, nor networks that were trained before; None: what made the best policies
    default_critic: str | None = None
    #: KL divergence from the behaviour policy that beta is adapted to hold, in nats, and whether somebody asked for it
    target_kl: float | None = None
    kl_was_given: bool = True
    progress: ClassVar[tuple[str, ...]] = (*OfflineAlgorithm.progress, "pretraining_finished")

    def __init__(
        self,
        policy: Any,
        env: Any,
        learning_rate: Any,
        *,
        critic: str | CriticOptions | None,
        expectile: float | None,
        pretraining_steps: int | None,
        pretrained: PretrainedSource | None,
        policy_kwargs: dict[str, Any] | None,
        dataset: DatasetSource | None,
        **kwargs: Any,
    ):
        check_kwargs("policy_kwargs", policy_kwargs)
        self.pretrained = None if pretrained is None else read_pretrained(pretrained)
        if self.pretrained is None:
            critic = with_expectile(self.default_critic if critic is None else critic, expectile)
        else:
            if pretraining_steps is not None and pretraining_steps != 0:
                raise ValueError(
                    f"pretrained= takes the place of the first phase: leave out pretraining_steps={pretraining_steps}. "
                    "To go on pretraining a model, load it and call learn."
                )
            pretraining_steps = 0
            if policy_kwargs is None:
                theirs = self.pretrained.policy_kwargs
                policy_kwargs = {name: theirs[name] for name in theirs if name not in ("critic", "n_critics")}
            if critic is not None or expectile is not None or policy_kwargs.get("critic") is None:
                critic = self.pretrained.critic(critic, expectile)
            if env is None and dataset is None:
                other = self.pretrained.policy
                env = SpacesVecEnv(other.observation_space, other.action_space)
        if self.needs_behaviour:
            policy_kwargs = {**(policy_kwargs or {}), "behaviour_model": True}
        super().__init__(policy, env, learning_rate, policy_kwargs=policy_kwargs, dataset=dataset, critic=critic, **kwargs)
        if pretraining_steps is not None:
            if isinstance(pretraining_steps, float) and pretraining_steps % 1.0 == 0.0:
                pretraining_steps = int(pretraining_steps)
            check_number("pretraining_steps", pretraining_steps, low=0, whole=True)
        self.pretraining_steps = pretraining_steps
        #: Whether the second phase has begun
        self.pretraining_finished = False
        #: The share of ``target_kl`` that is held, less than 1 where held-out rows say that critics foretell nothing
        self.kl_share = 1.0
        self._critics_are_judged = False

    def _setup_model(self) -> None:
        note_what_0_1_had(vars(self))
        # Of release 0.1
        vars(self).pop("expectile", None)
        super()._setup_model()
        self.behaviour = self.policy.behaviour
        if self.pretrained is not None:
            self._take_pretrained(self.pretrained)
            self.pretrained = None
        if self.online:
            self.go_online()
        elif self.critics_are_frozen:
            self.critics.freeze()

    # Handing over

    def _take_pretrained(self, source: Pretrained) -> None:
        source.check_fits(self.policy, self.needs_behaviour)
        copies = [self.actor, self.actor_ema, *([] if self.behaviour is None else [self.behaviour])]
        copy_networks(source, self.policy, copies)
        self.reward_function = source.settings["reward_function"]
        self.fitted_gamma = source.settings.get("fitted_gamma")
        self.fitted_length = source.settings.get("fitted_length")
        self.connect_replay_buffer()
        # The copied networks were trained with these statistics and this action range: they must not be fitted again
        self._normalizer_is_fitted = self._action_range_is_fitted = True
        if self.dataset_name is None:
            self.dataset_name = source.settings["dataset_name"]
        self.reference_scores = source.settings["reference_scores"]
        self.pretraining_finished = True

    # Phases

    @property
    def held_kl(self) -> float | None:
        """KL divergence from the behaviour policy that is held, in nats; None where beta is fixed."""
        return None if self.target_kl is None else self.kl_share * self.target_kl

    def _default_pretraining_steps(self, total_timesteps: int) -> int:
        """
        :param total_timesteps: of the first ``learn``
        :return: updates of the first phase
        """
        return 0

    @property
    def pretraining(self) -> bool:
        """Whether the next update is one of the first phase."""
        return self._n_updates < (self.pretraining_steps or 0)

    @property
    def phase(self) -> str:
        return "pretraining" if self.pretraining else super().phase

    @property
    def critics_are_frozen(self) -> bool:
        """Whether critics stay as the first phase left them; those of the policy's own actions are trained as it is."""
        return self.pretraining_finished and not self.online and not self.critic_options.follows_policy

    def _setup_learn(self, total_timesteps: int, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        """
        cf `BaseAlgorithm`.
        """
        if self.pretraining_steps is None:
            self.pretraining_steps = self._default_pretraining_steps(total_timesteps)
        return super()._setup_learn(total_timesteps, *args, **kwargs)

    def begin_update(self) -> None:
        if not (self.pretraining or self.pretraining_finished) and (self.pretraining_steps or self.needs_behaviour):
            self._finish_pretraining()
        if not (self.pretraining or self._critics_are_judged):
            heed_held_out(self)
            self._critics_are_judged = True
        super().begin_update()

    def _finish_pretraining(self) -> None:
        """The averaged actor becomes the behaviour model, and the actor starts anew as its copy."""
        self.descent.guard.check_kept(now=True)
        self.actor.load_state_dict(self.actor_ema.state_dict())
        self.actor.optimizer.state.clear()
        if self.behaviour is not None:
            self.behaviour.load_state_dict(self.actor_ema.state_dict())
        self._updates_before_policy = self._n_updates
        self.pretraining_finished = True
        if self.critics_are_frozen:
            self.critics.freeze()

    def go_online(self) -> None:
        self.critics.unfreeze()
        if self.behaviour is not None:
            self.policy.unfreeze_behaviour(self.lr_schedule(self._current_progress_remaining))
        # Modes are set anew at the next update
        self.policy.set_training_mode(False)

    def set_training_mode(self) -> None:
        # This affects batch norm / dropout
        if not self.policy.training:
            super().set_training_mode()
            if self.critics_are_frozen:
                self.critics.set_training_mode(False)

    # What an update consists of

    def dependences(self) -> tuple[Dependence, ...]:
        sampling = (self.actor.sampling_dependence,) if self.critic_options.follows_policy else ()
        return (self.actor.matching_dependence, *sampling)

    @classmethod
    def critic_to_load(cls, saved: CriticOptions, kwargs: dict[str, Any]) -> CriticOptions:
        return changed_critic(saved, kwargs.pop("critic", None), kwargs.pop("expectile", None))

    @property
    def expectile(self) -> float:
        """Expectile of Q over the dataset's actions that V is trained to be, as the option ``critic`` says."""
        return self.critic_options.value_expectile

    @th.no_grad()
    def policy_actions(self, observations: Any, generator: Source) -> th.Tensor:
        actor = self.actor_ema
        features = actor.extract_features(observations, actor.features_extractor)
        noise = draw("normal", (len(features), actor.action_dim), features, generator)
        return actor.sample(features, noise, generator=generator).clamp(-1.0, 1.0)

    @th.no_grad()
    def behaviour_log_prob(self, observations: Any, actions: th.Tensor) -> th.Tensor | None:
        # In the first phase the policy is the behaviour model
        if self.behaviour is None or self.pretraining:
            return None
        return self.behaviour.log_prob(observations, actions, _DENSITY)

    def critic_losses(self, batch: Batch) -> CriticLosses:
        """
        :param batch: rows of the dataset
        :return: losses of Q and V, and the values that the policy's weights need
        """
        return self.critics.losses(batch, self.critic_gamma)

    def pretraining_objective(self, batch: Batch) -> Objective:
        """
        :param batch: rows of the dataset
        :return: the objective of the first phase: the behaviour model by matching, and the critics
        """
        critics = self.critic_losses(batch)
        return self.cloning_objective(batch) + critics.objective(
            q_value=critics.q_value.mean(), advantage=critics.advantage.mean()
        )

    def cloning_objective(self, batch: Batch) -> Objective:
        """
        :param batch: rows of the dataset
        :return: the actor's objective as a model of the behaviour policy, by matching
        """
        matched = batch.for_policy
        matching_loss = self.actor.matching_loss(matched.observations, matched.actions, matched.generator).mean()
        return Objective(dict(matching_loss=matching_loss), ("actor",))

    def with_what_learns(self, policy: Objective, batch: Batch) -> Objective:
        """
        :param policy: the policy's objective
        :param batch: rows of the dataset, online also of the environment
        :return: the sum of the policy's objective and those of critics and behaviour model, unless they are frozen, on the
            same batch
        """
        if self.critics_are_frozen:
            return policy
        critics = self.critic_losses(batch)
        objective = policy + critics.objective(advantage=critics.advantage.mean())
        if self.behaviour is None or not self.online:
            return objective
        loss = self.behaviour.matching_loss(batch.observations, batch.actions, batch.generator).mean()
        return objective + Objective(dict(behaviour_loss=loss), ("behaviour",))

    def frozen_but_the_policy(self) -> AbstractContextManager[None]:
        """
        :return: context for computing the policy's loss, in which critics and behaviour model get no gradient: where they are
            trained too, it is only by their own losses
        """
        if self.critics_are_frozen:
            return nullcontext()
        networks = [self.critics.critic, self.critics.value_net, *([] if self.behaviour is None else [self.behaviour])]
        # A shared features extractor belongs to the actor and stays trainable
        return frozen(networks, but=self.actor.parameters())

    def held_out_losses(self, batch: Batch) -> dict[str, th.Tensor]:
        losses = self.critic_losses(batch)
        matching_loss = self.actor.matching_loss(batch.observations, batch.actions, batch.generator).mean()
        return dict(critic_loss=losses.critic_loss, value_loss=losses.value_loss, matching_loss=matching_loss)

    def dump_logs(self) -> None:
        """
        Write log data.
        """
        if self.behaviour is not None and not self.pretraining and self.replay_buffer.size() > 0:
            self.logger.record("train/policy_kl", realised_kl(self).item())
        super().dump_logs()

    # Acting

    def predict(  # type: ignore[override]
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        solver: str | Sampler | None = None,
        sampling_steps: int | None = None,
        time_grid: str | None = None,
        guidance: float | None = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        # Its last four options are for this prediction alone, see `SamplingPolicy.predict`
        return self.policy.predict(
            observation, state, episode_start, deterministic, solver, sampling_steps, time_grid, guidance
        )
