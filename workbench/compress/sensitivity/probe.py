"""Per technique: the step that changes one layer alone, and the step with values per layer."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from torch import nn

from workbench.compress.handlers import Outcome
from workbench.compress.steps import Factorize, Prune, Quantize, Step
from workbench.compress.variant import LayerReport
from workbench.core.errors import ConfigError


class Probe(ABC):
    """One technique with the options of a template step; None takes the technique's defaults."""

    technique: str
    step_type: type[Step]
    settings: tuple[float, ...] = (0.25, 0.5, 0.75)

    def __init__(self, step: Any) -> None:
        self.step: Any = self.step_type() if step is None else step
        ratios: tuple[str, ...] = getattr(self.step, "ratios", ())
        if ratios:
            raise ConfigError(f"sensitivity: the ratios of the step to {self.technique} must be empty, got {ratios!r}.")

    def with_settings(self, settings: Sequence[float]) -> Self:
        """Return the probe with other settings, in ascending order, each once."""
        for setting in settings:
            self.check(setting)
        self.settings = tuple(sorted(set(settings)))
        return self

    def check(self, setting: float) -> None:
        """Raise ConfigError if a setting is not valid for the technique."""
        if isinstance(setting, bool) or not isinstance(setting, int | float) or not 0 < setting < 1:
            raise ConfigError(
                f"sensitivity: a setting of {self.technique} must be above 0 and below 1, got {setting!r}."
            )

    @abstractmethod
    def layers(self, module: nn.Module, run: Callable[[Step], Outcome]) -> list[str]:
        """Return the layers that the technique can change, in the model's order."""

    def step_for(self, layer: str, setting: float, layers: Sequence[str]) -> Step:
        """Return the step that changes one of ``layers`` alone."""
        return self.step_with({layer: setting}, layers)

    @abstractmethod
    def step_with(self, values: Mapping[str, float], layers: Sequence[str]) -> Step:
        """Return the step that gives some of ``layers`` these settings and leaves the others unchanged."""

    def applies(self, reports: Mapping[str, LayerReport], layer: str) -> bool:
        """Return whether the setting exists for the layer, from the step's reports."""
        return reports[layer].touched

    def members(self, module: nn.Module, outcome: Outcome, layer: str) -> tuple[str, ...]:
        """Return the layers that changed together with ``layer``, including itself."""
        return (layer,)


class PruneProbe(Probe):
    """Structured pruning of one group of layers."""

    technique, step_type = "prune", Prune

    def layers(self, module: nn.Module, run: Callable[[Step], Outcome]) -> list[str]:
        step = self.step.replace(ratio=max(self.settings), of="channels", scope="local", allow_untouched=True)
        return _changed_widths(module, run(step).module)

    def step_with(self, values: Mapping[str, float], layers: Sequence[str]) -> Step:
        ratios = ("*=0", *(f"{name}={value:g}" for name, value in values.items()))
        # each layer has its own ratio: the common one is only part of the label
        common = sum(values.values()) / len(layers) if values else min(self.settings)
        changes = {"ratio": round(common, 2) or min(self.settings), "ratios": ratios}
        step: Step = self.step.replace(of="channels", scope="local", **changes)
        return step

    def applies(self, reports: Mapping[str, LayerReport], layer: str) -> bool:
        return True  # a ratio that rounds to no channel is a result too

    def members(self, module: nn.Module, outcome: Outcome, layer: str) -> tuple[str, ...]:
        changed = _changed_widths(module, outcome.module)
        return tuple(changed) if layer in changed else (layer,)


class FactorizeProbe(Probe):
    """Low rank in one layer."""

    technique, step_type = "factorize", Factorize

    def layers(self, module: nn.Module, run: Callable[[Step], Outcome]) -> list[str]:
        step = self.step.replace(budget=None, rank="energy", ratio=min(self.settings), measured=False)
        return [layer.name for layer in run(step).layers if layer.touched]

    def step_with(self, values: Mapping[str, float], layers: Sequence[str]) -> Step:
        ratios = ("*=1", *(f"{name}={value:g}" for name, value in values.items()))
        step: Step = self.step.replace(budget=None, rank="energy", ratio=None, measured=False, ratios=ratios)
        return step


class QuantizeProbe(Probe):
    """Fewer bits in one layer."""

    technique, step_type = "quantize", Quantize

    def __init__(self, step: Any) -> None:
        super().__init__(step)
        self.settings = _bits() if step is None else (self.step.bits,)

    def check(self, setting: float) -> None:
        if setting not in _bits():
            allowed = " or ".join(f"{bits:g}" for bits in _bits())
            raise ConfigError(f"sensitivity: quantize has settings of {allowed} bits, got {setting!r}.")

    def layers(self, module: nn.Module, run: Callable[[Step], Outcome]) -> list[str]:
        names = {name for name, _ in module.named_modules()}
        return [layer.name for layer in run(self._with_bits(8)).layers if layer.touched and layer.name in names]

    def step_for(self, layer: str, setting: float, layers: Sequence[str]) -> Step:
        # excluding a module excludes its submodules too: a nested layer is measured together with its parent
        others = [name for name in layers if name != layer and not layer.startswith(f"{name}.")]
        step = self._with_bits(setting)
        return step.replace(exclude=(*step.exclude, *others))

    def step_with(self, values: Mapping[str, float], layers: Sequence[str]) -> Step:
        step = self._with_bits(min(values.values(), default=8))
        return step.replace(exclude=(*step.exclude, *(name for name in layers if name not in values)))

    def _with_bits(self, bits: float) -> Quantize:
        weight_only = {"activations": "none", "qat_epochs": 0.0} if bits < 8 else {}
        step: Quantize = self.step.replace(bits=int(bits), **weight_only)
        return step


PROBES: dict[str, type[Probe]] = {probe.technique: probe for probe in (PruneProbe, FactorizeProbe, QuantizeProbe)}


def _bits() -> tuple[float, ...]:
    field = next(field for field in dataclasses.fields(Quantize) if field.name == "bits")
    return tuple(sorted(float(bits) for bits in field.metadata["option"]["choices"]))


def _widths(module: nn.Module) -> dict[str, int]:
    """Return the number of output channels of each layer with a weight matrix."""
    widths = {}
    for name, layer in module.named_modules():
        weight = getattr(layer, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.ndim > 1 and not isinstance(layer, nn.Embedding):
            widths[name] = weight.shape[1 if getattr(layer, "transposed", False) else 0]
    return widths


def _changed_widths(before: nn.Module, after: nn.Module) -> list[str]:
    widths = _widths(before)
    return [name for name, width in _widths(after).items() if width != widths.get(name)]
