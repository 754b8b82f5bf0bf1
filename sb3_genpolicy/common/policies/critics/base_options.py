"""
What all critics have in common, and how it is checked.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from sb3_genpolicy.generative.checks import check_choice, check_flag, check_number, shown

Aggregation = Literal["minimum", "mean", "lower_bound"]
AGGREGATIONS: tuple[Aggregation, ...] = ("minimum", "mean", "lower_bound")


@dataclass(frozen=True, repr=False)
class CriticOptions(ABC):
    """
    What all critics have in common: K networks for Q, one for V, and returns of some steps.

    :param n_critics: number K of Q networks, >= 1; one batched product computes a layer of all of them
    :param aggregation: how their K values become one: ``minimum``, ``mean``, or ``lower_bound``, the mean minus ``rho``
        standard deviations over the networks. The minimum is the usual pessimism; it ranks actions no better than the
        mean (docs/guide/critics.md).
    :param rho: standard deviations below the mean of ``lower_bound``, >= 0 (QAM, arXiv 2601.14234: 0.5 with ten networks)
    :param layer_norm: whether every hidden activation of Q and V is normalised over its entries
    :param dropout: share of the hidden activations of Q and V that is left out in each update, at random, in [0, 1). Long
        lambda-returns are mostly noise, which networks without it learn by heart (docs/guide/critics.md).
    :param relative_actions: whether the Q networks are given how far an action is from the mean of the logged ones in its
        state, in standard deviations, instead of the action, see
        :class:`~sb3_genpolicy.common.policies.critics.usual_action.UsualAction`; that mean is learnt beside Q. An agent's
        noise is often a small part of what its actions differ by between states, and learnt slowly where actions are given
        as they are.
    :param net_arch: widths of the hidden layers of Q and V. Default: those of ``policy_kwargs`` (``net_arch``).
    :param gamma: discount factor of Q and V, in [0, 1]. What lies far ahead is mostly noise: a smaller one than that of the
        returns one is interested in often ranks actions better by these. ``auto``: such that critics look ten steps ahead
        where rewards are dense, and further where few steps are rewarded, see
        :func:`~sb3_genpolicy.common.transitions.returns.horizon_of`, at most as far as the algorithm's. None: the algorithm's.
    :param n_steps: steps whose rewards are summed before a value of the critics counts, >= 1. News of a reward travels faster
        with more, and what the critics do not know yet counts for less, at the price of the returns' noise.
    :param return_lambda: lambda of lambda-returns in place of a fixed number of steps, in [0, 1]: whenever a row is drawn, its
        return goes on from step to step with this probability, until the episode ends, so that its mean is the lambda-return.
        0: ``n_steps``; 1: whole returns (Monte Carlo). Rows that are collected online have one step. Default: the class's,
        unless ``n_steps`` or ``NStepReturns`` is given.
    :param n_quantiles: quantiles that each Q network gives, >= 2, of what Q is trained towards (with critics of the policy's
        own actions, of the return); Q is their mean. Default: the mean alone.
    :param dropped_quantiles: largest quantiles that are left out, for each network, of all of them pooled, before their mean
        is taken (TQC, arXiv 2005.04269: 2 of 25), >= 0
    :param passes: how often, in the mean, each row of the dataset is learnt from, > 0. Over so many passes, and not less than
        8,000 updates, the learning rate of Q and V falls linearly to 0; then they stay as they are, and the policy goes on.
        Online they learn at the whole rate. None: they learn as long as the policy does.
    :param chunk_length: how many actions of a plan Q values together, from 1 to the policy's ``chunk_length``, where it
        plans several; returns have at least so many steps. More than are executed (decoupled lengths) let values travel
        further in one step, of plans that were logged as valued. Default: those that are executed.
    :param distilled_from: actions h, more than those, of a second critic of whole logged windows, whose returns have at least
        h steps. Q is distilled from it (decoupled Q-chunking, arXiv 2512.10926): an expectile of the windows' values over what
        was logged after the actions that Q values. So values travel h steps at a time, while the policy may plan and execute
        fewer actions, or one. Within an episode's last h steps its last action is repeated. Default: there is no second
        critic, and Q learns from returns itself.
    :param continuation_expectile: that expectile, in (0, 1): towards 1 the best logged continuation counts, 0.5 is their mean.
        Chance in rewards is averaged, but chance that the logged agent reacted to passes for its choice, the more so the
        larger this is.
    :raises ValueError: for a value out of range, and for options that do not go together
    """

    n_critics: int = 2
    aggregation: Aggregation = "mean"
    rho: float = 0.5
    layer_norm: bool = True
    dropout: float = 0.0
    relative_actions: bool = False
    net_arch: tuple[int, ...] | None = None
    gamma: float | Literal["auto"] | None = None
    n_steps: int = 1
    return_lambda: float | None = None
    n_quantiles: int | None = None
    dropped_quantiles: int = 0
    passes: float | None = None
    chunk_length: int | None = None
    distilled_from: int | None = None
    continuation_expectile: float = 0.7

    #: Whether targets are values of actions that the policy takes, so that the critics are trained as long as the policy is
    follows_policy: ClassVar[bool] = False
    #: ``return_lambda`` where neither that nor ``n_steps`` is given
    default_lambda: ClassVar[float] = 0.0
    #: Fields that say which networks there are; the others can be changed in a model that is loaded
    of_networks: ClassVar[tuple[str, ...]] = (
        "n_critics",
        "layer_norm",
        "dropout",
        "relative_actions",
        "net_arch",
        "n_quantiles",
        "chunk_length",
        "distilled_from",
    )

    def __post_init__(self) -> None:
        name = type(self).__name__
        check_number(f"{name}: n_critics", self.n_critics, low=1, whole=True)
        check_choice(f"{name}: aggregation", self.aggregation, AGGREGATIONS)
        check_number(f"{name}: rho", self.rho, low=0.0)
        check_flag(f"{name}: layer_norm", self.layer_norm)
        check_number(f"{name}: dropout", self.dropout, low=0.0, high=1.0, high_open=True)
        check_flag(f"{name}: relative_actions", self.relative_actions)
        if isinstance(self.gamma, str):
            check_choice(f"{name}: gamma", self.gamma, ("auto",))
        elif self.gamma is not None:
            check_number(f"{name}: gamma", self.gamma, low=0.0, high=1.0)
        check_number(f"{name}: n_steps", self.n_steps, low=1, whole=True)
        if self.return_lambda is not None:
            check_number(f"{name}: return_lambda", self.return_lambda, low=0.0, high=1.0)
        if self.return_lambda and self.n_steps > 1:
            raise ValueError(
                f"{name}: return_lambda={self.return_lambda} takes the place of n_steps={self.n_steps}: leave one of them out."
            )
        check_number(f"{name}: dropped_quantiles", self.dropped_quantiles, low=0, whole=True)
        if self.passes is not None:
            check_number(f"{name}: passes", self.passes, low=0.0, low_open=True)
        if self.chunk_length is not None:
            check_number(f"{name}: chunk_length", self.chunk_length, low=1, whole=True)
        self._check_widths(name)
        self._check_quantiles(name)
        self._check_distillation(name)
        if self.aggregation == "lower_bound" and self.n_critics == 1:
            raise ValueError(f"{name}: aggregation='lower_bound' is of how networks differ: n_critics must be 2 or more.")

    def _check_widths(self, name: str) -> None:
        if self.net_arch is None:
            return
        if not isinstance(self.net_arch, (tuple, list)):
            raise ValueError(f"{name}: net_arch must be widths, as (256, 256), not {shown(self.net_arch)}.")
        for width in self.net_arch:
            check_number(f"{name}: each width in net_arch", width, low=1, whole=True)
        object.__setattr__(self, "net_arch", tuple(int(width) for width in self.net_arch))

    def _check_quantiles(self, name: str) -> None:
        if self.n_quantiles is None:
            if self.dropped_quantiles:
                raise ValueError(f"{name}: dropped_quantiles are left out of n_quantiles: give both, as n_quantiles=25.")
            return
        check_number(f"{name}: n_quantiles", self.n_quantiles, low=2, whole=True)
        if self.dropped_quantiles >= self.n_quantiles:
            raise ValueError(
                f"{name}: dropped_quantiles={self.dropped_quantiles} leaves none of {self.n_quantiles} quantiles: drop fewer."
            )
        if self.dropped_quantiles and self.aggregation != "mean":
            raise ValueError(
                f"{name}: dropped_quantiles takes the place of aggregation='{self.aggregation}': give aggregation='mean'."
            )

    def _check_distillation(self, name: str) -> None:
        expectile = self.continuation_expectile
        check_number(f"{name}: continuation_expectile", expectile, low=0.0, high=1.0, low_open=True, high_open=True)
        if self.distilled_from is None:
            if expectile != CriticOptions.continuation_expectile:
                raise ValueError(
                    f"{name}: continuation_expectile={expectile} is over what follows in windows of distilled_from logged "
                    "actions: give both, as distilled_from=8."
                )
            return
        check_number(f"{name}: distilled_from", self.distilled_from, low=2, whole=True)
        if self.n_quantiles is not None:
            raise ValueError(
                f"{name}: an expectile of values is distilled from {self.distilled_from} actions, of which "
                f"n_quantiles={self.n_quantiles} says nothing: leave one of them out."
            )
        if self.chunk_length is not None and self.distilled_from <= self.chunk_length:
            raise ValueError(_too_short(self.distilled_from, self.chunk_length))

    def check_valued(self, valued_length: int) -> None:
        """
        :param valued_length: actions of a policy's plans that Q values
        :raises ValueError: if Q is to be distilled from no more than these
        """
        if self.distilled_from is not None and self.distilled_from <= valued_length:
            raise ValueError(_too_short(self.distilled_from, valued_length))

    def __repr__(self) -> str:
        # As one would write it
        given = [(each.name, getattr(self, each.name)) for each in fields(self) if getattr(self, each.name) != each.default]
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in given)})"

    @property
    @abstractmethod
    def value_expectile(self) -> float:
        """Expectile of Q over the dataset's actions that V is trained to be; 0.5 is the mean."""

    @property
    def learns_advantage(self) -> bool:
        """Whether Q is V plus what the Q networks give."""
        return False

    @property
    def trace(self) -> float:
        """Lambda of the returns, 0 for a fixed number of steps."""
        if self.return_lambda is None:
            return self.default_lambda if self.n_steps == 1 else 0.0
        return self.return_lambda

    def networks(self) -> dict[str, Any]:
        """
        :return: options that say which networks there are
        """
        return {**{name: getattr(self, name) for name in self.of_networks}, "advantage": self.learns_advantage}


def _too_short(distilled_from: int, valued_length: int) -> str:
    return (
        f"distilled_from={distilled_from} is not more than the {valued_length} actions of a plan that the critic values "
        "(its chunk_length, else those that the policy executes): give more, or leave it out."
    )
