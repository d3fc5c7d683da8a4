"""Options of quantization."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from workbench.compress.step import AFTER_QUANTIZE, EXCLUDE, RATE, SECONDS, UNTOUCHED, Step, refuse_idle
from workbench.core.config import option
from workbench.core.errors import ConfigError


@dataclass(frozen=True)
class Quantize(Step):
    """Small integers for weights and, with ``activations="static"`` or ``"dynamic"``, for what flows between layers.

    ``"static"`` fixes the scales of activations by calibration; ``"dynamic"`` works them out for every batch as it
    comes (ONNX Runtime only); ``"none"`` stores the weights in 8 or 4 bits and computes in float: a smaller file, not
    a faster one. ``qat_epochs`` above 0 trains with the rounding simulated (quantization-aware training), taught by
    the task's own model when ``distill`` is on. ``route`` takes the quantizer of ONNX Runtime or NNCF instead of this
    one, so that they can be compared. Which engine runs what is in :mod:`workbench.compress.quantize.modes`. Must be
    the last step.

    Examples
    --------
    >>> Quantize(bits=4, activations="none", group_size=32).label
    'int4 weights by 32'
    >>> Quantize(equalize="cross_layer", bias_correction=True, keep_drop=0.01).label
    'int8 cross-layer, biases, mixed'
    """

    not_after: ClassVar[Mapping[str, str]] = AFTER_QUANTIZE
    not_before: ClassVar[tuple[str, ...]] = (
        "Distill",
        "Factorize",
        "Prune",
        "PruneDepth",
        "Quantize",
        "Recover",
        "Sparsify",
    )

    bits: int = option(8, "bits per weight and activation; 4 for weights alone", choices=(8, 4))
    activations: str = option(
        "static",
        "static: scales fixed by calibration; dynamic: worked out per batch; none: weights only",
        choices=("static", "dynamic", "none"),
    )
    qat_epochs: float = option(0.0, "passes of quantization-aware training; 0 calibrates only", minimum=0.0)
    keep_drop: float | None = option(
        None, "largest drop of the validation quality: the worst layers stay in float until it holds", minimum=0.0
    )
    per_channel: bool = option(True, "one weight scale per output channel instead of one per layer", advanced=True)
    group_size: int | None = option(
        None,
        "4 bits: values of an output channel that share a scale; None: all of them",
        choices=(16, 32, 64, 128, 256),
        advanced=True,
    )
    symmetric: str = option(
        "weights",
        "which ranges reach as far below zero as above it",
        choices=("weights", "both", "none"),
        advanced=True,
    )
    observer: str = option(
        "histogram",
        "how a range is found; mse also shrinks the ranges of weights",
        choices=("histogram", "minmax", "percentile", "mse"),
        advanced=True,
    )
    percentile: float = option(
        99.99, "percent of the values that observer='percentile' keeps", minimum=50.0, maximum=100.0, advanced=True
    )
    equalize: str = option(
        "none",
        "even out ranges before rounding: between layers, or from activations into weights (smooth, transformers)",
        choices=("none", "cross_layer", "smooth"),
        advanced=True,
    )
    smooth_alpha: float = option(
        0.5, "how much of the range equalize='smooth' moves into the weights", above=0.0, below=1.0, advanced=True
    )
    bias_correction: bool = option(False, "take the mean error of rounding out of every bias", advanced=True)
    route: str = option(
        "qdq", "whose quantizer: ours, or that of ONNX Runtime or NNCF", choices=("qdq", "onnxruntime", "nncf")
    )
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
        for clashes, words in _clashes(self):
            if clashes:
                raise ConfigError(f"Quantize: {words}")
        refuse_idle(
            self,
            (self.observer != "percentile", ("percentile",), "Set observer='percentile'."),
            (self.equalize != "smooth", ("smooth_alpha",), "Set equalize='smooth'."),
            (
                not self.qat_epochs,
                ("learning_rate", "batch_size", "max_seconds", "distill"),
                "They are for training: set qat_epochs above 0.",
            ),
        )

    @property
    def training_option(self) -> str | None:
        """The option for which the step reads the training split; None if it reads none of it."""
        return f"qat_epochs={self.qat_epochs:g}" if self.qat_epochs else None

    @property
    def label(self) -> str:
        """A few words for tables and charts; different for every mode."""
        if self.route != "qdq":
            return f"int8 ({self.route})"
        words = [f"int{self.bits}", {"none": "weights", "dynamic": "dynamic", "static": ""}[self.activations]]
        words += [f"by {self.group_size}"] if self.group_size else []
        words += ["qat"] if self.qat_epochs else []
        extras = [
            {"weights": "", "both": "symmetric", "none": "asymmetric"}[self.symmetric],
            "" if self.per_channel else "per layer",
            "" if self.observer == "histogram" else self.observer,
            {"none": "", "cross_layer": "cross-layer", "smooth": "smooth"}[self.equalize],
            "biases" if self.bias_correction else "",
            "" if self.keep_drop is None else "mixed",
        ]
        return " ".join(filter(None, [*words, ", ".join(filter(None, extras))]))


def _clashes(step: Quantize) -> Iterator[tuple[bool, str]]:
    """Yield whether options contradict each other, with what to do about it."""
    static, trained = step.activations == "static", step.qat_epochs > 0
    asked = f"activations={step.activations!r}"
    yield (
        trained and not static,
        f"{asked}, qat_epochs={step.qat_epochs:g}: only static activations are trained. Use activations='static' with "
        "qat_epochs, or qat_epochs=0.",
    )
    yield (
        step.bits == 4 and step.activations != "none",
        f"bits=4, {asked}: no engine here multiplies 4-bit weights by integers. Use bits=4 with activations='none', or "
        "bits=8.",
    )
    yield (
        step.group_size is not None and (step.bits != 4 or not step.per_channel),
        f"group_size={step.group_size}, bits={step.bits}, per_channel={step.per_channel}: groups go with bits=4 and "
        "per_channel=True. Leave group_size at None otherwise.",
    )
    yield (
        step.activations == "dynamic" and step.symmetric != "weights",
        f"{asked}, symmetric={step.symmetric!r}: ONNX's dynamic quantization has asymmetric activations and symmetric "
        "weights. Use symmetric='weights'.",
    )
    yield (
        not static and (step.symmetric == "both" or step.observer == "percentile" or step.equalize == "smooth"),
        f"{asked} fixes no range of an activation, so symmetric='both', observer='percentile' and equalize='smooth' "
        "would do nothing. Leave them at their defaults, or use activations='static'.",
    )
    yield (
        trained and (step.bias_correction or step.symmetric == "none"),
        "qat_epochs above 0 trains the biases itself, on symmetric weights: leave bias_correction off and symmetric "
        "at 'weights' or 'both'.",
    )
    changed = [name for name in step.changed() if name in _QDQ_ONLY]
    yield (
        step.route != "qdq" and bool(changed),
        f"route={step.route!r} uses that quantizer's own ways: leave {', '.join(changed)} at the default, or use "
        "route='qdq'.",
    )


_QDQ_ONLY = (
    "bits",
    "activations",
    "qat_epochs",
    "keep_drop",
    "group_size",
    "symmetric",
    "observer",
    "equalize",
    "bias_correction",
)
