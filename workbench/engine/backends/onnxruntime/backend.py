"""The ONNX Runtime backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.artifact.reference import Arrays
from workbench.core.errors import ConfigError, EngineError, WorkbenchError, first_line
from workbench.core.machine import default_threads
from workbench.engine.backends.base import Availability, Capabilities, ModelSource, Session, require_onnx
from workbench.engine.backends.onnx_files import cached_graph, onnx_files, too_large, touch, writing_graph
from workbench.engine.backends.onnxruntime.providers import (
    CPU,
    CUDA,
    Providers,
    choose_providers,
    count_nodes,
    device_of,
    fallbacks,
    short_name,
)
from workbench.engine.config import InferenceConfig
from workbench.engine.precision import precision_in_onnxruntime
from workbench.engine.process.thread_options import choose_pins, flushed

NAME = "onnxruntime"
# Spinning workers start at once: on two idle cores small calls took up to 1.9 times as long without spinning. Next to
# another busy process spinning workers compete with it and each other: small calls took twice as long with spinning.
_NO_SPINNING = {"session.intra_op.allow_spinning": "0", "session.force_spinning_stop": "1"}
DYNAMIC = (
    "ONNX Runtime also rounds the inputs of matrix products to int8 at run time if only their weights are integers "
    "and it can fuse the two (MatMulNBits): part of the quality measured on this engine"
)


class OnnxRuntime:
    """Runs the ONNX file in ONNX Runtime."""

    name = NAME
    capabilities = Capabilities(formats=("onnx",), devices=("cpu", "cuda"), precisions=("float32", "int8"))

    def status(self) -> Availability:
        try:
            import onnxruntime
        except (ImportError, OSError) as error:
            return Availability(NAME, False, None, first_line(error), "pip install onnxruntime")
        return Availability(NAME, True, onnxruntime.__version__)

    def load(self, source: ModelSource, config: InferenceConfig) -> Session:
        path = require_onnx(source, NAME)
        try:
            return OnnxRuntimeSession(str(path), source, config)
        except ConfigError:
            raise
        except Exception as error:
            raise EngineError(f"ONNX Runtime cannot load {source.label}: {first_line(error)}") from error


class OnnxRuntimeSession:
    """An InferenceSession with its names and output binding."""

    def __init__(self, path: str, source: ModelSource, config: InferenceConfig) -> None:
        import onnxruntime

        self.threads = config.threads or default_threads()
        precision, entries = precision_in_onnxruntime(config.precision, quantized=source.quantized)
        self.precision, self.notes = precision
        if config.spin is False:
            entries |= _NO_SPINNING
        if config.flush_denormals:
            entries["session.set_denormal_as_zero"] = "1"
        pins = choose_pins(config.pin_threads, self.threads)
        if pins.cpus:  # counted from 1
            entries["session.intra_op_thread_affinities"] = ";".join(str(cpu + 1) for cpu in pins.cpus)
        names, available = onnxruntime.get_all_providers(), onnxruntime.get_available_providers()
        chosen = choose_providers(config, names=names, available=available)
        opener = _Opener(onnxruntime, config, chosen, entries, self.threads)
        session, cache_notes = opener.cached(path) if config.keep_optimized else (opener.open(path), ())
        self._opener, self._path = opener, path
        self._place(session, chosen, config)
        self.notes = (*self.notes, *pins.notes, *self.fallbacks, *cache_notes, *_weights_notes(source, config))
        self._session: Any = session
        # The entry covers the session's workers; the calling thread works with them.
        self._run, self._run_bound = session.run, session.run_with_iobinding
        if config.flush_denormals:
            self._run, self._run_bound = flushed(True)(self._run), flushed(True)(self._run_bound)
        self._inputs = source.io.input_names
        self._outputs = list(source.io.output_names)
        self._binding: Any = None
        self._bound: tuple[Arrays, Arrays] = ([], [])

    def _place(self, session: Any, chosen: Providers, config: InferenceConfig) -> None:
        """Set device and providers; a session of a cached graph counts the nodes of that graph."""
        running = session.get_providers()
        recorded = getattr(session, "get_provider_graph_assignment_info", None)  # ONNX Runtime 1.24 and later
        self.nodes = count_nodes(recorded()) if recorded is not None else {}
        self.placement = next(iter(self.nodes), running[0])
        self.device = device_of(self.placement, dict(chosen.requested).get(self.placement, {}))
        self.fallbacks = tuple(fallbacks(chosen, running=running, nodes=self.nodes, named=config.providers))

    def run(self, inputs: Arrays) -> tuple[Arrays, float]:
        return self._run(self._outputs, dict(zip(self._inputs, inputs, strict=True))), 0.0

    def run_into(self, inputs: Arrays, outputs: Arrays) -> float:
        """Run one batch between the caller's arrays, without allocating or copying on the CPU."""
        if not (_same(inputs, self._bound[0]) and _same(outputs, self._bound[1])):
            self._bind(inputs, outputs)
        self._run_bound(self._binding)
        return 0.0

    def _bind(self, inputs: Arrays, outputs: Arrays) -> None:
        binding = self._session.io_binding()
        for name, array in zip(self._inputs, inputs, strict=True):
            binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        for name, array in zip(self._outputs, outputs, strict=True):
            binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        self._binding = binding
        self._bound = list(inputs), list(outputs)  # kept alive: the binding holds addresses only

    def profiling(self, prefix: Path, *, write: Path | None = None) -> Any:
        """Return a second session that writes the times of nodes to ``prefix`` and a date, and its graph to ``write``.

        The file is complete after ``end_profiling``.
        """
        return self._opener.open(self._path, write=write, profile=prefix)

    def close(self) -> None:
        self._session = self._run = self._run_bound = self._binding = None
        self._bound = [], []


def _same(arrays: Arrays, others: Arrays) -> bool:
    """Return whether these are the same arrays, with the same addresses and shapes."""
    return len(arrays) == len(others) and all(a is b for a, b in zip(arrays, others, strict=True))


class _Opener:
    """Opens sessions with one set of options."""

    def __init__(
        self, runtime: Any, config: InferenceConfig, chosen: Providers, entries: Mapping[str, str], threads: int
    ) -> None:
        self._runtime, self._chosen, self._threads = runtime, chosen, threads
        self._level = config.graph_optimization
        self._entries = {**entries, "session.record_ep_graph_assignment_info": "1"}

    def open(
        self, path: str | Path, *, level: str | None = None, write: Path | None = None, profile: Path | None = None
    ) -> Any:
        """Return a session of a file; it writes its optimized graph to ``write``, times of nodes to ``profile``."""
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        level = level or self._level
        name = "ORT_DISABLE_ALL" if level == "none" else f"ORT_ENABLE_{level.upper()}"
        options.graph_optimization_level = self._runtime.GraphOptimizationLevel.__members__[name]
        options.log_severity_level = 4
        if write is not None:
            options.optimized_model_filepath = str(write)
        if profile is not None:
            options.enable_profiling, options.profile_file_prefix = True, str(profile)
        for key, value in self._entries.items():
            options.add_session_config_entry(key, value)
        with flushed(None):  # the first session of a process changes how its thread treats denormals
            # Without enable_fallback=False a provider that cannot start is replaced silently.
            return self._runtime.InferenceSession(
                str(path), options, providers=list(self._chosen.requested), enable_fallback=False
            )

    def cached(self, path: str) -> tuple[Any, tuple[str, ...]]:
        """Return a session of the cached graph, which is written if missing, and notes."""
        files = onnx_files(path)
        reason = _not_cacheable(files, self._chosen.names)
        if reason:
            return self.open(path), (f"keep_optimized: {reason}; nothing is kept",)
        settings = {"providers": self._chosen.requested, "level": self._level, "entries": self._entries}
        graph = cached_graph(files, version=self._runtime.__version__, settings=settings)
        if graph.is_file():
            try:
                session = self.open(graph, level="none")
            except Exception:  # noqa: BLE001 - ONNX Runtime's errors have no common class; a damaged graph is rewritten
                graph.unlink(missing_ok=True)
            else:
                touch(graph)
                return session, ("reads the graph that ONNX Runtime optimized before (keep_optimized)",)
        try:
            with writing_graph(graph) as temporary:
                return self.open(path, write=temporary), ()
        except WorkbenchError as error:
            return self.open(path), (f"keep_optimized: {first_line(error).rstrip('.')}; nothing is kept",)


def _not_cacheable(files: list[Path], providers: Sequence[str]) -> str | None:
    compiling = [short_name(name) for name in providers if name not in (CPU, CUDA)]
    if compiling:
        return f"a graph compiled by {' '.join(compiling)} cannot be written"
    return "the optimized graph may be too large for one file" if too_large(files) else None


def _weights_notes(source: ModelSource, config: InferenceConfig) -> tuple[str, ...]:
    notes = (DYNAMIC,) if source.mode is not None and "weights" in source.mode else ()
    if config.quantization is None:
        return notes
    return (*notes, "ONNX Runtime computes with these weights in float: a smaller file, but not a faster model")


BACKEND = OnnxRuntime()
