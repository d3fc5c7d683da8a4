"""Choose the compute precision of each runtime from the policy. Imports no runtime."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import NamedTuple

from workbench.core.machine import Machine
from workbench.engine.precision import Precision, native_set

HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
"""OpenVINO's names of compute precisions."""

_OPENVINO_CAPABILITIES = {"bfloat16": "BF16", "float16": "FP16"}
_FASTMATH = {"mlas.enable_gemm_fastmath_arm64_bfloat16": "1"}
_LEAST_CAPABILITY = {"tf32": (8, 0), "bfloat16": (8, 0), "float16": (7, 0)}
"""First compute capability of CUDA devices with each format."""

FULL = (
    "computes in float32 in full: torch's own default computes convolutions on this GPU in tf32, as precision='tf32' "
    "does with all products"
)


class ComputePrecision(NamedTuple):
    """The precision that a session computes in, with notes."""

    precision: str = "float32"
    notes: tuple[str, ...] = ()


def computes_in(precision: str, native: str | None) -> ComputePrecision:
    """Return a precision with a note on how it is computed; ``native`` is None for an emulated format."""
    method = (
        f"natively ({native})" if native else "emulated on this CPU, which has no instructions for it: expect it slower"
    )
    return ComputePrecision(
        precision, (f"computes in {precision}, {method}; inputs and outputs stay as in the float model",)
    )


def falls_back(compute: str, reason: str) -> ComputePrecision:
    """Return float32 with a note that holds the reason."""
    return ComputePrecision("float32", (f"precision={compute!r}: {reason}; computing in float32",))


def precision_on_cpu(policy: Precision, *, quantized: bool = False, gpu_requested: bool = False) -> ComputePrecision:
    """Return torch's precision on this CPU.

    A format without instructions is emulated if it was requested for a CPU, but not on a CPU that stands in for a GPU.
    """
    compute = policy.compute
    if compute == "float32":
        return ComputePrecision()
    if quantized:
        return falls_back(compute, "the model is quantized, and its rounding is simulated in float32")
    if compute == "tf32":
        return falls_back(compute, "it is a mode of CUDA devices, and this runs on the CPU")
    native = native_set("bfloat16" if compute == "auto" else compute)
    if compute == "auto" and not native:
        return falls_back(compute, "this CPU computes in no 16-bit format natively")
    if native is None and gpu_requested:
        return falls_back(compute, "this CPU would only emulate it")
    return computes_in("bfloat16" if compute == "auto" else compute, native)


def precision_on_cuda(policy: Precision, capability: tuple[int, int], *, quantized: bool = False) -> ComputePrecision:
    """Return torch's precision on a CUDA device of a compute capability; nothing is emulated there."""
    compute = policy.compute
    if compute == "float32":
        return ComputePrecision("float32", (FULL,) if capability >= _LEAST_CAPABILITY["tf32"] else ())
    if quantized:
        return falls_back(compute, "the model is quantized, and its rounding is simulated in float32")
    here = f"compute capability {capability[0]}.{capability[1]}"
    for name in ("bfloat16", "float16") if compute == "auto" else (compute,):
        if capability >= _LEAST_CAPABILITY[name]:
            return computes_in(name, here)
    major, minor = _LEAST_CAPABILITY["float16" if compute == "auto" else compute]
    return falls_back(compute, f"it needs compute capability {major}.{minor}, and this GPU has {here}")


def precision_in_openvino(policy: Precision, device: str, can: Sequence[str]) -> ComputePrecision:
    """Return OpenVINO's precision on a device with these ``OPTIMIZATION_CAPABILITIES``; nothing is emulated."""
    compute = policy.compute
    if compute == "float32":
        return ComputePrecision()
    if compute == "tf32":
        return falls_back(compute, "OpenVINO has no such mode")
    for name in ("bfloat16", "float16") if compute == "auto" else (compute,):
        if _OPENVINO_CAPABILITIES[name] in can:
            return computes_in(name, (native_set(name) if device == "CPU" else None) or "reported by OpenVINO")
    has = ", ".join(sorted(set(can) & {"BF16", "FP16", "FP32", "INT8"}))
    return falls_back(compute, f"OpenVINO does not offer it on this {device}, which has {has}")


def precision_in_onnxruntime(
    policy: Precision, *, quantized: bool = False, machine: Machine | None = None, architecture: str | None = None
) -> tuple[ComputePrecision, dict[str, str]]:
    """Return ONNX Runtime's precision on this CPU, and the session configuration entries for it.

    Its CPU kernels compute in float32 and integers; a float16 file is cast around every node. The exception is an
    option for Arm processors with bfloat16 that rounds the inputs of matrix products.
    """
    compute = policy.compute
    if compute == "float32":
        return ComputePrecision(), {}
    fast = (architecture or platform.machine()) in ("aarch64", "arm64") and native_set("bfloat16", machine) is not None
    if compute in ("bfloat16", "auto") and fast and not quantized:
        return computes_in("bfloat16", "matrix products only, by ONNX Runtime's fast math"), dict(_FASTMATH)
    return falls_back(compute, "ONNX Runtime's CPU kernels compute in float32 and integers only"), {}
