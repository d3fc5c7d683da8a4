"""HTML of reports and notebook cells, in one style."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

STYLE_FILE = Path(__file__).with_name("report.css")


@cache
def style() -> str:
    """Return the style sheet."""
    return STYLE_FILE.read_text(encoding="utf-8")


class Html:
    """HTML that a notebook displays; ``str()`` returns its source."""

    def __init__(self, source: str) -> None:
        self.source = source

    def __str__(self) -> str:
        return self.source

    def __repr__(self) -> str:
        return f"Html({len(self.source)} characters)"

    def _repr_html_(self) -> str:
        return f'<div class="wbr">{self.source}</div>'


def escaped(value: object) -> str:
    """Return ``value`` as HTML text."""
    return html.escape(str(value))


def hint(text: str) -> str:
    """Return a paragraph in a muted style."""
    return f'<p class="hint">{escaped(text)}</p>'


def details(summary: str, body: str, *, opened: bool = False) -> str:
    """Return a collapsible section."""
    return f"<details{' open' if opened else ''}><summary>{escaped(summary)}</summary>{body}</details>"


def text_rows(heads: Sequence[str], rows: Iterable[Sequence[str]], *, muted: Iterable[bool] = ()) -> str:
    """Return an HTML table of texts, left-aligned; rows with a true value in ``muted`` are pale."""
    flags = list(muted)
    lines = [
        f'<tr class="{"untouched" if flags and flags[i] else ""}">'
        + "".join(f'<td class="words">{escaped(cell)}</td>' for cell in row)
        + "</tr>"
        for i, row in enumerate(rows)
    ]
    return scrolling("".join(f'<th class="words">{escaped(head)}</th>' for head in heads), "".join(lines))


def scrolling(heads: str, body: str) -> str:
    """Return a table of HTML heads and rows that scrolls sideways if it is too wide."""
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
