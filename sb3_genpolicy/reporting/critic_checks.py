"""
Whether a model's critics can be believed, by logged rows.
"""

from dataclasses import dataclass

import numpy as np
import torch as th
from matplotlib.figure import Figure

from sb3_genpolicy.common.algorithms.value_watch import room_for
from sb3_genpolicy.common.datasets.picture import panel
from sb3_genpolicy.common.transitions.returns import returns_to_go
from sb3_genpolicy.common.transitions.rewards import transform_rewards
from sb3_genpolicy.reporting.densities import LOGGED, POLICY
from sb3_genpolicy.reporting.looked_at import LookedAt

# As an evaluation without a simulator has it
_DISAGREEMENT = 3.0


@dataclass(frozen=True, eq=False)
class CriticChecks:
    """
    What critics say of the rows that are looked at, in the units of transformed rewards.

    :param q_logged: Q of logged actions, (n,)
    :param q_acted: Q of the policy's, (n,)
    :param values: V, (n,)
    :param followed: discounted return that followed, with V of what a cut-off episode ended with, (n,)
    :param allowed: least and largest value that rewards and discount allow; None without a discount
    :param disagreement: how many times as much networks disagree about the policy's actions as about the logged ones; None of
        a single network
    :param gamma: their discount factor
    :param are_held_out: whether these rows trained nothing
    """

    q_logged: np.ndarray
    q_acted: np.ndarray
    values: np.ndarray
    followed: np.ndarray
    allowed: tuple[float, float] | None
    disagreement: float | None
    gamma: float
    are_held_out: bool

    @property
    def value_correlation(self) -> float:
        """Of V and the return that followed; 0 where one does not vary."""
        return _correlation(self.values, self.followed)

    @property
    def advantage_correlation(self) -> float:
        """Of Q - V of the logged action and what followed beyond V: small even for perfect critics, 0 for idle ones."""
        return _correlation(self.q_logged - self.values, self.followed - self.values)

    @property
    def promised(self) -> float:
        """Mean of Q of the policy's actions above Q of the logged ones, in standard deviations of the latter."""
        return float((self.q_acted - self.q_logged).mean() / max(float(self.q_logged.std()), 1e-12))

    @property
    def is_beyond(self) -> bool:
        """Whether a value is far beyond those that are possible, by the rule that a training warns by."""
        if self.allowed is None:
            return False
        low, high = self.allowed
        everything = np.concatenate([self.q_logged, self.q_acted, self.values])
        room = room_for(low, high)
        return bool(everything.min() < low - room or everything.max() > high + room)

    def lines(self) -> dict[str, str]:
        """
        :return: what was checked -> what was found, in words
        """
        rows = "held-out rows" if self.are_held_out else "rows that were learnt from, which flatter"
        low, high = min(self.q_logged.min(), self.q_acted.min()), max(self.q_logged.max(), self.q_acted.max())
        allowed = "the discount is 1: any value is possible"
        if self.allowed is not None:
            verdict = "BEYOND what is possible: critics have diverged" if self.is_beyond else "within what is possible"
            allowed = f"{verdict}: rewards and discount allow {self.allowed[0]:.4g} to {self.allowed[1]:.4g}"
        foretold = f"{self.advantage_correlation:.3f}, over {len(self.values):,} {rows}"
        if self.advantage_correlation <= 0.0:
            foretold += ": NOT above 0. The advantage foretells nothing of what followed, and leads a policy nowhere"
        lines = {
            "values": f"Q from {low:.4g} to {high:.4g}, {allowed} (discount {self.gamma:.4g})",
            "V and what followed": f"correlation {self.value_correlation:.3f}, over {len(self.values):,} {rows}",
            "advantage and what followed": f"correlation {foretold}",
            "what they promise": f"the policy's actions are worth {self.promised:+.3g} standard deviations of Q more than the "
            f"logged ones, and more than these in {(self.q_acted > self.q_logged).mean():.0%} of the states",
        }
        if self.disagreement is not None:
            lines["disagreement of networks"] = (
                f"about the policy's actions {self.disagreement:.2f} times that about logged ones"
            )
            if self.disagreement > _DISAGREEMENT:
                lines["disagreement of networks"] += f", MORE than {_DISAGREEMENT:g}: the policy goes where they know little"
        return lines

    def figures(self) -> list[tuple[str, Figure]]:
        """
        :return: caption and figure of values against what followed, and of advantages
        """
        drawn = []
        figure, axis = panel()
        axis.plot(self.values, self.followed, ".", color=POLICY, markersize=3, alpha=0.5)
        ends = [min(self.values.min(), self.followed.min()), max(self.values.max(), self.followed.max())]
        axis.plot(ends, ends, "--", color="black", linewidth=0.8)
        axis.set(xlabel="V", ylabel="discounted return that followed")
        drawn.append(
            ("V of each row, and the return that followed: a critic that is right is on the line in the mean", figure)
        )
        figure, axis = panel()
        named = {"logged": self.q_logged - self.values, "policy": self.q_acted - self.values}
        both = np.concatenate(list(named.values()))
        low, high = np.quantile(both, [0.005, 0.995])
        bins = np.linspace(low, high if high > low else low + 1.0, 50)
        for (name, values), color in zip(named.items(), (LOGGED, POLICY), strict=True):
            axis.hist(values, list(bins), color=color, alpha=0.6, label=name)
        axis.set(xlabel="Q - V", ylabel="states")
        axis.legend(frameon=False, fontsize=8)
        drawn.append(("advantages that the critics see in logged actions and in the policy's", figure))
        return drawn


def check_critics(looked: LookedAt) -> CriticChecks | str:
    """
    :param looked: the model and its data
    :return: what its critics say; or why there is nothing to check, in a sentence
    """
    model, data = looked.model, looked.data
    if not model.policy.has_critics:
        return f"{type(model).__name__} was trained without critics: it follows the data alone."
    if model.reward_function is None:
        return "The critics have learnt nothing yet: learn() first."
    model.policy.set_training_mode(False)
    transformed = th.as_tensor(transform_rewards(model.reward_function, data.rewards))
    rewards = model.replay_buffer.normalized_rewards(model.get_vec_normalize_env(), transformed).cpu().numpy()
    gamma = float(model.critic_gamma)
    to_go = returns_to_go(data, rewards, gamma)
    rows = looked.rows
    last = looked.as_tensors(looked.states(np.asarray(data.next_rows)[to_go.last_rows[rows]]))
    with th.no_grad():
        value_net, critic = model.policy.value_net, model.policy.critic_target
        values, last_values = (_array(value_net(each)) for each in (looked.tensors, last))
        pairs = [(looked.tensors, looked.scaled(actions)) for actions in (looked.logged, looked.acted.astype(np.float64))]
        q_logged, q_acted = (_array(critic.q_values(*pair)) for pair in pairs)
        apart = [_disagreement(critic.values(*pair)[..., 0]) for pair in pairs]
    allowed = None
    if gamma < 1.0:
        bounds = rewards.min() / (1.0 - gamma), rewards.max() / (1.0 - gamma)
        allowed = min(float(bounds[0]), 0.0), max(float(bounds[1]), 0.0)
    return CriticChecks(
        q_logged=q_logged,
        q_acted=q_acted,
        values=values,
        followed=to_go.rewards[rows] + to_go.discounts[rows] * last_values,
        allowed=allowed,
        disagreement=apart[1] / max(apart[0], 1e-12) if model.policy.n_critics > 1 else None,
        gamma=gamma,
        are_held_out=looked.are_held_out,
    )


def _disagreement(values: th.Tensor) -> float:
    """Of networks about rows, (n_critics, n), apart from what they disagree on in all states alike."""
    centred = values - values.mean(dim=1, keepdim=True)
    return float(centred.std(dim=0, correction=0).mean())


def _array(values: th.Tensor) -> np.ndarray:
    return values[:, 0].double().cpu().numpy()


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    if one.std() == 0.0 or other.std() == 0.0:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])
