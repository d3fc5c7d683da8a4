"""Physical cores, their hardware threads and memory nodes, as far as this process may use them. Read from Linux."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SYSTEM = Path("/sys/devices/system")
# The second name is that of kernels before 5.1.
_SIBLINGS = ("core_cpus_list", "thread_siblings_list")


@dataclass(frozen=True)
class Topology:
    """The logical CPUs that a process may use, by physical core and by memory node, each in ascending order.

    ``cores`` holds a tuple of hardware threads (SMT siblings) for each physical core, ``nodes`` one of CPUs for each
    NUMA node that has any.

    Examples
    --------
    >>> Topology(cores=((0, 4), (1, 5)), nodes=((0, 1, 4, 5),)).smt
    2
    """

    cores: tuple[tuple[int, ...], ...]
    nodes: tuple[tuple[int, ...], ...]

    @property
    def smt(self) -> int:
        """The most hardware threads that one core gives."""
        return max(map(len, self.cores))

    def __str__(self) -> str:
        smt = f"SMT {self.smt} per core" if self.smt > 1 else "no SMT"
        return f"{smt}, {len(self.nodes)} NUMA node{'s' if len(self.nodes) > 1 else ''}"


def cpu_topology() -> Topology | None:
    """Return the topology within this process's affinity mask, None where the system does not tell it."""
    return _known(frozenset(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else None


@functools.cache
def _known(allowed: frozenset[int]) -> Topology | None:
    return read_topology(SYSTEM, allowed)


def read_topology(root: Path, allowed: Iterable[int]) -> Topology | None:
    """Return the topology that a folder like ``/sys/devices/system`` describes, of the allowed CPUs alone.

    None where it does not say which CPUs share a core. A system without NUMA is one node.
    """
    wanted = frozenset(allowed)
    cores: set[tuple[int, ...]] = set()
    for cpu in wanted:
        siblings = _siblings(root / "cpu" / f"cpu{cpu}" / "topology")
        if siblings is None or cpu not in siblings:
            return None
        cores.add(tuple(sorted(siblings & wanted)))
    if not cores:
        return None
    paths = sorted((root / "node").glob("node[0-9]*"), key=lambda path: int(path.name[4:]))
    lists = [(_read_list(path / "cpulist") or frozenset()) & wanted for path in paths]
    nodes = [tuple(sorted(node)) for node in lists if node]
    if sum(map(len, nodes)) != len(wanted):
        nodes = [tuple(sorted(wanted))]
    return Topology(tuple(sorted(cores)), tuple(nodes))


def cpus_to_pin(topology: Topology, threads: int) -> tuple[int, ...]:
    """Return a CPU for each of ``threads``, empty where there are fewer CPUs than threads.

    One thread on a physical core, on one memory node where a node has so many cores; hardware threads of cores that
    are taken already come last.

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


def parse_cpu_list(text: str) -> frozenset[int]:
    """Return the numbers of a list as the kernel writes it.

    Examples
    --------
    >>> sorted(parse_cpu_list("0-2,8"))
    [0, 1, 2, 8]
    """
    numbers: set[int] = set()
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            numbers.update(range(int(first), int(last or first) + 1))
    return frozenset(numbers)


def _siblings(folder: Path) -> frozenset[int] | None:
    return next((found for name in _SIBLINGS if (found := _read_list(folder / name))), None)


def _read_list(path: Path) -> frozenset[int] | None:
    try:
        return parse_cpu_list(path.read_text())
    except (OSError, ValueError):
        return None
