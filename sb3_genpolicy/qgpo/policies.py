import os

from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule

from sb3_genpolicy.common.policies.dict_extractor import DictExtractor
from sb3_genpolicy.common.policies.energy import Energy, EnergyGuide
from sb3_genpolicy.common.policies.named import DiffusionPolicy


class EnergyGuidedPolicy(DiffusionPolicy):
    """
    A diffusion model of the behaviour policy, whose sampler an energy network guides: ``guidance`` says how strongly, 1 for
    the optimum, 0 for the behaviour policy.

    The other parameters are those of :class:`~sb3_genpolicy.common.policies.generative_policy.GenerativePolicy`.
    """

    trained = (*DiffusionPolicy.trained, "energy")

    def build(self, lr_schedule: Schedule) -> None:
        super().build(lr_schedule)
        self.energy = Energy(**self.network_kwargs(), net_arch=self.net_arch["pi"], activation_fn=self.activation_fn)
        self.energy.to(self.device)
        self.energy.optimizer = self.make_optimizer(self.energy.parameters(), lr_schedule(1))

    def guide(self, observations: PyTorchObs, guidance: float) -> EnergyGuide | None:  # type: ignore[override]
        if guidance == 0.0:
            return None
        features = self.energy.extract_features(observations, self.energy.features_extractor)
        return EnergyGuide(self.energy, features, guidance)

    def export_onnx(self, path: str | os.PathLike[str], deterministic: bool = False) -> None:
        """
        See :meth:`~sb3_genpolicy.common.policies.sampling_policy.SamplingPolicy.export_onnx`.

        :param path: the file
        :param deterministic: whether the file is for deterministic actions
        :raises ValueError: for a policy that is guided: its energy's gradient is not written
        """
        if self.guidance > 0.0:
            raise ValueError(
                f"The gradient of the energy, by which guidance={self.guidance} steers the sampler, cannot be written to an "
                "ONNX file. With policy.guidance = 0.0 the behaviour policy is written."
            )
        super().export_onnx(path, deterministic)


class EnergyGuidedCnnPolicy(EnergyGuidedPolicy):
    """:class:`EnergyGuidedPolicy` for images."""

    default_features_extractor_class = NatureCNN


class EnergyGuidedMultiInputPolicy(EnergyGuidedPolicy):
    """:class:`EnergyGuidedPolicy` for dictionaries of observations."""

    default_features_extractor_class = DictExtractor


# SB3's names
MlpPolicy = EnergyGuidedPolicy
CnnPolicy = EnergyGuidedCnnPolicy
MultiInputPolicy = EnergyGuidedMultiInputPolicy
