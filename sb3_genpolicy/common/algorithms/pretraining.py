"""
Algorithms whose policy improves on a model of the behaviour policy: the model and the critics are trained in a first phase, or
taken from an earlier run.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from torch import nn
from torch.optim import Optimizer

from sb3_genpolicy.common.algorithms.gradient_steps import GradientSteps
from sb3_genpolicy.common.algorithms.pretrained import Pretrained, PretrainedSource, copy_network, describe, read_pretrained
from sb3_genpolicy.common.datasets import DatasetSource
from sb3_genpolicy.common.datasets.envs import SpacesVecEnv
from sb3_genpolicy.common.policies.critics import IQLLosses, iql_losses, smallest_q
from sb3_genpolicy.common.policies.option_checks import check_kwargs
from sb3_genpolicy.common.updates.objective import Objective
from sb3_genpolicy.generative.checks import check_number


class PretrainingAlgorithm(GradientSteps):
    """
    Base of algorithms with two phases, counted in the same steps. In the first, the actor is the behaviour model, trained by
    matching beside the critics. In the second, which starts at the update ``pretraining_steps``, behaviour model and critics
    rest, and the actor leaves its copy of the behaviour model. Once the model goes on online they rest no longer: both are
    trained beside the policy, on the same batches.

    :param pretraining_steps: number of updates of the first phase, >= 0. None: the algorithm's own, settled by the first
        ``learn``.
    :param pretrained: a model, or the file of one, whose behaviour model and critics are taken in place of a first phase.
        Where ``policy_kwargs``, ``env`` or the dataset are not given they are taken from there too.
    :param kwargs: see :class:`~sb3_genpolicy.common.algorithms.gradient_steps.GradientSteps`
    :raises ValueError: if the pretrained networks are others than this model's, or there is none of what is needed
    """

    #: Whether the algorithm can do nothing without a behaviour model
    needs_behaviour: bool = True

    def __init__(
        self,
        policy: Any,
        env: Any,
        learning_rate: Any,
        *,
        expectile: float,
        pretraining_steps: int | None,
        pretrained: PretrainedSource | None,
        policy_kwargs: dict[str, Any] | None,
        dataset: DatasetSource | None,
        **kwargs: Any,
    ):
        self.pretrained = None if pretrained is None else read_pretrained(pretrained)
        if self.pretrained is not None:
            if pretraining_steps is not None and pretraining_steps != 0:
                raise ValueError(
                    f"pretrained= takes the place of the first phase: leave out pretraining_steps={pretraining_steps}. "
                    "To go on pretraining a model, load it and call learn."
                )
            pretraining_steps = 0
            if policy_kwargs is None:
                policy_kwargs = self.pretrained.policy_kwargs
            if env is None and dataset is None:
                other = self.pretrained.policy
                env = SpacesVecEnv(other.observation_space, other.action_space)
        check_kwargs("policy_kwargs", policy_kwargs)
        if self.needs_behaviour:
            policy_kwargs = {**(policy_kwargs or {}), "behaviour_model": True}
        super().__init__(policy, env, learning_rate, policy_kwargs=policy_kwargs, dataset=dataset, **kwargs)
        check_number("expectile", expectile, low=0.0, high=1.0, low_open=True, high_open=True)
        if pretraining_steps is not None:
            if isinstance(pretraining_steps, float) and pretraining_steps % 1.0 == 0.0:
                pretraining_steps = int(pretraining_steps)
            check_number("pretraining_steps", pretraining_steps, low=0, whole=True)
        self.expectile = expectile
        self.pretraining_steps = pretraining_steps
        #: Whether the second phase has begun
        self.pretraining_finished = False
        self._updates_before_policy = 0

    def _setup_model(self) -> None:
        super()._setup_model()
        if self.pretrained is not None:
            self._take_pretrained(self.pretrained)
            self.pretrained = None
        if self.online:
            self._go_online()
        elif self.pretraining_finished:
            self._freeze_critics()

    # Handing over

    def _take_pretrained(self, source: Pretrained) -> None:
        if self.needs_behaviour and source.behaviour is None:
            raise ValueError(
                f"The pretrained model's actor was trained with beta={source.settings.get('beta')}, so that it is no model of "
                "the behaviour policy: pretrain with GMPG, or with GMPO(beta=0)."
            )
        self._check_same_kind(source)
        pairs: list[tuple[str, nn.Module, nn.Module]] = [
            (name, getattr(self.policy, name), getattr(source.policy, name))
            for name in ("normalizer", "action_range", "critic", "critic_target", "value_net")
        ]
        if source.behaviour is not None:
            pairs += [("actor", actor, source.behaviour) for actor in (self.actor, self.actor_ema)]
            if self.behaviour is not None:
                pairs.append(("behaviour model", self.behaviour, source.behaviour))
        for name, mine, theirs in pairs:
            copy_network(name, mine, theirs, source)
        self.reward_function = source.settings["reward_function"]
        self._connect_replay_buffer()
        # Its networks know no other statistics, nor another range of actions
        self._normalizer_is_fitted = self._action_range_is_fitted = True
        if self.dataset_name is None:
            self.dataset_name = source.settings["dataset_name"]
        self.reference_scores = source.settings["reference_scores"]
        self.pretraining_finished = True

    def _check_same_kind(self, source: Pretrained) -> None:
        mine, theirs = self.policy, source.policy
        for name in ("observation_space", "action_space", "path", "prediction"):
            ours, given = getattr(mine, name), getattr(theirs, name)
            if (describe(ours) != describe(given)) if name == "path" else (ours != given):
                raise ValueError(
                    f"The pretrained model has another {name} ({describe(given)}) than this one ({describe(ours)}). "
                    f"Its policy is a {type(theirs).__name__} with policy_kwargs={source.policy_kwargs}: give the same."
                )

    # Phases

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
        """What is being trained, for the log and the progress bar."""
        if self.pretraining:
            return "pretraining"
        return "online" if self.online else "policy"

    @property
    def _critics_rest(self) -> bool:
        """Whether critics and behaviour model stay as the first phase left them."""
        return self.pretraining_finished and not self.online

    def _set_training_mode(self) -> None:
        # This affects batch norm / dropout
        if not self.policy.training:
            super()._set_training_mode()
            if self._critics_rest:
                self._rest_critics()

    def _rest_critics(self) -> None:
        self.critic.set_training_mode(False)
        self.value_net.set_training_mode(False)

    def _setup_learn(self, total_timesteps: int, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        """
        cf `BaseAlgorithm`.
        """
        if self.pretraining_steps is None:
            self.pretraining_steps = self._default_pretraining_steps(total_timesteps)
        return super()._setup_learn(total_timesteps, *args, **kwargs)

    def _finish_pretraining(self) -> None:
        """The averaged actor becomes the behaviour model, and the actor starts anew as its copy."""
        self._check_kept(now=True)
        self.actor.load_state_dict(self.actor_ema.state_dict())
        self.actor.optimizer.state.clear()
        if self.behaviour is not None:
            self.behaviour.load_state_dict(self.actor_ema.state_dict())
        self._updates_before_policy = self._n_updates
        self.pretraining_finished = True
        if not self.online:
            self._freeze_critics()

    def _freeze_critics(self) -> None:
        for network in (self.critic, self.critic_target, self.value_net):
            network.requires_grad_(False)
        self._rest_critics()

    def _go_online(self) -> None:
        for network in (self.critic, self.value_net):
            network.requires_grad_(True)
        if self.behaviour is not None:
            self.policy.wake_behaviour(self.lr_schedule(self._current_progress_remaining))
        # Modes are set anew at the next update
        self.policy.set_training_mode(False)

    # What an update consists of

    def _begin_update(self) -> None:
        """What of an update the host decides: modes, phase and rates."""
        if not (self.pretraining or self.pretraining_finished) and (self.pretraining_steps or self.needs_behaviour):
            self._finish_pretraining()
        self._set_training_mode()
        self._set_rates()
        # The averaged actor follows closely in the first steps of a phase, then at the rate `actor_tau`
        self._set_actor_rate(max(self.actor_tau, 9.0 / (10.0 + self._n_updates - self._updates_before_policy)))

    def _set_rates(self) -> None:
        """The learning rate of this update."""
        self._set_learning_rate(self._optimizers(True), self.lr_schedule(self._current_progress_remaining))

    def _critic_losses(self, batch: Any) -> IQLLosses:
        """V towards an expectile of the target Q over the dataset's actions, Q towards r + gamma V(s')."""
        return iql_losses(self.critic, self.critic_target, self.value_net, batch, self.gamma, self.expectile)

    @th.no_grad()
    def _advantage(self, batch: Any) -> th.Tensor:
        """Of frozen critics: the minimum of both target Qs minus V, (batch_size, 1)."""
        return smallest_q(self.critic_target, batch.observations, batch.actions) - self.value_net(batch.observations)

    def _pretraining_objective(self, batch: Any) -> Objective:
        """Of the first phase: the critics, and the behaviour model by matching."""
        losses = self._critic_losses(batch)
        matching_loss = self.actor.matching_loss(batch.observations, batch.actions, self.generator).mean()
        descended = dict(matching_loss=matching_loss, critic_loss=losses.critic_loss, value_loss=losses.value_loss)
        means = dict(q_value=losses.q_value.mean(), advantage=losses.advantage.mean())
        return Objective(descended, means, trains_critics=True)

    def _with_critics_and_behaviour(self, policy: Objective, batch: Any) -> Objective:
        """Online, the critics and the behaviour model of the rows that there are by now, beside the policy."""
        critics = self._critic_losses(batch)
        losses = dict(policy.losses, critic_loss=critics.critic_loss, value_loss=critics.value_loss)
        if self.behaviour is not None:
            losses["behaviour_loss"] = self.behaviour.matching_loss(batch.observations, batch.actions, self.generator).mean()
        means = dict(policy.means, advantage=critics.advantage.mean())
        return Objective(losses, means, trains_critics=True, kl=policy.kl)

    def _named_optimizers(self, trains_critics: bool) -> dict[str, Optimizer]:
        behaviour = dict(behaviour=self.behaviour.optimizer) if self.online and self.behaviour is not None else {}
        return {**super()._named_optimizers(trains_critics), **behaviour}

    def _resting(self) -> AbstractContextManager[None]:
        """While the policy's loss is computed: critics and behaviour model learn by losses of their own alone."""
        awake = [self.critic, self.value_net, self.behaviour] if self.online else []
        # An extractor that is shared is the actor's
        return resting((network for network in awake if network is not None), but=self._actor_and_average[1])

    def _losses_of(self, batch: Any, generator: th.Generator) -> dict[str, th.Tensor]:
        losses = self._critic_losses(batch)
        matching_loss = self.actor.matching_loss(batch.observations, batch.actions, generator).mean()
        return dict(critic_loss=losses.critic_loss, value_loss=losses.value_loss, matching_loss=matching_loss)

    def _create_aliases(self) -> None:
        super()._create_aliases()
        self.behaviour = self.policy.behaviour

    def dump_logs(self) -> None:
        """
        Write log data.
        """
        self.logger.record("train/phase", self.phase, exclude="tensorboard")
        super().dump_logs()

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "behaviour", "pretrained"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, tensors = super()._get_torch_save_params()
        behaviour = ["behaviour.optimizer"] if self.online and self.behaviour is not None else []
        return [*state_dicts, *behaviour], tensors


@contextmanager
def resting(networks: Iterable[nn.Module], but: Iterable[nn.Parameter] = ()) -> Iterator[None]:
    """
    :param networks: whose parameters get no gradient from what is computed meanwhile; it goes through them, to their inputs
    :param but: parameters of theirs that do
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
