"""The OpenVINO backend."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from workbench.artifact.reference import Arrays
from workbench.core.errors import EngineError, first_line
from workbench.core.machine import available_cores, default_threads
from workbench.engine.backends.base import (
    Availability,
    Capabilities,
    ModelSource,
    Session,
    require_onnx,
    run_and_copy,
)
from workbench.engine.backends.openvino.compiler_guard import crash_free_settings
from workbench.engine.backends.openvino.input_sizes import OtherSizes, OutputShapes
from workbench.engine.backends.openvino.runtime import computes_float64, import_openvino, rounds_on_the_fly, shared_core
from workbench.engine.config import InferenceConfig
from workbench.engine.device import openvino_device, wants_gpu
from workbench.engine.precision import HINTS, precision_in_openvino

NAME = "openvino"
_HOW = "pip install openvino"
DYNAMIC = (
    "OpenVINO also rounds the inputs of matrix products to int8 at run time if only their weights are integers "
    "(dynamic quantization): faster, and part of the quality measured on this engine"
)

# The property applies to the compiling thread and new threads inherit it, but threads of a single stream do not, and
# OpenVINO reuses threads of other engines (2026.4).
DENORMALS = (
    "flush_denormals=True has no effect: OpenVINO has no switch for all of its threads (CPU_DENORMALS_OPTIMIZATION "
    "covers some)"
)
PINNED = (
    "pinned threads while they compute, also the calling thread, to cores that OpenVINO chooses (ENABLE_CPU_PINNING)"
)


def streams_note(requested: int, opened: int, threads: int) -> str:
    """Return a note on the effect of streams, and on streams that OpenVINO did not open."""
    fewer = f"OpenVINO opens {opened} of them for {threads} thread{'s' if threads > 1 else ''}: "
    calls = "1 call at once, on all threads" if opened == 1 else f"{opened} calls at once, which share the threads"
    slower = "" if opened == 1 else "; a call next to others is slower than one alone"
    return f"streams={requested}: {fewer if opened < requested else ''}{calls} ({threads}){slower}"


class OpenVino:
    """Compiles the ONNX file, or a file in OpenVINO's own format."""

    name = NAME
    capabilities = Capabilities(
        formats=("onnx",), devices=("cpu", "gpu"), precisions=("float32", "bfloat16", "float16", "int8")
    )

    def status(self) -> Availability:
        """Return whether OpenVINO can be imported and finds a CPU."""
        try:
            openvino = import_openvino()
            devices = shared_core().available_devices
        except (ImportError, OSError, RuntimeError) as error:
            return Availability(NAME, False, None, first_line(error), _HOW)
        version = openvino.get_version().split("-")[0]
        if "CPU" not in devices:
            return Availability(NAME, False, version, f"OpenVINO finds no CPU plugin, only {devices}", _HOW)
        return Availability(NAME, True, version)

    def load(self, source: ModelSource, config: InferenceConfig) -> Session:
        path = source.openvino_path or require_onnx(source, NAME)
        try:
            return OpenVinoSession(str(path), source, config)
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise EngineError(f"OpenVINO cannot compile {source.label}: {reason}") from error


@dataclasses.dataclass(slots=True)
class _Requests:
    """Requests of one call at a time: for the configured batch, for other sizes, and into a caller's memory."""

    fixed: Any
    others: dict[int, tuple[Any, Any]] = dataclasses.field(default_factory=dict)
    into: Any = None  # separate, because a request that wrote into a caller's memory continues to do so


class OpenVinoSession:
    """A model compiled for the configured batch size; other sizes are compiled on demand and verified first."""

    fallbacks: tuple[str, ...]
    narrows_int64 = hides_nan = True
    compile_s = trial_compile_s = 0.0
    parallel_calls = 1

    def __init__(self, path: str, source: ModelSource, config: InferenceConfig) -> None:
        openvino = import_openvino()
        self._core, self._path = shared_core(), path
        self._tensor = openvino.Tensor
        self.threads = config.threads or default_threads()
        self.placement, self.fallbacks = "CPU", ()
        if wants_gpu(config):
            self.placement, self.fallbacks = openvino_device(config, self._core.available_devices)
        self.device = self.placement.lower()
        can = self._core.get_property(self.placement, "OPTIMIZATION_CAPABILITIES")
        self.precision, notes = precision_in_openvino(config.precision, self.placement, can)
        self._pin, self._io, self._count = bool(config.pin_threads), source.io, len(source.io.outputs)
        ineffective = (DENORMALS,) if config.flush_denormals else ()
        self.notes: tuple[str, ...] = (*self.fallbacks, *notes, *ineffective, *((PINNED,) if self._pin else ()))
        # An unbatchable model is compiled for any size only, so that the verified model runs.
        self._batch = source.io.batch or (config.batch_size if source.unbatchable is None else 0)
        self._source, self._config = source, config
        self._compiled: Any = self._compile(self._batch or None)
        self._others = OtherSizes(self._batch, None if self._batch else self._compiled, self._agreeing)
        self._open = any(None in spec.shape for spec in source.io.inputs)
        self._hides_errors = self.placement == "CPU" and (self.threads == 1 or available_cores() == 1)
        self._shapes = OutputShapes(lambda: self._core.read_model(path), openvino.PartialShape)
        self._idle: list[_Requests] = [_Requests(self._compiled.create_infer_request())]
        if config.streams is not None:
            self.parallel_calls = max(1, int(self._compiled.get_property("NUM_STREAMS")))
            self.notes = (*self.notes, streams_note(config.streams, self.parallel_calls, self.threads))
        graph = self._core.read_model(path)
        if computes_float64(graph):
            self.notes = (*self.notes, "OpenVINO computes float64 in float32")
        if source.quantized and rounds_on_the_fly(graph):
            self.notes = (*self.notes, DYNAMIC)

    def counting(self, batch: int) -> Any:
        """Return the model compiled with the same settings and performance counters."""
        return self._compile(batch, {"PERF_COUNT": True})

    def _compile(self, batch: int | None, extra: Mapping[str, Any] | None = None) -> Any:
        """Return a compiled model; a static batch avoids shape inference in every call."""
        model = self._core.read_model(self._path)
        shapes_known = all(None not in spec.shape for spec in self._io.inputs)
        shapes: list[list[Any]] | None = None
        if batch is not None and self._io.batch is None and shapes_known:
            shapes = [[batch, *spec.shape] for spec in self._io.inputs]
            model.reshape(dict(enumerate(shapes)))
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY" if self._config.streams is None else "THROUGHPUT",
            # Otherwise CPUs with bfloat16 use it silently.
            "INFERENCE_PRECISION_HINT": HINTS[self.precision],
        }
        if self._config.streams is not None:
            settings["NUM_STREAMS"] = self._config.streams
        if self.placement == "CPU":
            settings["INFERENCE_NUM_THREADS"] = self.threads
            # Pinned threads cannot move away from other processes on the same core.
            settings["ENABLE_CPU_PINNING"] = self._pin
        settings |= extra or {}
        begun = time.perf_counter()
        if self._config.verify:
            safer, notes = crash_free_settings(self._path, shapes, self.placement, settings)
            settings |= safer
            self.notes = (*self.notes, *(note for note in notes if note not in self.notes))
        self.trial_compile_s += time.perf_counter() - begun
        begun = time.perf_counter()
        compiled = self._core.compile_model(model, self.placement, settings)
        if not self.compile_s:  # only at loading
            self.compile_s = time.perf_counter() - begun
        return compiled

    @contextlib.contextmanager
    def _lent(self) -> Iterator[_Requests]:
        try:
            requests = self._idle.pop()
        except IndexError:
            requests = _Requests(self._compiled.create_infer_request())
        try:
            yield requests
        finally:
            self._idle.append(requests)

    def _request_for(self, requests: _Requests, size: int) -> Any:
        if size == self._batch:
            return requests.fixed
        key, compiled = self._others.at(size)
        cached = requests.others.get(key)
        if cached is None or cached[0] is not compiled:
            # A request keeps its model alive: drop those of evicted sizes.
            requests.others = {size: pair for size, pair in requests.others.items() if self._others.has(size)}
            cached = requests.others[key] = (compiled, compiled.create_infer_request())
        return cached[1]

    def _agreeing(self, batch: int | None, sizes: tuple[int, ...]) -> Any:
        """Return the model compiled for a batch size (None: any); None if it disagrees with the reference."""
        compiled = self._compile(batch)
        request = compiled.create_infer_request()

        def run(inputs: Arrays) -> Arrays:
            return self._io.batch_first(self._infer(request, inputs)[0])

        for size in sizes:
            agreement = self._source.agreement(run, self.precision, self._config, size=size)
            if agreement is not None and (problem := agreement.problem):
                note = f"OpenVINO gives other outputs with an open batch ({problem}): each size is compiled separately"
                self.notes = (*self.notes, note) if batch is None else self.notes
                return None
        return compiled

    def run(self, inputs: Arrays) -> tuple[Arrays, float]:
        """Run one batch; compiling for a new batch size counts as computing."""
        with self._lent() as requests:
            request = self._request_for(requests, inputs[0].shape[0])
            if not self._hides_errors or not (self._open or request is not requests.fixed):
                return self._infer(request, inputs)
            expected = self._shapes.of(inputs)
            outputs, copied = self._infer(request, inputs)
            self._shapes.check(outputs, expected)
            return outputs, copied

    def _infer(self, request: Any, inputs: Arrays) -> tuple[Arrays, float]:
        start = time.perf_counter()
        held = self.set_inputs(request, inputs)
        begun = time.perf_counter()
        request.infer(share_outputs=True)  # else OpenVINO copies every output once more
        ended = time.perf_counter()
        del held
        outputs = [np.array(request.get_output_tensor(i).data) for i in range(self._count)]
        return outputs, (begun - start) + (time.perf_counter() - ended)

    def run_into(self, inputs: Arrays, outputs: Arrays) -> float:
        start = time.perf_counter()
        if inputs[0].shape[0] != self._batch or (self._open and self._hides_errors):
            return run_and_copy(self.run, inputs, outputs)
        with self._lent() as requests:
            request = requests.into = requests.into or self._compiled.create_infer_request()
            held = self.set_inputs(request, inputs)
            for index, array in enumerate(outputs):
                request.set_output_tensor(index, self._tensor(array, shared_memory=True))
            copied = time.perf_counter() - start
            request.infer(share_outputs=True)  # else OpenVINO copies every output once more
            del held
        return copied

    def set_inputs(self, request: Any, inputs: Arrays) -> Arrays:
        """Set a request's inputs; the returned arrays must outlive the call."""
        # OpenVINO requires writable memory, although it only reads inputs.
        held = [array if array.flags.writeable else array.copy() for array in inputs]
        for index, array in enumerate(held):
            request.set_input_tensor(index, self._tensor(array, shared_memory=True))
        return held

    def close(self) -> None:
        self._idle = []
        self._others.close()
        self._shapes.close()
        self._compiled = self._core = None


BACKEND = OpenVino()
