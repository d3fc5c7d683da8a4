"""Base session of torch backends: device, threads, precision, tensors and arrays."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.artifact.reference import Arrays
from workbench.core.allocator import use_steady_allocator
from workbench.core.errors import EngineError, first_line
from workbench.core.machine import default_threads, library_versions
from workbench.engine.backends.base import Availability, Capabilities, ModelSource, Session, require_module
from workbench.engine.config import InferenceConfig
from workbench.engine.device import choose_device, wants_gpu
from workbench.engine.precision import precision_on_cpu, precision_on_cuda

if TYPE_CHECKING:
    from workbench.engine.backends.torch.cuda import CudaPipe, PeakMemory
    from workbench.engine.process.cuda import MemoryLimit, Tf32Claim

SIMULATED = (
    "simulated quantization: {} runs quantize and dequantize as separate float operations; quality is that of the "
    "quantized model, speed is not"
)
_CAPABILITIES = Capabilities(
    formats=("module",),
    devices=("cpu", "cuda"),
    precisions=("float32", "tf32", "bfloat16", "float16"),
    threads="process",
)
Call = Callable[[list[Any]], Any]
"""Maps input tensors in the order of the io description to flat output tensors."""


class TorchSession:
    """A module with its device and thread count; subclasses implement :meth:`_prepare`."""

    title = "torch"
    compiles = False
    compile_s: float | None = None
    fallbacks: tuple[str, ...] = ()

    def __init__(self, source: ModelSource, config: InferenceConfig, *, backend: str) -> None:
        import torch

        from workbench.engine.backends.torch.modules import Layout
        from workbench.engine.process.threads import ThreadClaim

        self._backend, self._torch = backend, torch
        self.notes: tuple[str, ...] = (SIMULATED.format(self.title),) if source.quantized else ()
        if config.allocator == "steady" and not (allocator := use_steady_allocator()).steady:
            self._note(f"allocator='steady' has no effect: {allocator.reason}")
        where = choose_device(config)
        self.device, self.fallbacks = where.name, where.notes
        self.notes = (*self.notes, *self.fallbacks)
        self.placement = self.device
        self.threads = config.threads or default_threads()
        self.pipe: CudaPipe | None = None
        self._tf32: Tf32Claim | None = None
        self._limit: MemoryLimit | None = None
        self._module: Any = require_module(source, backend)
        self._peak: PeakMemory | None = None
        if self.device != "cpu":
            from workbench.engine.backends.torch.cuda import PeakMemory

            self._peak = PeakMemory(self.device)
            self._module = self._module.to(self.device)
        self._layout = Layout(self._module, source.io, config.memory_format)
        self._take_precision(source, config)
        self._claim = ThreadClaim.of(config, self.threads)
        self.notes = (*self.notes, *self._layout.notes, *self._claim.notes)
        self._call: Any = None
        try:
            if where.is_cuda:
                self._open_pipe(config)
            begun = time.perf_counter()
            with self.pipe.preparing() if self.pipe is not None else contextlib.nullcontext():
                self._call = self._prepare(source, config)
            self.compile_s = time.perf_counter() - begun if self.compiles else None
        except BaseException:
            self.close()
            raise

    def _take_precision(self, source: ModelSource, config: InferenceConfig) -> None:
        if self.device == "cpu":
            precision = precision_on_cpu(config.precision, quantized=source.quantized, gpu_requested=wants_gpu(config))
        else:
            capability = self._torch.cuda.get_device_capability(self.device)
            precision = precision_on_cuda(config.precision, capability, quantized=source.quantized)
        self.precision, self.notes = precision.precision, (*self.notes, *precision.notes)
        self.tolerance = config.accepted(self.precision, quantized=source.quantized)
        if self.precision in ("bfloat16", "float16"):
            from workbench.engine.backends.torch.modules import HalfPrecisionModule

            self._module = HalfPrecisionModule(self._module, self.precision, self.device)

    def _open_pipe(self, config: InferenceConfig) -> None:
        from workbench.engine.backends.torch.cuda import CudaPipe
        from workbench.engine.process.cuda import MemoryLimit, Tf32Claim

        if config.gpu_memory_limit_mib is not None:
            self._limit = MemoryLimit(config.gpu_memory_limit_mib, self.device)
            self.notes = (*self.notes, *self._limit.notes)
        self._tf32 = Tf32Claim(self.precision == "tf32")
        self.pipe = CudaPipe(self._on_device, self.device, limit_mib=config.pool_limit_mib, peak=self._peak)

    @property
    def module(self) -> Any:
        """The module that runs; None once the session is closed."""
        return self._module

    def free_memory(self) -> None:
        if self.pipe is not None:
            self.pipe.free_memory()

    def _on_device(self, tensors: list[Any]) -> Any:
        """Run the module on GPU tensors, on the pipe's stream."""
        self._claim.apply()
        if self._tf32 is not None:
            self._tf32.apply()
        with self._torch.inference_mode():
            return self._call(self._layout(tensors))

    def _prepare(self, source: ModelSource, config: InferenceConfig) -> Call:
        """Return the function that runs the module, with threads and device set."""
        raise NotImplementedError

    def _examples(self, source: ModelSource, size: int) -> list[Any] | None:
        """Return example inputs on the device, None if the source has none."""
        if source.reference is None:
            return None
        tensors = [self._torch.from_numpy(array) for array in source.reference.tiled_inputs(size)]
        return self._layout([tensor.to(self.device) for tensor in tensors])

    def _require_examples(self, source: ModelSource, size: int) -> list[Any]:
        """Return example inputs on the device; raise EngineError if the source has none."""
        examples = self._examples(source, size)
        if examples is None:
            raise EngineError(
                f"Backend {self._backend!r} needs example inputs, and {source.label} has none. "
                "Use the backend torch-eager, or save the variant again with variant.save(folder)."
            )
        return examples

    def _note(self, note: str) -> None:
        self.notes = (*self.notes, note)

    def run(self, inputs: Arrays) -> tuple[Arrays, float]:
        if self.pipe is not None:
            return self.pipe.run(inputs)
        leaves, before, ended = self._run(inputs)
        outputs = [_owned((leaf.detach() if leaf.requires_grad else leaf).numpy(), inputs) for leaf in leaves]
        return outputs, before + (time.perf_counter() - ended)

    def run_into(self, inputs: Arrays, outputs: Arrays) -> float:
        """Run one batch and copy its outputs into the caller's arrays; torch allocates its own first."""
        if self.pipe is not None:
            return self.pipe.run(inputs, outputs)[1]
        leaves, before, ended = self._run(inputs)
        for leaf, array in zip(leaves, outputs, strict=True):
            self._torch.from_numpy(array).copy_(leaf.detach())
        return before + (time.perf_counter() - ended)

    def _run(self, inputs: Arrays) -> tuple[list[Any], float, float]:
        """Return the output tensors, the seconds of preparing inputs, and the end time of the computation."""
        torch = self._torch
        start = time.perf_counter()
        self._claim.apply()
        # Torch must not write to read-only memory of the caller.
        tensors = self._layout([torch.from_numpy(a if a.flags.writeable else a.copy()) for a in inputs])
        begun = time.perf_counter()
        with torch.inference_mode(), self._claim:
            leaves = self._call(tensors)
        return leaves, begun - start, time.perf_counter()

    def close(self) -> None:
        self._module = self._call = None
        self._claim.release()
        for claim in (self._tf32, self._limit):
            if claim is not None:
                claim.release()
        if self.pipe is not None:
            self.pipe.close()


def torch_status(name: str) -> Availability:
    """Return whether torch can be imported."""
    version = library_versions(["torch"])["torch"]
    try:
        import torch
    except (ImportError, OSError) as error:
        return Availability(name, False, version, first_line(error), "pip install torch==2.13.0")
    return Availability(name, True, torch.__version__)


@dataclasses.dataclass
class TorchBackend:
    """A backend that runs the torch module in one kind of session."""

    name: str
    session: type[TorchSession]
    check: Callable[[str], Availability] = torch_status
    capabilities: Capabilities = _CAPABILITIES

    def status(self) -> Availability:
        return self.check(self.name)

    def load(self, source: ModelSource, config: InferenceConfig) -> Session:
        return self.session(source, config, backend=self.name)


def _owned(output: np.ndarray[Any, Any], inputs: Arrays) -> np.ndarray[Any, Any]:
    # A module may return its input, or an expanded view of its state.
    if not output.flags.c_contiguous:
        return np.array(output, order="C")
    for given in inputs:
        if np.may_share_memory(output, given):
            return np.array(output, order="C")
    return output
