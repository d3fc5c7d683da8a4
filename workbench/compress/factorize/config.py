"""Options of low-rank factorization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from workbench.compress.step import EXCLUDE, UNTOUCHED, Step, number_in, refuse_idle
from workbench.core.config import option
from workbench.core.errors import ConfigError, unknown_name

FACTORIZE_TYPES = ("Linear", "Conv1d", "Conv2d", "Embedding")


@dataclass(frozen=True)
class Factorize(Step):
    """Replace layers by low-rank factors (truncated SVD or Tucker-2).

    The rank keeps ``energy`` of the squared singular values; or is ``ratio`` of the full rank (``ratios`` for layers by
    name; 1 leaves them unchanged); or is estimated by variational Bayes (``rank="vbmf"``); or is chosen over all layers
    so that the model keeps ``budget`` of its MACs or parameters (``of``). A layer is replaced only if both parameters
    and MACs fall by ``min_saving``; with ``measured`` only if the model gets faster on ``engine`` at batch size
    ``engine_batch``, which needs ``Recipe.apply(task, cost=...)``.

    ``conv`` selects the decomposition of kernels: ``channel`` (kernel to fewer channels, then 1x1), ``spatial``
    (k x 1, then 1 x k), ``tucker2`` (1x1, kernel between fewer channels, 1x1), or ``auto``, the cheapest at equal
    energy. ``whiten`` keeps the energy of the outputs on the calibration data instead of the weights'. An
    ``Embedding`` is factorized if ``types`` names it; it gets smaller, not faster.

    Examples
    --------
    >>> Factorize(ratio=0.25, conv="spatial").label
    'low-rank spatial 0.25'
    >>> Factorize(budget=0.5, of="params", conv="auto").label
    'low-rank auto to 0.5 of params'
    """

    not_after: ClassVar[Mapping[str, str]] = {
        **Step.not_after,
        "Factorize": "A recipe can hold one Factorize. Lower energy or ratio instead.",
        "Sparsify": "Factorize must come before Sparsify: the factors of a sparse weight are dense.",
    }

    energy: float = option(0.9, "fraction of the squared singular values to keep", above=0.0, maximum=1.0)
    ratio: float | None = option(None, "rank as a fraction of the full rank, instead of energy", above=0.0, maximum=1.0)
    budget: float | None = option(
        None, "fraction of the model's MACs or parameters to keep, instead of energy", above=0.0, below=1.0
    )
    of: str = option("macs", "cost to reduce: MACs or parameters", choices=("macs", "params"), advanced=True)
    rank: str = option(
        "energy", "rank by energy or by variational Bayes (vbmf)", choices=("energy", "vbmf"), advanced=True
    )
    ratios: tuple[str, ...] = option((), "ratio per layer, as 'name=0.3'; * and ? are wildcards", advanced=True)
    conv: str = option(
        "channel",
        "decomposition of convolution kernels; auto: the cheapest at equal energy",
        choices=("channel", "spatial", "tucker2", "auto"),
    )
    whiten: bool = option(False, "energy of the outputs on calibration data instead of the weights", advanced=True)
    measured: bool = option(False, "replace a layer only if the measured latency of the model falls", advanced=True)
    engine: str = option("onnxruntime", "engine for measured=True", advanced=True)
    engine_batch: int = option(32, "batch size for measured=True", minimum=1, unit="samples", advanced=True)
    min_saving: float = option(
        0.1,
        "smallest saving in parameters and in MACs for a layer to be replaced, as a fraction",
        minimum=0.0,
        below=1.0,
        advanced=True,
    )
    types: tuple[str, ...] = option(("Linear", "Conv1d", "Conv2d"), "layer types to factorize", advanced=True)
    exclude: tuple[str, ...] = option((), EXCLUDE, advanced=True)
    allow_untouched: bool = option(False, UNTOUCHED, advanced=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for kind in self.types:
            if kind not in FACTORIZE_TYPES:
                raise ConfigError("Factorize.types: " + unknown_name("kind of layer", kind, FACTORIZE_TYPES))
        for entry in self.ratios:
            name, _, value = entry.rpartition("=")
            if not name or not 0.0 < number_in(value) <= 1.0:
                raise ConfigError(f"Factorize.ratios must hold 'name=ratio' with a ratio in (0, 1], got {entry!r}.")
        self._check_together()

    def _check_together(self) -> None:
        rules = {"ratio": self.ratio is not None, "budget": self.budget is not None, "rank='vbmf'": self.rank == "vbmf"}
        given = [rule for rule, is_given in rules.items() if is_given]
        if len(given) > 1:
            raise ConfigError(f"Factorize: {' and '.join(given)} each choose the rank. Give one of them.")
        refuse_idle(
            self,
            (bool(given), ("energy",), f"{given[0] if given else ''} chooses the rank: give one of the two."),
            (not self.measured, ("engine", "engine_batch"), "Set measured=True."),
        )
        if not self.whiten:
            return
        if self.conv != "channel":
            raise ConfigError(f"Factorize(whiten=True) requires conv='channel', got conv={self.conv!r}.")
        if given and given != ["ratio"]:
            raise ConfigError(f"Factorize(whiten=True) requires energy or ratio, got {given[0]}.")

    @property
    def measured_on(self) -> tuple[str, int] | None:
        return (self.engine, self.engine_batch) if self.measured else None

    @property
    def label(self) -> str:
        how = f"{self.energy:g} energy"
        if any(entry.startswith("*=") for entry in self.ratios):
            how = "by layer"
        elif self.ratio is not None:
            how = f"{self.ratio:g}"
        elif self.budget is not None:
            how = f"to {self.budget:g} of {self.of}"
        elif self.rank == "vbmf":
            how = "vbmf"
        ways = (self.conv if self.conv != "channel" else "", "whitened" if self.whiten else "")
        return " ".join(word for word in ("low-rank", *ways, how, "measured" if self.measured else "") if word)
