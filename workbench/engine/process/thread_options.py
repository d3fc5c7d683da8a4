"""Denormal flushing and pinning of threads. Imports no runtime."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import platform
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from workbench.core.cpu import Topology, cpu_topology, cpus_to_pin


class _Register(NamedTuple):
    """Flag in the C library's floating-point environment: number of 32-bit words, the word, and its bits."""

    words: int
    word: int
    bits: int


_REGISTERS = {
    "x86_64": _Register(8, 7, 0x8040),  # MXCSR: flush to zero, and denormals are zero
    "aarch64": _Register(2, 0, 1 << 24),  # FPCR: FZ
}
"""Flags of a thread that treat denormals as zero; most x86 processors take up to a hundred times as long for them."""


@functools.cache
def _library() -> tuple[Any, _Register] | None:
    register = _REGISTERS.get(platform.machine())
    if register is None or not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return (library, register) if hasattr(library, "fegetenv") and hasattr(library, "fesetenv") else None


def _environment() -> tuple[Any, _Register, Any] | None:
    """Return the C library, the register, and the calling thread's floating-point environment as words."""
    access = _library()
    if access is None:
        return None
    library, register = access
    words = (ctypes.c_uint32 * register.words)()
    library.fegetenv(words)
    return library, register, words


def can_flush() -> bool:
    return _library() is not None


def flushing() -> bool:
    """Return whether the calling thread flushes denormals to zero; False if that cannot be read."""
    environment = _environment()
    if environment is None:
        return False
    _, register, words = environment
    return bool(words[register.word] & register.bits == register.bits)


def set_flushing(on: bool) -> bool:
    """Switch flushing for the calling thread; return whether that is possible here."""
    environment = _environment()
    if environment is None:
        return False
    library, register, words = environment
    if on:
        words[register.word] |= register.bits
    else:
        words[register.word] &= ~register.bits
    library.fesetenv(words)
    return True


@contextlib.contextmanager
def flushed(on: bool | None) -> Iterator[None]:
    """Switch flushing (None: no change) in a ``with`` block or a decorated function, and restore it afterwards."""
    before = flushing()
    if on is not None and on != before:
        set_flushing(on)
    try:
        yield
    finally:
        if flushing() != before:
            set_flushing(before)


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
    return ThreadPins((), (f"pin_threads=True: nothing was pinned: {reason}",))
