"""Options of quantization."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from workbench.compress.step import EXCLUDE, RATE, SECONDS, UNTOUCHED, Step, refuse_idle
from workbench.core.config import option
from workbench.core.errors import ConfigError


@dataclass(frozen=True)
class Quantize(Step):
    """Quantize weights and, with ``activations="static"`` or ``"dynamic"``, activations to int8.

    ``"static"`` calibrates activation scales; ``"dynamic"`` computes them per batch (ONNX Runtime only); ``"none"``
    stores 8- or 4-bit weights and computes in float: smaller, not faster. ``qat_epochs`` above 0 runs
    quantization-aware training, with the task's own model as teacher if ``distill`` is on. ``route`` selects the
    quantizer of ONNX Runtime or NNCF instead, for comparison. :mod:`workbench.compress.quantize.modes` lists the
    supported engines. Must be the last step.

    Examples
    --------
    >>> Quantize(bits=4, activations="none", group_size=32).label
    'int4 weights by 32'
    >>> Quantize(equalize="cross_layer", bias_correction=True, keep_drop=0.01).label
    'int8 cross-layer, biases, mixed'
    """

    bits: int = option(8, "bits per weight and activation; 4 for weight-only quantization", choices=(8, 4))
    activations: str = option(
        "static",
        "activation scales: static (calibrated), dynamic (per batch), or none (weight-only)",
        choices=("static", "dynamic", "none"),
    )
    qat_epochs: float = option(0.0, "epochs of quantization-aware training; 0: post-training quantization", minimum=0.0)
    keep_drop: float | None = option(
        None, "largest drop of validation quality; the most sensitive layers stay in float until it is met", minimum=0.0
    )
    per_channel: bool = option(True, "one weight scale per output channel instead of per tensor", advanced=True)
    group_size: int | None = option(
        None, "4 bits: weights of a channel sharing a scale; None: all", choices=(16, 32, 64, 128, 256), advanced=True
    )
    symmetric: str = option(
        "weights",
        "symmetric ranges (zero point 0): of weights, of both, or of none",
        choices=("weights", "both", "none"),
        advanced=True,
    )
    observer: str = option(
        "histogram",
        "range estimation for activations; mse estimates the ranges of weights too",
        choices=("histogram", "minmax", "percentile", "mse"),
        advanced=True,
    )
    percentile: float = option(
        99.99, "percent of values inside the range (observer='percentile')", minimum=50.0, maximum=100.0, advanced=True
    )
    equalize: str = option(
        "none",
        "equalize ranges: cross-layer, or SmoothQuant (smooth, for transformers)",
        choices=("none", "cross_layer", "smooth"),
        advanced=True,
    )
    smooth_alpha: float = option(
        0.5, "SmoothQuant migration strength for equalize='smooth'", above=0.0, below=1.0, advanced=True
    )
    bias_correction: bool = option(False, "subtract the mean rounding error from each bias", advanced=True)
    route: str = option(
        "qdq",
        "quantizer: that of the workbench (qdq), of ONNX Runtime, or NNCF",
        choices=("qdq", "onnxruntime", "nncf"),
    )
    reduce_range: bool | str = option(
        "auto",
        "use 7-bit weights, for CPUs without int8 dot-product instructions; auto: decided by target",
        choices=("auto", True, False),
        advanced=True,
    )
    target: str = option(
        "this",
        "CPU that reduce_range='auto' decides for: this machine, or one with or without int8 dot-product instructions",
        choices=("this", "int8_dot", "no_int8_dot"),
        advanced=True,
    )
    exclude: tuple[str, ...] = option((), EXCLUDE, advanced=True)
    learning_rate: float | None = option(None, RATE, above=0.0, advanced=True)
    batch_size: int = option(128, "batch size of training", minimum=2, advanced=True)
    max_seconds: float | None = option(None, SECONDS, above=0.0, unit="s")
    distill: bool = option(True, "distill from the task's own model in quantization-aware training", advanced=True)
    allow_untouched: bool = option(False, UNTOUCHED, advanced=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for clashes, message in _clashes(self):
            if clashes:
                raise ConfigError(f"Quantize: {message}")
        refuse_idle(
            self,
            (self.observer != "percentile", ("percentile",), "Set observer='percentile'."),
            (self.equalize != "smooth", ("smooth_alpha",), "Set equalize='smooth'."),
            (
                not self.qat_epochs,
                ("learning_rate", "batch_size", "max_seconds", "distill"),
                "They apply to training: set qat_epochs above 0.",
            ),
        )

    @property
    def training_option(self) -> str | None:
        return f"qat_epochs={self.qat_epochs:g}" if self.qat_epochs else None

    @property
    def label(self) -> str:
        if self.route != "qdq":
            return f"int8 ({self.route})"
        extras = [
            {"weights": "", "both": "symmetric", "none": "asymmetric"}[self.symmetric],
            "" if self.per_channel else "per layer",
            "" if self.observer == "histogram" else self.observer,
            {"none": "", "cross_layer": "cross-layer", "smooth": "smooth"}[self.equalize],
            "biases" if self.bias_correction else "",
            "" if self.keep_drop is None else "mixed",
        ]
        parts = [
            f"int{self.bits}",
            {"none": "weights", "dynamic": "dynamic", "static": ""}[self.activations],
            f"by {self.group_size}" if self.group_size else "",
            "qat" if self.qat_epochs else "",
            ", ".join(filter(None, extras)),
        ]
        return " ".join(filter(None, parts))


def _clashes(step: Quantize) -> Iterator[tuple[bool, str]]:
    """Yield for each rule whether options contradict each other, and the error text."""
    static, trained = step.activations == "static", step.qat_epochs > 0
    activations = f"activations={step.activations!r}"
    yield (
        trained and not static,
        f"qat_epochs requires activations='static', got {activations}, qat_epochs={step.qat_epochs:g}. Use "
        "activations='static' or qat_epochs=0.",
    )
    yield (
        step.bits == 4 and step.activations != "none",
        f"bits=4 requires activations='none', got {activations}. No supported engine has 4-bit integer kernels.",
    )
    yield (
        step.group_size is not None and (step.bits != 4 or not step.per_channel),
        f"group_size requires bits=4 and per_channel=True, got group_size={step.group_size}, bits={step.bits}, "
        f"per_channel={step.per_channel}.",
    )
    yield (
        step.activations == "dynamic" and step.symmetric != "weights",
        f"{activations} requires symmetric='weights', got symmetric={step.symmetric!r}.",
    )
    yield (
        not static and (step.symmetric == "both" or step.observer == "percentile" or step.equalize == "smooth"),
        "symmetric='both', observer='percentile' and equalize='smooth' require activations='static', got "
        f"{activations}. Leave them at their defaults.",
    )
    yield (
        trained and (step.bias_correction or step.symmetric == "none"),
        "qat_epochs above 0 requires bias_correction=False and symmetric weights. Use symmetric='weights' or 'both'.",
    )
    changed = [name for name in step.changed() if name in _QDQ_ONLY]
    yield (
        step.route != "qdq" and bool(changed),
        f"route={step.route!r} ignores {', '.join(changed)}. Leave them at the default, or use route='qdq'.",
    )


_QDQ_ONLY = (
    *("bits", "activations", "qat_epochs", "keep_drop", "group_size"),
    *("symmetric", "observer", "equalize", "bias_correction"),
)
