"""Interfaces of backends and sessions, and the model source that a backend loads."""

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
    """Availability of a backend here; if not ``available``, the ``reason`` and the command ``how`` to install it."""

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
    """Features of a backend, installed or not.

    A backend without the precision ``"int8"`` simulates quantized models in float. ``dynamic_batch``: one loaded model
    takes any batch size. ``threads`` is the scope of the thread count; the ``"process"``'s is set before every call.

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
    """A model that a backend can load: an ONNX file, a function that makes the torch module, or an OpenVINO model.

    A missing format has a ``..._reason``. ``mode`` is a key of :data:`workbench.compress.quantize.modes.MODES`, None if
    unknown. ``unbatchable`` is the reason why samples of different callers must not share a call, None if they may.
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
    unbatchable: str | None = None


class Session(Protocol):
    """A loaded model.

    Optional attributes:

    - ``run_into(inputs, outputs)`` writes into contiguous arrays of the caller and returns the seconds of copying.
    - ``precision``, a key of :data:`workbench.engine.precision.TOLERANCES`; float32 by default.
    - ``nodes`` and ``fallbacks`` of :class:`~workbench.engine.loading.placement.Placement`.
    - ``compile_s`` and ``trial_compile_s``, seconds of a separate compile step and of trying it in another process.
    - ``parallel_calls``, the number of threads that may call it at once; one by default.
    - ``pipe``, a :class:`~workbench.engine.backends.cuda.transfers.CudaPipe`, to overlap calls on a device.
    - ``free_memory()`` returns cached device memory before a smaller batch is tried.
    """

    device: str
    threads: int
    placement: str
    notes: tuple[str, ...]

    def run(self, inputs: Arrays) -> tuple[Arrays, float]:
        """Run one batch of checked, flat inputs; return outputs owned by the caller, and the seconds of copying."""

    def close(self) -> None:
        """Free the runtime's memory and restore process-wide settings; may be called twice."""


class BatchFirstSession:
    """A session with the batch moved to the first dimension of all outputs."""

    def __init__(self, session: Session, io: IOSpec) -> None:
        self._session, self._io = session, io

    def __getattr__(self, name: str) -> Any:
        if name == "run_into":  # it would write in the model's own order
            raise AttributeError(name)
        return getattr(self._session, name)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes of the session."""
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
        """Return whether the runtime can be used here."""

    def load(self, source: ModelSource, config: InferenceConfig) -> Session:
        """Load a model; raise EngineError or BackendUnavailable with a readable reason."""


def require_onnx(source: ModelSource, backend: str) -> Path:
    """Return the ONNX file of a source, or raise ExportError with the reason why there is none."""
    if source.onnx_path is None:
        raise ExportError(f"Backend {backend!r} needs an ONNX file, and {source.label} has none: {source.onnx_reason}")
    return source.onnx_path


def require_module(source: ModelSource, backend: str) -> Any:
    """Make the torch module of a source, or raise EngineError with the reason why there is none."""
    if source.module is None:
        raise EngineError(
            f"Backend {backend!r} needs a torch module, and {source.label} has none: {source.module_reason}"
        )
    return source.module()


def copy_into(targets: Arrays, arrays: Arrays) -> None:
    """Copy arrays into a caller's arrays."""
    for target, array in zip(targets, arrays, strict=True):
        np.copyto(target, array)


def run_and_copy(run: Callable[[Arrays], tuple[Arrays, float]], inputs: Arrays, outputs: Arrays) -> float:
    """Run one batch and copy its outputs into a caller's arrays; return the seconds of copying."""
    arrays, copied = run(inputs)
    start = time.perf_counter()
    copy_into(outputs, arrays)
    return copied + time.perf_counter() - start
