"""One color and marker per technique, one fill and line per backend: the same in every chart.

Colors are from Okabe and Ito (2008), distinct under all common color vision deficiencies; markers make charts readable
in gray. Wine, from Paul Tol's muted scheme, replaces their yellow, which is too light for lines on white.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

INK = "#222222"
MUTED = "#6b6b6b"
FAINT = "#c9c9c9"
GRAY = "#7F7F7F"
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
GOOD, BAD = GREEN, VERMILION
PALE_BAND, PALE_PAUSE, PALE_BAD, DARK_BAD = "#E8E2D0", "#f0e6d2", "#F6D6C1", "#6E2C00"
HEAT = ("#FFF8F0", "#F0B27A", BAD, DARK_BAD)
PALETTE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, "#000000")
MARKERS = "os^DvPX"


@dataclass(frozen=True)
class Mark:
    """Look of a technique: color, marker, and its name in the legend."""

    color: str
    marker: str
    word: str
    size: float = 8.0


@dataclass(frozen=True)
class Stroke:
    """Look of a backend: fill of its markers and dashes of its lines."""

    fill: str
    dash: Any
    word: str


TECHNIQUES = {
    "float": Mark("#000000", "o", "float (not compressed)"),
    "prune": Mark(ORANGE, "s", "prune"),
    "depth": Mark("#882255", "X", "depth pruning", 9.0),
    "distill": Mark(BLUE, "^", "prune + distill", 9.0),
    "factorize": Mark(GREEN, "D", "factorize", 7.5),
    "sparsify": Mark(SKY, "v", "sparsify", 9.0),
    "quantize": Mark(PURPLE, "P", "quantize", 9.5),
    "chain": Mark(VERMILION, "*", "chain", 13.0),
}
REFERENCE: dict[str, Any] = {
    "marker": "o",
    "markersize": 9.0,
    "fillstyle": "full",
    "markerfacecolor": "white",
    "color": "#8c8c8c",
    "markeredgecolor": "#8c8c8c",
    "markeredgewidth": 1.6,
}
"""The look of a reference row: hollow and gray."""
SURVEY: dict[str, Any] = {"alpha": 0.45, "markeredgewidth": 0.9}
"""The look of a row at low fidelity."""
OTHER_TECHNIQUE = Mark(GRAY, "h", "other", 9.0)

BACKENDS = {
    "torch-eager": Stroke("none", ":", "torch eager"),
    "onnxruntime": Stroke("left", "--", "ONNX Runtime"),
    "openvino": Stroke("full", "-", "OpenVINO"),
    "torch-compile": Stroke("top", "-.", "torch.compile"),
    "torchscript": Stroke("bottom", (0, (1, 1, 4, 1)), "TorchScript"),
    "aot-inductor": Stroke("right", (0, (5, 1, 1, 1, 1, 1)), "AOTInductor"),
    "tensorrt": Stroke("top", (0, (8, 2)), "TensorRT"),
    "litert": Stroke("bottom", (0, (3, 3)), "LiteRT"),
}


def series(number: int) -> dict[str, str]:
    """Return color and marker of line ``number`` in a chart whose lines are neither techniques nor backends."""
    return {"color": PALETTE[number % len(PALETTE)], "marker": MARKERS[number % len(MARKERS)]}


def technique(name: Any) -> Mark:
    """Return the mark of a technique; default: the mark of ``other``."""
    return TECHNIQUES.get(name, OTHER_TECHNIQUE)


def backend(name: Any) -> Stroke:
    """Return the stroke of a backend; default: half filled, with its own name."""
    return BACKENDS.get(name, Stroke("right", (0, (2, 2)), str(name)))


def in_legend(names: Iterable[str], looks: Mapping[str, Any]) -> list[str]:
    """Return the distinct names in the order of ``looks`` (TECHNIQUES or BACKENDS), unknown ones last."""
    present = set(names)
    return [name for name in looks if name in present] + sorted(present - set(looks))


def marker(row: Any, **changes: Any) -> dict[str, Any]:
    """Return the marker options of ``Axes.plot`` for a row with technique and backend."""
    mark = technique(row["technique"])
    look = {
        "marker": mark.marker,
        "markersize": mark.size,
        "fillstyle": backend(row["backend"]).fill,
        "color": mark.color,
        "markerfacecoloralt": "white",
        "markeredgecolor": mark.color,
        "markeredgewidth": 1.3,
        "linestyle": "none",
    }
    return look | changes
