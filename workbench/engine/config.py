"""Options of an engine."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from workbench.core.config import Config, from_dict, option
from workbench.core.errors import ConfigError

BACKEND_NAMES = ("torch-eager", "onnxruntime", "openvino")


@dataclasses.dataclass(frozen=True)
class QuantizationConfig(Config):
    """Weight-only quantization that an engine applies to a float model while loading it.

    Activations need calibration data, which an engine does not have: that is the step ``Quantize``.

    Examples
    --------
    >>> QuantizationConfig(quantization_bits=8, quantize_weights=True).quantization_bits
    8
    """

    quantization_bits: int = option(8, "Bits of a stored weight.", choices=(8,))
    quantize_weights: bool = option(True, "Store weights of Conv, MatMul and Gemm as int8 with a scale per channel.")
    quantize_activations: bool = option(False, "Refused here: needs calibration, see the step Quantize.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.quantize_activations:
            raise ConfigError(
                "QuantizationConfig.quantize_activations=True needs calibration data, which an engine does not have. "
                'Write it as a step instead: Recipe(Quantize(bits=8, activations="static")).apply(task), '
                "then OptimizedInferenceEngine.from_variant(variant)."
            )
        if not self.quantize_weights:
            raise ConfigError(
                "QuantizationConfig with quantize_weights=False would do nothing. "
                "Use quantize_weights=True, or leave InferenceConfig.quantization at None."
            )


@dataclasses.dataclass(frozen=True)
class InferenceConfig(Config):
    """How to load a model and run it.

    Examples
    --------
    >>> InferenceConfig(model_path="model.onnx", backend="onnxruntime", batch_size=16).threads is None
    True
    """

    model_path: str | None = option(None, "An ONNX file or an artefact's folder.")
    backend: str = option("auto", "The runtime; auto measures those available.", choices=("auto", *BACKEND_NAMES))
    use_gpu: bool = option(False, "Run on a GPU where the backend has one; else on the CPU, with a note.")
    batch_size: int = option(
        1, "Samples in one call: predict_batch groups by it, OpenVINO compiles for it.", minimum=1, unit="samples"
    )
    threads: int | None = option(
        None, "Threads of one call; None: the physical cores this process may use.", minimum=1, unit="threads"
    )
    quantization: QuantizationConfig | None = option(None, "Weight-only quantization of a float model.")
    verify: bool = option(True, "Compare outputs with the reference when the engine is loaded.", advanced=True)
    tolerance: float | None = option(
        None,
        "Largest accepted difference from the reference as a share of its range; None: 0.001 for float models.",
        above=0.0,
        advanced=True,
    )

    def __post_init__(self) -> None:
        path: object = self.model_path
        if isinstance(path, os.PathLike):
            object.__setattr__(self, "model_path", os.fspath(path))
        super().__post_init__()
        if self.quantization is not None and self.backend == "torch-eager":
            raise ConfigError(
                "Backend 'torch-eager' has no weight-only int8: InferenceConfig.quantization needs the backend "
                'onnxruntime, openvino or auto. Recipe(Quantize(bits=8, activations="none")) runs on all three.'
            )


def config_of(options: Mapping[str, Any]) -> InferenceConfig:
    """Return the config of an engine whose model is given otherwise; an unknown option suggests the nearest name."""
    if options.get("model_path") is not None:
        raise ConfigError("model_path does not go with from_variant or from_artifact: they say what the model is.")
    return from_dict(InferenceConfig, options)
