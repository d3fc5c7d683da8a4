"""Flush denormal floats to zero on the calling thread, by its floating-point register.

Numbers below 1.2e-38 (float32) are computed in microcode on most x86 processors, up to a hundred times slower. Each
thread has a register with a flag that treats them as zero. Imports no runtime.
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
    """Flag in the C library's floating-point environment: number of 32-bit words, the word, and its bits."""

    words: int
    word: int
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
    """Return the C library, the register, and the calling thread's floating-point environment as words."""
    access = _library()
    if access is None:
        return None
    library, register = access
    words = (ctypes.c_uint32 * register.words)()
    library.fegetenv(words)
    return library, register, words


def can_flush() -> bool:
    """Return whether threads can flush denormals here."""
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
    """Switch flushing in a ``with`` block (None: no change), and restore it afterwards."""
    before = flushing()
    if on is not None and on != before:
        set_flushing(on)
    try:
        yield
    finally:
        if flushing() != before:
            set_flushing(before)


def flushing_call(function: Callable[..., R]) -> Callable[..., R]:
    """Return a function that flushes denormals on the calling thread while ``function`` runs."""

    @functools.wraps(function)
    def call(*args: Any, **keywords: Any) -> R:
        with flushed(True):
            return function(*args, **keywords)

    return call
