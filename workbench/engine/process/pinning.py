"""Which CPUs an engine's workers are pinned to, and what is said about it. Imports no runtime."""

from __future__ import annotations

from typing import NamedTuple

from workbench.core.cpu import Topology, cpu_topology, cpus_to_pin


class ThreadPins(NamedTuple):
    """A CPU for each worker of a runtime beside the thread that calls, and the note that says so."""

    cpus: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


def choose_pins(wanted: bool | None, threads: int, topology: Topology | None = None) -> ThreadPins:
    """Return where the workers go.

    The thread that calls is the caller's own and stays where the system puts it; its core is left free.

    Examples
    --------
    >>> take_pins(None, 4)
    Pins(cpus=(), notes=())
    """
    if not wanted:
        return ThreadPins()
    found = topology or cpu_topology()
    if found is None:
        return not_pinned("this system does not tell which CPUs share a core")
    if threads == 1:
        return not_pinned("with one thread there are no workers, and the thread that calls is the caller's own")
    cpus = cpus_to_pin(found, threads)
    if not cpus:
        return not_pinned(f"{threads} threads are more than the CPUs that this process may use")
    one = len(found.nodes) > 1 and any(set(cpus) <= set(node) for node in found.nodes)
    node = f" of one NUMA node ({len(found.nodes)} there are)" if one else ""
    where = f"CPU {cpus[1]}" if threads == 2 else f"CPUs {' '.join(map(str, cpus[1:]))}"
    workers = "1 worker" if threads == 2 else f"{threads - 1} workers"
    return ThreadPins(cpus[1:], (f"pinned {workers} to {where}{node}; CPU {cpus[0]} is left to the thread that calls",))


def not_pinned(reason: str) -> ThreadPins:
    """Return no pins, with the note that says why."""
    return ThreadPins((), (f"pin_threads=True: nothing was pinned: {reason}",))
