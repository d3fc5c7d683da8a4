"""Options of training: distillation and recovery on the labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from workbench.compress.step import AFTER_QUANTIZE, RATE, SECONDS, UNTOUCHED, Step, refuse_idle
from workbench.core.config import option
from workbench.core.errors import ConfigError, unknown_name

SCHEDULES = ("cosine", "one_cycle", "constant")
PRECISIONS = ("auto", "float32", "bfloat16")
HEAD_KINDS = ("auto", "kl", "kl_last", "mse")
LAST_MAP = ("auto", "last")
"""Entries of ``features`` that name no layer: the last feature map, if the shapes are equal or in any case."""

# Validation accuracy after depth pruning and 4 epochs of 2,000 samples, with a weight of 0, 1, 5, 20 and 60 for the
# last map: digits 80.3, 80.7, 83.4, 89.4 and 90.0 %; CIFAR-10 ResNet-20 (to 20) 90.8, 91.3, 91.9 and 92.8 %. Through a
# projection it costs: digits with half of the channels 68.1, 64.8 and 60.9 % with 0, 1 and 20.
_FEATURE_WEIGHTS = {"map": 20.0, "features": 1.0}

_SCHEDULE = "course of the learning rate: warm-up and cosine, up and down once, or the same all the time"
_PRECISION = (
    "number format of matrix products: auto is bfloat16 if the CPU has it, unless timed steps of a longer training "
    "are faster in float32"
)
_EVALUATE = "passes between two looks at the validation metric; 0 never looks"
_PATIENCE = "stop after this many looks without a better one, and keep the best weights; None trains to the end"


class Head(NamedTuple):
    """How one output counts: its weight among the outputs, and how it is compared."""

    weight: float = 1.0
    kind: str = "auto"


@dataclass(frozen=True)
class Distill(Step):
    """Train the current variant (the student) to answer like a teacher: the task's own model, unless another is given.

    The loss is ``alpha * T^2 * KL(teacher || student) + (1 - alpha) * label loss`` (Hinton et al. 2015, arXiv
    1503.02531) for every output [n, classes] that holds logits by the task's own loss, with the mean squared error in
    place of KL for other floating outputs, such as those of a regression; plus ``feature_weight`` times the error of
    the layers in ``features``, relative to the variance of the teacher's (FitNets, arXiv 1412.6550), and
    ``attention_weight`` times that of the attention maps in ``attention`` (arXiv 1612.03928).

    ``features`` names layers of student and teacher (``"layer2"``, ``"small.3=layer3"``; ``"head:input"`` is what goes
    into a layer), or ``"auto"``: the last feature map before the head or its pooling, found by running both, if its
    shape is the same in both. If structured pruning made it narrower, the outputs alone are learned and the step's
    notes say so. ``"last"`` takes the last feature map in any case, by a learned projection if the widths differ.
    ``()`` matches none.

    ``teacher`` and ``student`` name functions that return a module, as ``"file.py:function"`` or
    ``"package.module:function"``; their outputs must have the structure of the task's own model. The name is part
    of a recipe's id, what stands in the file is not: give another function another name.

    Examples
    --------
    >>> Distill(epochs=5, max_seconds=60.0).temperature
    4.0
    >>> Distill(features=("layer2", "small.3=layer3"), heads=("logits=1", "boxes=0.1:mse")).feature_pairs
    (('layer2', 'layer2'), ('small.3', 'layer3'))
    """

    not_after: ClassVar[Mapping[str, str]] = AFTER_QUANTIZE

    epochs: float = option(3.0, "passes over the training data", above=0.0)
    temperature: float = option(4.0, "softens the teacher's answer", above=0.0)
    alpha: float = option(0.9, "weight of the teacher against the labels", minimum=0.0, maximum=1.0)
    blend: bool | str = option(
        "auto",
        "learn from mixtures of samples too; auto: where the task has no augmentation of its own",
        choices=("auto", True, False),
        advanced=True,
    )
    learning_rate: float | None = option(None, RATE, above=0.0, advanced=True)
    batch_size: int = option(128, "samples per training step", minimum=2, advanced=True)
    max_seconds: float | None = option(None, SECONDS, above=0.0, unit="s")
    allow_untouched: bool = option(False, UNTOUCHED, advanced=True)
    temperature_end: float | None = option(
        None, "temperature at the end, reached in a straight line; None keeps it", above=0.0, advanced=True
    )
    alpha_end: float | None = option(
        None, "alpha at the end, reached in a straight line; None keeps it", minimum=0.0, maximum=1.0, advanced=True
    )
    heads: tuple[str, ...] = option(
        (),
        "weights of several outputs, as 'boxes=0.1' or 'boxes=0.1:mse' (auto, kl, kl_last, mse); others count 1",
        advanced=True,
    )
    features: tuple[str, ...] = option(
        ("auto",),
        "what the student learns beside the outputs: layers ('layer2', 'its=teachers'), last (the last feature map), "
        "auto (that, if its shape is the same in both)",
        advanced=True,
    )
    feature_weight: float | None = option(
        None,
        "weight of the error of features, relative to their variance; None: 20 for a last feature map of one shape, 1 "
        "for layers by name or with a projection",
        minimum=0.0,
        advanced=True,
    )
    attention: tuple[str, ...] = option(
        (), "layers whose attention maps the student learns too, named as for features", advanced=True
    )
    attention_weight: float = option(
        10.0, "weight of the attention maps' error (1 - cosine)", minimum=0.0, advanced=True
    )
    teacher: str | None = option(
        None, "who teaches, as 'file.py:function' that returns a module; None is the task's own model", advanced=True
    )
    student: str | None = option(
        None, "who learns, as 'file.py:function' that returns a module; None is the current variant", advanced=True
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
        _ = self.head_rules, self.feature_pairs, self.attention_pairs  # raise where they cannot be read

    @property
    def label(self) -> str:
        """A few words for tables and charts."""
        return "distill" if self.student is None else f"distill into {self.student.rpartition(':')[2]}"

    @property
    def head_rules(self) -> dict[str, Head]:
        """The weight and kind of every output in ``heads``."""
        rules = {}
        for entry in self.heads:
            name, equals, rest = entry.rpartition("=")
            number, _, kind = rest.partition(":")
            if not equals or not name.strip() or not _is_weight(number):
                raise ConfigError(f"Distill.heads: {entry!r} is not 'name=weight' with a weight of 0 or more.")
            if kind and kind not in HEAD_KINDS:
                raise ConfigError(f"Distill.heads: {entry!r}: " + unknown_name("comparison", kind, HEAD_KINDS))
            rules[name.strip()] = Head(float(number), kind or "auto")
        if len(rules) != len(self.heads):
            raise ConfigError(f"Distill.heads names an output twice: {', '.join(self.heads)}.")
        return rules

    @property
    def feature_pairs(self) -> tuple[tuple[str, str], ...]:
        """The layers of student and teacher that ``features`` names."""
        return _pairs("features", [entry for entry in self.features if entry not in LAST_MAP])

    @property
    def feature_weights(self) -> dict[str, float]:
        """The weights by kind of pair: ``"map"`` (compared as they are), ``"features"`` and ``"attention"``."""
        features = dict.fromkeys(_FEATURE_WEIGHTS, self.feature_weight) if self.feature_weight is not None else {}
        return _FEATURE_WEIGHTS | features | {"attention": self.attention_weight}

    @property
    def last_map(self) -> str | None:
        """Whether the last feature map is learned: ``"auto"``, ``"last"``, or None."""
        return next((entry for entry in self.features if entry in LAST_MAP), None)

    @property
    def attention_pairs(self) -> tuple[tuple[str, str], ...]:
        """The layers of student and teacher in ``attention``."""
        return _pairs("attention", self.attention)

    @property
    def training_option(self) -> str | None:
        """The option for which the step reads the training split; None if it reads none of it."""
        return f"epochs={self.epochs:g}"

    def placement_error(self, before: Sequence[str]) -> str | None:
        """Return why a student of one's own cannot come after other steps."""
        if self.student is None or not before:
            return None
        return f"With student={self.student!r} it starts from another module, and what {before[-1]} did would be lost."


@dataclass(frozen=True)
class Recover(Step):
    """Train the current variant on the labels alone, to win back what an earlier step cost.

    After training, ``batch_norm="reestimate"`` computes the running statistics of BatchNorm anew from the whole
    training split, and ``fold`` merges each BatchNorm into the convolution before it, where nothing else uses the
    convolution's output. ``epochs=0`` does these alone.

    Examples
    --------
    >>> Recover(epochs=10, patience=3).schedule
    'cosine'
    >>> Recover(epochs=0, batch_norm="reestimate", fold=True).epochs
    0.0
    """

    not_after: ClassVar[Mapping[str, str]] = AFTER_QUANTIZE
    needs: ClassVar[tuple[str, ...]] = ("Prune", "PruneDepth", "Factorize", "Sparsify")
    needs_why: ClassVar[str] = (
        "Recover wins back what Prune, PruneDepth, Factorize or Sparsify cost; put one of them before it."
    )

    epochs: float = option(2.0, "passes over the training data", minimum=0.0)
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
        "running statistics after training: as training left them, or computed anew from the training split",
        choices=("keep", "reestimate"),
        advanced=True,
    )
    fold: bool = option(False, "merge each BatchNorm into the convolution before it", advanced=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_patience(self)
        if not self.epochs and self.batch_norm == "keep" and not self.fold:
            raise ConfigError(
                "Recover(epochs=0) does nothing. Train for some epochs, or give batch_norm='reestimate' or fold=True."
            )

    @property
    def training_option(self) -> str | None:
        """The option for which the step reads the training split; None if it reads none of it."""
        if self.epochs:
            return f"epochs={self.epochs:g}"
        return None if self.batch_norm == "keep" else f"batch_norm={self.batch_norm!r}"


def _check_patience(step: Distill | Recover) -> None:
    if step.patience is not None and not step.evaluate_every:
        raise ConfigError(
            f"{type(step).__name__}(patience={step.patience}, evaluate_every=0): an early stop has to look at the "
            "validation metric. Give evaluate_every, in epochs."
        )


def _check_reference(role: str, reference: str | None) -> None:
    """Refuse what cannot name a function; whether there is one is seen when the step meets a task."""
    place, _, function = (reference or "").strip().rpartition(":")
    if reference is not None and not (place and function.isidentifier()):
        raise ConfigError(
            f"Distill.{role}={reference!r} names no function. Give 'path/to/file.py:function' or "
            "'package.module:function', a function that returns the module."
        )


def _is_weight(text: str) -> bool:
    try:
        return 0.0 <= float(text) < math.inf
    except ValueError:
        return False


def _pairs(option_name: str, entries: Sequence[str]) -> tuple[tuple[str, str], ...]:
    pairs = []
    for entry in entries:
        mine, equals, theirs = (part.strip() for part in entry.partition("="))
        if not mine or (equals and not theirs):
            raise ConfigError(f"Distill.{option_name}: {entry!r} is neither a layer's name nor 'student=teacher'.")
        pairs.append((mine, theirs or mine))
    return tuple(pairs)
