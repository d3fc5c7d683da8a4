"""Options of quantization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from workbench.compress.steps.base import AFTER_QUANTIZE, EXCLUDE, RATE, SECONDS, UNTOUCHED, Step
from workbench.core.config import option
from workbench.core.errors import ConfigError


@dataclass(frozen=True)
class Quantize(Step):
    """8-bit integers for weights and, with ``activations="static"``, for what flows between layers.

    ``qat_epochs`` above 0 trains with the rounding simulated (quantization-aware training), taught by the
    task's own model when ``distill`` is on. ``activations="none"`` stores the weights in 8 bits and computes
    in float: a smaller file, not a faster one. Must be the last step.
    """

    not_after: ClassVar[Mapping[str, str]] = AFTER_QUANTIZE
    not_before: ClassVar[tuple[str, ...]] = ("Distill", "Factorize", "Prune", "Quantize", "Recover", "Sparsify")

    bits: int = option(8, "bits per weight and activation", choices=(8,))
    activations: str = option(
        "static", "static: scales fixed by calibration; none: weights only", choices=("static", "none")
    )
    qat_epochs: float = option(0.0, "passes of quantization-aware training; 0 calibrates only", minimum=0.0)
    per_channel: bool = option(True, "one weight scale per output channel instead of one per layer", advanced=True)
    reduce_range: bool | str = option(
        "auto", "7-bit weights, for CPUs without an int8 dot product", choices=("auto", True, False), advanced=True
    )
    target: str = option("this", "the CPU to choose for", choices=("this", "int8_dot", "no_int8_dot"), advanced=True)
    exclude: tuple[str, ...] = option((), EXCLUDE, advanced=True)
    learning_rate: float | None = option(None, RATE, above=0.0, advanced=True)
    batch_size: int = option(128, "samples per training step", minimum=2, advanced=True)
    max_seconds: float | None = option(None, SECONDS, above=0.0, unit="s")
    distill: bool = option(True, "let the task's own model teach the training with simulated rounding", advanced=True)
    allow_untouched: bool = option(False, UNTOUCHED, advanced=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.qat_epochs and self.activations == "none":
            raise ConfigError(
                f"Quantize(activations='none', qat_epochs={self.qat_epochs:g}): weight-only quantization is not "
                "trained. Use activations='static' with qat_epochs, or qat_epochs=0."
            )

    @property
    def label(self) -> str:
        """A few words for tables and charts."""
        kind = f"int{self.bits}"
        return f"{kind} weights" if self.activations == "none" else f"{kind} qat" if self.qat_epochs else kind
