"""The steps of a recipe: frozen options, without torch, so that forms and databases can use them freely."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workbench.core.config import Config, from_dict, option
from workbench.core.errors import ConfigError, RecipeError, unknown_name

_UNTOUCHED = "let the step pass although it changes no layer (otherwise that is an error)"
_EXCLUDE = "modules to leave alone, by name (covers everything below it; * and ? match) or type, as 'LayerNorm'"
_SECONDS = "wall-clock limit of the training; the learning rate then anneals over the time, not the epochs"
_RATE = "peak learning rate; None chooses one for the kind of model"


@dataclass(frozen=True)
class Prune(Config):
    """Structured pruning: take whole channels (or hidden units) away, so that every engine gets faster.

    ``ratio`` is the share removed: of the channels of each group (``scope="local"``) or of the whole model
    (``scope="global"``), or, with ``of``, of the model's multiply-accumulates or parameters. ``ratios`` gives some
    layers a ratio of their own. Attention heads leave whole. With ``rounds`` above 1 the channels leave a part at a
    time, ``recover_epochs`` of training on the labels between. Outputs keep their shape. Modules that were not
    written for pruning (fixed reshapes or paddings in ``forward``) are tried first and left alone where they break;
    the report says so.

    Examples
    --------
    >>> Prune(ratio=0.3, exclude=("stem",)).ratio
    0.3
    >>> Prune(ratio=0.5, of="macs", ratios=("layer3.*=0.7",), rounds=3, schedule="cubic").rounds
    3
    """

    ratio: float = option(0.5, "share to take away", above=0.0, below=1.0)
    of: str = option(
        "channels",
        "what ratio is a share of: channels, multiply-accumulates or parameters",
        choices=("channels", "macs", "params"),
        advanced=True,
    )
    importance: str = option(
        "l2",
        "how a channel's worth is judged: by its weights, its BatchNorm scale, the loss (taylor, hessian), or not",
        choices=("l2", "l1", "bn_scale", "lamp", "taylor", "hessian", "random"),
        advanced=True,
    )
    samples: int = option(256, "training samples that taylor and hessian see", minimum=1, advanced=True)
    scope: str = option(
        "local", "compare channels within each group of layers, or over the whole model", choices=("local", "global")
    )
    ratios: tuple[str, ...] = option(
        (), "ratios of channels for some layers, as 'name=0.7'; * and ? match as in file names", advanced=True
    )
    round_to: int = option(8, "keep a multiple of this many channels: vector units like 8", minimum=1, advanced=True)
    rounds: int = option(1, "in how many rounds the channels leave", minimum=1, advanced=True)
    schedule: str = option(
        "even", "rounds of equal size, or large ones first (cubic)", choices=("even", "cubic"), advanced=True
    )
    recover_epochs: float = option(
        0.0, "passes of training on the labels between two rounds", minimum=0.0, advanced=True
    )
    exclude: tuple[str, ...] = option((), _EXCLUDE, advanced=True)
    allow_untouched: bool = option(False, _UNTOUCHED, advanced=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for entry in self.ratios:
            name, _, value = entry.rpartition("=")
            if not name or not _is_share(value):
                raise ConfigError(
                    f"Prune.ratios: {entry!r} is not 'name=ratio' with a ratio from 0 to below 1, like 'layer3.*=0.7'."
                )


PRUNE_BY_LOSS = ("taylor", "hessian")


def _is_share(text: str) -> bool:
    try:
        return 0.0 <= float(text) < 1.0
    except ValueError:
        return False


@dataclass(frozen=True)
class Distill(Config):
    """Train the current variant to answer like the task's own model (the teacher).

    The loss is ``alpha * T^2 * KL(teacher || student) + (1 - alpha) * label loss`` for every floating output
    [n, classes], and the mean squared error in place of KL for outputs of another rank.

    Examples
    --------
    >>> Distill(epochs=5, max_seconds=60.0).temperature
    4.0
    """

    epochs: float = option(3.0, "passes over the training data", above=0.0)
    temperature: float = option(4.0, "softens the teacher's answer", above=0.0)
    alpha: float = option(0.9, "weight of the teacher against the labels", minimum=0.0, maximum=1.0)
    blend: bool = option(
        True, "learn from mixtures of samples too, where the task has no augmentation of its own", advanced=True
    )
    learning_rate: float | None = option(None, _RATE, above=0.0, advanced=True)
    batch_size: int = option(128, "samples per training step", minimum=2, advanced=True)
    max_seconds: float | None = option(None, _SECONDS, above=0.0, unit="s")
    allow_untouched: bool = option(False, _UNTOUCHED, advanced=True)


@dataclass(frozen=True)
class Recover(Config):
    """Train the current variant on the labels alone, to win back what an earlier step cost."""

    epochs: float = option(2.0, "passes over the training data", above=0.0)
    learning_rate: float | None = option(None, _RATE, above=0.0, advanced=True)
    batch_size: int = option(128, "samples per training step", minimum=2, advanced=True)
    max_seconds: float | None = option(None, _SECONDS, above=0.0, unit="s")
    allow_untouched: bool = option(False, _UNTOUCHED, advanced=True)


@dataclass(frozen=True)
class Factorize(Config):
    """Replace a layer by two thinner ones, cut by singular value decomposition.

    The rank keeps ``energy`` of the squared singular values, or is ``ratio`` of the full rank where given. A
    layer is replaced only where both its parameters and its multiply-accumulates fall by ``min_saving``.
    """

    energy: float = option(0.9, "share of the squared singular values to keep", above=0.0, maximum=1.0)
    ratio: float | None = option(None, "rank as a share of the full rank, instead of energy", above=0.0, maximum=1.0)
    min_saving: float = option(
        0.1, "least share of parameters and of MACs that a layer must save", minimum=0.0, below=1.0, advanced=True
    )
    types: tuple[str, ...] = option(("Linear", "Conv2d"), "kinds of layer to look at", advanced=True)
    exclude: tuple[str, ...] = option((), _EXCLUDE, advanced=True)
    allow_untouched: bool = option(False, _UNTOUCHED, advanced=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for kind in self.types:
            if kind not in FACTORIZE_TYPES:
                raise ConfigError("Factorize.types: " + unknown_name("kind of layer", kind, FACTORIZE_TYPES))


FACTORIZE_TYPES = ("Linear", "Conv2d")


@dataclass(frozen=True)
class Quantize(Config):
    """8-bit integers for weights and, with ``activations="static"``, for what flows between layers.

    ``qat_epochs`` above 0 trains with the rounding simulated (quantization-aware training), taught by the
    task's own model when ``distill`` is on. ``activations="none"`` stores the weights in 8 bits and computes
    in float: a smaller file, not a faster one. Must be the last step.
    """

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
    exclude: tuple[str, ...] = option((), _EXCLUDE, advanced=True)
    learning_rate: float | None = option(None, _RATE, above=0.0, advanced=True)
    batch_size: int = option(128, "samples per training step", minimum=2, advanced=True)
    max_seconds: float | None = option(None, _SECONDS, above=0.0, unit="s")
    distill: bool = option(True, "let the task's own model teach the training with simulated rounding", advanced=True)
    allow_untouched: bool = option(False, _UNTOUCHED, advanced=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.qat_epochs and self.activations == "none":
            raise ConfigError(
                f"Quantize(activations='none', qat_epochs={self.qat_epochs:g}): weight-only quantization is not "
                "trained. Use activations='static' with qat_epochs, or qat_epochs=0."
            )


Step = Prune | Distill | Recover | Factorize | Quantize
STEP_TYPES: dict[str, type[Step]] = {cls.__name__: cls for cls in (Prune, Distill, Recover, Factorize, Quantize)}


def step_to_dict(step: Step) -> dict[str, Any]:
    """Return ``{"step": "Prune", ...all options...}``, ready for JSON."""
    return {"step": type(step).__name__, **step.to_dict()}


def step_from_dict(values: Mapping[str, Any]) -> Step:
    """Build a step from what :func:`step_to_dict` returned; options left out take their defaults."""
    rest = dict(values)
    name = rest.pop("step", None)
    if name is None:
        raise RecipeError(f"A step needs its name under 'step', got {dict(values)!r}. Known: {', '.join(STEP_TYPES)}.")
    if name not in STEP_TYPES:
        raise RecipeError(unknown_name("step", name, STEP_TYPES))
    return from_dict(STEP_TYPES[name], rest)


def describe(step: Step) -> str:
    """Return a few words for labels: ``"prune 0.5"``, ``"distill"``, ``"int8 qat"``."""
    if isinstance(step, Prune):
        return f"prune {step.ratio:g}" + (" global" if step.scope == "global" else "")
    if isinstance(step, Factorize):
        return f"low-rank {step.ratio:g}" if step.ratio is not None else f"low-rank {step.energy:g} energy"
    if isinstance(step, Quantize):
        kind = f"int{step.bits}"
        return f"{kind} weights" if step.activations == "none" else f"{kind} qat" if step.qat_epochs else kind
    return type(step).__name__.lower()
