"""Errors of the workbench; each message holds the requirement, the value and a remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 400


class WorkbenchError(Exception):
    """Base of every error the workbench raises on purpose."""


class ConfigError(WorkbenchError, ValueError):
    """An option has a wrong type, an unknown name or a value out of range."""


class TaskError(WorkbenchError, ValueError):
    """A task's data, model, metric or loss cannot be used."""


class RecipeError(WorkbenchError, ValueError):
    """The order of the steps is not valid."""


class CoverageError(WorkbenchError):
    """A step changed no layer."""


class ExportError(WorkbenchError):
    """A module cannot be exported to the format of a backend."""


class ArtifactError(WorkbenchError):
    """An artifact is missing, damaged, or does not fit the task."""


class BackendUnavailable(WorkbenchError):
    """A backend cannot run here; the message holds the command that installs it."""


class PackageMissing(WorkbenchError, ImportError):
    """A package is not installed; the message holds the command that installs it."""


class EngineError(WorkbenchError):
    """An engine is misused: before initialize, after dispose, or with outputs that do not fit."""


class InputError(WorkbenchError, ValueError):
    """Inputs given to an engine have a wrong shape, dtype, structure or size."""


class StudyError(WorkbenchError):
    """A study cannot start, resume or answer."""


class TrialFailed(WorkbenchError):
    """A trial's process ended without a result."""


class Cancelled(WorkbenchError):
    """The user cancelled the work."""


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest allowed name, or an empty string."""
    near = difflib.get_close_matches(given, list(allowed), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""


def unknown_name(kind: str, given: object, allowed: Iterable[str]) -> str:
    """Return the message for a name that is not one of the allowed ones."""
    names = sorted(allowed)
    return f"Unknown {kind} {given!r}.{did_you_mean(str(given), names)} Allowed: {', '.join(names)}."


def first_line(error: BaseException) -> str:
    """Return the first informative line of an exception's text, cut if it is very long."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and lines[0].startswith("The following operation failed in the TorchScript interpreter"):
        lines = lines[-1:]  # a trace through the interpreter comes first
    if len(lines) > 1 and lines[0].startswith("Exception from "):
        lines = [" ".join(lines[1:])]  # OpenVINO names its own source file first
    line = lines[0] if lines else type(error).__name__
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."
