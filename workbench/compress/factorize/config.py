"""Options of low-rank factorization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from workbench.compress.step import AFTER_QUANTIZE, EXCLUDE, UNTOUCHED, Step, refuse_idle
from workbench.core.config import option
from workbench.core.errors import ConfigError, unknown_name


@dataclass(frozen=True)
class Factorize(Step):
    """Replace a layer by thinner ones in a row, cut by singular value decomposition.

    The rank keeps ``energy`` of the squared singular values, or is ``ratio`` of the full rank where given (``ratios``
    for some layers by name; 1 leaves them whole), or is what stands out of the noise (``rank="vbmf"``), or is chosen
    over all layers so that the whole model keeps ``budget`` of its MACs or parameters (``of``). A layer is replaced
    only where both its parameters and its multiply-accumulates fall by ``min_saving``, and with ``measured`` only
    where the model gets faster on ``engine`` at ``engine_batch`` samples, which needs ``Recipe.apply(task, cost=...)``.

    ``conv`` says how a kernel is cut: ``channel`` (the kernel to fewer channels, then 1x1), ``spatial`` (k x 1, then
    1 x k), ``tucker2`` (1x1, the kernel between fewer channels, 1x1), or ``auto``: the cheapest of them that keeps as
    much. ``whiten`` keeps the energy of the outputs on the calibration data instead of that of the weights. An
    ``Embedding`` is cut where ``types`` names it; it gets smaller and not faster: a Linear follows the look-up.

    Examples
    --------
    >>> Factorize(ratio=0.25, conv="spatial").label
    'low-rank spatial 0.25'
    >>> Factorize(budget=0.5, of="params", conv="auto").label
    'low-rank auto to 0.5 of params'
    """

    not_after: ClassVar[Mapping[str, str]] = AFTER_QUANTIZE | {
        "Factorize": "Factorize can stand once: its layers are low-rank already. Lower energy or ratio instead.",
        "Sparsify": "Factorize must come before Sparsify: the factors of a sparse weight have no zeros left.",
    }
    not_before: ClassVar[tuple[str, ...]] = ("Factorize", "Prune")

    energy: float = option(0.9, "share of the squared singular values to keep", above=0.0, maximum=1.0)
    ratio: float | None = option(None, "rank as a share of the full rank, instead of energy", above=0.0, maximum=1.0)
    budget: float | None = option(
        None, "share of the whole model's MACs or parameters to keep, instead of energy", above=0.0, below=1.0
    )
    of: str = option(
        "macs", "what budget is a share of, and what is called cheap", choices=("macs", "params"), advanced=True
    )
    rank: str = option(
        "energy",
        "rank by energy, or by variational Bayes (vbmf): what stands out of the noise",
        choices=("energy", "vbmf"),
        advanced=True,
    )
    ratios: tuple[str, ...] = option(
        (), "ratios of the full rank for some layers, as 'name=0.3'; * and ? match as in file names", advanced=True
    )
    conv: str = option(
        "channel", "how a kernel is cut; auto: the cheapest", choices=("channel", "spatial", "tucker2", "auto")
    )
    whiten: bool = option(
        False, "keep the energy of the outputs on the calibration data, not of the weights", advanced=True
    )
    measured: bool = option(False, "split only where the model gets faster as measured on an engine", advanced=True)
    engine: str = option("onnxruntime", "the engine that measured splits are timed on", advanced=True)
    engine_batch: int = option(
        32, "the batch size that measured splits are timed at", minimum=1, unit="samples", advanced=True
    )
    min_saving: float = option(
        0.1, "least share of parameters and of MACs that a layer must save", minimum=0.0, below=1.0, advanced=True
    )
    types: tuple[str, ...] = option(("Linear", "Conv1d", "Conv2d"), "kinds of layer to look at", advanced=True)
    exclude: tuple[str, ...] = option((), EXCLUDE, advanced=True)
    allow_untouched: bool = option(False, UNTOUCHED, advanced=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for kind in self.types:
            if kind not in FACTORIZE_TYPES:
                raise ConfigError("Factorize.types: " + unknown_name("kind of layer", kind, FACTORIZE_TYPES))
        for entry in self.ratios:
            name, _, value = entry.rpartition("=")
            if not name or not _is_share(value):
                raise ConfigError(
                    f"Factorize.ratios: {entry!r} is not 'name=ratio' with a ratio above 0 and at most 1, like "
                    "'layer3.*=0.3'."
                )
        self._check_together()

    def _check_together(self) -> None:
        ways = {"ratio": self.ratio is not None, "budget": self.budget is not None, "rank='vbmf'": self.rank == "vbmf"}
        given = [word for word, is_given in ways.items() if is_given]
        if len(given) > 1:
            raise ConfigError(f"Factorize: {' and '.join(given)} each choose the rank. Give one of them.")
        refuse_idle(
            self,
            (bool(given), ("energy",), f"{given[0] if given else ''} chooses the rank: leave one of the two out."),
            (not self.measured, ("engine", "engine_batch"), "Set measured=True."),
        )
        if not self.whiten:
            return
        if self.conv != "channel":
            raise ConfigError(
                f"Factorize(whiten=True, conv={self.conv!r}): the best cut for the outputs is known for the channel "
                "decomposition only. Use conv='channel', or whiten=False."
            )
        if given and given != ["ratio"]:
            raise ConfigError(
                f"Factorize(whiten=True) with {given[0]}: that compares the energy of weights. Use energy or ratio, or "
                "whiten=False."
            )

    @property
    def measured_on(self) -> tuple[str, int] | None:
        """Engine and batch size of ``measured``."""
        return (self.engine, self.engine_batch) if self.measured else None

    @property
    def label(self) -> str:
        """A few words for tables and charts."""
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


FACTORIZE_TYPES = ("Linear", "Conv1d", "Conv2d", "Embedding")


def _is_share(text: str) -> bool:
    try:
        return 0.0 < float(text) <= 1.0
    except ValueError:
        return False
