"""Check text and paths from files and databases when read, and escape them when written."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from workbench.core.checks import given
from workbench.core.errors import WorkbenchError

T = TypeVar("T")
MOST_NAME = 200
"""Characters of a name."""
_MARKDOWN = re.compile(r"([\\`*_\[\]<>#|$])")
_ACTIVE = re.compile(r"[\\`*<>|$]|^[#>]|\]\(|\]:|!\[|\[\[")


def require_line(where: str, value: object, *, error: type[WorkbenchError], most: int = MOST_NAME) -> str:
    """Return text of one printable line, or raise ``error``."""
    if not isinstance(value, str) or not value.strip() or len(value) > most or not value.isprintable():
        raise error(f"{where} must be one line of at most {most} printable characters, got {given(value)}.")
    return value


def escape_control(text: str) -> str:
    """Return text with its control characters escaped, except for line ends and tabs."""
    kept = (part if part.isprintable() or part in "\n\t" else part.encode("unicode_escape").decode() for part in text)
    return "".join(kept)


def one_line(value: object) -> str:
    """Return a value as one printable line: control characters are escaped, whitespace becomes a space."""
    return escape_control(" ".join(str(value).split()))


def escape_markdown(value: object) -> str:
    """Return a value as one line of Markdown with its markup escaped."""
    text = one_line(value)
    return _MARKDOWN.sub(r"\\\1", text) if _ACTIVE.search(text) else text


def code_span(value: object) -> str:
    """Return a value as a code span of Markdown, also if it contains backticks."""
    text = one_line(value)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def parse_untrusted(where: str, value: Any, parse: Callable[[Any], T], *, error: type[WorkbenchError]) -> T:
    """Return ``parse(value)``, or raise ``error`` if the value does not have the expected form."""
    try:
        return parse(value)
    except (WorkbenchError, TypeError, ValueError, LookupError, AttributeError, RecursionError) as problem:
        raise error(f"{where} is not what the workbench wrote: {given(value)}.") from problem


def safe_path(folder: Path, name: object, *, error: type[WorkbenchError]) -> Path:
    """Return the path of ``name`` in ``folder``, or raise ``error`` if it leads elsewhere."""
    line = require_line(f"A file name in {folder}", name, error=error)
    path = folder / line
    if line in (".", "..") or Path(line).name != line or not path.resolve().is_relative_to(folder.resolve()):
        raise error(f"The name {line!r} leads out of the folder {folder}. Do not use its source.")
    return path


def require_regular_file(path: Path, *, error: type[WorkbenchError]) -> None:
    """Raise ``error`` if a path, after following links, is a device, a pipe or a folder."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as problem:  # ValueError: a NUL in the path
        words = problem.strerror if isinstance(problem, OSError) else problem
        raise error(f"{str(path)!r} cannot be read: {words}.") from problem
    if not stat.S_ISREG(mode):
        raise error(f"{path} is not a regular file.")
