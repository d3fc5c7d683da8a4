"""Options of training: distillation and recovery on the labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from workbench.compress.steps.base import AFTER_QUANTIZE, RATE, SECONDS, UNTOUCHED, Step
from workbench.core.config import option


@dataclass(frozen=True)
class Distill(Step):
    """Train the current variant to answer like the task's own model (the teacher).

    The loss is ``alpha * T^2 * KL(teacher || student) + (1 - alpha) * label loss`` for every floating output
    [n, classes], and the mean squared error in place of KL for outputs of another rank.

    Examples
    --------
    >>> Distill(epochs=5, max_seconds=60.0).temperature
    4.0
    """

    not_after: ClassVar[Mapping[str, str]] = AFTER_QUANTIZE

    epochs: float = option(3.0, "passes over the training data", above=0.0)
    temperature: float = option(4.0, "softens the teacher's answer", above=0.0)
    alpha: float = option(0.9, "weight of the teacher against the labels", minimum=0.0, maximum=1.0)
    blend: bool = option(
        True, "learn from mixtures of samples too, where the task has no augmentation of its own", advanced=True
    )
    learning_rate: float | None = option(None, RATE, above=0.0, advanced=True)
    batch_size: int = option(128, "samples per training step", minimum=2, advanced=True)
    max_seconds: float | None = option(None, SECONDS, above=0.0, unit="s")
    allow_untouched: bool = option(False, UNTOUCHED, advanced=True)


@dataclass(frozen=True)
class Recover(Step):
    """Train the current variant on the labels alone, to win back what an earlier step cost."""

    not_after: ClassVar[Mapping[str, str]] = AFTER_QUANTIZE
    needs: ClassVar[tuple[str, ...]] = ("Prune", "Factorize", "Sparsify")
    needs_why: ClassVar[str] = "Recover wins back what Prune, Factorize or Sparsify cost; put one of them before it."

    epochs: float = option(2.0, "passes over the training data", above=0.0)
    learning_rate: float | None = option(None, RATE, above=0.0, advanced=True)
    batch_size: int = option(128, "samples per training step", minimum=2, advanced=True)
    max_seconds: float | None = option(None, SECONDS, above=0.0, unit="s")
    allow_untouched: bool = option(False, UNTOUCHED, advanced=True)
