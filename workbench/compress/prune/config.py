"""Options of structured pruning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from workbench.compress.step import EXCLUDE, INCLUDE, SCHEDULES, UNTOUCHED, Step, number_in, refuse_idle
from workbench.core.config import option
from workbench.core.errors import ConfigError

PRUNE_BY_LOSS = ("taylor", "hessian")


@dataclass(frozen=True)
class Prune(Step):
    """Structured pruning: remove whole channels (or hidden units), so that every engine computes less.

    ``ratio`` is the fraction removed: of the channels of each group of layers (``scope="local"``), of all groups of
    the same structure (``scope="isomorphic"``; Fang et al., arXiv 2407.04616) or of the whole model
    (``scope="global"``), or, with ``of``, of the model's multiply-accumulates, parameters or latency. ``ratios`` sets
    it for single layers. Attention heads are removed whole. Outputs keep their shape. Each cut is tried first; groups
    whose removal breaks the model (fixed reshapes in ``forward``) are kept, and the report lists them.

    ``of="latency"`` measures ``engine`` at ``engine_batch`` samples and needs ``Recipe.apply(task, cost=...)``; a study
    measures by itself.

    ``sparse_epochs`` trains with a sparsity penalty on the least important channels before the first cut:
    ``group_norm`` (Fang et al., DepGraph, CVPR 2023), ``growing`` (Wang et al., arXiv 2012.09243) or ``bn_scale`` (Liu
    et al., arXiv 1708.06519). ``sparse_strength`` is the largest share of a weight that is added to its gradient.

    ``rounds`` removes the channels in parts, with ``recover_epochs`` of training on the labels in between. With
    ``rewind`` the surviving weights return at every cut to their values from before the step (Frankle et al., arXiv
    1912.05671), so that training only selects channels.

    A predicate in ``include`` or ``exclude`` is a reference, ``"file.py:function"`` or ``"module:function"``, called as
    ``function(name, module) -> bool``. The recipe's id covers the reference only: rename a function when it changes.

    Examples
    --------
    >>> Prune(ratio=0.3, exclude=("stem",)).ratio
    0.3
    >>> Prune(ratio=0.5, of="macs", ratios=("layer3.*=0.7",), rounds=3, schedule="cubic").rounds
    3
    >>> Prune(ratio=0.5, scope="isomorphic", include=("layer*", "rules.py:wide_enough")).label
    'prune 0.5 isomorphic'
    """

    not_after: ClassVar[Mapping[str, str]] = {
        **Step.not_after,
        "Factorize": "Prune must come before Factorize: a rank chosen for full layers does not fit pruned layers.",
        "Sparsify": (
            "Prune must come before Sparsify: removing channels breaks the groups of an N:M pattern, and the zeros "
            "distort the importance of channels."
        ),
    }
    not_right_after: ClassVar[Mapping[str, str]] = {
        "Prune": "Two Prune steps in a row act as one: use a larger ratio, or put Distill or Recover between them."
    }

    ratio: float = option(0.5, "fraction to prune; its unit is the option of", above=0.0, below=1.0)
    of: str = option(
        "channels",
        "unit of ratio: fraction of channels, multiply-accumulates, parameters, or latency on an engine",
        choices=("channels", "macs", "params", "latency"),
        advanced=True,
    )
    engine: str = option("onnxruntime", "engine for of='latency'", advanced=True)
    engine_batch: int = option(32, "batch size for of='latency'", minimum=1, unit="samples", advanced=True)
    importance: str = option(
        "l2",
        "importance of a channel: norm of its weights (l2, l1, lamp), BatchNorm scale, loss (taylor, hessian), random",
        choices=("l2", "l1", "bn_scale", "lamp", "taylor", "hessian", "random"),
        advanced=True,
    )
    samples: int = option(256, "training samples for taylor and hessian", minimum=1, advanced=True)
    scope: str = option(
        "local",
        "rank channels within each group of layers, within groups of the same structure, or over the whole model",
        choices=("local", "isomorphic", "global"),
    )
    ratios: tuple[str, ...] = option((), "ratios of single layers, as 'name=0.7'; * and ? are wildcards", advanced=True)
    round_to: int = option(
        8, "keep a multiple of this many channels, which suits vector units", minimum=1, advanced=True
    )
    rounds: int = option(1, "rounds of iterative pruning", minimum=1, advanced=True)
    schedule: str = option(
        "even",
        "sizes of the rounds: even, largest first (cubic), or largest in the middle (one_cycle)",
        choices=SCHEDULES,
        advanced=True,
    )
    recover_epochs: float = option(0.0, "epochs of training on the labels between rounds", minimum=0.0, advanced=True)
    sparse_epochs: float = option(
        0.0, "epochs of training with a sparsity penalty before the first cut", minimum=0.0, advanced=True
    )
    sparse_strength: float = option(0.3, "strength of the sparsity penalty", above=0.0, advanced=True)
    sparse_by: str = option(
        "group_norm",
        "sparsity penalty: on group norms (constant or growing), or on BatchNorm scales",
        choices=("group_norm", "growing", "bn_scale"),
        advanced=True,
    )
    rewind: bool = option(
        False,
        "weight rewinding: at every cut, reset the surviving weights to their values before the step",
        advanced=True,
    )
    include: tuple[str, ...] = option((), INCLUDE, advanced=True)
    exclude: tuple[str, ...] = option((), EXCLUDE, advanced=True)
    allow_untouched: bool = option(False, UNTOUCHED, advanced=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for entry in self.ratios:
            name, _, value = entry.rpartition("=")
            if not name or not 0.0 <= number_in(value) < 1.0:
                raise ConfigError(
                    f"Prune.ratios: {entry!r} is not 'name=ratio' with a ratio from 0 to below 1, like 'layer3.*=0.7'."
                )
        if self.rewind and not self.sparse_epochs and not (self.recover_epochs and self.rounds > 1):
            raise ConfigError(
                "Prune(rewind=True) needs training to rewind: set recover_epochs above 0 and rounds above 1, or "
                "sparse_epochs."
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
            (self.importance not in PRUNE_BY_LOSS, ("samples",), "Set importance to 'taylor' or 'hessian'."),
        )

    @property
    def training_option(self) -> str | None:
        if self.sparse_epochs:
            return f"sparse_epochs={self.sparse_epochs:g}"
        if self.importance in PRUNE_BY_LOSS:
            return f"importance={self.importance!r}"
        return f"recover_epochs={self.recover_epochs:g}" if self.recover_epochs else None

    @property
    def measured_on(self) -> tuple[str, int] | None:
        return (self.engine, self.engine_batch) if self.of == "latency" else None

    @property
    def label(self) -> str:
        share = f"{self.ratio:g}" if self.of == "channels" else f"{self.ratio:g} {self.of}"
        by_layer = " by layer" if "*=0" in self.ratios else ""
        return f"prune {share}{by_layer}" + ("" if self.scope == "local" else f" {self.scope}")
