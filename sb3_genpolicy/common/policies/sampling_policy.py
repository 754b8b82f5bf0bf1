"""
How a generative policy acts: by sampling its averaged actor, with a solver that can be changed. And log-probabilities.
"""

import os
import warnings
from contextlib import suppress
from dataclasses import replace

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule

from sb3_genpolicy.common.policies.acting_options import ActingOptions, check_strength
from sb3_genpolicy.common.policies.actor import GenerativeActor
from sb3_genpolicy.common.policies.candidates import choose_candidates, draw_by_expectile
from sb3_genpolicy.common.policies.critic_policy import CriticPolicy
from sb3_genpolicy.common.policies.deterministic import DETERMINISTIC_ACTIONS, WEIGHTED, Choice
from sb3_genpolicy.common.policies.guessed_states import guessed_observations
from sb3_genpolicy.common.policies.guidance import QGuide, Spreads, check_has_density
from sb3_genpolicy.common.policies.onnx_export import export_onnx
from sb3_genpolicy.common.policies.options import make_sampler
from sb3_genpolicy.common.policies.shape_checks import check_actions, check_observations
from sb3_genpolicy.generative import Likelihood, Sampler
from sb3_genpolicy.generative.draws import fixed_normals

# The fixed noise of deterministic actions is drawn from this seed, the same for every policy
_CANDIDATE_SEED = 0
# So many states are looked at for the spread of Q
_STATES = 64


class SamplingPolicy(ActingOptions, CriticPolicy):
    """
    A policy that samples actions of ``actor_ema`` and lets the critic choose among several, with ``n_candidates``, or guide
    the sampler, with ``guidance``.
    """

    actor: GenerativeActor
    actor_ema: GenerativeActor
    n_candidates: int
    #: The units of guidance and of the candidates' temperature
    spreads: Spreads

    def build(self, lr_schedule: Schedule) -> None:
        super().build(lr_schedule)
        self.spreads = Spreads(self.actor.action_dim)
        self._states_for_spreads: PyTorchObs | None = None

    def check_acts_without_critics(self) -> None:
        """
        :raises ValueError: if it is to act by values of critics, and there are none
        """
        asked = [
            *(["n_candidates"] if self.n_candidates > 1 else []),
            *(["guidance"] if self.guidance > 0.0 else []),
            *(["deterministic_action"] if self.deterministic_action in ("best_q", *WEIGHTED) else []),
        ]
        if asked and not self.has_critics:
            raise ValueError(
                f"{asked[0]}={getattr(self, asked[0])!r} acts by the values of critics, and this policy has none: leave it "
                "out, or take an algorithm that has some, as IDQL."
            )

    # Sampling

    @property
    def sampler(self) -> Sampler:
        """Solver, steps and time grid of the actor that acts; see :meth:`set_sampler`."""
        return self.actor_ema.sampler

    def set_sampler(
        self, solver: str | Sampler | None = None, sampling_steps: int | None = None, time_grid: str | None = None
    ) -> None:
        """
        Change how actions are sampled from now on; training does not depend on it.

        :param solver: a name, or a :class:`~sb3_genpolicy.generative.solvers.Sampler`; None keeps the one there is
        :param sampling_steps: number of steps; None keeps it
        :param time_grid: where the steps are; None keeps it
        :raises ValueError: for an unknown name or a number of steps that is not positive
        """
        self.actor.sampler = self.actor_ema.sampler = self._sampler_with(solver, sampling_steps, time_grid)

    def _sampler_with(self, solver: str | Sampler | None, sampling_steps: int | None, time_grid: str | None) -> Sampler:
        """The sampler of the acting actor, with some options changed; None keeps an option."""
        if isinstance(solver, str):
            solver = replace(self.sampler, solver=solver)
        return make_sampler(solver or self.sampler, sampling_steps, time_grid)

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
        """
        Get the policy action from an observation, as SB3's policies do.

        :param observation: the input observation
        :param state: what the last call returned, for a policy that plans several actions or sees several observations.
            Without, it goes on from its last call.
        :param episode_start: (n_envs,), where an episode begins, for such a policy
        :param deterministic: whether to act without random numbers, as the policy's ``deterministic_action`` says
        :param solver: for this prediction alone, see :meth:`set_sampler`
        :param sampling_steps: for this prediction alone
        :param time_grid: for this prediction alone
        :param guidance: for this prediction alone, by how many of its standard deviations Q pulls the policy
        :return: the action, in the action space by ``space.contains``, and the next ``state``
        """
        sampler = None
        if not (solver is None and sampling_steps is None and time_grid is None):
            # Passed as an argument, not stored in the policy: other threads may predict at the same time
            sampler = self._sampler_with(solver, sampling_steps, time_grid)
        if guidance is not None:
            check_strength("guidance", guidance)
        options = dict(deterministic=deterministic, sampler=sampler, guidance=guidance)
        action, _, state = self._act(observation, state, episode_start, options)
        return action, state

    def export_onnx(self, path: str | os.PathLike[str], deterministic: bool = False) -> None:
        """
        Write the policy that acts, with its sampler, its ``guidance`` and its ``n_candidates`` as they are set, to one ONNX
        file, which onnxruntime alone can run. Needs the extra ``[onnx]``.

        The file's inputs, of any number of rows:

        - ``observation``, as :meth:`predict` takes it, normalised inside (float32 for any floats but numbers that it would
          merge, which are double; images with their channels first); for a dictionary of observations one input for each key,
          by its name
        - ``noise``, standard normal, (batch_size, action_dim), or (batch_size, n_candidates, action_dim)
        - ``increments``, with the solver ``sde`` alone: standard normal, (steps - 1, \\*shape of the noise)
        - ``uniform``, with a ``candidate_temperature`` alone: from [0, 1), (batch_size, n_candidates); all equal, it takes the
          best candidate of this noise

        With ``deterministic=True`` observations are its only inputs, and it acts as ``predict(observation,
        deterministic=True)``, whatever ``deterministic_action`` is.

        A policy of several observations takes stacks of them, the newest last, and one that plans gives whole plans,
        (batch_size, chunk_length, \\*action_shape). The metadata have ``history``, ``chunk_length``, ``execute_length`` and
        ``plan_blending``, for whoever keeps the frames and the plan (``examples/run_onnx.py``).

        Its output is ``action``, (batch_size, \\*action_shape), float32, in the environment's units and within their bounds.
        From noise zero it is the action of ``predict(observation, deterministic=True)``, unless ``deterministic_action`` is
        another one than ``zero_noise``; where that takes other noise, with several candidates or ``sde``, the noise of a row
        is in the file's metadata (JSON) as ``deterministic_noise`` and ``deterministic_increments``, beside ``action_low``,
        ``action_high`` (null where there is no bound) and the sampler. A file does not complain of what is not finite.

        :param path: the file
        :param deterministic: whether the file is for deterministic actions
        :raises ImportError: if onnx or onnxscript is not installed
        :raises ValueError: for the solver ``dopri5``, a key of the observations that is named as an input or output is, or a
            network of your own that looks at values of tensors
        """
        export_onnx(self, path, deterministic)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the noise that one action takes: (action_dim,), or (n_candidates, action_dim)."""
        shape = (self.actor_ema.action_dim,)
        return shape if self.n_candidates == 1 else (self.n_candidates, *shape)

    def _predict(
        self,
        observation: PyTorchObs,
        deterministic: bool = False,
        sampler: Sampler | None = None,
        guidance: float | None = None,
    ) -> th.Tensor:
        guide = self.guide(observation, self.guidance if guidance is None else guidance)
        if deterministic and self.deterministic_action != "zero_noise":
            return self._deterministic(observation, sampler or self.sampler, guide)
        if self.n_candidates == 1 or (deterministic and not self.takes_best):
            return self.actor_ema(observation, deterministic, sampler, guide)
        return self._best_candidate(observation, deterministic, sampler, guide)

    def candidate_noise(self, n_candidates: int) -> th.Tensor:
        """
        :param n_candidates: number of candidates
        :return: the noise that deterministic candidates start from, (n_candidates, action_dim): zero, then fixed draws if the
            best is taken
        """
        noise = fixed_normals(_CANDIDATE_SEED, (n_candidates, self.actor.action_dim)).clone()
        noise[0] = 0.0
        return noise if self.takes_best else th.zeros_like(noise)

    def _best_candidate(
        self, obs: PyTorchObs, deterministic: bool, sampler: Sampler | None, guide: QGuide | None
    ) -> th.Tensor:
        """Draw ``n_candidates`` actions per observation and keep the one with the largest Q, or one of a large Q."""
        actor, n = self.actor_ema, self.n_candidates
        features = actor.extract_features(obs, actor.features_extractor)
        batch_size = features.shape[0]
        if deterministic:
            noise = self.candidate_noise(n).to(features).repeat(batch_size, 1)
        else:
            noise = th.randn((batch_size * n, actor.action_dim), device=features.device)
        guide = None if guide is None else guide.repeated(n)
        actions = actor.sample(features.repeat_interleave(n, dim=0), noise, deterministic, sampler=sampler, guide=guide)
        actions = actions.reshape(batch_size, n, -1)
        if deterministic or not self.draws_candidates:
            return choose_candidates(self.critic, obs, actions)
        uniform = th.rand((batch_size, n), device=features.device)
        if self.candidate_expectile is not None:
            return draw_by_expectile(self.critic, self.value_net, obs, actions, self.candidate_expectile, uniform)
        return choose_candidates(self.critic, obs, actions, self.candidate_temperature * self.known_spreads().q, uniform)

    @property
    def draws_candidates(self) -> bool:
        """Whether one of several candidates is drawn, in place of the best."""
        return self.n_candidates > 1 and (self.candidate_temperature > 0.0 or self.candidate_expectile is not None)

    @property
    def takes_best(self) -> bool:
        """
        Whether the deterministic action is the best of several candidates. With a temperature it is not: those who act by the
        best of eight fall where those who draw one do not (docs/guide/critics.md).
        """
        return self.n_candidates > 1 and (self.candidate_temperature == 0.0 or self.candidate_expectile is not None)

    def _deterministic(self, obs: PyTorchObs, sampler: Sampler, guide: QGuide | None) -> th.Tensor:
        """The action that ``deterministic_action`` names."""
        check_has_density(self.deterministic_action, 0.0 if guide is None else guide.strength)
        actor = self.actor_ema
        features = actor.extract_features(obs, actor.features_extractor)
        spreads = self.known_spreads() if self.deterministic_action in WEIGHTED else self.spreads
        choice = Choice(actor, self.critic, obs, features, self.deterministic_draws, spreads.q, sampler, guide)
        return DETERMINISTIC_ACTIONS[self.deterministic_action](choice)

    # Guidance

    def guide(self, observations: PyTorchObs, guidance: float) -> QGuide | None:
        """
        :param observations: batch first
        :param guidance: by how many of its standard deviations Q pulls the policy
        :return: what does that; None for 0
        """
        if guidance == 0.0:
            return None
        return QGuide(self.critic, self.critic.features_of(observations), guidance, self.known_spreads())

    def known_spreads(self) -> Spreads:
        """
        :return: the policy's spreads. Where they are not known they are taken, with a warning, from states around the mean of
            the statistics of observations.
        """
        if not self.spreads.q and self._states_for_spreads is not None:
            self._fit_spreads(self._states_for_spreads)
        if not self.spreads.q:
            guessed = guessed_observations(self.observation_space, self.normalizer, _STATES)
            self.fit_spreads(self.obs_to_tensor(guessed)[0])
            warnings.warn(
                "This policy was saved, or not trained, without the spread of its Q in a state, which is the unit of guidance "
                "and of the candidates' temperature. It is estimated around the mean of the observations: "
                "policy.fit_spreads(observations) takes it from states of yours.",
                stacklevel=2,
            )
        return self.spreads

    def fit_spreads(self, observations: PyTorchObs) -> None:
        """
        Take the units of guidance and of the candidates' temperature anew; ``learn`` does it with rows of the dataset.

        :param observations: batch first, as they come from the environment
        """
        self._fit_spreads(check_observations(observations, self.observation_space, self.device))

    def save(self, path: str) -> None:
        # A file has no states to take them from. Of networks that are not finite there are none, of which acting says more
        if not self.spreads.q and self._states_for_spreads is not None:
            with suppress(ValueError):
                self._fit_spreads(self._states_for_spreads)
        super().save(path)

    def forget_spreads(self, observations: PyTorchObs) -> None:
        """
        Networks change: spreads are taken anew when they are asked for.

        :param observations: from which, as networks get them, batch first
        """
        self._states_for_spreads = observations
        self.spreads.forget()

    def _fit_spreads(self, observations: PyTorchObs) -> None:
        was_training = self.training
        self.set_training_mode(False)
        self.spreads.fit(self.actor_ema, self.critic, observations)
        self.set_training_mode(was_training)

    # Likelihood

    def log_prob(self, observations: PyTorchObs, actions: th.Tensor, likelihood: Likelihood | None = None) -> th.Tensor:
        """
        Log-density of actions, of the policy that acts (before the best of ``n_candidates`` is chosen and before actions are
        clipped to their bounds). Gradients reach actions, observations and parameters.

        :param observations: batch first
        :param actions: (batch_size, \\*action_shape), in the environment's units
        :param likelihood: method, solver and gradient; by default the continuous flow's density by 16 rk4 steps
        :return: log p(action | observation) in nats, with respect to the environment's units, (batch_size,)
        :raises ValueError: for a wrong shape
        """
        observations = check_observations(observations, self.observation_space, self.device)
        batch_size = len(next(iter(observations.values())) if isinstance(observations, dict) else observations)
        actions = check_actions(actions, self.action_space, batch_size, self.device)
        actions = actions.to(next(self.actor_ema.model.parameters()).dtype)
        scaled = self.action_range.scale(actions.flatten(1)).to(actions.dtype)
        return self.actor_ema.log_prob(observations, scaled, likelihood) - self.log_scale()

    def sample_with_log_prob(
        self, observations: PyTorchObs, noise: th.Tensor | None = None, likelihood: Likelihood | None = None
    ) -> tuple[th.Tensor, th.Tensor]:
        """
        Sample actions together with their log-density, by one solve. As in SB3's distributions, actions are not clipped,
        because clipped ones have no density: clip them before an environment is stepped.

        :param observations: batch first
        :param noise: standard normal draws, (batch_size, action_dim); drawn by default
        :param likelihood: method, solver and gradient; by default the continuous flow's density by 16 rk4 steps, from which
            the actions come too
        :return: actions in the environment's units, (batch_size, \\*action_shape), and log p(action | observation) in nats
            with respect to them, (batch_size,)
        :raises ValueError: for a wrong shape
        """
        observations = check_observations(observations, self.observation_space, self.device)
        scaled, log_prob = self.actor_ema.sample_with_log_prob(observations, noise, likelihood)
        actions = self.action_range.unscale(scaled).reshape(-1, *self.action_space.shape)
        return actions, log_prob - self.log_scale()
