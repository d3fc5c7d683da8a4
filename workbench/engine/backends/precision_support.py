"""What OpenVINO and ONNX Runtime take of a precision policy. Imports neither."""

from __future__ import annotations

import platform
from collections.abc import Sequence

from workbench.core.machine import Machine
from workbench.engine.precision import Precision, Taken, fallen, native_set, taken

HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
"""OpenVINO's names of what it computes in."""

_CAPABILITIES = {"bfloat16": "BF16", "float16": "FP16"}
_FASTMATH = {"mlas.enable_gemm_fastmath_arm64_bfloat16": "1"}


def take_openvino(wanted: Precision, device: str, can: Sequence[str]) -> Taken:
    """Return what OpenVINO takes on a device with these ``OPTIMIZATION_CAPABILITIES``; it emulates nothing."""
    compute = wanted.compute
    if compute == "float32":
        return Taken()
    if compute == "tf32":
        return fallen(compute, "OpenVINO has no such mode")
    names = ("bfloat16", "float16") if compute == "auto" else (compute,)
    for name in names:
        if _CAPABILITIES[name] in can:
            return taken(name, (native_set(name) if device == "CPU" else None) or "as OpenVINO says")
    has = ", ".join(sorted(set(can) & {"BF16", "FP16", "FP32", "INT8"}))
    return fallen(compute, f"OpenVINO does not offer it on this {device}, which has {has}")


def take_onnxruntime(
    wanted: Precision, *, quantized: bool = False, machine: Machine | None = None, architecture: str | None = None
) -> tuple[Taken, dict[str, str]]:
    """Return what ONNX Runtime takes on this CPU, and the entries of its session's configuration for that.

    Its CPU kernels compute in float32 and integers alone; a float16 file is cast to float32 and back around every node.
    The one exception are matrix products on Arm processors with bfloat16, of which an option rounds the inputs.
    """
    compute = wanted.compute
    if compute == "float32":
        return Taken(), {}
    fast = (architecture or platform.machine()) in ("aarch64", "arm64") and native_set("bfloat16", machine) is not None
    if compute in ("bfloat16", "auto") and fast and not quantized:
        return taken("bfloat16", "matrix products only, by ONNX Runtime's fast math"), dict(_FASTMATH)
    return fallen(compute, "ONNX Runtime's CPU kernels compute in float32 and integers only"), {}
