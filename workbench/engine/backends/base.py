"""Interfaces of backends and sessions, the place of a session, and the model source that a backend loads."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from workbench.artifact.reference import Arrays, Reference
from workbench.core.errors import EngineError, ExportError
from workbench.engine.config import InferenceConfig
from workbench.export.agreement import Agreement, compare_outputs
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
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Capabilities:
    """Features of a backend, installed or not.

    A backend without the precision ``"int8"`` simulates quantized models in float. ``dynamic_batch``: one loaded model
    takes any batch size. ``threads`` is the scope of the thread count; the ``"process"``'s is set before every call.
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

    def agreement(
        self, run: Callable[[Arrays], Arrays], precision: str, config: InferenceConfig, *, size: int | None = None
    ) -> Agreement | None:
        """Compare outputs in calls of ``size`` samples with the reference; None without it or ``config.verify``."""
        reference = self.reference
        if reference is None or not config.verify:
            return None
        total = reference.batch_size
        size = size or self.io.batch or (config.batch_size if self.unbatchable is None else total)
        parts = []
        for start in range(0, total, size):
            outputs = run([array.take(range(start, start + size), axis=0, mode="wrap") for array in reference.inputs])
            parts.append(outputs if size <= total - start else [output[: total - start] for output in outputs])
        outputs, expected = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)], reference.outputs
        if precision != "float32":  # an argmax may change with the last bits: measured quality shows its cost
            floats = [i for i, output in enumerate(expected) if output.dtype.kind == "f"]
            expected, outputs = [expected[i] for i in floats], [outputs[i] for i in floats]
        limit = config.accepted(precision, quantized=self.quantized)
        return compare_outputs(expected, outputs, quantized=self.quantized, tolerance=limit)


class Session(Protocol):
    """A loaded model.

    Optional attributes:

    - ``run_into(inputs, outputs)`` writes into contiguous arrays of the caller and returns the seconds of copying.
    - ``precision``, a key of :data:`workbench.engine.precision.TOLERANCES`; float32 by default.
    - ``nodes`` and ``fallbacks`` of :class:`~workbench.engine.backends.base.Placement`.
    - ``compile_s`` and ``trial_compile_s``, seconds of a separate compile step and of trying it in another process.
    - ``parallel_calls``, the number of threads that may call it at once; one by default.
    - ``pipe``, a :class:`~workbench.engine.backends.torch.cuda.CudaPipe`, to overlap calls on a device.
    - ``free_memory()`` returns cached device memory before a smaller batch is tried.
    """

    device: str
    threads: int
    placement: str

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about this model's figures; calls may add some."""

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

    def run(self, inputs: Arrays) -> tuple[Arrays, float]:
        outputs, copied = self._session.run(inputs)
        return self._io.batch_first(outputs), copied


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


_GPUS = ("cuda", "CUDA", "Tensorrt", "NvTensorRT", "GPU")


@dataclasses.dataclass(frozen=True)
class Placement:
    """The device or provider of a model by the runtime's name: ``"CPUExecutionProvider"``, ``"cuda:0"``, ``"GPU"``.

    ``nodes`` are graph nodes by place, if the runtime reports them; ONNX Runtime counts them before fusion, in a cached
    graph (``keep_optimized``) as stored. ``fallbacks`` run elsewhere than configured: errors with
    ``InferenceConfig(strict=True)``.
    """

    place: str
    nodes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    fallbacks: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.nodes:
            return self.place
        return ", ".join(f"{name} ({count} node{'s' if count != 1 else ''})" for name, count in self.nodes.items())


def placement_of(session: Any) -> Placement:
    """Return the placement of a session; its ``nodes`` and ``fallbacks`` are optional."""
    return Placement(str(session.placement), getattr(session, "nodes", {}), tuple(getattr(session, "fallbacks", ())))


def runs_on_gpu(place: object) -> bool:
    """Return whether a placement, or its text, names a GPU."""
    return str(place).startswith(_GPUS)


def precision_of(session: Session) -> str:
    """Return the compute precision of a session, float32 by default."""
    return getattr(session, "precision", "float32")
