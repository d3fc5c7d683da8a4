"""The C allocator of this process: recognize it, and keep glibc's from returning activation buffers to the kernel."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from workbench.core.checks import given
from workbench.core.errors import ConfigError

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
    """The C allocator of this process.

    Attributes
    ----------
    library : str
        ``"glibc"``, ``"jemalloc"``, ``"tcmalloc"``, ``"mimalloc"``, ``"hoard"``, or ``"other"``.
    steady : bool
        Whether freed memory stays in the process, so that calls of one shape take no page faults.
    reason : str
        Why it is steady or not, in a sentence.

    Examples
    --------
    >>> str(AllocatorState("glibc", True, "Freed memory stays in the process."))
    'glibc, steady'
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
        return AllocatorState(library, False, "Large freed buffers return to the kernel and are faulted in again.")
    if library in _PRELOADED:
        return AllocatorState(library, True, f"{library} keeps freed memory for a while by itself.")
    return AllocatorState(library, False, "Only glibc on Linux can be made steady from inside a process.")


def use_steady_allocator() -> AllocatorState:
    """Keep freed memory in this process from now on if it runs glibc on Linux; return the state.

    Without it, activations of torch eager return to the kernel after a call and cause page faults in the next one.
    The heap then never shrinks below its peak. The setting holds for the whole process and cannot be undone.
    Preloaded allocators (jemalloc, tcmalloc) are left as they are.

    Examples
    --------
    >>> use_steady_allocator().library != ""
    True
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


def require_allocator(where: str, name: object) -> str:
    """Return the name of an allocator setting, or raise ConfigError."""
    if not isinstance(name, str) or name not in ALLOCATORS:
        raise ConfigError(f"{where} must be 'default' or 'steady', got {given(name)}.")
    return name


def _library() -> str:
    preloaded = _preloaded()
    if preloaded is not None:
        return preloaded
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        return "glibc"
    return "other"


def _preloaded() -> str | None:
    try:
        loaded = _MAPS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        loaded = os.environ.get("LD_PRELOAD", "")
    names = {Path(line.rpartition(" ")[2]).name for line in loaded.splitlines() if "/" in line}
    return next((one for one in _PRELOADED if any(name.startswith(f"lib{one}") for name in names)), None)


def _kept_by_environment() -> str | None:
    """Return the environment variable that keeps freed memory in the process, or None."""
    for variable in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"):
        if not os.environ.get(variable, "").isdigit() or int(os.environ[variable]) < _FROM_HEAP[-1]:
            break
    else:
        return "MALLOC_TRIM_THRESHOLD_ and MALLOC_MMAP_THRESHOLD_"
    tunables = dict(
        part.split("=", 1) for part in os.environ.get("GLIBC_TUNABLES", "").split(":") if part.count("=") == 1
    )
    needed = ("glibc.malloc.trim_threshold", "glibc.malloc.mmap_threshold")
    if all(tunables.get(name, "").isdigit() and int(tunables[name]) >= _FROM_HEAP[-1] for name in needed):
        return "GLIBC_TUNABLES"
    return None
