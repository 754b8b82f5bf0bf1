"""
One action of each observation, without random numbers, by several names: the mean of a distribution, a mode, its best by Q.

All but zero noise and the one-step mean look at some fixed draws of the policy for the state at hand.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_genpolicy.common.policies.actor import GenerativeActor
from sb3_genpolicy.common.policies.candidates import choose_candidates
from sb3_genpolicy.common.policies.critics import CriticEnsemble
from sb3_genpolicy.common.policies.critics.aggregation import agreed
from sb3_genpolicy.common.policies.fixed_draws import fixed_draws, fixed_noise
from sb3_genpolicy.common.policies.guidance import QGuide
from sb3_genpolicy.generative import Likelihood, Path, Prediction, Sampler
from sb3_genpolicy.generative.predictions import error_scale, to_parts
from sb3_genpolicy.generative.schedules import TABLEAUS, TimePoint, kept

# Two halves of draws are two modes if their means are so many times as far apart as draws spread around them, along the line
# between the means, and either has so large a share. Of 32 draws of a Gaussian 0.1 to 2 % are told to be two modes (in 1 to 17
# dimensions), of a uniform distribution 1 to 9 %; of two Gaussians 6 standard deviations apart 99 to 84 % are, 8 apart all
_APART, _SHARE = 4.5, 0.125
# In a prediction of the data an error of the network counts at most so many times where the one-step mean is taken
_WORST = 10.0


class Choice(NamedTuple):
    """
    What there is to choose from.

    :param actor: the actor
    :param critic: Q
    :param observations: batch first
    :param features: the actor's, (batch_size, features_dim)
    :param n_draws: fixed draws for each observation
    :param q_spread: by how much Q differs in a state, see :class:`~sb3_genpolicy.common.policies.guidance.Spreads`
    :param sampler: solver, steps and time grid
    :param guide: what changes the velocity on the way
    """

    actor: GenerativeActor
    critic: CriticEnsemble
    observations: PyTorchObs
    features: th.Tensor
    n_draws: int
    q_spread: th.Tensor
    sampler: Sampler
    guide: QGuide | None = None

    def draws(self) -> th.Tensor:
        """
        :return: the fixed draws, (batch_size, n_draws, action_dim)
        """
        guide = None if self.guide is None else self.guide.repeated(self.n_draws)
        return fixed_draws(self.actor, self.features, self.n_draws, self.sampler, guide)

    def weights(self, draws: th.Tensor) -> th.Tensor:
        """
        :param draws: (batch_size, n_draws, action_dim)
        :return: in proportion to the exponential of Q in units of its spread, as far as the networks agree, (batch_size,
            n_draws), of sum 1
        """
        features = self.critic.features_of(self.observations).repeat_interleave(self.n_draws, dim=0)
        preferences = self.critic.preferences_of_members(features, draws.flatten(0, 1)).mean(dim=2)
        return (agreed(preferences.unflatten(1, (-1, self.n_draws))) / self.q_spread).softmax(dim=1)


def zero_noise(choice: Choice) -> th.Tensor:
    """What noise zero is carried to: neither the mean nor a mode, where the field bends."""
    zeros = choice.features.new_zeros((choice.features.shape[0], choice.actor.action_dim))
    return choice.actor.sample(choice.features, zeros, True, sampler=choice.sampler, guide=choice.guide)


def mean(choice: Choice) -> th.Tensor:
    """The mean of the draws."""
    return choice.draws().mean(dim=1)


def one_step_mean(choice: Choice) -> th.Tensor:
    """
    The mean by the model's own word, its prediction of the data at x = 0 where nothing is known of them. Where the path is all
    noise at its beginning, that is one Euler step from zero noise. Where a network's error would count more than ten times
    there (a noise network on a diffusion path), it is asked a little later, when noise still outweighs the data ten to one:
    what is known of them then moves the mean by 1 in 100 at most.
    """
    model = choice.actor.model
    point = _beginning(model.path, model.prediction, choice.features.dtype, choice.features.device)
    x = choice.features.new_zeros((choice.features.shape[0], choice.actor.action_dim))
    velocity = model.velocity(point.t, x, choice.features, point.coefficients)
    velocity = velocity if choice.guide is None else choice.guide(point, x, velocity)
    return to_parts("velocity", velocity, point.coefficients, x).data.clamp(-1.0, 1.0)


@kept
def _beginning(path: Path, prediction: Prediction, dtype: th.dtype, device: th.device) -> TimePoint:
    t = th.linspace(0.0, 1.0, 2001, dtype=th.float64)[:, None]
    worst = error_scale(prediction, "data", path(t))[:, 0]
    first = t[(worst <= _WORST).nonzero()[0]].to(device, dtype)
    return TimePoint(first, path(first))


def densest(choice: Choice) -> th.Tensor:
    """
    The draw of the largest log-probability, which is exact: that of the steps taken, or, for a solver that has none
    (``dpm++``, ``dopri5``, ``sde``), that of the flow by 16 steps of rk4, which the draws come from then.
    """
    n, model = choice.n_draws, choice.actor.model
    features = choice.features.repeat_interleave(n, dim=0)
    noise = fixed_noise(n, choice.actor.action_dim).to(features).repeat(choice.features.shape[0], 1)
    likelihood = Likelihood("discrete") if choice.sampler.solver in TABLEAUS else Likelihood()
    draws, log_prob = model.sample_with_log_prob(features, noise, likelihood, choice.sampler)
    return _taken(draws.clamp(-1.0, 1.0).unflatten(0, (-1, n)), log_prob.unflatten(0, (-1, n)).argmax(dim=1))


def mode_mean(choice: Choice) -> th.Tensor:
    """The mean of the half of the draws nearest to their medoid, which is one of the mode that has most of them."""
    draws = choice.draws()
    distances = _distances_from(draws, _medoid(draws))
    nearest = distances.topk((choice.n_draws + 1) // 2, dim=1, largest=False).indices
    return draws.gather(1, nearest[:, :, None].expand(-1, -1, draws.shape[2])).mean(dim=1)


def best_q(choice: Choice) -> th.Tensor:
    """The draw of the largest Q."""
    return choose_candidates(choice.critic, choice.observations, choice.draws())


def weighted_mean(choice: Choice) -> th.Tensor:
    """
    The mean of the draws, each weighted by the exponential of its Q in units of what Q spreads in a state: that of the policy
    tilted by Q, at half a nat from the policy where both are normal; less where the critics do not agree on the order of
    actions.
    """
    draws = choice.draws()
    return (choice.weights(draws)[:, :, None] * draws).sum(dim=1)


def auto(choice: Choice) -> th.Tensor:
    """
    The weighted mean of the draws where they are of one mode. Where they are of two, that of the mode with the larger sum of
    weights: of more draws, unless the critics want the other.
    """
    draws = choice.draws()
    weights = choice.weights(draws)
    halves = two_halves(draws)
    preferred = (weights[:, :, None] * halves.members).sum(dim=1).argmax(dim=1)
    of_mode = weights * halves.members.gather(2, preferred[:, None, None].expand(-1, choice.n_draws, 1))[:, :, 0]
    weights = th.where(halves.are_modes()[:, None], of_mode, weights)
    return (weights[:, :, None] * draws).sum(dim=1) / weights.sum(dim=1, keepdim=True)


#: By name
DETERMINISTIC_ACTIONS: dict[str, Callable[[Choice], th.Tensor]] = {
    "zero_noise": zero_noise,
    "mean": mean,
    "one_step_mean": one_step_mean,
    "densest": densest,
    "mode_mean": mode_mean,
    "weighted_mean": weighted_mean,
    "best_q": best_q,
    "auto": auto,
}


#: Those that weigh draws by Q
WEIGHTED = ("weighted_mean", "auto")


class Halves(NamedTuple):
    """
    Draws in two.

    :param members: 1 for the half that a draw is in, else 0, (batch_size, n_draws, 2)
    :param means: of either half, (batch_size, 2, action_dim)
    :param shares: of all draws, (batch_size, 2)
    :param spread: root mean square of the distances of draws from the mean of their half, along the line between the means,
        (batch_size,)
    """

    members: th.Tensor
    means: th.Tensor
    shares: th.Tensor
    spread: th.Tensor

    def apart(self) -> th.Tensor:
        """
        :return: how far apart the means are, in units of the spread, (batch_size,); 0 where all draws are one
        """
        distance = (self.means[:, 1] - self.means[:, 0]).square().sum(dim=1).sqrt()
        return distance / self.spread.clamp(min=1e-6)

    def are_modes(self) -> th.Tensor:
        """
        :return: whether the halves are two modes, not one and no outliers, (batch_size,)
        """
        return (self.apart() > _APART) & (self.shares.amin(dim=1) >= _SHARE)


def two_halves(draws: th.Tensor, iterations: int = 2) -> Halves:
    """
    Lloyd's algorithm with two means, which begin at the medoid and at the draw farthest from it: if there are two modes, the
    medoid is in one and that draw in the other.

    :param draws: (batch_size, n_draws, action_dim)
    :param iterations: of assigning and averaging
    :return: the halves
    """
    first = _medoid(draws)
    means = th.stack([first, _taken(draws, _distances_from(draws, first).argmax(dim=1))], dim=1)
    for _ in range(iterations):
        distances = (draws[:, :, None] - means[:, None]).square().sum(dim=3)
        in_second = (distances[:, :, 1] < distances[:, :, 0]).to(draws.dtype)
        members = th.stack([1.0 - in_second, in_second], dim=1)
        # Where all draws are one, nobody is in the second
        means = (members @ draws) / members.sum(dim=2, keepdim=True).clamp(min=1.0)
        means = th.where(members.sum(dim=2, keepdim=True) > 0.0, means, means[:, :1])
    line = th.nn.functional.normalize(means[:, 1] - means[:, 0], dim=1)
    along = ((draws - members.transpose(1, 2) @ means) @ line[:, :, None])[:, :, 0]
    return Halves(members.transpose(1, 2), means, members.mean(dim=2), along.square().mean(dim=1).sqrt())


def _medoid(draws: th.Tensor) -> th.Tensor:
    """The draw with the least sum of distances from the others, (batch_size, action_dim)."""
    return _taken(draws, _distances_from(draws[:, None], draws[:, :, None]).sum(dim=2).argmin(dim=1))


def _distances_from(draws: th.Tensor, point: th.Tensor) -> th.Tensor:
    """(..., n_draws), of draws (..., n_draws, action_dim) from a point (..., action_dim), or from one for each."""
    point = point[:, None] if point.dim() < draws.dim() else point
    return (draws - point).square().sum(dim=-1).sqrt()


def _taken(draws: th.Tensor, index: th.Tensor) -> th.Tensor:
    """Of draws (batch_size, n, action_dim) the one with the index, (batch_size,)."""
    return draws.gather(1, index[:, None, None].expand(-1, 1, draws.shape[2]))[:, 0]
