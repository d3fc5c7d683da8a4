"""Options of depth pruning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from workbench.compress.step import EXCLUDE, INCLUDE, UNTOUCHED, Step, refuse_idle
from workbench.core.config import option


@dataclass(frozen=True)
class PruneDepth(Step):
    """Depth pruning: remove whole residual blocks, so that every engine runs fewer layers.

    A residual block is a module whose input is added to its result: it can be replaced by a pass-through. Blocks are
    found by tracing the model, and each is tried first: without it the model must run and its outputs must keep their
    shapes.

    ``ratio`` is the fraction of the removable blocks to remove (at least one), ``blocks`` their exact number. Blocks
    are removed one at a time, by the least loss per saving. The loss is the KL divergence between the outputs with and
    without the block on ``samples`` calibration samples (the relative squared error for outputs that are not class
    scores); BatchNorm uses the statistics of these samples. The saving is in multiply-accumulates or, with
    ``measure_latency``, in latency on ``engine`` at ``engine_batch`` samples, for which ``apply`` needs a ``cost``.

    ``rescore`` is the number of removals after which losses are outdated; a block with an outdated loss is scored
    again before it may be removed.

    Train afterwards with Distill or Recover; for many blocks repeat both (Wang and Wu, arXiv 2202.07861).

    Examples
    --------
    >>> PruneDepth(blocks=8).label
    'depth -8'
    >>> PruneDepth(ratio=0.25, exclude=("layer1.*",), measure_latency=True, engine="openvino").label
    'depth 0.25'
    """

    not_right_after: ClassVar[Mapping[str, str]] = {
        "PruneDepth": (
            "Two PruneDepth steps in a row act as one: remove more blocks at once, or put Distill or Recover between "
            "them."
        )
    }

    ratio: float = option(0.3, "fraction of the removable blocks to remove", above=0.0, below=1.0)
    blocks: int | None = option(None, "exact number of blocks to remove, instead of ratio", minimum=1)
    samples: int = option(256, "calibration samples to compute the loss of removing a block", minimum=1, advanced=True)
    rescore: int = option(1, "number of removals after which losses are computed again", minimum=1, advanced=True)
    measure_latency: bool = option(
        False, "rank blocks by the latency saved on an engine instead of multiply-accumulates", advanced=True
    )
    engine: str = option("onnxruntime", "engine for measure_latency", advanced=True)
    engine_batch: int = option(32, "batch size for measure_latency", minimum=1, unit="samples", advanced=True)
    include: tuple[str, ...] = option((), INCLUDE, advanced=True)
    exclude: tuple[str, ...] = option((), EXCLUDE, advanced=True)
    allow_untouched: bool = option(False, UNTOUCHED, advanced=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_idle(
            self,
            (self.blocks is not None, ("ratio",), "blocks is the number to remove: leave one of the two out."),
            (not self.measure_latency, ("engine", "engine_batch"), "Set measure_latency=True."),
        )

    @property
    def measured_on(self) -> tuple[str, int] | None:
        return (self.engine, self.engine_batch) if self.measure_latency else None

    @property
    def label(self) -> str:
        return f"depth {self.ratio:g}" if self.blocks is None else f"depth -{self.blocks}"
