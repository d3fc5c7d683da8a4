"""Options of an engine."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from workbench.core.allocator import ALLOCATORS
from workbench.core.config import Config, from_dict, option
from workbench.core.errors import ConfigError
from workbench.engine.device import check_device, wants_gpu
from workbench.engine.names import DEFAULT_BACKENDS, MODULE_BACKENDS, is_backend, unknown_backend
from workbench.engine.precision import TOLERANCES, Precision, as_precision

COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")
GRAPH_OPTIMIZATIONS = ("none", "basic", "extended", "layout", "all")
MEMORY_FORMATS = ("contiguous", "channels_last")
ONLY_FOR = {
    "compile_mode": ("torch-compile",),
    "providers": ("onnxruntime",),
    "provider_options": ("onnxruntime",),
    "graph_optimization": ("onnxruntime",),
    "keep_optimized": ("onnxruntime",),
    "spin": ("onnxruntime",),
    "cuda_graph": ("torch-eager",),
    "memory_format": MODULE_BACKENDS,
    "allocator": MODULE_BACKENDS,
    "streams": ("openvino",),
}
"""Options of some built-in backends only; an error if none of these runs."""

_ON_GPU_ONLY = {"cuda_graph", "gpu_memory_limit_mib"}
"""Options for GPUs only; an error if none is requested."""


@dataclasses.dataclass(frozen=True)
class QuantizationConfig(Config):
    """Weight-only quantization of a float model at loading."""

    quantization_bits: int = option(8, "Bits of a stored weight.", choices=(8,))
    quantize_weights: bool = option(
        True, "Store the weights of Conv, MatMul and Gemm as int8 with one scale per channel."
    )
    quantize_activations: bool = option(
        False, "Not supported here, because it needs calibration; use the step Quantize."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.quantize_activations:
            raise ConfigError(
                "QuantizationConfig.quantize_activations=True needs calibration data, which an engine does not have. "
                'Use a step instead: Recipe(Quantize(bits=8, activations="static")).apply(task), '
                "then OptimizedInferenceEngine.from_variant(variant)."
            )
        if not self.quantize_weights:
            raise ConfigError(
                "QuantizationConfig with quantize_weights=False has no effect. "
                "Use quantize_weights=True, or leave InferenceConfig.quantization at None."
            )


@dataclasses.dataclass(frozen=True)
class InferenceConfig(Config):
    """Options to load and run a model."""

    model_path: str | None = option(None, "An ONNX file, an OpenVINO .xml file, or the folder of an artifact.")
    backend: str = option("auto", "The runtime; auto times the candidates and uses the fastest.")
    candidates: tuple[str, ...] = option(
        DEFAULT_BACKENDS,
        "Backends that auto times; torch-compile and aot-inductor take minutes to load.",
        advanced=True,
    )
    use_gpu: bool = option(False, "Run on a GPU if the backend has one; otherwise on the CPU, with a note.")
    device: str | None = option(None, "Device: 'cpu', 'cuda' or 'cuda:1'; None follows use_gpu.", advanced=True)
    batch_size: int = option(
        1,
        "Samples per call: predict_batch groups inputs by it, and compilers specialize for it.",
        minimum=1,
        unit="samples",
    )
    threads: int | None = option(
        None,
        "Threads of one call; None: the physical cores that this process may use.",
        minimum=1,
        maximum=512,  # ONNX Runtime hangs at loading with a few thousand
        unit="threads",
    )
    compile_mode: str = option(
        "default",
        "Optimization effort of torch-compile; more effort makes loading slower.",
        choices=COMPILE_MODES,
        advanced=True,
    )
    providers: tuple[str, ...] = option(
        (),
        "ONNX Runtime's execution providers, the preferred one first, such as ('tensorrt', 'cuda'); empty: by device.",
        advanced=True,
    )
    provider_options: Mapping[str, Any] | None = option(
        None, "Options of those providers, such as {'cuda': {'cudnn_conv_algo_search': 'HEURISTIC'}}.", advanced=True
    )
    graph_optimization: str = option(
        "all", "Graph optimization level of ONNX Runtime.", choices=GRAPH_OPTIMIZATIONS, advanced=True
    )
    keep_optimized: bool = option(
        False, "Cache the graph that ONNX Runtime has optimized, for faster loading later.", advanced=True
    )
    spin: bool | None = option(
        None,
        "Busy-wait in ONNX Runtime's worker threads: faster on idle cores, slower if other processes use them. "
        "None: True, and auto times both.",
        advanced=True,
    )
    memory_format: str = option(
        "contiguous", "Memory format of 4-d tensors, for torch's backends.", choices=MEMORY_FORMATS, advanced=True
    )
    flush_denormals: bool = option(
        False, "Flush denormals (floats below 1.2e-38, slow on many CPUs) to zero.", advanced=True
    )
    allocator: str = option(
        "default",
        "C allocator for torch's backends: steady keeps freed memory in the whole process, which avoids page faults "
        "but uses more memory.",
        choices=ALLOCATORS,
        advanced=True,
    )
    streams: int | None = option(
        None,
        "Calls that OpenVINO runs in parallel on shares of the threads, for throughput; None: one call on all threads.",
        minimum=1,
        advanced=True,
    )
    pin_threads: bool | None = option(
        None, "Pin each worker thread to a physical core of its own, on one NUMA node if possible.", advanced=True
    )
    strict: bool = option(
        False, "Raise an error if the engine would run on another device, provider or precision than configured."
    )
    cuda_graph: bool = option(
        False, "torch-eager on a GPU: record a CUDA graph for each input shape, up to four.", advanced=True
    )
    precision: Precision = option(Precision(), "Compute precision of a float model, or its name.")
    quantization: QuantizationConfig | None = option(None, "Weight-only quantization of a float model.")
    check_finite: bool | None = option(
        None,
        "Refuse inputs with NaN or infinity, at the cost of reading them once more. None: refuse NaN if the engine "
        "could return finite numbers for it, as OpenVINO and integer arithmetic do.",
        advanced=True,
    )
    pool_limit_mib: float = option(
        64.0,
        "Limit on the memory of unused buffers that join inputs into batches.",
        minimum=0.0,
        unit="MiB",
        advanced=True,
    )
    gpu_memory_limit_mib: float | None = option(
        None,
        "Limit on the GPU memory of all torch engines of this process together; None: no limit.",
        above=0.0,
        unit="MiB",
        advanced=True,
    )
    verify: bool = option(
        True,
        "Compare outputs with the reference at loading; for OpenVINO, first compile in a separate process.",
        advanced=True,
    )
    tolerance: float | None = option(
        None,
        "Largest accepted difference from the reference, as a share of its largest value; a tolerance in `precision` "
        "takes precedence. None: the default of the precision, 0.001 in float32.",
        above=0.0,
        advanced=True,
    )

    def __post_init__(self) -> None:
        path: object = self.model_path
        if isinstance(path, os.PathLike):
            object.__setattr__(self, "model_path", os.fspath(path))
        object.__setattr__(self, "precision", as_precision(self.precision))
        super().__post_init__()
        self._check_backends()
        check_device(self.device, use_gpu=self.use_gpu)
        if self.quantization is not None and self.backend in MODULE_BACKENDS:
            raise ConfigError(
                f"Backend {self.backend!r} has no weight-only int8: InferenceConfig.quantization needs the backend "
                'onnxruntime, openvino or auto. Recipe(Quantize(bits=8, activations="none")) runs on all of them.'
            )
        self._check_ineffective()
        if self.precision.compute == "tf32" and not wants_gpu(self):
            raise ConfigError(
                "InferenceConfig.precision='tf32' is a mode of CUDA devices, and this engine runs on the CPU. "
                "Set use_gpu=True, or use 'bfloat16', which many CPUs have."
            )

    def accepted(self, precision: str, *, quantized: bool) -> float | None:
        """Return the accepted difference in a precision, as a share of the reference's largest value.

        None for a quantized model without a tolerance, whose root mean square error is checked.
        """
        given = self.tolerance if self.precision.tolerance is None else self.precision.tolerance
        return TOLERANCES[precision] if given is None and not quantized else given

    def _check_ineffective(self) -> None:
        runs = self.candidates if self.backend == "auto" else (self.backend,)
        for name in self.changed().keys() & ONLY_FOR.keys():
            backends = ONLY_FOR[name]
            if not set(backends).intersection(runs):
                default = getattr(InferenceConfig, name)
                raise ConfigError(
                    f"InferenceConfig.{name}={getattr(self, name)!r} has no effect: it is for the backend "
                    f"{' or '.join(backends)}, not for {' '.join(runs)}. Leave it at {default!r}."
                )
        for name in self.changed().keys() & _ON_GPU_ONLY:
            if not wants_gpu(self):
                raise ConfigError(
                    f"InferenceConfig.{name}={getattr(self, name)!r} has no effect on the CPU. "
                    "Set use_gpu=True, or leave it out."
                )

    def _check_backends(self) -> None:
        if not self.candidates:
            raise ConfigError(f"InferenceConfig.candidates must not be empty, such as {DEFAULT_BACKENDS!r}.")
        if self.backend != "auto" and self.candidates != DEFAULT_BACKENDS:
            raise ConfigError(
                f"InferenceConfig.candidates has no effect with backend={self.backend!r}: it is for backend='auto'."
            )
        for name in self.candidates if self.backend == "auto" else (self.backend,):
            if not is_backend(name):
                raise ConfigError(f"InferenceConfig: {unknown_backend(name)} Or 'auto', which measures several.")


def config_of(options: Mapping[str, Any]) -> InferenceConfig:
    """Return the config of an engine from options without a model; errors suggest the nearest name."""
    if options.get("model_path") is not None:
        raise ConfigError("model_path must not be given to from_variant or from_artifact, which define the model.")
    return from_dict(InferenceConfig, options)
