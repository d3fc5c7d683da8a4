"""What this machine offers: cores, instruction sets and what they mean for int8 and bf16, GPU, and each backend."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from workbench.core.allocator import allocator_state
from workbench.core.cpu import cpu_topology
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


def examine() -> dict[str, Any]:
    """Return all of it as JSON-ready values; imports every runtime that is installed."""
    from workbench.engine.backends import backend_status, capabilities_of
    from workbench.engine.backends.onnxruntime.providers import provider_status
    from workbench.measure.comparison.noise import cached_noise, noise_text

    def capable(name: str) -> dict[str, Any] | None:
        found = capabilities_of(name)
        return found.to_dict() if found is not None else None

    machine = this_machine()
    return {
        "machine": {key: _plain(value) for key, value in dataclasses.asdict(machine).items()},
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
    """Return what the CPU's instruction sets mean for int8."""
    dots = [name for name in machine.isa if name in INT8_DOT]
    if dots:
        return (
            f"{', '.join(dots)}: int8 products are summed in 32 bits, so full 8-bit weights are safe, and "
            "usually the fastest."
        )
    wide = next((word for name, word in WIDE.items() if name in machine.isa), "no wide vectors")
    return (
        f"no dot-product instructions ({wide}): pairs of int8 products can saturate at 16 bits, so Quantize takes "
        "7-bit weights here (reduce_range); expect less speed from int8, and measure its quality on the engine."
    )


def bf16_advice(machine: Machine) -> str:
    """Return what the CPU's instruction sets mean for bfloat16."""
    from workbench.engine.precision import native_set

    native = native_set("bfloat16", machine)
    if native is None:
        return 'no instructions for it: precision="bfloat16" is emulated here, and slower than fp32.'
    return f'{native}: computed natively, so precision="bfloat16" may beat fp32; measure it.'


def allocator_advice() -> str:
    """Return what the C allocator of a process started like this one means for torch's backends."""
    state = allocator_state()
    if state.steady or state.library != "glibc":
        return f"{state}: {state.reason}"
    return f'{state}: {state.reason} InferenceConfig(allocator="steady") keeps them; studies time every arm so.'


def words(found: Mapping[str, Any]) -> str:
    """Return what :func:`examine` found as lines of text."""
    machine = found["machine"]
    cores = (
        f"{machine['cores_allowed']} allowed here, of {machine['cores_physical']} physical and "
        f"{machine['cores_logical']} logical; {found['topology']}; engines use {_threads(found['default_threads'])}"
    )
    facts = {
        "machine": f"{machine['cpu_model']}, {machine['system']}, Python {machine['python']}",
        "cores": cores,
        "memory": f"{machine['memory_mib']:,} MiB",
        "vectors": " ".join(machine["isa"]) or "unknown",
        "int8": found["int8"],
        "bf16": found["bf16"],
        "GPU": ", ".join(machine["gpus"]) or machine["gpu_reason"] or "none",
        "noise": found["noise"],
        "allocator": found["allocator"],
        "libraries": ", ".join(f"{name} {version or 'missing'}" for name, version in found["libraries"].items()),
    }
    lines = [f"{name:<10} {value}" for name, value in facts.items()]
    lines += ["", "backends"]
    width = max(14, *(len(status["name"]) for status in found["backends"]))
    lines += [_backend(status, width) for status in found["backends"]]
    if found["onnxruntime_providers"]:
        lines += ["", "execution providers of ONNX Runtime, for InferenceConfig.providers"]
        lines += [_backend({**status, "capabilities": None}, width) for status in found["onnxruntime_providers"]]
    return "\n".join(lines)


def _backend(status: Mapping[str, Any], width: int) -> str:
    name = f"  {status['name']:<{width}}"
    if status["available"]:
        version = (status["version"] or "").partition("+")[0]
        return f"{name} available   {version:<9} {_can(status['capabilities'])}".rstrip()
    how = f" Get it: {status['how']}" if status["how"] else ""
    return f"{name} missing     {str(status['reason']).rstrip('.')}.{how}"


def _can(found: Mapping[str, Any] | None) -> str:
    """Return what a backend loads, where it runs and what it computes in, in columns."""
    if found is None:
        return ""
    batch = "" if found["dynamic_batch"] else "  fixed batch"
    threads = "threads not set" if found["threads"] == "none" else f"threads per {found['threads']}"
    places, kinds = "/".join(found["devices"]), "/".join(SHORT.get(name, name) for name in found["precisions"])
    return f"{'/'.join(found['formats']):<7} {places:<9} {kinds:<19} {threads}{batch}"


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
