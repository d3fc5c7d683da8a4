"""Widget helpers."""

from __future__ import annotations

import html
from collections.abc import Iterator

import ipywidgets as widgets


def hint(text: str) -> widgets.HTML:
    """Return a line of small gray text."""
    line = widgets.HTML(html.escape(text))
    line.add_class("wb-hint")
    return line


def close_tree(widget: widgets.Widget) -> None:
    """Close a widget with its children, layouts and styles, which ``widget.close()`` leaves open."""
    for part in list(_tree(widget)):
        part.close()


def _tree(widget: widgets.Widget) -> Iterator[widgets.Widget]:
    owned = [*getattr(widget, "children", ()), getattr(widget, "layout", None), getattr(widget, "style", None)]
    for part in owned:
        if isinstance(part, widgets.Widget):
            yield from _tree(part)
    yield widget
