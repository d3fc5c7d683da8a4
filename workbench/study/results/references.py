"""Reference rows: the float model in torch as commonly started, or compiled, next to the faster baseline.

They separate the gain of the allocator, or of a compiler, from that of the compression.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from workbench.core.errors import StudyError, unknown_name


class ReferenceKind(NamedTuple):
    """A kind of reference: its label in a row, the backend, and options of the engine."""

    words: str
    backend: str
    options: tuple[tuple[str, Any], ...] = ()


REFERENCES = {
    "torch-default": ReferenceKind("as commonly started", "torch-eager", (("allocator", "default"),)),
    "torch-compile": ReferenceKind("torch.compile", "torch-compile"),
}
"""By their name in ``Study.run(references=...)``."""


def checked_references(names: Sequence[str]) -> tuple[ReferenceKind, ...]:
    """Return the kinds of references by their names; StudyError for an unknown one."""
    for name in names:
        if name not in REFERENCES:
            raise StudyError(unknown_name("reference", name, REFERENCES))
    return tuple(REFERENCES[name] for name in dict.fromkeys(names))
