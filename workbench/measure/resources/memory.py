"""Memory of this process: peak resident set size (RSS) and proportional set size (PSS)."""

from __future__ import annotations

import platform
from pathlib import Path

_STATUS = Path("/proc/self/status")
_ROLLUP = Path("/proc/self/smaps_rollup")


def peak_rss_mib() -> tuple[float | None, str | None]:
    """Return the peak RSS of this process in MiB, or None with the reason.

    Linux: VmHWM, because ``getrusage`` includes the peak of the parent process there. macOS: ``getrusage``.

    Examples
    --------
    >>> mib, reason = peak_rss_mib()
    >>> mib is None or mib > 1
    True
    """
    system = platform.system()
    if system == "Linux":
        return _line_mib(_STATUS, "VmHWM:", "this kernel does not count peak memory")
    if system == "Darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, None
    return None, f"Peak memory is not supported on {system}."


def pss_mib() -> tuple[float | None, str | None]:
    """Return the current PSS of this process in MiB, or None with the reason.

    A page that n processes map counts 1/n in each, so the PSS of all processes adds up to their total memory. Linux
    only (``/proc/self/smaps_rollup``). A reading takes about 1 ms per GiB; do not read within a timing.

    Examples
    --------
    >>> mib, reason = pss_mib()
    >>> mib is None or mib <= peak_rss_mib()[0]
    True
    """
    if platform.system() != "Linux":
        return None, f"PSS is not supported on {platform.system()}; it requires Linux."
    return _line_mib(_ROLLUP, "Pss:", "this kernel does not count it")


class PeakPss:
    """Largest PSS of several readings, because the kernel does not record a peak; read it when it may be high.

    Attributes
    ----------
    mib : float or None
        Largest reading in MiB; None before the first one or if PSS is not readable.
    reason : str or None
        Why ``mib`` is None, or its source.

    Examples
    --------
    >>> peak = PeakPss()
    >>> peak.read()
    >>> peak.mib is None or peak.mib > 1
    True
    """

    def __init__(self) -> None:
        self.mib: float | None = None
        self.reason: str | None = "PSS was not read."

    def read(self) -> None:
        """Take a reading."""
        now, reason = pss_mib()
        if now is None:
            self.reason = self.reason if self.mib is not None else reason
            return
        self.mib = max(now, self.mib or 0.0)
        self.reason = "Largest of a few readings, because the kernel does not record a peak."


def _line_mib(path: Path, name: str, otherwise: str) -> tuple[float | None, str | None]:
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        return None, f"{path} cannot be read: {error.strerror}."
    for line in lines:
        if line.startswith(name):
            return int(line.split()[1]) / 1024, None
    return None, f"{path} has no {name.rstrip(':')} line: {otherwise}."
