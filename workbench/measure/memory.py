"""Peak memory of this process."""

from __future__ import annotations

import platform
from pathlib import Path

_STATUS = Path("/proc/self/status")


def peak_rss_mib() -> tuple[float | None, str | None]:
    """Return the largest resident set of this process so far in MiB, or None with the reason.

    Linux counts it in VmHWM, Windows in the peak working set. ``getrusage`` is used on macOS only: on Linux a child
    inherits there the peak of the process that started it.

    Examples
    --------
    >>> mib, reason = peak_rss_mib()
    >>> mib is None or mib > 1
    True
    """
    system = platform.system()
    if system == "Linux":
        return _from_status(_STATUS)
    if system == "Windows":
        import psutil

        return getattr(psutil.Process().memory_info(), "peak_wset", 0) / 2**20, None
    if system == "Darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, None
    return None, f"{system} has no counter of peak memory that is read here."


def _from_status(path: Path) -> tuple[float | None, str | None]:
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        return None, f"{path} cannot be read: {error.strerror}."
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024, None
    return None, f"{path} has no VmHWM line: this kernel does not count peak memory."
