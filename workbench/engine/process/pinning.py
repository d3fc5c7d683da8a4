"""Choose the CPUs of a runtime's workers. Imports no runtime."""

from __future__ import annotations

from typing import NamedTuple

from workbench.core.cpu import Topology, cpu_topology, cpus_to_pin


class ThreadPins(NamedTuple):
    """One CPU per worker besides the calling thread, with notes."""

    cpus: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


def choose_pins(pin: bool | None, threads: int, topology: Topology | None = None) -> ThreadPins:
    """Return the CPUs of the workers. The calling thread is not pinned, and its core is left free."""
    if not pin:
        return ThreadPins()
    topology = topology or cpu_topology()
    if topology is None:
        return not_pinned("this system does not report which CPUs share a core")
    if threads == 1:
        return not_pinned("one thread has no workers")
    cpus = cpus_to_pin(topology, threads)
    if not cpus:
        return not_pinned(f"{threads} threads are more than the CPUs that this process may use")
    single = len(topology.nodes) > 1 and any(set(cpus) <= set(node) for node in topology.nodes)
    node = f" of one NUMA node (of {len(topology.nodes)})" if single else ""
    place = f"CPU {cpus[1]}" if threads == 2 else f"CPUs {' '.join(map(str, cpus[1:]))}"
    workers = "1 worker" if threads == 2 else f"{threads - 1} workers"
    return ThreadPins(cpus[1:], (f"pinned {workers} to {place}{node}; CPU {cpus[0]} is left to the calling thread",))


def not_pinned(reason: str) -> ThreadPins:
    """Return no pins, with a note on the reason."""
    return ThreadPins((), (f"pin_threads=True: nothing was pinned: {reason}",))
