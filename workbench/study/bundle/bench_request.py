"""Check the arguments of ``bench_artifact`` before any work starts."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.artifact.artifact import Artifact
from workbench.artifact.manifest import PROGRAM, module_files
from workbench.artifact.reference import Arrays, Reference
from workbench.core.checks import given, require_int, require_path, require_sequence
from workbench.core.errors import BackendUnavailable, ConfigError, InputError
from workbench.core.lazy import install_command
from workbench.core.machine import default_threads
from workbench.engine.backends import backend_status, require_backend, runs_module
from workbench.engine.binding.binders import Binder
from workbench.engine.names import DEFAULT_BACKENDS
from workbench.export.io import IOSpec, rebuild_inputs
from workbench.study.plan.shapes import OperatingPoint, own_shape, shapes_of
from workbench.tasks.axes import OpenDims, resize

if TYPE_CHECKING:
    from workbench.tasks.task import Task

BATCH_SIZES = (1, 8, 32)


@dataclass(frozen=True)
class BenchRequest:
    """Backends and operating points to time, with threads, samples, and the pickled ``build``."""

    backends: tuple[str, ...]
    points: tuple[OperatingPoint, ...]
    threads: int
    samples: Reference
    dims: OpenDims
    build: bytes

    @classmethod
    def of(
        cls,
        artifact: Artifact,
        backends: Sequence[str] | None,
        batch_sizes: Sequence[int] | None,
        threads: int | None,
        shapes: Mapping[str, Sequence[int]] | None,
        data: str | Path | None,
        task: Task | None,
        trust: bool,
    ) -> BenchRequest:
        """Check the arguments; errors as :func:`workbench.study.bundle.artifact_bench.bench_artifact`."""
        sizes = _batch_sizes(artifact.io, batch_sizes)
        count = default_threads() if threads is None else require_int("threads", threads)
        samples = artifact.reference if data is None else Reference(_read_inputs(artifact.io, data), [])
        chosen = _default_backends(artifact, task, trust) if backends is None else _backends(backends)
        for name in chosen:
            if (reason := _module_refused(name, artifact, task, trust)) is not None:
                raise ConfigError(reason)
        own = own_shape(samples.inputs, artifact.io.open_dims)
        dims = shapes_of(shapes, artifact.io.axes, whose="this artifact's", own=own)
        points = tuple(OperatingPoint(size, shape) for size in sizes for shape in dims)
        return cls(chosen, points, count, samples, artifact.io.open_dims, _packed(artifact, task))

    def inputs(self, point: OperatingPoint) -> Arrays:
        """Return flat inputs for one call."""
        try:
            arrays: Arrays = resize(self.samples.tiled_inputs(point.batch), self.dims, dict(point.shape))
            return arrays
        except MemoryError as error:
            raise ConfigError(
                f"bench: a batch of {point.words} does not fit into memory: {error}. Choose a smaller one."
            ) from error


def _default_backends(artifact: Artifact, task: Task | None, trust: bool) -> tuple[str, ...]:
    named = [name for name in DEFAULT_BACKENDS if _module_refused(name, artifact, task, trust) is None]
    available = tuple(state.name for state in backend_status(named) if state.available)
    if not available:
        raise BackendUnavailable(f"No backend runs here. Install one: {install_command('runtime')}")
    return available


def _backends(backends: Sequence[str]) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(require_sequence("bench: backends", backends, of=str)))
    if not names:
        raise ConfigError("bench: backends is empty. Name at least one, or leave it out for those that run here.")
    for name in names:
        require_backend(name)
    return names


def _batch_sizes(io: IOSpec, batch_sizes: Sequence[int] | None) -> tuple[int, ...]:
    if batch_sizes is None:
        return BATCH_SIZES if io.batch is None else (io.batch,)
    sizes = tuple(dict.fromkeys(require_sequence("bench: batch_sizes", batch_sizes, of=int)))
    for size in sizes:
        require_int("bench: each of batch_sizes", size)
    if not sizes:
        raise ConfigError("bench: batch_sizes is empty. Name at least one size, for example 1.")
    if io.batch is not None and sizes != (io.batch,):
        raise ConfigError(
            f"bench: batch_sizes must be {io.batch}, the size that this artifact was exported for, got {list(sizes)}."
        )
    return sizes


def _module_refused(backend: str, artifact: Artifact, task: Task | None, trust: bool) -> str | None:
    """Return the reason why a torch backend may not restore the module, None if it may or needs none."""
    manifest, other, code = artifact.manifest, "or take onnxruntime or openvino.", None
    if not runs_module(backend):
        return None
    if not manifest["replayable"]:
        code = f"read the program of {artifact.folder}" if PROGRAM in module_files(manifest) else None
    elif manifest.get("base") is not None:
        code = f"call the function {manifest['base']!r} that {artifact.folder} names"
    elif task is None:
        return (
            f"Backend {backend!r} runs the torch module, and an artifact holds only its weights. Give its task "
            f"(--task), {other}"
        )
    if code is None or trust:
        return None
    return f"Backend {backend!r} would {code}, which can run code. For your own folder give --trust, {other}"


def _packed(artifact: Artifact, task: Task | None) -> bytes:
    if task is None:
        return b""
    written = artifact.manifest["task"]
    if written.get("fingerprint") != task.fingerprint:
        raise ConfigError(
            f"{artifact.folder} was made for the task {written.get('name')!r} (fingerprint "
            f"{written.get('fingerprint')}), got {task.name!r} ({task.fingerprint}). Give that task."
        )
    from workbench.study.workers.prepare_client import pack_task

    return pack_task(task).build


def _read_inputs(io: IOSpec, data: Any) -> Arrays:
    """Return the arrays of an .npz file in the order of the inputs, with an engine's checks."""
    path = require_path("bench: data", data)
    try:
        packed = np.load(path, allow_pickle=False)
        if isinstance(packed, np.ndarray):
            raise ValueError("it holds one array without a name")
        with packed as stored:
            arrays = {name: stored[name] for name in stored.files}
    except OSError as error:
        raise ConfigError(f"Cannot read the inputs in {path}: {error.strerror or error}.") from error
    except (ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise ConfigError(
            f"{path} is not an .npz file of arrays: {error}. Write one: numpy.savez(path, {io.input_names[0]}=array)."
        ) from error
    if set(arrays) != set(io.input_names):
        raise ConfigError(
            f"{path} must hold one array for each of {io.describe_inputs()}, got "
            f"{', '.join(map(given, arrays)) or 'nothing'}."
        )
    tree = rebuild_inputs(io.kind, io.input_names, [arrays[name] for name in io.input_names])
    try:
        return Binder(io, lambda _: None).bind(tree)[0]
    except InputError as error:
        raise ConfigError(f"{path} does not fit: {error}") from error
