"""Denormal floats flushed to zero for the thread that asks: a register, read and set through the C library.

Numbers below 1.2e-38 (float32) are computed in microcode on most x86 processors, up to a hundred times slower than
others. Each thread has a register that says whether they count as zero instead. No runtime is imported here.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import platform
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

R = TypeVar("R")


class _Register(NamedTuple):
    """Where the C library's floating-point environment holds the switch: 32-bit words, which of them, and its bits."""

    words: int
    place: int
    bits: int


_REGISTERS = {
    "x86_64": _Register(8, 7, 0x8040),  # MXCSR: flush to zero, and denormals are zero
    "aarch64": _Register(2, 0, 1 << 24),  # FPCR: FZ
}


@functools.cache
def _library() -> tuple[Any, _Register] | None:
    register = _REGISTERS.get(platform.machine())
    if register is None or not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return (library, register) if hasattr(library, "fegetenv") and hasattr(library, "fesetenv") else None


def _environment() -> tuple[Any, _Register, Any] | None:
    """Return the calling thread's floating-point environment as words, with what reads and writes it."""
    found = _library()
    if found is None:
        return None
    library, register = found
    words = (ctypes.c_uint32 * register.words)()
    library.fegetenv(words)
    return library, register, words


def can_flush() -> bool:
    """Return whether threads can be told here to flush denormals to zero."""
    return _library() is not None


def flushing() -> bool:
    """Return whether the calling thread flushes denormals to zero; False where that cannot be read.

    Examples
    --------
    >>> flushing()
    False
    """
    found = _environment()
    if found is None:
        return False
    _, register, words = found
    return bool(words[register.place] & register.bits == register.bits)


def set_flushing(on: bool) -> bool:
    """Let the calling thread flush denormals to zero, or not; return whether that can be set here."""
    found = _environment()
    if found is None:
        return False
    library, register, words = found
    if on:
        words[register.place] |= register.bits
    else:
        words[register.place] &= ~register.bits
    library.fesetenv(words)
    return True


@contextlib.contextmanager
def flushed(on: bool | None) -> Iterator[None]:
    """Flush denormals in a ``with`` block (or not, or as it is with None), and put it back as it was.

    Examples
    --------
    >>> with flushed(True):
    ...     1e-320 * 1.0 == 0.0
    True
    """
    before = flushing()
    if on is not None and on != before:
        set_flushing(on)
    try:
        yield
    finally:
        if flushing() != before:
            set_flushing(before)


def flushing_call(function: Callable[..., R]) -> Callable[..., R]:
    """Return a function that flushes denormals while ``function`` runs, on the thread that calls."""

    @functools.wraps(function)
    def call(*args: Any, **keywords: Any) -> R:
        with flushed(True):
            return function(*args, **keywords)

    return call
