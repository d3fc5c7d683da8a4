"""Convert an executed notebook to one self-contained HTML file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from workbench import __version__
from workbench.core.files import atomic_write
from workbench.present.html import style

TEMPLATE = Path(__file__).with_name("page.html.j2")
HIDDEN_CELLS = ("notebook-only", "papermill-error-cell-tag")
HIDDEN_OUTPUTS = ("log",)
_LINKS = re.compile(r"""(?:src|href)\s*=\s*["']?\s*(?:https?:)?//""", re.IGNORECASE)


def write_page(notebook: str | Path, path: str | Path, *, title: str, failure: str | None = None) -> Path:
    """Convert an executed notebook to ``path``: without code, images embedded, with a banner if it failed.

    Cells tagged ``notebook-only`` and outputs of cells tagged ``log`` are left out.
    """
    import nbformat

    node = nbformat.read(str(notebook), as_version=4)
    page = {"style": style(), "title": title, "failure": failure, "version": __version__}
    source, _ = _exporter().from_notebook_node(node, resources={"workbench": page})
    with atomic_write(path) as temporary:
        temporary.write_text(source, encoding="utf-8")
    return Path(path)


def fetches(source: str) -> list[str]:
    """Return the links of an HTML page to the network, with the text around them."""
    return [source[max(0, m.start() - 20) : m.end() + 60] for m in _LINKS.finditer(source)]


def _exporter() -> Any:
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors import TagRemovePreprocessor
    from traitlets.config import Config

    settings = Config()
    settings.TagRemovePreprocessor.remove_cell_tags = set(HIDDEN_CELLS)
    settings.TagRemovePreprocessor.remove_all_outputs_tags = set(HIDDEN_OUTPUTS)
    exporter = HTMLExporter(config=settings, exclude_anchor_links=True)
    exporter.raw_template = TEMPLATE.read_text(encoding="utf-8")
    exporter.register_preprocessor(TagRemovePreprocessor(config=settings), enabled=True)
    return exporter
