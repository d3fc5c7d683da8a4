"""Display a figure in a notebook, with alternative text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.plots.drawing.figure import figure_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Picture:
    """A chart as PNG at twice its size in pixels, with a text for who cannot see it."""

    def __init__(self, figure: Figure, words: str) -> None:
        self.figure, self.words = figure, words

    def __repr__(self) -> str:
        return f"Picture({self.words!r})"

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        width = int(self.figure.get_figwidth() * self.figure.dpi)
        image = figure_png(self.figure, dpi=2 * self.figure.dpi)
        return {"image/png": image, "text/plain": self.words}, {"image/png": {"width": width, "alt": self.words}}
