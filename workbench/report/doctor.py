"""System information: cores, instruction sets with advice for int8 and bf16, GPU, and backends."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from workbench.core.allocator import allocator_state
from workbench.core.cpu import cpu_topology
from workbench.core.format.numbers import plural
from workbench.core.machine import (
    FINGERPRINT_LIBRARIES,
    INT8_DOT,
    Machine,
    default_threads,
    fingerprint_id,
    library_versions,
    this_machine,
)

SHORT = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
WIDE = {"avx512f": "AVX-512", "avx2": "AVX2", "asimd": "NEON"}


def system_info() -> dict[str, Any]:
    """Return the system information as JSON values; imports every installed runtime."""
    from workbench.engine.backends import backend_status, capabilities_of
    from workbench.engine.backends.onnxruntime.providers import provider_status
    from workbench.measure.comparison.noise import cached_noise, noise_text

    def capable(name: str) -> dict[str, Any] | None:
        capabilities = capabilities_of(name)
        return capabilities.to_dict() if capabilities is not None else None

    machine = this_machine()
    return {
        "machine": {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(machine).items()},
        "int8_dot": machine.int8_dot,
        "int8": int8_advice(machine),
        "bf16": bf16_advice(machine),
        "topology": str(cpu_topology() or "topology unknown"),
        "default_threads": default_threads(),
        "fingerprint": fingerprint_id(),
        "libraries": library_versions(FINGERPRINT_LIBRARIES),
        "noise": noise_text(cached_noise()),
        "allocator": allocator_advice(),
        "backends": [{**status.to_dict(), "capabilities": capable(status.name)} for status in backend_status()],
        "onnxruntime_providers": [status.to_dict() for status in provider_status()],
    }


def int8_advice(machine: Machine) -> str:
    """Return advice on int8 for the CPU's instruction sets."""
    dots = [name for name in machine.isa if name in INT8_DOT]
    if dots:
        return (
            f"{', '.join(dots)}: int8 products accumulate in 32 bits, so full 8-bit weights are safe and usually the "
            "fastest."
        )
    wide = next((word for name, word in WIDE.items() if name in machine.isa), "no wide vectors")
    return (
        f"no dot-product instructions ({wide}): pairs of int8 products can saturate at 16 bits, so Quantize uses "
        "7-bit weights here (reduce_range). Expect less speedup from int8, and measure its quality on the engine."
    )


def bf16_advice(machine: Machine) -> str:
    """Return advice on bfloat16 for the CPU's instruction sets."""
    from workbench.engine.precision import native_set

    native = native_set("bfloat16", machine)
    if native is None:
        return 'not supported by the CPU: precision="bfloat16" is emulated here and slower than fp32.'
    return f'{native}: native, so precision="bfloat16" may be faster than fp32; measure it.'


def allocator_advice() -> str:
    """Return advice on the C allocator of this process for torch's backends."""
    state = allocator_state()
    if state.steady or state.library != "glibc":
        return f"{state}: {state.reason}"
    return f'{state}: {state.reason} InferenceConfig(allocator="steady") keeps them, as all studies do.'


def system_info_text(info: Mapping[str, Any]) -> str:
    """Return :func:`system_info` as lines of text."""
    machine = info["machine"]
    threads = plural(info["default_threads"], "thread")
    cores = (
        f"{machine['cores_allowed']} allowed here, of {machine['cores_physical']} physical and "
        f"{machine['cores_logical']} logical; {info['topology']}; engines use {threads}"
    )
    facts = {
        "machine": f"{machine['cpu_model']}, {machine['system']}, Python {machine['python']}",
        "cores": cores,
        "memory": f"{machine['memory_mib']:,} MiB",
        "vectors": " ".join(machine["isa"]) or "unknown",
        "int8": info["int8"],
        "bf16": info["bf16"],
        "GPU": ", ".join(machine["gpus"]) or machine["gpu_reason"] or "none",
        "noise": info["noise"],
        "allocator": info["allocator"],
        "libraries": ", ".join(f"{name} {version or 'missing'}" for name, version in info["libraries"].items()),
    }
    lines = [f"{name:<10} {value}" for name, value in facts.items()]
    lines += ["", "backends"]
    width = max(14, *(len(status["name"]) for status in info["backends"]))
    lines += [_backend(status, width) for status in info["backends"]]
    if info["onnxruntime_providers"]:
        lines += ["", "ONNX Runtime execution providers (InferenceConfig.providers)"]
        lines += [_backend({**status, "capabilities": None}, width) for status in info["onnxruntime_providers"]]
    return "\n".join(lines)


def _backend(status: Mapping[str, Any], width: int) -> str:
    name = f"  {status['name']:<{width}}"
    if status["available"]:
        version = (status["version"] or "").partition("+")[0]
        return f"{name} available   {version:<9} {_capabilities(status['capabilities'])}".rstrip()
    how = f" Install: {status['how']}" if status["how"] else ""
    return f"{name} missing     {str(status['reason']).rstrip('.')}.{how}"


def _capabilities(info: Mapping[str, Any] | None) -> str:
    """Return formats, devices, precisions and threads of a backend, in columns."""
    if info is None:
        return ""
    batch = "" if info["dynamic_batch"] else "  fixed batch"
    threads = "threads not set" if info["threads"] == "none" else f"threads per {info['threads']}"
    places, kinds = "/".join(info["devices"]), "/".join(SHORT.get(name, name) for name in info["precisions"])
    return f"{'/'.join(info['formats']):<7} {places:<9} {kinds:<19} {threads}{batch}"
