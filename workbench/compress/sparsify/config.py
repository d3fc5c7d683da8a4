"""Options of unstructured and N:M sparsity."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from workbench.compress.step import EXCLUDE, INCLUDE, SCHEDULES, UNTOUCHED, Step, refuse_idle
from workbench.core.config import option
from workbench.core.errors import ConfigError


@dataclass(frozen=True)
class Sparsify(Step):
    """Set weights to zero. Layers keep their shapes: smaller when zipped, faster only on hardware for sparsity.

    ``granularity`` is the unit that becomes zero (Mao et al., arXiv 1705.08922): a ``weight``; a ``vector`` (a row of a
    convolution's kernel, else four consecutive inputs); a ``kernel`` (all weights between an input and an output
    channel); a ``filter`` (a whole output). ``criterion`` ranks them: ``magnitude``; ``movement`` towards zero in
    training (Sanh et al., arXiv 2005.07683); or ``gradient``, weight times gradient (Molchanov et al., CVPR 2019).
    ``pattern="2:4"`` keeps 2 of every 4 consecutive inputs instead of ``ratio``: for GPUs of compute capability 8.0.

    Zeros are set in ``rounds`` with ``recover_epochs`` of training in between (for ``movement`` before each round), and
    stay zero in all later training of the recipe. ``dense_epochs`` above 0 trains sparse for ``recover_epochs``, then
    all weights (dense-sparse-dense; Han et al., arXiv 1607.04381), which regularizes and does not shrink the model.

    Examples
    --------
    >>> Sparsify(0.8, scope="global", rounds=4, schedule="cubic", recover_epochs=1).label
    'sparse 0.8 global'
    >>> Sparsify(pattern="2:4").label
    'sparse 2:4'
    """

    not_right_after: ClassVar[Mapping[str, str]] = {
        "Sparsify": "Two Sparsify steps in a row act as one. Put Distill or Recover between them."
    }

    ratio: float = option(0.5, "fraction of weights to set to zero", above=0.0, below=1.0)
    granularity: str = option(
        "weight", "unit that becomes zero", choices=("weight", "vector", "kernel", "filter"), advanced=True
    )
    criterion: str = option(
        "magnitude",
        "ranking of weights: by magnitude, movement in training, or loss gradient",
        choices=("magnitude", "movement", "gradient"),
        advanced=True,
    )
    scope: str = option("local", "rank weights per layer or over the whole model", choices=("local", "global"))
    pattern: str | None = option(
        None, "keep N of every M consecutive inputs, as '2:4', instead of ratio", advanced=True
    )
    samples: int = option(256, "training samples for criterion='gradient'", minimum=1, advanced=True)
    rounds: int = option(1, "rounds of iterative pruning", minimum=1, advanced=True)
    schedule: str = option(
        "even",
        "sizes of the rounds: even, largest first (cubic), or largest in the middle (one_cycle)",
        choices=SCHEDULES,
        advanced=True,
    )
    recover_epochs: float = option(
        0.0, "epochs of training between rounds; zeros stay zero", minimum=0.0, advanced=True
    )
    dense_epochs: float = option(
        0.0, "epochs of final training of all weights, including those that were zero", minimum=0.0, advanced=True
    )
    include: tuple[str, ...] = option((), INCLUDE, advanced=True)
    exclude: tuple[str, ...] = option((), EXCLUDE, advanced=True)
    allow_untouched: bool = option(False, UNTOUCHED, advanced=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pattern is not None:
            self._check_pattern(self.pattern)
        if self.criterion == "movement" and not self.recover_epochs:
            raise ConfigError(
                "Sparsify(criterion='movement') requires recover_epochs above 0: it ranks weights by training."
            )
        if self.dense_epochs and not self.recover_epochs:
            raise ConfigError(
                "Sparsify(dense_epochs=...) requires recover_epochs above 0, for the sparse training before."
            )

        trains = self.rounds > 1 or self.criterion == "movement" or self.dense_epochs > 0
        refuse_idle(
            self,
            (self.rounds == 1, ("schedule",), "Set rounds above 1."),
            (not trains, ("recover_epochs",), "Set rounds above 1 or dense_epochs above 0, or add Recover."),
            (self.criterion != "gradient", ("samples",), "Set criterion='gradient'."),
            (self.pattern is not None, ("ratio",), "The pattern sets the ratio: give one of the two."),
        )

    def _check_pattern(self, pattern: str) -> None:
        match = re.fullmatch(r"(\d+):(\d+)", pattern)
        if match is None or not 0 < int(match[1]) < int(match[2]):
            raise ConfigError(f"Sparsify.pattern must be 'N:M' with 0 < N < M, like '2:4', got {pattern!r}.")
        if self.granularity != "weight" or self.scope != "local":
            raise ConfigError(f"Sparsify(pattern={pattern!r}) requires granularity='weight' and scope='local'.")

    @property
    def kept_of(self) -> tuple[int, int] | None:
        """``(N, M)`` of ``pattern``, or None."""
        if self.pattern is None:
            return None
        kept, _, size = self.pattern.partition(":")
        return int(kept), int(size)

    @property
    def training_option(self) -> str | None:
        if self.recover_epochs:
            return f"recover_epochs={self.recover_epochs:g}"
        return f"criterion={self.criterion!r}" if self.criterion == "gradient" else None

    @property
    def label(self) -> str:
        if self.dense_epochs:
            return "dense-sparse-dense"
        return f"sparse {self.pattern or format(self.ratio, 'g')}" + (" global" if self.scope == "global" else "")
