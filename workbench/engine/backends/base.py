"""What a backend must offer, and what it is given to load."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from workbench.artifact.reference import Arrays, Reference
from workbench.core.errors import ExportError
from workbench.engine.config import InferenceConfig
from workbench.export.io import IOSpec


@dataclasses.dataclass(frozen=True)
class Availability:
    """Whether a backend runs here: ``reason`` says why not, ``how`` the command that would get it."""

    name: str
    available: bool
    version: str | None = None
    reason: str | None = None
    how: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class ModelSource:
    """A model ready to be loaded by a backend.

    ``onnx_path`` is None where the module could not be exported (``onnx_reason`` says why), ``module`` makes the
    torch module and is None where there is none (``module_reason`` says why). ``mode`` says how it was quantized where
    that is known: a key of :data:`workbench.compress.quantize.modes.MODES`.
    """

    label: str
    io: IOSpec
    onnx_path: Path | None = None
    onnx_reason: str | None = None
    module: Callable[[], Any] | None = None
    module_reason: str | None = None
    quantized: bool = False
    mode: str | None = None
    reference: Reference | None = None
    notes: tuple[str, ...] = ()
    keep_alive: Any = None


class Session(Protocol):
    """A loaded model. ``run`` gives arrays that the caller owns, and the seconds of it spent on copying."""

    device: str
    threads: int
    placement: str
    notes: tuple[str, ...]

    def run(self, inputs: Arrays) -> tuple[Arrays, float]:
        """Run one batch: flat inputs in the order of the io description, checked already."""

    def close(self) -> None:
        """Free the runtime's memory and put back what was switched; may be called twice."""


class Backend(Protocol):
    """A runtime."""

    name: str

    def status(self) -> Availability:
        """Say whether the runtime can be used here."""

    def load(self, source: ModelSource, config: InferenceConfig) -> Session:
        """Load a model; raises EngineError or BackendUnavailable with a readable reason."""


def require_onnx(source: ModelSource, backend: str) -> Path:
    """Return the ONNX file of a source.

    Raises
    ------
    ExportError
        With the reason why there is none.
    """
    if source.onnx_path is None:
        raise ExportError(f"Backend {backend!r} needs an ONNX file, and {source.label} has none: {source.onnx_reason}")
    return source.onnx_path


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's text that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
