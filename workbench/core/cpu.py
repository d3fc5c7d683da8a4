"""CPU topology within this process's affinity mask, its processes, and their CPU time."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from workbench.core.format.numbers import plural

SYSTEM = Path("/sys/devices/system")


@dataclass(frozen=True)
class Topology:
    """Logical CPUs by physical core (SMT siblings) and by NUMA node, each in ascending order."""

    cores: tuple[tuple[int, ...], ...]
    nodes: tuple[tuple[int, ...], ...]

    @property
    def smt(self) -> int:
        """The largest number of hardware threads per core."""
        return max(map(len, self.cores))

    def __str__(self) -> str:
        smt = f"SMT {self.smt} per core" if self.smt > 1 else "no SMT"
        return f"{smt}, {plural(len(self.nodes), 'NUMA node')}"


def cpu_topology() -> Topology | None:
    """Return the topology within this process's affinity mask, or None if the system does not report it."""
    return _cached_topology(frozenset(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else None


@functools.cache
def _cached_topology(allowed: frozenset[int]) -> Topology | None:
    return read_topology(SYSTEM, allowed)


def read_topology(root: Path, allowed: Iterable[int]) -> Topology | None:
    """Return the topology of the allowed CPUs from a folder like ``/sys/devices/system``, or None if it is incomplete.

    A system without NUMA is one node.
    """
    cpus = frozenset(allowed)
    cores: set[tuple[int, ...]] = set()
    for cpu in cpus:
        folder = root / "cpu" / f"cpu{cpu}" / "topology"
        # kernels before 5.1 have the second file only
        siblings = _read_list(folder / "core_cpus_list") or _read_list(folder / "thread_siblings_list")
        if siblings is None or cpu not in siblings:
            return None
        cores.add(tuple(sorted(siblings & cpus)))
    if not cores:
        return None
    paths = sorted((root / "node").glob("node[0-9]*"), key=lambda path: int(path.name[4:]))
    lists = [(_read_list(path / "cpulist") or frozenset()) & cpus for path in paths]
    nodes = [tuple(sorted(node)) for node in lists if node]
    if sum(map(len, nodes)) != len(cpus):
        nodes = [tuple(sorted(cpus))]
    return Topology(tuple(sorted(cores)), tuple(nodes))


def cpus_to_pin(topology: Topology, threads: int) -> tuple[int, ...]:
    """Return a CPU for each of ``threads``, or nothing if there are fewer CPUs than threads.

    Each thread gets its own physical core first, within one NUMA node if the node has enough cores; SMT siblings
    come last.

    Examples
    --------
    >>> cpus_to_pin(Topology(cores=((0, 4), (1, 5), (2, 6), (3, 7)), nodes=((0, 1, 4, 5), (2, 3, 6, 7))), 2)
    (0, 1)
    """
    by_node = [[core for core in topology.cores if core[0] in node] for node in topology.nodes]
    fitting = [cores for cores in by_node if len(cores) >= threads]
    cores = fitting[0] if fitting else [core for node in by_node for core in node]
    cpus = [core[level] for level in range(topology.smt) for core in cores if level < len(core)]
    return tuple(cpus[:threads]) if len(cpus) >= threads else ()


def allowed_cores() -> list[int]:
    """Return the logical cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(psutil.cpu_count() or 1))


def own_processes(pids: Iterable[int] = ()) -> list[psutil.Process]:
    """Return this process, its descendants, and the living processes among ``pids``."""
    this = psutil.Process()
    own = {this.pid: this}
    with contextlib.suppress(psutil.Error):
        own |= {process.pid: process for process in this.children(recursive=True)}
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            own.setdefault(pid, psutil.Process(pid))
    return list(own.values())


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU seconds of a process, on Linux with those of its reaped children; psutil.Error if it has ended."""
    times = process.cpu_times()
    waited_for = getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return float(times.user + times.system + waited_for)


def parse_cpu_list(text: str) -> frozenset[int]:
    """Return the CPU numbers of a list in the kernel's format, such as ``0-2,8``."""
    numbers: set[int] = set()
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            numbers.update(range(int(first), int(last or first) + 1))
    return frozenset(numbers)


def _read_list(path: Path) -> frozenset[int] | None:
    try:
        return parse_cpu_list(path.read_text())
    except (OSError, ValueError):
        return None
