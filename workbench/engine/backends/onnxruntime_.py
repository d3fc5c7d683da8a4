"""ONNX Runtime."""

from __future__ import annotations

from typing import Any

from workbench.artifact.reference import Arrays
from workbench.core.errors import EngineError
from workbench.core.machine import default_threads
from workbench.engine.backends.base import Availability, Capabilities, ModelSource, Session, require_onnx
from workbench.engine.backends.precisions import take_onnxruntime
from workbench.engine.config import InferenceConfig

NAME = "onnxruntime"
_HOW = "pip install onnxruntime"
DYNAMIC = (
    "ONNX Runtime also rounds the inputs of matrix products to int8 as it runs where only their weights are integers "
    "and it can fuse the two (MatMulNBits): part of the quality measured on this engine"
)


class OnnxRuntime:
    """The backend that runs the ONNX file in ONNX Runtime."""

    name = NAME
    capabilities = Capabilities(formats=("onnx",), devices=("cpu", "cuda"), precisions=("float32", "int8"))

    def status(self) -> Availability:
        """Say whether ONNX Runtime can be imported."""
        try:
            import onnxruntime
        except (ImportError, OSError) as error:
            return Availability(NAME, False, None, str(error).splitlines()[0], _HOW)
        return Availability(NAME, True, onnxruntime.__version__)

    def load(self, source: ModelSource, config: InferenceConfig) -> Session:
        """Load the ONNX file with all graph optimizations."""
        path = require_onnx(source, NAME)
        try:
            return OnnxRuntimeSession(str(path), source, config)
        except Exception as error:
            raise EngineError(f"ONNX Runtime cannot load {source.label}: {str(error).splitlines()[0]}") from error


class OnnxRuntimeSession:
    """An InferenceSession with its names ready."""

    def __init__(self, path: str, source: ModelSource, config: InferenceConfig) -> None:
        import onnxruntime

        self.threads = config.threads or default_threads()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 4
        # Workers that spin while they wait gain a tenth at batch 1 on an idle machine, and halve the speed (seen on
        # two cores) as soon as anything else runs; between calls they would take the cores of the engine that is timed.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        providers, self.notes = _providers(config)
        taken, entries = take_onnxruntime(config.precision, quantized=source.quantized)
        self.precision, self.notes = taken.precision, (*self.notes, *taken.notes)
        for key, value in entries.items():
            options.add_session_config_entry(key, value)
        session = onnxruntime.InferenceSession(path, options, providers=providers)
        self.placement = session.get_providers()[0]
        self.device = "cuda:0" if self.placement == "CUDAExecutionProvider" else "cpu"
        if self.device == "cpu" and "CUDAExecutionProvider" in providers:
            fell = "use_gpu=True, but ONNX Runtime could not start its CUDA provider: running on the CPU"
            self.notes = (*self.notes, fell)
        if source.mode is not None and "weights" in source.mode:
            self.notes = (*self.notes, DYNAMIC)
        if config.quantization is not None:
            self.notes = (
                *self.notes,
                "ONNX Runtime computes with these weights in float: a smaller file, no faster model",
            )
        self._session: Any = session
        self._run = session.run
        self._inputs = source.io.input_names
        self._outputs = list(source.io.output_names)
        self._binding: Any = None
        self._bound: tuple[Arrays, Arrays] = ([], [])

    def run(self, inputs: Arrays) -> tuple[Arrays, float]:
        """Run one batch."""
        return self._run(self._outputs, dict(zip(self._inputs, inputs, strict=True))), 0.0

    def run_into(self, inputs: Arrays, outputs: Arrays) -> float:
        """Run one batch between the caller's own arrays: nothing is allocated or copied on the CPU."""
        if not (_same(inputs, self._bound[0]) and _same(outputs, self._bound[1])):
            self._bind(inputs, outputs)
        self._session.run_with_iobinding(self._binding)
        return 0.0

    def _bind(self, inputs: Arrays, outputs: Arrays) -> None:
        binding = self._session.io_binding()
        for name, array in zip(self._inputs, inputs, strict=True):
            binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        for name, array in zip(self._outputs, outputs, strict=True):
            binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        self._binding = binding
        self._bound = list(inputs), list(outputs)  # kept alive: the binding holds addresses only

    def close(self) -> None:
        """Free the session."""
        self._session = self._run = self._binding = None
        self._bound = [], []


def _same(arrays: Arrays, others: Arrays) -> bool:
    """Return whether these are the very same arrays, so that addresses and shapes are known already."""
    return len(arrays) == len(others) and all(a is b for a, b in zip(arrays, others, strict=True))


def _providers(config: InferenceConfig) -> tuple[list[str], tuple[str, ...]]:
    import onnxruntime

    if not config.use_gpu:
        return ["CPUExecutionProvider"], ()
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return ["CUDAExecutionProvider", "CPUExecutionProvider"], ()
    note = (
        "use_gpu=True, but this ONNX Runtime has no CUDA provider: running on the CPU "
        "(pip install onnxruntime-gpu on a machine with CUDA)"
    )
    return ["CPUExecutionProvider"], (note,)


BACKEND = OnnxRuntime()
