"""Compute precision of an engine: the policy and the tolerance of each precision. Imports no runtime.

Inputs and outputs of an engine keep the float model's dtypes in every precision.
"""

from __future__ import annotations

import dataclasses

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

_NATIVE = {
    "bfloat16": ("amx_bf16", "avx512_bf16", "bf16"),
    "float16": ("amx_fp16", "avx512_fp16", "asimdhp"),
}


@dataclasses.dataclass(frozen=True)
class Precision(Config):
    """Compute precision of products in a float model; a string stands for it: ``precision="bfloat16"``.

    ``"tf32"`` is a mode of CUDA devices. ``"auto"`` takes the 16-bit format that the device computes natively
    (bfloat16; float16 on CUDA devices without it) if the outputs stay within its tolerance, otherwise float32. A
    backend or device without the requested precision computes in float32 and adds a note.

    Examples
    --------
    >>> InferenceConfig(precision="bfloat16").precision == Precision(compute="bfloat16")
    True
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
