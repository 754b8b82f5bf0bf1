"""
Which critic: what its targets are, over how many steps, by which networks, and how their values become one. Small objects,
given as ``critic=`` to every algorithm and saved with the model.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from sb3_genpolicy.common.policies.critics.base_options import Aggregation, CriticOptions
from sb3_genpolicy.generative.checks import check_choice, check_flag, check_number, shown, with_named_options


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
                f"{type(self).__name__}: Q is of actions that a policy goes on with, and distilled_from={self.distilled_from} "
                "values those that were logged: leave it out (IQLCritic and OneStepCritic have it)."
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
