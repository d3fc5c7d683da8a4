"""What an engine computes in: the policy, the tolerance of each precision, and what this CPU does natively.

Imports no runtime. Inputs and outputs of an engine keep the float model's own dtypes whatever it computes in.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from workbench.core.checks import given
from workbench.core.config import Config, option
from workbench.core.errors import ConfigError, did_you_mean
from workbench.core.machine import Machine, this_machine
from workbench.export.agreement import FLOAT_TOLERANCE

COMPUTE = ("float32", "tf32", "bfloat16", "float16", "auto")

TOLERANCES = {"float32": FLOAT_TOLERANCE, "tf32": 5e-3, "float16": 1e-2, "bfloat16": 5e-2}
"""Largest accepted difference from the float model, as a share of its largest value.

One rounding is off by 2**-24 of the value in float32, 2**-11 (0.0005) in float16 and tf32, 2**-8 (0.004) in bfloat16 at
worst. Tens of layers add up to some ten roundings; tf32 rounds only what goes into products and sums in float32.
"""

_ALSO_CALLED = {"bf16": "bfloat16", "fp16": "float16", "f16": "float16", "half": "float16", "fp32": "float32"}
"""What other libraries call a precision: suggested, not taken."""

_NATIVE = {
    "bfloat16": ("amx_bf16", "avx512_bf16", "bf16"),
    "float16": ("amx_fp16", "avx512_fp16", "asimdhp"),
}

_SINCE = {"tf32": (8, 0), "bfloat16": (8, 0), "float16": (7, 0)}
"""The compute capability of CUDA devices from which on they have each format."""

FULL = (
    "computes in float32 in full: torch's own default computes convolutions on this GPU in tf32, as precision='tf32' "
    "does with all products"
)


@dataclasses.dataclass(frozen=True)
class Precision(Config):
    """What the products of a float model are computed in; a string stands for it: ``precision="bfloat16"``.

    ``"tf32"`` is a mode of CUDA devices. ``"auto"`` takes the 16-bit format that the device computes natively
    (bfloat16; float16 on CUDA devices without it) if the outputs stay within its tolerance, and float32 else. A backend
    or a device that does not have what is asked for computes in float32 and says so in a note.

    Examples
    --------
    >>> InferenceConfig(precision="bfloat16").precision == Precision(compute="bfloat16")
    True
    """

    compute: str = option("float32", "What products are computed in.", choices=COMPUTE)
    tolerance: float | None = option(
        None,
        "Largest accepted difference from the float model as a share of its largest value; None: 0.001 in float32, "
        "0.005 in tf32, 0.01 in float16, 0.05 in bfloat16.",
        above=0.0,
        advanced=True,
    )


def as_precision(value: object) -> Precision:
    """Return the policy that a name stands for, and a policy as it is.

    Raises
    ------
    ConfigError
        If it is neither; the message has the allowed names.
    """
    if isinstance(value, Precision):
        return value
    allowed = ", ".join(sorted(COMPUTE))
    if not isinstance(value, str):
        raise ConfigError(
            f"InferenceConfig.precision must be Precision or its name, got {given(value)}. Allowed: {allowed}."
        )
    if value in COMPUTE:
        return Precision(value)
    advice = did_you_mean(_ALSO_CALLED.get(value.lower(), value), COMPUTE)
    raise ConfigError(f"InferenceConfig.precision: Unknown precision {value!r}.{advice} Allowed: {allowed}.")


class Taken(NamedTuple):
    """The precision that a session computes in, and what must be said about it."""

    precision: str = "float32"
    notes: tuple[str, ...] = ()


def native_set(precision: str, machine: Machine | None = None) -> str | None:
    """Return the instruction set by which this CPU computes in a 16-bit format, None where it has none.

    Examples
    --------
    >>> native_set("float32") is None
    True
    """
    isa = (machine or this_machine()).isa
    return next((name for name in _NATIVE.get(precision, ()) if name in isa), None)


def take_on_cpu(wanted: Precision, *, quantized: bool = False, gpu_asked: bool = False) -> Taken:
    """Return what a runtime with kernels for all formats takes on this CPU.

    A format that the CPU lacks is emulated, and said to be, where it was asked for a CPU; not where a GPU was asked for
    that is not there.
    """
    compute = wanted.compute
    if compute == "float32":
        return Taken()
    if quantized:
        return fallen(compute, "the model is quantized, and its rounding is simulated in float32")
    if compute == "tf32":
        return fallen(compute, "it is a mode of CUDA devices, and this runs on the CPU")
    native = native_set("bfloat16" if compute == "auto" else compute)
    if compute == "auto":
        return (
            taken("bfloat16", native) if native else fallen(compute, "this CPU computes in no 16-bit format natively")
        )
    if native is None and gpu_asked:
        return fallen(compute, "this CPU would only emulate it")
    return taken(compute, native)


def take_on_cuda(wanted: Precision, capability: tuple[int, int], *, quantized: bool = False) -> Taken:
    """Return what torch takes on a CUDA device of a compute capability; nothing is emulated there.

    bfloat16 and tf32 came with capability 8.0, float16 products in hardware made for them with 7.0.

    Examples
    --------
    >>> take_on_cuda(Precision("auto"), (7, 5)).precision
    'float16'
    """
    compute = wanted.compute
    if compute == "float32":
        return Taken("float32", (FULL,) if capability >= _SINCE["tf32"] else ())
    if quantized:
        return fallen(compute, "the model is quantized, and its rounding is simulated in float32")
    here = f"compute capability {capability[0]}.{capability[1]}"
    for name in ("bfloat16", "float16") if compute == "auto" else (compute,):
        if capability >= _SINCE[name]:
            return taken(name, here)
    major, minor = _SINCE["float16" if compute == "auto" else compute]
    return fallen(compute, f"it needs compute capability {major}.{minor}, and this GPU has {here}")


def taken(precision: str, native: str | None) -> Taken:
    """Return a precision with the note that says by what it is computed."""
    by = (
        f"natively ({native})" if native else "emulated on this CPU, which has no instructions for it: expect it slower"
    )
    return Taken(precision, (f"computes in {precision}, {by}; inputs and outputs stay as in the float model",))


def fallen(compute: str, reason: str) -> Taken:
    """Return float32 with the note that says why it is not what was asked for."""
    return Taken("float32", (f"precision={compute!r}: {reason}; computing in float32",))
