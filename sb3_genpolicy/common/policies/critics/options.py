"""
Which critic: what its targets are, over how many steps, by which networks, and how their values become one. Small objects,
given as ``critic=`` to every algorithm and saved with the model.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

from sb3_genpolicy.generative.checks import check_choice, check_flag, check_number, shown, with_named_options

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


@with_named_options
@dataclass(frozen=True, repr=False)
class IQLCritic(CriticOptions):
    """
    Implicit Q-learning (arXiv 2110.06169), by default as published and as release 0.1 had it: V is an upper expectile of Q
    over the dataset's actions, and Q is trained towards ``r + gamma V(s')``. No action outside the dataset is ever valued.

    :param expectile: expectile of V, in (0, 1) (paper: 0.7 for locomotion, 0.9 for AntMaze)
    """

    expectile: float = 0.7
    aggregation: Aggregation = "minimum"
    layer_norm: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("IQLCritic: expectile", self.expectile, low=0.0, high=1.0, low_open=True, high_open=True)

    @property
    def value_expectile(self) -> float:
        return self.expectile


@with_named_options
@dataclass(frozen=True, repr=False)
class OneStepCritic(CriticOptions):
    """
    Q of the behaviour policy, as SARSA learns it (one step of policy improvement follows: arXiv 2106.08909). V is trained
    towards the return, and Q is V plus an advantage, which the Q networks learn as what the return is above V. So none of
    their capacity and of their noise goes into what all actions of a state have in common, by far the most of Q.

    With ``distilled_from`` it is the behaviour policy's up to what is logged after the actions that Q values: of that, better
    continuations count more, and V is the mean of Q over the dataset's actions.

    Returns are long by default, of twenty steps in the mean, since a fall comes late. Most of them is noise, which networks
    learn by heart if they see it often: after ten passes over the rows they stay as they are (docs/guide/critics.md).

    :param advantage: whether Q is V plus an advantage. Without, the Q networks learn all of Q, and V is the mean of Q over the
        dataset's actions; both have the same fixed point.
    """

    relative_actions: bool = True
    advantage: bool = True
    passes: float | None = 10.0
    default_lambda: ClassVar[float] = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag("OneStepCritic: advantage", self.advantage)

    @property
    def learns_advantage(self) -> bool:
        return self.advantage

    @property
    def value_expectile(self) -> float:
        return 0.5


@with_named_options
@dataclass(frozen=True, repr=False)
class PolicyCritic(CriticOptions):
    """
    Q of the policy itself: ``r + gamma Q(s', a')`` with ``a'`` sampled from the policy (as in TD3 and SAC). While a behaviour
    model is cloned, that is the policy; afterwards the critics are trained as long as the policy is. V, a baseline alone, is
    the mean of Q over the dataset's actions.

    :param penalty: ReBRAC's (arXiv 2305.09836): ``penalty |a' - a'_logged|^2`` is subtracted from ``Q(s', a')``, with actions
        scaled to [-1, 1], >= 0 (paper: 0.001 to 0.1 of normalised rewards). Where no next action was logged, nothing is.
    :param density_penalty: FAC's (arXiv 2602.18015): ``density_penalty w Q(s, a)`` with ``a`` from the policy is added to the
        loss of Q, ``w = clip(1 - mu(a|s) / mu(a_logged|s), 0, 1)`` by exact densities of the behaviour model mu, >= 0. Needs
        an algorithm with a behaviour model; while that is cloned, the penalty rests.
    :raises ValueError: for ``passes`` and ``distilled_from``, for quantiles without ``aggregation="mean"``, and numbers out of
        range
    """

    penalty: float = 0.0
    density_penalty: float = 0.0
    follows_policy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("PolicyCritic: penalty", self.penalty, low=0.0)
        if self.distilled_from is not None:
            raise ValueError(
                f"PolicyCritic: Q is of actions that the policy goes on with, and distilled_from={self.distilled_from} values "
                "those that were logged: leave it out, or take IQLCritic or OneStepCritic."
            )
        if self.passes is not None:
            raise ValueError("PolicyCritic: Q of the policy's own actions is learnt as long as it is: leave passes out.")
        check_number("PolicyCritic: density_penalty", self.density_penalty, low=0.0)
        if self.n_quantiles is not None and self.aggregation != "mean":
            raise ValueError(
                f"PolicyCritic: the quantiles of all networks are pooled in its targets, of which aggregation="
                f"'{self.aggregation}' says nothing: give aggregation='mean', and dropped_quantiles for pessimism."
            )

    @property
    def value_expectile(self) -> float:
        return 0.5


class NoCritic(CriticOptions):
    """
    No critics at all, of algorithms that ask nobody what actions are worth (:attr:`OfflineAlgorithm.needs_critics`). It has no
    options.
    """

    n_critics: int = 0

    def __init__(self) -> None:
        # Other options are as everywhere by default, and mean nothing
        pass

    def __repr__(self) -> str:
        return "NoCritic()"

    @property
    def value_expectile(self) -> float:
        return 0.5


#: What ``critic=`` may be called
CRITICS: dict[str, type[CriticOptions]] = {"iql": IQLCritic, "onestep": OneStepCritic, "policy": PolicyCritic}
#: What an algorithm takes where nothing is said; chosen by measurement (docs/guide/critics.md)
DEFAULT_CRITIC: CriticOptions = OneStepCritic()


def make_critic(critic: str | CriticOptions) -> CriticOptions:
    """
    :param critic: a name or an object
    :return: the object
    :raises ValueError: if there is no such critic, with the nearest one
    """
    if isinstance(critic, CriticOptions):
        return critic
    if isinstance(critic, type) and issubclass(critic, CriticOptions):
        raise ValueError(f"critic={critic.__name__} is a class: give an object of it, as {critic.__name__}(n_critics=4).")
    if not isinstance(critic, str):
        names = ", ".join(map(repr, CRITICS))
        raise ValueError(f"critic must be one of {names}, or an object as OneStepCritic(n_critics=4), not {shown(critic)}.")
    check_choice("critic", critic, CRITICS)
    return CRITICS[critic]()


def with_critic(policy_kwargs: dict[str, Any], critic: str | CriticOptions | None) -> dict[str, Any]:
    """
    :param policy_kwargs: options of a policy
    :param critic: of an algorithm; None where it was not given
    :return: the policy's options with its critic, of as many networks as they say
    :raises ValueError: if there is no such critic, or the policy's options have another
    """
    given = policy_kwargs.get("critic")
    if critic is not None and given is not None and make_critic(critic) != make_critic(given):
        raise ValueError(
            f"critic={shown(critic)} is given beside policy_kwargs=dict(critic={shown(given)}): leave the latter out."
        )
    chosen = given if critic is None else critic
    made = DEFAULT_CRITIC if chosen is None else make_critic(chosen)
    return {**policy_kwargs, "critic": resized(made, policy_kwargs.get("n_critics"))}


def with_expectile(critic: str | CriticOptions | None, expectile: float | None) -> str | CriticOptions | None:
    """
    :param critic: a name, an object, or None for the default
    :param expectile: short for ``critic=IQLCritic(expectile=...)``; None where it was not given
    :return: the critic with this expectile
    :raises ValueError: if the critic has none, or one of its own
    """
    if expectile is None:
        return critic
    check_number("expectile", expectile, low=0.0, high=1.0, low_open=True, high_open=True)
    made = IQLCritic() if critic is None else make_critic(critic)
    if not isinstance(made, IQLCritic):
        raise ValueError(
            f"expectile={expectile} is the critic 'iql''s, but critic={shown(critic)} is given: leave one of them out."
        )
    if made is critic:
        raise ValueError(f"expectile={expectile} is given beside {critic}: say it there, IQLCritic(expectile={expectile}).")
    return replace(made, expectile=float(expectile))


def resized(critic: CriticOptions, n_critics: int | None) -> CriticOptions:
    """
    :param critic: a critic
    :param n_critics: number of Q networks that the policy's own option asks for; None where it was not given
    :return: the critic with so many
    :raises ValueError: if it is no whole number >= 1
    """
    if n_critics is None:
        return critic
    check_number("n_critics", n_critics, low=1, whole=True)
    if isinstance(critic, NoCritic):
        raise ValueError(f"n_critics={n_critics} is given, but there are no critics here: leave it out.")
    return replace(critic, n_critics=int(n_critics))


def _with_networks_of(saved: CriticOptions, critic: CriticOptions) -> CriticOptions:
    """A critic with another one's networks."""
    critic = replace(critic, **{name: getattr(saved, name) for name in saved.of_networks})
    return replace(critic, advantage=saved.learns_advantage) if isinstance(critic, OneStepCritic) else critic


def _check_networks(saved: CriticOptions, given: CriticOptions) -> None:
    theirs = saved.networks()
    others = [name for name, value in given.networks().items() if value != theirs[name]]
    if others:
        listed = " and ".join([", ".join(others[:-1]), others[-1]] if len(others) > 1 else others)
        raise ValueError(
            f"The critic of a trained model keeps its networks, and {listed} of {given} would change them: it " f"is {saved}."
        )


def changed_critic(saved: CriticOptions, given: str | CriticOptions | None, expectile: float | None = None) -> CriticOptions:
    """
    :param saved: the critic of a model that was trained
    :param given: what it is to be from now on: a name, which keeps the networks, or an object; None keeps all
    :param expectile: of the critic ``iql``, from now on; None where it was not given
    :return: the critic from now on
    :raises ValueError: if it has other networks
    """
    if given is None or isinstance(given, str):
        named = saved if given is None else _with_networks_of(saved, make_critic(given))
        _check_networks(saved, named)
        if expectile is None:
            return named
        if isinstance(named, IQLCritic):
            return replace(named, expectile=expectile)
        with_expectile(given, expectile)
        raise ValueError(f"expectile={expectile} is the critic 'iql''s, but this model has {named}: give critic='iql' too.")
    with_expectile(given, expectile)
    _check_networks(saved, make_critic(given))
    return given
