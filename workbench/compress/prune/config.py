"""Options of structured pruning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from workbench.compress.schedule import SCHEDULES
from workbench.compress.step import AFTER_QUANTIZE, EXCLUDE, INCLUDE, UNTOUCHED, Step, check_patterns, refuse_idle
from workbench.core.config import option
from workbench.core.errors import ConfigError


@dataclass(frozen=True)
class Prune(Step):
    """Structured pruning: take whole channels (or hidden units) away, so that every engine gets faster.

    ``ratio`` is the share removed: of the channels of each group (``scope="local"``), of all groups of the same
    structure together (``scope="isomorphic"``; Fang et al., arXiv 2407.04616) or of the whole model
    (``scope="global"``), or, with ``of``, of the model's multiply-accumulates or parameters. ``ratios`` gives some
    layers a ratio of their own. Attention heads leave whole. Outputs keep their shape. Modules that were not
    written for pruning (fixed reshapes or paddings in ``forward``) are tried first and left alone where they break;
    the report says so.

    ``of="latency"`` takes that share of the latency away which ``engine`` is measured to have at ``engine_batch``
    samples. It needs ``Recipe.apply(task, cost=...)``; a study measures by itself.

    With ``sparse_epochs`` the module is first trained while a penalty pulls the channels that are worth least towards
    zero, group by group, so that less is lost when they go: ``group_norm`` (Fang et al., DepGraph, CVPR 2023),
    ``growing`` (Wang et al., arXiv 2012.09243) or ``bn_scale`` (Liu et al., arXiv 1708.06519). ``sparse_strength`` is
    the largest share of a weight that the penalty adds to its gradient.

    With ``rounds`` above 1 the channels leave a part at a time, ``recover_epochs`` of training on the labels between.
    With ``rewind`` that training only helps to choose: at every cut the surviving weights return to their values from
    before the step (Frankle et al., Linear mode connectivity and the lottery ticket hypothesis, arXiv 1912.05671).

    ``include`` and ``exclude`` take names, types of layer, and predicates. A recipe is kept as JSON, so a predicate is
    a reference, ``"file.py:function"`` or ``"module:function"``, called as ``function(name, module) -> bool``. The
    recipe's id sees the reference only: give the function another name when its answer changes.

    Examples
    --------
    >>> Prune(ratio=0.3, exclude=("stem",)).ratio
    0.3
    >>> Prune(ratio=0.5, of="macs", ratios=("layer3.*=0.7",), rounds=3, schedule="cubic").rounds
    3
    >>> Prune(ratio=0.5, scope="isomorphic", include=("layer*", "rules.py:wide_enough")).label
    'prune 0.5 isomorphic'
    """

    not_after: ClassVar[Mapping[str, str]] = AFTER_QUANTIZE | {
        "Factorize": "Prune must come before Factorize: a rank chosen for full layers does not fit cut ones.",
        "Sparsify": (
            "Prune must come before Sparsify: cutting channels tears the groups of an N:M pattern apart, and judges "
            "channels by what the zeros left of them."
        ),
    }
    not_right_after: ClassVar[Mapping[str, str]] = {
        "Prune": "Two Prune steps in a row are one: use a larger ratio, or put Distill or Recover between them."
    }

    ratio: float = option(0.5, "share to take away", above=0.0, below=1.0)
    of: str = option(
        "channels",
        "what ratio is a share of: channels, multiply-accumulates, parameters, or latency measured on an engine",
        choices=("channels", "macs", "params", "latency"),
        advanced=True,
    )
    engine: str = option("onnxruntime", "the engine that latency is measured on", advanced=True)
    engine_batch: int = option(
        32, "the batch size that latency is measured at", minimum=1, unit="samples", advanced=True
    )
    importance: str = option(
        "l2",
        "how a channel's worth is judged: by its weights, its BatchNorm scale, the loss (taylor, hessian), or not",
        choices=("l2", "l1", "bn_scale", "lamp", "taylor", "hessian", "random"),
        advanced=True,
    )
    samples: int = option(256, "training samples that taylor and hessian see", minimum=1, advanced=True)
    scope: str = option(
        "local",
        "compare channels within each group of layers, within groups of the same structure, or over the whole model",
        choices=("local", "isomorphic", "global"),
    )
    ratios: tuple[str, ...] = option(
        (), "ratios of channels for some layers, as 'name=0.7'; * and ? match as in file names", advanced=True
    )
    round_to: int = option(8, "keep a multiple of this many channels: vector units like 8", minimum=1, advanced=True)
    rounds: int = option(1, "in how many rounds the channels leave", minimum=1, advanced=True)
    schedule: str = option(
        "even",
        "rounds of equal size, large ones first (cubic), or large ones in the middle (one_cycle)",
        choices=SCHEDULES,
        advanced=True,
    )
    recover_epochs: float = option(
        0.0, "passes of training on the labels between two rounds", minimum=0.0, advanced=True
    )
    sparse_epochs: float = option(
        0.0,
        "passes of training before the first cut, in which weak channels are made to shrink",
        minimum=0.0,
        advanced=True,
    )
    sparse_strength: float = option(0.3, "how hard weak channels are pulled towards zero", above=0.0, advanced=True)
    sparse_by: str = option(
        "group_norm",
        "the penalty: on the norm of whole groups, growing as training goes on, or on BatchNorm scales",
        choices=("group_norm", "growing", "bn_scale"),
        advanced=True,
    )
    rewind: bool = option(
        False, "put the surviving weights back to their values from before the step at every cut", advanced=True
    )
    include: tuple[str, ...] = option((), INCLUDE, advanced=True)
    exclude: tuple[str, ...] = option((), EXCLUDE, advanced=True)
    allow_untouched: bool = option(False, UNTOUCHED, advanced=True)

    def __post_init__(self) -> None:
        check_patterns("Prune", include=self.include, exclude=self.exclude)
        super().__post_init__()
        for entry in self.ratios:
            name, _, value = entry.rpartition("=")
            if not name or not _is_share(value):
                raise ConfigError(
                    f"Prune.ratios: {entry!r} is not 'name=ratio' with a ratio from 0 to below 1, like 'layer3.*=0.7'."
                )
        if self.rewind and not self.sparse_epochs and not (self.recover_epochs and self.rounds > 1):
            raise ConfigError(
                "Prune(rewind=True) needs training to rewind: set recover_epochs above 0 and rounds above 1, or "
                "sparse_epochs. After a single cut the weights are those from before the step anyway."
            )
        refuse_idle(
            self,
            (
                self.rounds == 1,
                ("schedule", "recover_epochs"),
                "Set rounds above 1; or to train after a single cut, put Recover or Distill after Prune.",
            ),
            (not self.sparse_epochs, ("sparse_strength", "sparse_by"), "Set sparse_epochs above 0."),
            (self.of != "latency", ("engine", "engine_batch"), "Set of='latency'."),
            (
                self.importance not in PRUNE_BY_LOSS,
                ("samples",),
                f"Set importance to {' or '.join(map(repr, PRUNE_BY_LOSS))}.",
            ),
        )

    @property
    def training_option(self) -> str | None:
        """The option for which the step reads the training split; None if it reads none of it."""
        if self.sparse_epochs:
            return f"sparse_epochs={self.sparse_epochs:g}"
        if self.importance in PRUNE_BY_LOSS:
            return f"importance={self.importance!r}"
        return f"recover_epochs={self.recover_epochs:g}" if self.recover_epochs else None

    @property
    def measured_on(self) -> tuple[str, int] | None:
        """Engine and batch size of ``of="latency"``."""
        return (self.engine, self.engine_batch) if self.of == "latency" else None

    @property
    def label(self) -> str:
        """A few words for tables and charts."""
        share = f"{self.ratio:g}" if self.of == "channels" else f"{self.ratio:g} {self.of}"
        by_layer = " by layer" if "*=0" in self.ratios else ""
        return f"prune {share}{by_layer}" + ("" if self.scope == "local" else f" {self.scope}")


PRUNE_BY_LOSS = ("taylor", "hessian")


def _is_share(text: str) -> bool:
    try:
        return 0.0 <= float(text) < 1.0
    except ValueError:
        return False
