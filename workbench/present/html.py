"""What a notebook cell shows: pieces of HTML in the report's style, and charts with words for who cannot see them."""

from __future__ import annotations

import html
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

STYLE_FILE = Path(__file__).with_name("report.css")


@cache
def style() -> str:
    """Return the report's style sheet."""
    return STYLE_FILE.read_text(encoding="utf-8")


class Html:
    """A piece of HTML that a notebook shows as such; ``str()`` gives its source."""

    def __init__(self, source: str) -> None:
        self.source = source

    def __str__(self) -> str:
        return self.source

    def __repr__(self) -> str:
        return f"Html({len(self.source)} characters)"

    def _repr_html_(self) -> str:
        return f'<div class="wbr">{self.source}</div>'


def text(value: object) -> str:
    """Return ``value`` as HTML text."""
    return html.escape(str(value))


def details(summary: str, body: str, *, opened: bool = False) -> str:
    """Return a part of the page that is folded until asked for."""
    return f"<details{' open' if opened else ''}><summary>{text(summary)}</summary>{body}</details>"
