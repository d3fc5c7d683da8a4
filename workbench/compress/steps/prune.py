"""Options of structured pruning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from workbench.compress.steps.base import AFTER_QUANTIZE, EXCLUDE, UNTOUCHED, Step
from workbench.core.config import option
from workbench.core.errors import ConfigError


@dataclass(frozen=True)
class Prune(Step):
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

    not_after: ClassVar[Mapping[str, str]] = AFTER_QUANTIZE | {
        "Factorize": "Prune must come before Factorize: a rank chosen for full layers does not fit cut ones."
    }
    not_right_after: ClassVar[Mapping[str, str]] = {
        "Prune": "Two Prune steps in a row are one: use a larger ratio, or put Distill or Recover between them."
    }

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
    exclude: tuple[str, ...] = option((), EXCLUDE, advanced=True)
    allow_untouched: bool = option(False, UNTOUCHED, advanced=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for entry in self.ratios:
            name, _, value = entry.rpartition("=")
            if not name or not _is_share(value):
                raise ConfigError(
                    f"Prune.ratios: {entry!r} is not 'name=ratio' with a ratio from 0 to below 1, like 'layer3.*=0.7'."
                )

    @property
    def label(self) -> str:
        """A few words for tables and charts."""
        return f"prune {self.ratio:g}" + (" global" if self.scope == "global" else "")


PRUNE_BY_LOSS = ("taylor", "hessian")


def _is_share(text: str) -> bool:
    try:
        return 0.0 <= float(text) < 1.0
    except ValueError:
        return False
