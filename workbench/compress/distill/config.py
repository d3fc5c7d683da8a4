"""Options of knowledge distillation and of training on the labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from workbench.compress.step import RATE, SECONDS, UNTOUCHED, Step, number_in, refuse_idle
from workbench.core.config import option
from workbench.core.errors import ConfigError, unknown_name

SCHEDULES = ("cosine", "one_cycle", "constant")
PRECISIONS = ("auto", "float32", "bfloat16")
HEAD_KINDS = ("auto", "kl", "kl_last", "mse")
LAST_MAP = ("auto", "last")
"""Entries of ``features`` for the last feature map: if the shapes are equal, or always."""

# Validation accuracy after depth pruning and 4 epochs of 2,000 samples, with a weight of 0, 1, 5, 20 and 60 for the
# last map: digits 80.3, 80.7, 83.4, 89.4 and 90.0 %; CIFAR-10 ResNet-20 (to 20) 90.8, 91.3, 91.9 and 92.8 %. Through a
# projection it costs: digits with half of the channels 68.1, 64.8 and 60.9 % with 0, 1 and 20.
_FEATURE_WEIGHTS = {"map": 20.0, "features": 1.0}

_SCHEDULE = "learning rate schedule: warm-up and cosine, one cycle, or constant"
_PRECISION = (
    "number format of matrix products; auto: bfloat16 if the CPU supports it, unless float32 is faster in timed steps"
)
_EVALUATE = "epochs between evaluations on the validation split; 0: never"
_PATIENCE = "stop after this many evaluations without improvement, and keep the best weights; None: never stop early"


class Head(NamedTuple):
    """Weight of one output among the outputs, and the loss that compares it."""

    weight: float = 1.0
    kind: str = "auto"


@dataclass(frozen=True)
class Distill(Step):
    """Knowledge distillation: train the variant (the student) on a teacher's outputs, by default the task's model.

    The loss is ``alpha * T^2 * KL(teacher || student) + (1 - alpha) * label loss`` (Hinton et al. 2015, arXiv
    1503.02531) for every output [n, classes] of logits, with the mean squared error in place of KL for other floating
    outputs; plus ``feature_weight`` times the error of the layers in ``features``, relative to the teacher's variance
    (FitNets, arXiv 1412.6550), and ``attention_weight`` times that of the attention maps in ``attention`` (arXiv
    1612.03928).

    ``features`` names layers of student and teacher (``"layer2"``, ``"small.3=layer3"``; ``"head:input"`` is the input
    of a layer). ``"auto"`` is the last feature map before the head or its pooling if its shape is the same in both;
    otherwise only the outputs are learned, and the notes give the reason. ``"last"`` takes the last feature map in any
    case, through a learned projection if the widths differ. ``()`` matches none.

    ``teacher`` and ``student`` name functions that return a module, as ``"file.py:function"`` or
    ``"package.module:function"``; their outputs must have the structure of the task's model. The recipe's id covers
    the name only: rename a function when it changes.

    Examples
    --------
    >>> Distill(epochs=5, max_seconds=60.0).temperature
    4.0
    >>> Distill(features=("layer2", "small.3=layer3"), heads=("logits=1", "boxes=0.1:mse")).feature_pairs
    (('layer2', 'layer2'), ('small.3', 'layer3'))
    """

    epochs: float = option(3.0, "epochs of training", above=0.0)
    temperature: float = option(4.0, "softmax temperature of teacher and student", above=0.0)
    alpha: float = option(
        0.9, "weight of the distillation loss; the label loss has weight 1 - alpha", minimum=0.0, maximum=1.0
    )
    blend: bool | str = option(
        "auto", "mixup of samples; auto: if the task has no augmentation", choices=("auto", True, False), advanced=True
    )
    learning_rate: float | None = option(None, RATE, above=0.0, advanced=True)
    batch_size: int = option(128, "samples per training step", minimum=2, advanced=True)
    max_seconds: float | None = option(None, SECONDS, above=0.0, unit="s")
    allow_untouched: bool = option(False, UNTOUCHED, advanced=True)
    temperature_end: float | None = option(
        None, "temperature at the end of a linear change; None: constant", above=0.0, advanced=True
    )
    alpha_end: float | None = option(
        None, "alpha at the end of a linear change; None: constant", minimum=0.0, maximum=1.0, advanced=True
    )
    heads: tuple[str, ...] = option(
        (), "weights of outputs, as 'boxes=0.1' or 'boxes=0.1:mse' (auto, kl, kl_last, mse); others: 1", advanced=True
    )
    features: tuple[str, ...] = option(
        ("auto",),
        "feature maps to match: layers ('layer2', 'student=teacher'), last (the last feature map), or auto (the last, "
        "if its shape is the same in both)",
        advanced=True,
    )
    feature_weight: float | None = option(
        None,
        "weight of the feature loss; None: 20 for a last feature map of the same shape, 1 for others",
        minimum=0.0,
        advanced=True,
    )
    attention: tuple[str, ...] = option(
        (), "layers whose attention maps are matched, named as in features", advanced=True
    )
    attention_weight: float = option(
        10.0, "weight of the attention loss (1 - cosine similarity)", minimum=0.0, advanced=True
    )
    teacher: str | None = option(
        None, "teacher: 'file.py:function' of a function that returns a module; None: the task's model", advanced=True
    )
    student: str | None = option(
        None,
        "student: 'file.py:function' of a function that returns a module; None: the current variant",
        advanced=True,
    )
    schedule: str = option("cosine", _SCHEDULE, choices=SCHEDULES, advanced=True)
    precision: str = option("auto", _PRECISION, choices=PRECISIONS, advanced=True)
    evaluate_every: float = option(1.0, _EVALUATE, minimum=0.0, advanced=True)
    patience: int | None = option(None, _PATIENCE, minimum=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_patience(self)
        for role in ("teacher", "student"):
            _check_reference(role, getattr(self, role))
        refuse_idle(
            self,
            (not self.features, ("feature_weight",), "Name layers in features."),
            (not self.attention, ("attention_weight",), "Name layers in attention."),
        )
        if len(set(self.features) & set(LAST_MAP)) > 1:
            raise ConfigError("Distill.features holds both 'auto' and 'last'. Keep one of them.")
        _ = self.head_rules, self.feature_pairs, self.attention_pairs  # they raise ConfigError

    @property
    def label(self) -> str:
        return "distill" if self.student is None else f"distill into {self.student.rpartition(':')[2]}"

    @property
    def head_rules(self) -> dict[str, Head]:
        """Weight and kind of each output in ``heads``."""
        rules = {}
        for entry in self.heads:
            name, equals, rest = entry.rpartition("=")
            number, _, kind = rest.partition(":")
            if not equals or not name.strip() or not 0.0 <= number_in(number) < math.inf:
                raise ConfigError(f"Distill.heads: {entry!r} is not 'name=weight' with a weight of 0 or more.")
            if kind and kind not in HEAD_KINDS:
                raise ConfigError(f"Distill.heads: {entry!r}: " + unknown_name("comparison", kind, HEAD_KINDS))
            rules[name.strip()] = Head(float(number), kind or "auto")
        if len(rules) != len(self.heads):
            raise ConfigError(f"Distill.heads names an output twice: {', '.join(self.heads)}.")
        return rules

    @property
    def feature_pairs(self) -> tuple[tuple[str, str], ...]:
        """Layers of student and teacher in ``features``."""
        return _pairs("features", [entry for entry in self.features if entry not in LAST_MAP])

    @property
    def feature_weights(self) -> dict[str, float]:
        """Weights by kind of pair: ``"map"`` (without projection), ``"features"`` and ``"attention"``."""
        features = dict.fromkeys(_FEATURE_WEIGHTS, self.feature_weight) if self.feature_weight is not None else {}
        return _FEATURE_WEIGHTS | features | {"attention": self.attention_weight}

    @property
    def last_map(self) -> str | None:
        """Rule for the last feature map: ``"auto"``, ``"last"``, or None."""
        return next((entry for entry in self.features if entry in LAST_MAP), None)

    @property
    def attention_pairs(self) -> tuple[tuple[str, str], ...]:
        """Layers of student and teacher in ``attention``."""
        return _pairs("attention", self.attention)

    @property
    def training_option(self) -> str | None:
        return f"epochs={self.epochs:g}"

    def placement_error(self, before: Sequence[str]) -> str | None:
        if self.student is None or not before:
            return None
        lost = f"the effect of {before[-1]} would be lost"
        return f"With student={self.student!r} training starts from another module, so {lost}."


@dataclass(frozen=True)
class Recover(Step):
    """Fine-tune the variant on the labels, to recover the quality that an earlier step cost.

    After training, ``batch_norm="reestimate"`` recomputes the running statistics of BatchNorm over the training split,
    and ``fold`` folds each BatchNorm into the convolution before it, if nothing else uses the convolution's output.
    ``epochs=0`` does only these.

    Examples
    --------
    >>> Recover(epochs=10, patience=3).schedule
    'cosine'
    >>> Recover(epochs=0, batch_norm="reestimate", fold=True).epochs
    0.0
    """

    needs: ClassVar[tuple[str, ...]] = ("Prune", "PruneDepth", "Factorize", "Sparsify")
    needs_why: ClassVar[str] = (
        "Recover regains what Prune, PruneDepth, Factorize or Sparsify cost: put one of them before it."
    )

    epochs: float = option(2.0, "epochs of training", minimum=0.0)
    learning_rate: float | None = option(None, RATE, above=0.0, advanced=True)
    batch_size: int = option(128, "samples per training step", minimum=2, advanced=True)
    max_seconds: float | None = option(None, SECONDS, above=0.0, unit="s")
    allow_untouched: bool = option(False, UNTOUCHED, advanced=True)
    schedule: str = option("cosine", _SCHEDULE, choices=SCHEDULES, advanced=True)
    precision: str = option("auto", _PRECISION, choices=PRECISIONS, advanced=True)
    evaluate_every: float = option(1.0, _EVALUATE, minimum=0.0, advanced=True)
    patience: int | None = option(None, _PATIENCE, minimum=1)
    batch_norm: str = option(
        "keep",
        "BatchNorm statistics after training: keep, or reestimate over the training split",
        choices=("keep", "reestimate"),
        advanced=True,
    )
    fold: bool = option(False, "fold each BatchNorm into the convolution before it", advanced=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_patience(self)
        if not self.epochs and self.batch_norm == "keep" and not self.fold:
            raise ConfigError(
                "Recover(epochs=0) does nothing. Set epochs above 0, batch_norm='reestimate' or fold=True."
            )

    @property
    def training_option(self) -> str | None:
        if self.epochs:
            return f"epochs={self.epochs:g}"
        return None if self.batch_norm == "keep" else f"batch_norm={self.batch_norm!r}"


def _check_patience(step: Distill | Recover) -> None:
    if step.patience is not None and not step.evaluate_every:
        raise ConfigError(
            f"{type(step).__name__}(patience={step.patience}, evaluate_every=0): early stopping needs evaluations. "
            "Give evaluate_every, in epochs."
        )


def _check_reference(role: str, reference: str | None) -> None:
    """Refuse a malformed reference; the function itself is loaded with the task."""
    place, _, function = (reference or "").strip().rpartition(":")
    if reference is not None and not (place and function.isidentifier()):
        raise ConfigError(
            f"Distill.{role} must be 'path/to/file.py:function' or 'package.module:function', got {reference!r}."
        )


def _pairs(option_name: str, entries: Sequence[str]) -> tuple[tuple[str, str], ...]:
    pairs = []
    for entry in entries:
        mine, equals, theirs = (part.strip() for part in entry.partition("="))
        if not mine or (equals and not theirs):
            raise ConfigError(f"Distill.{option_name}: {entry!r} is neither a layer's name nor 'student=teacher'.")
        pairs.append((mine, theirs or mine))
    return tuple(pairs)
