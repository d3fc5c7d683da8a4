"""What a backend must offer, and what it is given to load."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from workbench.artifact.reference import Arrays, Reference
from workbench.core.errors import EngineError, ExportError
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
class Capabilities:
    """What a backend can do, whether it is installed or not.

    Attributes
    ----------
    formats
        What it loads: ``"module"`` (a torch module) or ``"onnx"``.
    devices
        Where it can run: ``"cpu"``, ``"cuda"``, ``"gpu"`` (OpenVINO's).
    precisions
        What it computes in; a backend without ``"int8"`` runs a quantized model as a simulation in float.
    dynamic_batch
        Whether one loaded model takes any batch size, where the model itself does.
    threads
        Whose the thread count is: each ``"engine"``'s own, the whole ``"process"``'s (set before every call), or
        ``"none"`` where it cannot be set.

    Examples
    --------
    >>> str(Capabilities(formats=("onnx",), precisions=("float32", "int8")))
    'onnx; cpu; float32 int8; any batch; threads per engine'
    """

    formats: tuple[str, ...]
    devices: tuple[str, ...] = ("cpu",)
    precisions: tuple[str, ...] = ("float32",)
    dynamic_batch: bool = True
    threads: Literal["engine", "process", "none"] = "engine"

    def __str__(self) -> str:
        batch = "any batch" if self.dynamic_batch else "fixed batch"
        threads = "threads not set" if self.threads == "none" else f"threads per {self.threads}"
        return "; ".join((*map(" ".join, (self.formats, self.devices, self.precisions)), batch, threads))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}


@dataclasses.dataclass(frozen=True)
class ModelSource:
    """A model ready to be loaded by a backend.

    ``onnx_path`` is None where the module could not be exported (``onnx_reason`` says why), ``module`` makes the
    torch module and is None where there is none (``module_reason`` says why). ``openvino_path`` is a model in
    OpenVINO's own format, which then is all there is. ``mode`` says how it was quantized where that is known: a key of
    :data:`workbench.compress.quantize.modes.MODES`. ``apart`` says why samples of different callers must not share a
    call, None if they may.
    """

    label: str
    io: IOSpec
    onnx_path: Path | None = None
    onnx_reason: str | None = None
    openvino_path: Path | None = None
    module: Callable[[], Any] | None = None
    module_reason: str | None = None
    quantized: bool = False
    mode: str | None = None
    reference: Reference | None = None
    notes: tuple[str, ...] = ()
    keep_alive: Any = None
    apart: str | None = None


class Session(Protocol):
    """A loaded model. ``run`` gives arrays that the caller owns, and the seconds of it spent on copying.

    A session may also have ``run_into(inputs, outputs)``, which writes into contiguous arrays that the caller keeps and
    gives the seconds of copying; without it an engine copies what ``run`` gives. It may have
    a ``precision``, a key of :data:`workbench.engine.precision.TOLERANCES`, float32 where it says nothing,
    ``nodes`` and ``fallbacks`` as in :class:`~workbench.engine.loading.placement.Placement`, ``compile_s``, seconds of
    its loading that were compiling where the runtime does that in a step of its own, ``tried_s``, those that a process
    of its own took to try it first, and ``parallel_calls``, how many threads may call it at once; one where it says
    nothing.

    One on a device that computes on its own may have a ``pipe`` for overlapping calls, a
    :class:`~workbench.engine.backends.cuda.transfers.CudaPipe`, and ``free_memory()``, which gives cached memory back
    before a smaller batch is tried.
    """

    device: str
    threads: int
    placement: str
    notes: tuple[str, ...]

    def run(self, inputs: Arrays) -> tuple[Arrays, float]:
        """Run one batch: flat inputs in the order of the io description, checked already."""

    def close(self) -> None:
        """Free the runtime's memory and put back what was switched; may be called twice."""


class BatchFirst:
    """A session whose outputs have their batch in the first dimension, wherever the model has it."""

    def __init__(self, session: Session, io: IOSpec) -> None:
        self._session, self._io = session, io

    def __getattr__(self, name: str) -> Any:
        if name == "run_into":  # it would write in the model's own order
            raise AttributeError(name)
        return getattr(self._session, name)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the session says."""
        return self._session.notes

    @notes.setter
    def notes(self, notes: tuple[str, ...]) -> None:
        self._session.notes = notes

    def run(self, inputs: Arrays) -> tuple[Arrays, float]:
        """Run one batch."""
        outputs, copied = self._session.run(inputs)
        return self._io.batch_first(outputs), copied

    def close(self) -> None:
        """Free the session."""
        self._session.close()


class Backend(Protocol):
    """A runtime."""

    name: str
    capabilities: Capabilities

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


def require_module(source: ModelSource, backend: str) -> Any:
    """Return the torch module of a source, made anew.

    Raises
    ------
    EngineError
        With the reason why there is none.
    """
    if source.module is None:
        raise EngineError(
            f"Backend {backend!r} needs a torch module, and {source.label} gives none: {source.module_reason}"
        )
    return source.module()


def copy_into(targets: Arrays, arrays: Arrays) -> None:
    """Write arrays into those that a caller keeps."""
    for target, array in zip(targets, arrays, strict=True):
        np.copyto(target, array)


def run_and_copy(run: Callable[[Arrays], tuple[Arrays, float]], inputs: Arrays, outputs: Arrays) -> float:
    """Run one batch and copy what it gave into the caller's arrays, for what cannot write there; return as run_into."""
    found, copied = run(inputs)
    start = time.perf_counter()
    copy_into(outputs, found)
    return copied + time.perf_counter() - start
