"""Options of low-rank factorization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from workbench.compress.steps.base import AFTER_QUANTIZE, EXCLUDE, UNTOUCHED, Step
from workbench.core.config import option
from workbench.core.errors import ConfigError, unknown_name


@dataclass(frozen=True)
class Factorize(Step):
    """Replace a layer by two thinner ones, cut by singular value decomposition.

    The rank keeps ``energy`` of the squared singular values, or is ``ratio`` of the full rank where given. A
    layer is replaced only where both its parameters and its multiply-accumulates fall by ``min_saving``.
    """

    not_after: ClassVar[Mapping[str, str]] = AFTER_QUANTIZE | {
        "Factorize": "Factorize can stand once: its layers are low-rank already. Lower energy or ratio instead.",
        "Sparsify": "Factorize must come before Sparsify: the factors of a sparse weight have no zeros left.",
    }
    not_before: ClassVar[tuple[str, ...]] = ("Factorize", "Prune")

    energy: float = option(0.9, "share of the squared singular values to keep", above=0.0, maximum=1.0)
    ratio: float | None = option(None, "rank as a share of the full rank, instead of energy", above=0.0, maximum=1.0)
    min_saving: float = option(
        0.1, "least share of parameters and of MACs that a layer must save", minimum=0.0, below=1.0, advanced=True
    )
    types: tuple[str, ...] = option(("Linear", "Conv2d"), "kinds of layer to look at", advanced=True)
    exclude: tuple[str, ...] = option((), EXCLUDE, advanced=True)
    allow_untouched: bool = option(False, UNTOUCHED, advanced=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for kind in self.types:
            if kind not in FACTORIZE_TYPES:
                raise ConfigError("Factorize.types: " + unknown_name("kind of layer", kind, FACTORIZE_TYPES))

    @property
    def label(self) -> str:
        """A few words for tables and charts."""
        return f"low-rank {self.ratio:g}" if self.ratio is not None else f"low-rank {self.energy:g} energy"


FACTORIZE_TYPES = ("Linear", "Conv2d")
