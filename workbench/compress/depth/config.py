"""Options of depth pruning: whole residual blocks out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from workbench.compress.step import AFTER_QUANTIZE, EXCLUDE, INCLUDE, UNTOUCHED, Step, check_patterns, refuse_idle
from workbench.core.config import option


@dataclass(frozen=True)
class PruneDepth(Step):
    """Depth pruning: remove whole residual blocks, so that every engine runs fewer layers.

    A block is a module whose input is added to what it computes, so that it can be replaced by a pass-through: a
    residual block of a CNN, a layer of a transformer. Blocks are found by tracing the model, and each one is tried
    first: the model must run without the block, and its outputs must keep their shapes.

    ``ratio`` is the fraction of the removable blocks to remove (at least one block), ``blocks`` is their exact number.
    The blocks leave one after the other, in each turn the one whose removal costs least for what it saves. The loss of
    a removal is the KL divergence between the outputs with and without the block on ``samples`` calibration samples
    (the relative squared error for outputs that are not class scores). BatchNorm takes the statistics of these samples,
    as training would adapt them. What a removal saves is multiply-accumulates or, with ``measure_latency``, the
    latency on ``engine`` at ``engine_batch`` samples; ``apply`` then needs a ``cost``.

    ``rescore`` is the number of removals after which losses count as outdated. A block with an outdated loss is scored
    again before it may leave.

    Train after it, with Distill or Recover; for many blocks repeat both (Wang and Wu, Practical Network Acceleration
    with Tiny Sets, arXiv 2202.07861).

    Examples
    --------
    >>> PruneDepth(blocks=8).label
    'depth -8'
    >>> PruneDepth(ratio=0.25, exclude=("layer1.*",), measure_latency=True, engine="openvino").label
    'depth 0.25'
    """

    not_after: ClassVar[Mapping[str, str]] = AFTER_QUANTIZE
    not_right_after: ClassVar[Mapping[str, str]] = {
        "PruneDepth": (
            "Two PruneDepth steps in a row are one: remove more blocks at once, or put Distill or Recover between them."
        )
    }

    ratio: float = option(0.3, "fraction of the removable blocks to remove", above=0.0, below=1.0)
    blocks: int | None = option(None, "exact number of blocks to remove, instead of ratio", minimum=1)
    samples: int = option(
        256, "calibration samples that the loss of a removal is measured on", minimum=1, advanced=True
    )
    rescore: int = option(1, "number of removals after which losses are measured again", minimum=1, advanced=True)
    measure_latency: bool = option(
        False, "rank blocks by latency measured on an engine, not by multiply-accumulates", advanced=True
    )
    engine: str = option("onnxruntime", "engine that latency is measured on", advanced=True)
    engine_batch: int = option(32, "batch size that latency is measured at", minimum=1, unit="samples", advanced=True)
    include: tuple[str, ...] = option((), INCLUDE, advanced=True)
    exclude: tuple[str, ...] = option((), EXCLUDE, advanced=True)
    allow_untouched: bool = option(False, UNTOUCHED, advanced=True)

    def __post_init__(self) -> None:
        check_patterns("PruneDepth", include=self.include, exclude=self.exclude)
        super().__post_init__()
        refuse_idle(
            self,
            (self.blocks is not None, ("ratio",), "blocks is the number to remove: leave one of the two out."),
            (not self.measure_latency, ("engine", "engine_batch"), "Set measure_latency=True."),
        )

    @property
    def measured_on(self) -> tuple[str, int] | None:
        """Engine and batch size of ``measure_latency``."""
        return (self.engine, self.engine_batch) if self.measure_latency else None

    @property
    def label(self) -> str:
        """A few words for tables and charts."""
        return f"depth {self.ratio:g}" if self.blocks is None else f"depth -{self.blocks}"
