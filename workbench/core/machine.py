"""Describe this machine: cores, instruction sets, memory, GPUs, and a fingerprint of them."""

from __future__ import annotations

import functools
import importlib.metadata
import math
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from workbench.core.config import short_id
from workbench.core.cpu import allowed_cores, cpu_topology
from workbench.core.format.numbers import plural
from workbench.core.lazy import install_command

INSTRUCTION_SETS = (
    "sse4_2", "avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16",
    "amx_int8", "amx_bf16", "amx_fp16", "asimd", "asimdhp", "asimddp", "i8mm", "bf16",
)  # fmt: skip
INT8_DOT = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})
FINGERPRINT_LIBRARIES = ("torch", "torchao", "torch-pruning", "onnxruntime", "openvino", "numpy", "inference-workbench")


@dataclass(frozen=True)
class Machine:
    """Hardware that a process may use; memory in MiB."""

    system: str
    python: str
    cpu_model: str
    cores_physical: int
    cores_logical: int
    cores_allowed: int
    memory_mib: int
    isa: tuple[str, ...]
    gpus: tuple[str, ...]
    gpu_reason: str | None

    @property
    def int8_dot(self) -> bool:
        """True if the CPU multiplies int8 into int32 without saturation (VNNI, AMX, Arm dot product)."""
        return bool(INT8_DOT.intersection(self.isa))


@functools.cache
def this_machine() -> Machine:
    """Return the description of this machine; read once per process."""
    gpus, reason = _gpus()
    info = _cpu_info()
    logical = os.cpu_count() or 1
    return Machine(
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        cpu_model=info.get("model name") or platform.processor() or platform.machine(),
        cores_physical=psutil.cpu_count(logical=False) or logical,
        cores_logical=logical,
        cores_allowed=available_cores(),
        memory_mib=_memory_mib(),
        isa=_instruction_sets(info),
        gpus=gpus,
        gpu_reason=reason,
    )


def describe_machine() -> str:
    """Return this machine as one line: ``AMD EPYC 7763, 4 cores, 16,384 MiB, Linux``."""
    machine, system = this_machine(), platform.system()
    cores = plural(machine.cores_allowed, "core")
    return ", ".join((machine.cpu_model, cores, f"{machine.memory_mib:,} MiB", system, *machine.gpus))


def available_cores() -> int:
    """Return the number of logical cores for this process: its affinity mask, limited by the cgroup's CPU quota."""
    quota = _cgroup_quota(Path("/sys/fs/cgroup"))
    affinity = len(allowed_cores())
    return affinity if quota is None else max(1, min(affinity, math.floor(quota)))


def default_threads() -> int:
    """Return the default threads of an engine: the available physical cores; SMT siblings count as one."""
    machine, topology = this_machine(), cpu_topology()
    physical = machine.cores_physical if topology is None else len(topology.cores)
    return max(1, min(physical, machine.cores_allowed))


def library_versions(names: Iterable[str]) -> dict[str, str | None]:
    """Return the installed version of each distribution, or None, without importing it."""
    versions: dict[str, str | None] = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


@dataclass(frozen=True)
class Site:
    """Machine of trials, as in their keys and rows; ``threads`` is the default of its engines."""

    fingerprint: str
    words: str
    int8_dot: bool
    threads: int
    libraries: tuple[tuple[str, str | None], ...]


@functools.cache
def this_site() -> Site:
    """Return this machine with its library versions."""
    libraries = tuple(library_versions(FINGERPRINT_LIBRARIES).items())
    return Site(fingerprint_id(), describe_machine(), this_machine().int8_dot, default_threads(), libraries)


@functools.cache
def fingerprint() -> dict[str, object]:
    """Return the machine and library versions that two comparable timings share."""
    return {**asdict(this_machine()), "libraries": library_versions(FINGERPRINT_LIBRARIES)}


def fingerprint_id() -> str:
    """Return the id of :func:`fingerprint`, 12 hex digits."""
    return short_id(fingerprint())


def _cpu_info() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return _sysctl_info() if platform.system() == "Darwin" else {}
    first = text.split("\n\n", 1)[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _sysctl_info() -> dict[str, str]:
    names = {"model name": "machdep.cpu.brand_string", "flags": "machdep.cpu.leaf7_features"}
    info = {}
    for key, name in names.items():
        output = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=False).stdout.strip()
        info[key] = output.lower() if key == "flags" else output
    return info


def _instruction_sets(info: dict[str, str]) -> tuple[str, ...]:
    flags = set((info.get("flags") or info.get("Features") or "").lower().split())
    if platform.machine() in ("arm64", "aarch64"):
        flags.add("asimd")
        if platform.system() == "Darwin":
            flags.add("asimddp")  # every Apple processor since the M1 has it
    return tuple(name for name in INSTRUCTION_SETS if name in flags)


def _cgroup_quota(root: Path) -> float | None:
    """Return the CPU quota in cores from cgroup v2, else v1, else None."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        limit = int((root / "cpu" / "cpu.cfs_quota_us").read_text())
        return None if limit <= 0 else limit / int((root / "cpu" / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _memory_mib() -> int:
    total = psutil.virtual_memory().total
    try:
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no limit set, or no cgroup v2
        pass
    return total // 2**20


def _gpus() -> tuple[tuple[str, ...], str | None]:
    try:
        return _nvidia_gpus()
    except ModuleNotFoundError as error:  # a runtime install
        return (), f"GPUs are unknown: {error.name} is not installed. Get it: {install_command('lab')}"


def _nvidia_gpus() -> tuple[tuple[str, ...], str | None]:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:  # checked first: without a driver, nvitop prints a page of hints
        return (), f"No NVIDIA GPU: {str(error).strip().rstrip('.')}."
    from nvitop import Device

    names = tuple(str(device.name()) for device in Device.all())
    return names, None if names else "No NVIDIA GPU: the driver is there but lists no device."
