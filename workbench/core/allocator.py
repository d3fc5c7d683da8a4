"""The C allocator of this process: recognize it, and keep glibc's from returning activation buffers to the kernel."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

ALLOCATORS = ("default", "steady")
_MAPS = Path("/proc/self/maps")
_PRELOADED = ("jemalloc", "tcmalloc", "mimalloc", "hoard")
# malloc.h: parameters of mallopt
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_NEVER_TRIM = 2**31 - 1
_FROM_HEAP = (1 << 30, 32 << 20)
"""Bytes up to which a block comes from the heap: glibc before 2.35 refuses more than 32 MiB."""
_TOP_PAD = 64 << 20
_STEADY = False
"""True after `use_steady_allocator`: glibc has no way to read its thresholds."""


@dataclass(frozen=True)
class AllocatorState:
    """The C allocator of this process: ``library`` is ``"glibc"``, a preloaded one (``"jemalloc"``) or ``"other"``.

    It is ``steady`` if freed memory stays in the process, so that calls of one shape take no page faults; ``reason`` is
    a sentence.
    """

    library: str
    steady: bool
    reason: str

    def __str__(self) -> str:
        return f"{self.library}, steady" if self.steady else self.library


def allocator_state() -> AllocatorState:
    """Return the allocator of this process."""
    library = _library()
    if library == "glibc" and _STEADY:
        return AllocatorState(library, True, "Freed memory stays in the process (mallopt).")
    if library == "glibc":
        kept = _kept_by_environment()
        if kept is not None:
            return AllocatorState(library, True, f"Freed memory stays in the process ({kept}).")
        return AllocatorState(
            library, False, "Large freed buffers return to the kernel and cause page faults when reused."
        )
    if library in _PRELOADED:
        return AllocatorState(library, True, f"{library} keeps freed memory for a while by itself.")
    return AllocatorState(library, False, "Only glibc on Linux can be made steady from inside a process.")


def use_steady_allocator() -> AllocatorState:
    """Keep freed memory in this process from now on if it runs glibc on Linux; return the state.

    Without it, activations of torch eager return to the kernel after a call and cause page faults in the next one.
    The heap then never shrinks below its peak. The setting holds for the whole process and cannot be undone.
    Preloaded allocators (jemalloc, tcmalloc) are left as they are.
    """
    global _STEADY
    before = allocator_state()
    if before.steady or before.library != "glibc":
        return before
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError) as error:
        return AllocatorState(before.library, False, f"mallopt cannot be called: {error}.")
    # A fixed threshold for mmap also ends glibc's own moving of both thresholds.
    moved = any(mallopt(_M_MMAP_THRESHOLD, size) for size in _FROM_HEAP)
    if not (moved and mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIM) and mallopt(_M_TOP_PAD, _TOP_PAD)):
        return AllocatorState(before.library, False, "This glibc refuses the thresholds.")
    _STEADY = True
    return allocator_state()


def _library() -> str:
    try:
        loaded = _MAPS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        loaded = os.environ.get("LD_PRELOAD", "")
    names = {Path(line.rpartition(" ")[2]).name for line in loaded.splitlines() if "/" in line}
    own = "glibc" if sys.platform == "linux" and platform.libc_ver()[0] == "glibc" else "other"
    return next((one for one in _PRELOADED if any(name.startswith(f"lib{one}") for name in names)), own)


def _kept_by_environment() -> str | None:
    """Return the environment variable that keeps freed memory in the process, or None."""
    parts = os.environ.get("GLIBC_TUNABLES", "").split(":")
    settings = {**os.environ, **dict(part.split("=", 1) for part in parts if part.count("=") == 1)}
    thresholds = {name: value for name, value in settings.items() if "threshold" in name.lower() and value.isdecimal()}
    large = {name for name, value in thresholds.items() if int(value) >= _FROM_HEAP[-1]}
    if large >= {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"}:
        return "MALLOC_TRIM_THRESHOLD_ and MALLOC_MMAP_THRESHOLD_"
    return "GLIBC_TUNABLES" if large >= {"glibc.malloc.trim_threshold", "glibc.malloc.mmap_threshold"} else None
