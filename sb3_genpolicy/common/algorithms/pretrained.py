"""
Behaviour models and critics that were trained before: reading them, and copying them into a new model.
"""

import io
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file
from torch import nn

from sb3_genpolicy.common.algorithms.saving import note_what_0_1_had
from sb3_genpolicy.common.files.model_files import ModelSource, open_model_file
from sb3_genpolicy.common.policies.actor import GenerativeActor
from sb3_genpolicy.common.policies.critics import CriticOptions
from sb3_genpolicy.common.policies.critics.options import changed_critic, make_critic, with_expectile
from sb3_genpolicy.common.policies.generative_policy import GenerativePolicy
from sb3_genpolicy.common.utils import described
from sb3_genpolicy.generative.checks import options_of, shown


class Pretrained(NamedTuple):
    """
    A behaviour model and critics that were trained before.

    :param policy: the policy that they are part of
    :param behaviour: the behaviour model, None if the run had none
    :param settings: attributes of the run
    """

    policy: GenerativePolicy
    behaviour: GenerativeActor | None
    settings: dict[str, Any]

    @property
    def policy_kwargs(self) -> dict[str, Any]:
        """The policy's options, without what the algorithm added, but with the prediction, whose default differs."""
        given = {key: value for key, value in self.settings["policy_kwargs"].items() if key != "behaviour_model"}
        return {"prediction": self.policy.prediction, **given}

    def critic(self, given: str | CriticOptions | None, expectile: float | None) -> CriticOptions:
        """
        :param given: a name, which keeps the networks, an object, or None for the critic that there is
        :param expectile: of the critic ``iql``; None where it was not given
        :return: the critic of a model that takes these networks
        :raises ValueError: if there is no such critic
        """
        if given is None or isinstance(given, str):
            return changed_critic(self.policy.critic_options, given, expectile)
        with_expectile(given, expectile)
        return make_critic(given)

    def check_fits(self, policy: GenerativePolicy, needs_behaviour: bool) -> None:
        """
        :param policy: a policy that networks are to be copied into
        :param needs_behaviour: whether a behaviour model is to be copied too
        :raises ValueError: if the networks are of another kind, or a network that is needed is missing
        """
        if needs_behaviour and self.behaviour is None:
            beta = self.settings.get("beta")
            trained = "by an algorithm that has none" if beta is None else f"with beta={beta}"
            raise ValueError(
                f"The pretrained model's actor was trained {trained}, so that it is no model of the behaviour policy: "
                "pretrain with GMPG, or with GMPO(beta=0)."
            )
        for (name, ours), given in zip(policy.kind().items(), self.policy.kind().values(), strict=True):
            if described(ours) != described(given) if name == "path" else ours != given:
                raise ValueError(
                    f"The pretrained model has another {name} ({described(given)}) than this one ({described(ours)}). "
                    f"Its policy is a {type(self.policy).__name__} with policy_kwargs={self.policy_kwargs}: give the same."
                )


#: A model, or the file of one
PretrainedSource = BaseAlgorithm | ModelSource


def takes_pretrained(algorithm: type[BaseAlgorithm]) -> bool:
    """
    :param algorithm: an algorithm
    :return: whether its models can be given a behaviour model and critics that were trained before (``pretrained=``)
    """
    return "pretrained" in options_of(algorithm)


def read_pretrained(source: PretrainedSource) -> Pretrained:
    """
    :param source: a model or a saved file: of GMPG in either phase, or of GMPO (with ``beta=0`` for its behaviour model)
    :return: what it holds
    :raises ValueError: if it is the model of another kind of algorithm
    """
    if not isinstance(source, (BaseAlgorithm, str, pathlib.Path, io.IOBase)):
        raise ValueError(f"pretrained must be a model or the file of one, not {shown(source)}.")
    if isinstance(source, BaseAlgorithm):
        settings, policy = vars(source), source.policy
    else:
        settings, policy = _policy_of_file(source)
    if not isinstance(policy, GenerativePolicy):
        raise ValueError(
            f"pretrained={source!r} has no generative policy: give a GMPG, or a GMPO (with beta=0 for a behaviour model), "
            "or the file of one."
        )
    # With beta=0, and in the first phase of GMPG, the averaged actor is itself the behaviour model
    behaviour = policy.actor_ema if settings.get("beta") == 0.0 else None
    if policy.behaviour is not None:
        behaviour = policy.behaviour if settings["pretraining_finished"] else policy.actor_ema
    return Pretrained(policy, behaviour, dict(settings))


def _policy_of_file(source: ModelSource) -> tuple[dict[str, Any], Any]:
    with open_model_file(source) as file:
        file.check_state_dicts()
        file.check_tensors()
        settings = file.read_settings(None, False, {}, "if you trust whoever made it, load it and give the model")
        _, parameters, _ = load_from_zip_file(file.file, load_data=False, device="cpu")
    note_what_0_1_had(settings)
    policy_class = settings["policy_class"]
    if not issubclass(policy_class, GenerativePolicy):
        return settings, None
    spaces = settings["observation_space"], settings["action_space"]
    policy = policy_class(*spaces, lambda _: 0.0, **settings["policy_kwargs"])
    policy.load_state_dict(parameters["policy"])
    return settings, policy


def copy_networks(source: Pretrained, policy: GenerativePolicy, actors: Sequence[GenerativeActor]) -> None:
    """
    Copy normaliser, range of actions and critics, and the behaviour model, if there is one.

    :param source: where they are
    :param policy: what takes them
    :param actors: which of its networks become the behaviour model
    :raises ValueError: if they have other shapes
    """
    shared = ("normalizer", "action_range", *(name for name in policy.networks() if getattr(policy, name) not in actors))
    for name in shared:
        _copy(name, getattr(policy, name), getattr(source.policy, name), source)
    if source.behaviour is not None:
        for actor in actors:
            _copy("behaviour model" if actor is policy.behaviour else "actor", actor, source.behaviour, source)


def _copy(name: str, mine: nn.Module, theirs: nn.Module, source: Pretrained) -> None:
    given = theirs.state_dict()
    for key, value in mine.state_dict().items():
        shape = tuple(given[key].shape) if key in given else "nothing"
        if shape != tuple(value.shape):
            raise ValueError(
                f"The pretrained {name} is another network: {key} has shape {shape} there and {tuple(value.shape)} here. Its "
                f"policy is a {type(source.policy).__name__} with policy_kwargs={source.policy_kwargs}: give the same."
            )
    mine.load_state_dict(given)
