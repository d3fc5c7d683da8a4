"""Compute precision: policy, tolerance of each precision, and choice of each runtime. Imports no runtime.

Inputs and outputs of an engine keep the float model's dtypes in every precision.
"""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Sequence
from typing import NamedTuple

from workbench.core.checks import given
from workbench.core.config import Config, option
from workbench.core.errors import ConfigError, did_you_mean
from workbench.core.machine import Machine, this_machine
from workbench.export.agreement import FLOAT_TOLERANCE

COMPUTE = ("float32", "tf32", "bfloat16", "float16", "auto")

TOLERANCES = {"float32": FLOAT_TOLERANCE, "tf32": 5e-3, "float16": 1e-2, "bfloat16": 5e-2}
"""Largest accepted difference from the float model, as a share of its largest value.

The largest rounding error is 2**-24 of the value in float32, 2**-11 (0.0005) in float16 and tf32, 2**-8 (0.004) in
bfloat16. Tens of layers add up to some ten roundings; tf32 rounds only the inputs of products and sums in float32.
"""

_ALIASES = {"bf16": "bfloat16", "fp16": "float16", "f16": "float16", "half": "float16", "fp32": "float32"}
"""Names in other libraries: suggested in errors, not accepted."""

_NATIVE = {"bfloat16": ("amx_bf16", "avx512_bf16", "bf16"), "float16": ("amx_fp16", "avx512_fp16", "asimdhp")}


@dataclasses.dataclass(frozen=True)
class Precision(Config):
    """Compute precision of products in a float model; a string stands for it: ``precision="bfloat16"``.

    ``"tf32"`` is a mode of CUDA devices. ``"auto"`` takes the 16-bit format that the device computes natively
    (bfloat16; float16 on CUDA devices without it) if the outputs stay within its tolerance, otherwise float32. A
    backend or device without the requested precision computes in float32 and adds a note.
    """

    compute: str = option("float32", "Compute precision of products.", choices=COMPUTE)
    tolerance: float | None = option(
        None,
        "Largest accepted difference from the float model as a share of its largest value; None: 0.001 in float32, "
        "0.005 in tf32, 0.01 in float16, 0.05 in bfloat16.",
        above=0.0,
        advanced=True,
    )


def as_precision(value: object) -> Precision:
    """Return a policy from its name, or the policy itself; raise ConfigError otherwise."""
    if isinstance(value, Precision):
        return value
    allowed = ", ".join(sorted(COMPUTE))
    if not isinstance(value, str):
        raise ConfigError(
            f"InferenceConfig.precision must be Precision or its name, got {given(value)}. Allowed: {allowed}."
        )
    if value in COMPUTE:
        return Precision(value)
    advice = did_you_mean(_ALIASES.get(value.lower(), value), COMPUTE)
    raise ConfigError(f"InferenceConfig.precision: Unknown precision {value!r}.{advice} Allowed: {allowed}.")


def native_set(precision: str, machine: Machine | None = None) -> str | None:
    """Return the CPU's instruction set for a 16-bit format, None if it has none."""
    isa = (machine or this_machine()).isa
    return next((name for name in _NATIVE.get(precision, ()) if name in isa), None)


HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
"""OpenVINO's names of compute precisions."""

_OPENVINO_CAPABILITIES = {"bfloat16": "BF16", "float16": "FP16"}
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
    emulated = "emulated on this CPU, which has no instructions for it: expect it slower"
    method = f"natively ({native})" if native else emulated
    note = f"computes in {precision}, {method}; inputs and outputs stay as in the float model"
    return ComputePrecision(precision, (note,))


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
        entries = {"mlas.enable_gemm_fastmath_arm64_bfloat16": "1"}
        return computes_in("bfloat16", "matrix products only, by ONNX Runtime's fast math"), entries
    return falls_back(compute, "ONNX Runtime's CPU kernels compute in float32 and integers only"), {}
