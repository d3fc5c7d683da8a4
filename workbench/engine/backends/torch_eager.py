"""torch eager: the module as it is, in inference mode. The baseline of every comparison."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from workbench.artifact.reference import Arrays
from workbench.core.errors import EngineError
from workbench.core.machine import default_threads, library_versions
from workbench.engine.backends.base import Availability, ModelSource, Session
from workbench.engine.config import InferenceConfig
from workbench.export.io import IOSpec

NAME = "torch-eager"
SIMULATED = (
    "simulated int8: torch eager runs quantize and dequantize as separate float operations; quality is that of int8, "
    "speed is not"
)


class TorchEager:
    """The backend that runs the torch module itself."""

    name = NAME

    def status(self) -> Availability:
        """Say whether torch can be imported."""
        version = library_versions(["torch"])["torch"]
        try:
            import torch
        except (ImportError, OSError) as error:
            return Availability(NAME, False, version, str(error).splitlines()[0], "pip install torch==2.13.0")
        return Availability(NAME, True, torch.__version__)

    def load(self, source: ModelSource, config: InferenceConfig) -> Session:
        """Make the module, move it to its device and set the threads."""
        if source.module is None:
            raise EngineError(
                f"Backend 'torch-eager' needs a torch module, and {source.label} gives none: {source.module_reason}"
            )
        return TorchSession(source, config)


class TorchSession:
    """A module with its device and thread count."""

    def __init__(self, source: ModelSource, config: InferenceConfig) -> None:
        import torch

        from workbench.engine.threads import ThreadClaim

        notes = [SIMULATED] if source.quantized else []
        self.device = "cpu"
        if config.use_gpu and torch.cuda.is_available():
            self.device = "cuda:0"
        elif config.use_gpu:
            notes.append("use_gpu=True, but torch finds no CUDA device: running on the CPU")
        self.notes = tuple(notes)
        self.placement = self.device
        self.threads = config.threads or default_threads()
        self._torch = torch
        self._module = source.module() if source.module is not None else None
        if self.device != "cpu" and self._module is not None:
            self._module = self._module.to(self.device)
        self._call = _caller(source.io)
        self._flatten = _flattener(source.io.output_tree)
        self._claim = ThreadClaim(self.threads)

    def run(self, inputs: Arrays) -> tuple[Arrays, float]:
        """Run one batch."""
        torch = self._torch
        start = time.perf_counter()
        self._claim.apply()
        # torch must not write to memory that the caller marked read-only
        tensors = [torch.from_numpy(a if a.flags.writeable else a.copy()) for a in inputs]
        if self.device != "cpu":
            tensors = [tensor.to(self.device) for tensor in tensors]
            torch.cuda.synchronize()
        begun = time.perf_counter()
        with torch.inference_mode():
            leaves = self._flatten(self._call(self._module, tensors))
        if self.device != "cpu":
            torch.cuda.synchronize()
        ended = time.perf_counter()
        outputs = [_owned(leaf.detach().cpu().numpy(), inputs) for leaf in leaves]
        return outputs, (begun - start) + (time.perf_counter() - ended)

    def close(self) -> None:
        """Free the module and put the thread count back."""
        self._module = None
        self._claim.release()


def _owned(output: np.ndarray[Any, Any], inputs: Arrays) -> np.ndarray[Any, Any]:
    # A module may return its input or an expanded view of something it keeps.
    if not output.flags.c_contiguous or any(np.may_share_memory(output, given) for given in inputs):
        return np.array(output, order="C")
    return output


def _caller(io: IOSpec) -> Callable[[Any, list[Any]], Any]:
    if io.kind == "dict":
        names = io.input_names
        return lambda module, tensors: module(**dict(zip(names, tensors, strict=True)))
    return lambda module, tensors: module(*tensors)


def _flattener(tree: Mapping[str, Any]) -> Callable[[Any], list[Any]]:
    """Return a function that takes the leaves out of an eager output, in the order of the io description."""
    ((kind, value),) = tree.items()
    if kind == "leaf":
        return lambda output: [output]
    if kind == "none":
        return lambda output: []
    items = value.items() if kind == "dict" else enumerate(value)
    parts = [(key, _flattener(child)) for key, child in items]
    return lambda output: [leaf for key, flatten in parts for leaf in flatten(output[key])]


BACKEND = TorchEager()
