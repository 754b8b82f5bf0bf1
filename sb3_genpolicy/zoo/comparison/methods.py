"""
Who is compared, and who of them can share a behaviour model and critics: the algorithms' classes are asked, no list of names.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stable_baselines3.common.policies import BasePolicy

from sb3_genpolicy import GMPO
from sb3_genpolicy.common.algorithms.offline_algorithm import OfflineAlgorithm
from sb3_genpolicy.common.algorithms.pretrained import takes_pretrained
from sb3_genpolicy.common.algorithms.pretraining import PretrainingAlgorithm
from sb3_genpolicy.common.algorithms.registry import RegisteredAlgorithm, registered
from sb3_genpolicy.common.policies.critics import CriticOptions
from sb3_genpolicy.common.policies.critics.options import DEFAULT_CRITIC, make_critic, with_expectile
from sb3_genpolicy.common.policies.generative_policy import GenerativePolicy
from sb3_genpolicy.common.updates.temperature import episode_kl_of, temperature_of
from sb3_genpolicy.generative.checks import check_choice, did_you_mean, options_of, with_named_options
from sb3_genpolicy.zoo.settings import with_objects

# Options that behaviour model and critics are trained with
_OF_PRETRAINING = (
    "learning_rate",
    "tau",
    "gamma",
    "actor_tau",
    "expectile",
    "critic",
    "reward_transform",
    "transforms",
    "precision",
    "policy_kwargs",
)
# What a comparison says itself, the same for all
_OF_THE_COMPARISON = frozenset(
    "self env dataset seed device batch_size pretrained verbose tensorboard_log stats_window_size".split()
)


@with_named_options
@dataclass(frozen=True)
class Method:
    """
    An algorithm with settings.

    :param algo: its name, as it was registered
    :param options: options of its constructor that are not to be their defaults, ``policy`` among them; objects may also be
        written as in files of hyper-parameters
    :param label: what tables call it. Default: the name of its class.
    """

    algo: str
    options: Mapping[str, Any] = field(default_factory=dict)
    label: str | None = None


@dataclass(frozen=True)
class Pretraining:
    """
    A behaviour model and critics, trained once for each dataset and seed: GMPO with beta 0, which clones.

    :param label: what tables call it
    :param policy: class of the policy that they are part of
    :param options: options that they are trained with
    """

    label: str
    policy: type[BasePolicy]
    options: Mapping[str, Any]

    def described(self) -> dict[str, Any]:
        """
        :return: what decides whether two methods can share it, as plain texts and numbers
        """
        options = {**self.options, "critic": repr(_critic_of(self.options)), "expectile": None}
        return {"policy": f"{self.policy.__module__}.{self.policy.__name__}", **in_words(options)}


@dataclass(frozen=True)
class Contender:
    """
    A method as it is trained.

    :param label: what tables call it
    :param entry: its algorithm
    :param policy: class of its policy
    :param options: options of its constructor beyond those that are the same for all
    :param pretraining: what it starts from, None where it trains all its own
    :param reason: why it trains all its own, as a part of a sentence
    """

    label: str
    entry: RegisteredAlgorithm
    policy: type[BasePolicy]
    options: Mapping[str, Any]
    pretraining: Pretraining | None
    reason: str

    def described(self) -> dict[str, Any]:
        """
        :return: its settings, as plain texts and numbers
        """
        return {"algo": self.entry.name, "policy": self.policy.__name__, **in_words(self.options)}

    def defaults(self) -> dict[str, Any]:
        """
        :return: the options that are its algorithm's defaults, as plain texts and numbers
        """
        names = _names_of(self.entry.algorithm) - self.options.keys() - {"policy"}
        return {name: in_words(_default_of(self.entry.algorithm, name)) for name in sorted(names)}


def line_up(methods: Sequence[str | Method], options: Mapping[str, Any] | None = None) -> list[Contender]:
    """
    :param methods: names of algorithms, or algorithms with settings
    :param options: options of all of them, over which a method's own prevail
    :return: how each is trained; those that can share a pretraining have the same one
    :raises ValueError: if there is no such algorithm or option, or two have the same label
    """
    if not methods:
        raise ValueError(f"There is nothing to compare: name algorithms, of {', '.join(sorted(registered()))}.")
    made: list[Contender] = []
    for method in methods:
        method = Method(method) if isinstance(method, str) else method
        made.append(_contender(method, options or {}, made))
    labels = [contender.label for contender in made]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise ValueError(f"Two methods are called '{twice}': give one of them a label of its own, Method(..., label=...).")
    return made


def _contender(method: Method, common: Mapping[str, Any], others: Sequence[Contender]) -> Contender:
    check_choice("algos", method.algo, registered())
    entry = registered()[method.algo]
    given = {**common, **method.options}
    _check_names(entry, given)
    given = with_objects(given, entry)
    policy = _policy_class(entry, given.pop("policy", None))
    reason = _why_its_own(entry.algorithm, policy, given)
    pretraining = None if reason else _pretraining(entry.algorithm, policy, given, others)
    return Contender(method.label or entry.algorithm.__name__, entry, policy, given, pretraining, reason)


def _check_names(entry: RegisteredAlgorithm, given: Mapping[str, Any]) -> None:
    known = _names_of(entry.algorithm)
    for name in given:
        if name in _OF_THE_COMPARISON:
            raise ValueError(f"{entry.name}: {name} is the same for all methods of a comparison: leave it out of the options.")
        if name not in known:
            raise ValueError(f"{entry.name} has no option '{name}'. {did_you_mean(name, known)}")


def _names_of(algorithm: type[OfflineAlgorithm]) -> set[str]:
    return {name for name in options_of(algorithm) if name[0] != "_"} - _OF_THE_COMPARISON


def _policy_class(entry: RegisteredAlgorithm, policy: str | type[BasePolicy] | None) -> type[BasePolicy]:
    if isinstance(policy, type):
        return policy
    if policy is None:
        policy = next(iter(entry.policies), "MlpPolicy")
    check_choice(f"{entry.name}: policy", policy, entry.policies)
    return entry.policies[policy]


def _why_its_own(algorithm: type[OfflineAlgorithm], policy: type[BasePolicy], given: Mapping[str, Any]) -> str:
    """Why an algorithm takes no pretrained networks, in the words of what its class says; empty where it takes them."""
    if given.get("pretraining_steps"):
        return f"its settings ask for a first phase of its own (pretraining_steps={given['pretraining_steps']})"
    if takes_pretrained(algorithm) and issubclass(policy, GenerativePolicy):
        return ""
    if not issubclass(policy, GenerativePolicy):
        return f"its {policy.__name__} is another kind of policy"
    if not algorithm.needs_critics:
        return "it clones the data in one phase and needs no critics"
    options = _options_for_pretraining(algorithm, given)
    return f"it takes no pretrained networks (its critics: {_critic_of(options)})"


def _pretraining(
    algorithm: type[OfflineAlgorithm], policy: type[BasePolicy], given: Mapping[str, Any], others: Sequence[Contender]
) -> Pretraining:
    known = list(dict.fromkeys(other.pretraining.label for other in others if other.pretraining is not None))
    mine = Pretraining(f"pretraining {len(known) + 1}", policy, _options_for_pretraining(algorithm, given))
    for other in others:
        if other.pretraining is not None and other.pretraining.described() == mine.described():
            return other.pretraining
    return mine


def _options_for_pretraining(algorithm: type[OfflineAlgorithm], given: Mapping[str, Any]) -> dict[str, Any]:
    defaults = {name: _default_of(algorithm, name) for name in _OF_PRETRAINING if name in options_of(algorithm)}
    options = {**defaults, **{name: given[name] for name in _OF_PRETRAINING if name in given}}
    # Who has no such option clones all episodes alike
    options["episode_kl"] = 0.0
    if "episode_kl" in options_of(algorithm):
        # Its default is said by whether beta is found, and here beta is 0
        fixed = 1.0 if given.get("gradient_estimator") == "matching" else None
        _, target_kl = temperature_of(given.get("beta", fixed), given.get("target_kl"), default=1.0)
        options["episode_kl"] = episode_kl_of(given.get("episode_kl"), target_kl)
    return options


def _default_of(algorithm: type[OfflineAlgorithm], name: str) -> Any:
    for base in algorithm.__mro__:
        if "__init__" in vars(base):
            parameter = inspect.signature(base.__init__).parameters.get(name)  # type: ignore[misc]
            if parameter is not None and parameter.default is not inspect.Parameter.empty:
                if name == "critic" and parameter.default is None and issubclass(algorithm, PretrainingAlgorithm):
                    return algorithm.default_critic
                return parameter.default
    return _default_of(GMPO, name) if algorithm is not GMPO else None


def _critic_of(options: Mapping[str, Any]) -> CriticOptions:
    critic = with_expectile(options.get("critic"), options.get("expectile"))
    return DEFAULT_CRITIC if critic is None else make_critic(critic)


def in_words(value: Any) -> Any:
    """
    :param value: options
    :return: the same of dictionaries, lists, texts and numbers; all else by its name or as one would write it, the same in
        every process
    """
    if isinstance(value, Mapping):
        return {str(key): in_words(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [in_words(item) for item in value]
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if isinstance(value, Callable) and hasattr(value, "__qualname__"):  # type: ignore[arg-type]
        return f"{value.__module__}.{value.__qualname__}"
    text = " ".join(repr(value).split())
    return type(value).__name__ if " at 0x" in text else text
