"""Options of unstructured sparsity: single connections at zero."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from workbench.compress.schedule import SCHEDULES
from workbench.compress.step import AFTER_QUANTIZE, EXCLUDE, INCLUDE, UNTOUCHED, Step, check_patterns, refuse_idle
from workbench.core.config import option
from workbench.core.errors import ConfigError


@dataclass(frozen=True)
class Sparsify(Step):
    """Set single connections to zero. The layers keep their shapes, so most engines take as long as before.

    What it buys is a smaller zipped file and, on hardware made for it, speed: the report says which engine gains what.

    ``granularity`` is what becomes zero together (Mao et al., Exploring the Regularity of Sparse Structure, arXiv
    1705.08922): a ``weight``; a ``vector``, a row of a convolution's kernel, or four neighbouring inputs where a layer
    has no such row; a ``kernel``, all that an output reads from one input channel; a ``filter``, a whole output.
    ``criterion`` says which of them leave: those of least ``magnitude``, those that training moves towards zero
    (``movement``; Sanh et al., arXiv 2005.07683), or those the loss depends on least (``gradient``, weight times
    gradient; Molchanov et al., CVPR 2019). ``pattern="2:4"`` keeps at most 2 of every 4 neighbouring inputs, whatever
    ``ratio`` says: the pattern that GPUs from compute capability 8.0 on have instructions for.

    The zeros come in ``rounds`` with ``recover_epochs`` of training between (for ``movement`` before each round: it
    watches the weights move). Zeros stay zero in every later training of the recipe. With ``dense_epochs`` the zeros
    are trained around once more for ``recover_epochs`` and then let go, and everything is trained together
    (dense-sparse-dense; Han et al., arXiv 1607.04381): a way to a better model, not to a smaller one.

    Examples
    --------
    >>> Sparsify(0.8, scope="global", rounds=4, schedule="cubic", recover_epochs=1).label
    'sparse 0.8 global'
    >>> Sparsify(pattern="2:4").label
    'sparse 2:4'
    """

    not_after: ClassVar[Mapping[str, str]] = AFTER_QUANTIZE
    not_right_after: ClassVar[Mapping[str, str]] = {
        "Sparsify": "Two Sparsify steps in a row are one: use the larger ratio, or put Distill or Recover between them."
    }
    not_before: ClassVar[tuple[str, ...]] = ("Factorize", "Prune")

    ratio: float = option(0.5, "share of the weights to set to zero", above=0.0, below=1.0)
    granularity: str = option(
        "weight", "what becomes zero together", choices=("weight", "vector", "kernel", "filter"), advanced=True
    )
    criterion: str = option(
        "magnitude",
        "which weights leave: the smallest, those that training moves towards zero, or those the loss depends on least",
        choices=("magnitude", "movement", "gradient"),
        advanced=True,
    )
    scope: str = option(
        "local", "compare weights within each layer, or over the whole model", choices=("local", "global")
    )
    pattern: str | None = option(
        None, "at most N of every M neighbouring inputs, as '2:4', instead of ratio", advanced=True
    )
    samples: int = option(256, "training samples that gradient sees", minimum=1, advanced=True)
    rounds: int = option(1, "in how many rounds the zeros come", minimum=1, advanced=True)
    schedule: str = option(
        "even",
        "rounds of equal size, large ones first (cubic), or large ones in the middle (one_cycle)",
        choices=SCHEDULES,
        advanced=True,
    )
    recover_epochs: float = option(
        0.0, "passes of training on the labels between two rounds, zeros held", minimum=0.0, advanced=True
    )
    dense_epochs: float = option(
        0.0, "passes of training with the zeros let go again at the end", minimum=0.0, advanced=True
    )
    include: tuple[str, ...] = option((), INCLUDE, advanced=True)
    exclude: tuple[str, ...] = option((), EXCLUDE, advanced=True)
    allow_untouched: bool = option(False, UNTOUCHED, advanced=True)

    def __post_init__(self) -> None:
        check_patterns("Sparsify", include=self.include, exclude=self.exclude)
        super().__post_init__()
        if self.pattern is not None:
            self._check_pattern(self.pattern)
        if self.criterion == "movement" and not self.recover_epochs:
            raise ConfigError(
                "Sparsify(criterion='movement') watches the weights move in training: set recover_epochs above 0."
            )
        if self.dense_epochs and not self.recover_epochs:
            raise ConfigError(
                "Sparsify(dense_epochs=...) trains sparse, then dense: set recover_epochs above 0 for the sparse part."
            )

        trains = self.rounds > 1 or self.criterion == "movement" or self.dense_epochs > 0
        refuse_idle(
            self,
            (self.rounds == 1, ("schedule",), "Set rounds above 1."),
            (
                not trains,
                ("recover_epochs",),
                "Set rounds above 1 or dense_epochs above 0; or put Recover after Sparsify.",
            ),
            (self.criterion != "gradient", ("samples",), "Set criterion='gradient'."),
            (self.pattern is not None, ("ratio",), "The pattern says what stays: leave one of the two out."),
        )

    def _check_pattern(self, pattern: str) -> None:
        found = re.fullmatch(r"(\d+):(\d+)", pattern)
        if found is None or not 0 < int(found[1]) < int(found[2]):
            raise ConfigError(
                f"Sparsify.pattern: {pattern!r} is not 'N:M' with 0 < N < M, like '2:4': N weights of every M stay."
            )
        if self.granularity != "weight" or self.scope != "local":
            raise ConfigError(
                f"Sparsify(pattern={pattern!r}) chooses single weights within each group of {found[2]}: leave "
                "granularity at 'weight' and scope at 'local'."
            )

    @property
    def kept_of(self) -> tuple[int, int] | None:
        """``(N, M)`` of ``pattern``, or None."""
        if self.pattern is None:
            return None
        kept, _, size = self.pattern.partition(":")
        return int(kept), int(size)

    @property
    def training_option(self) -> str | None:
        """The option for which the step reads the training split; None if it reads none of it."""
        if self.recover_epochs:
            return f"recover_epochs={self.recover_epochs:g}"
        return f"criterion={self.criterion!r}" if self.criterion == "gradient" else None

    @property
    def label(self) -> str:
        """A few words for tables and charts."""
        if self.dense_epochs:
            return "dense-sparse-dense"
        return f"sparse {self.pattern or format(self.ratio, 'g')}" + (" global" if self.scope == "global" else "")
