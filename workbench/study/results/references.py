"""Reference rows: the float model in torch as a person commonly starts it, beside a baseline that is better than that.

Without them the allocator's gain, or a compiler's, would be taken for that of the compression.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from workbench.core.checks import given
from workbench.core.errors import StudyError, unknown_name


class ReferenceKind(NamedTuple):
    """What a reference runs: its words in a row, the backend, and options of the engine."""

    words: str
    backend: str
    options: tuple[tuple[str, Any], ...] = ()


REFERENCES = {
    "torch-default": ReferenceKind("as commonly started", "torch-eager", (("allocator", "default"),)),
    "torch-compile": ReferenceKind("torch.compile", "torch-compile"),
}
"""By the name that ``Study.run(references=...)`` takes."""


def checked_references(names: Any) -> tuple[ReferenceKind, ...]:
    """Return the kinds of references by their names.

    Raises
    ------
    StudyError
        If ``names`` is not a list of known names.
    """
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise StudyError(f"references must be a list of names such as ['torch-default'], got {given(names)}.")
    for name in names:
        if name not in REFERENCES:
            raise StudyError(unknown_name("reference", name, REFERENCES))
    return tuple(REFERENCES[name] for name in dict.fromkeys(names))
