"""Memory of this process: the peak of its resident set, and its proportional set, which shares what others map too."""

from __future__ import annotations

import platform
from pathlib import Path

_STATUS = Path("/proc/self/status")
_ROLLUP = Path("/proc/self/smaps_rollup")


def peak_rss_mib() -> tuple[float | None, str | None]:
    """Return the largest resident set of this process so far in MiB, or None with the reason.

    Linux counts it in VmHWM. ``getrusage`` is for macOS only: on Linux it includes the peak of the parent process.

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
    return None, f"{system} has no counter of peak memory that is read here."


def pss_mib() -> tuple[float | None, str | None]:
    """Return the proportional set size of this process now in MiB, or None with the reason.

    A page that n processes map counts 1/n in each of them: the PSS of all processes adds up to the memory that they
    take together, which their resident sets do not. Linux alone tells it (``/proc/self/smaps_rollup``, Linux 4.14).
    Reading it walks through the page tables, which takes about a millisecond for each GiB: not while something is
    timed.

    Examples
    --------
    >>> mib, reason = pss_mib()
    >>> mib is None or mib <= peak_rss_mib()[0]
    True
    """
    if platform.system() != "Linux":
        return None, f"{platform.system()} does not tell how the pages of a process are shared: Linux alone does."
    return _line_mib(_ROLLUP, "Pss:", "this kernel does not count it")


class PeakPss:
    """The largest proportional set size that was read: no kernel keeps a peak of it, so read it where it may be high.

    Attributes
    ----------
    mib : float or None
        The largest so far, in MiB; None before the first reading, and where it cannot be read.
    reason : str or None
        Why it is None, or how it was read.

    Examples
    --------
    >>> peak = PeakPss()
    >>> peak.read()
    >>> peak.mib is None or peak.mib > 1
    True
    """

    def __init__(self) -> None:
        self.mib: float | None = None
        self.reason: str | None = "It was not read."

    def read(self) -> None:
        """Read it now."""
        now, reason = pss_mib()
        if now is None:
            self.reason = self.reason if self.mib is not None else reason
            return
        self.mib = max(now, self.mib or 0.0)
        self.reason = "The largest of a few readings, since the kernel keeps no peak of it."


def _line_mib(path: Path, name: str, otherwise: str) -> tuple[float | None, str | None]:
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        return None, f"{path} cannot be read: {error.strerror}."
    for line in lines:
        if line.startswith(name):
            return int(line.split()[1]) / 1024, None
    return None, f"{path} has no {name.rstrip(':')} line: {otherwise}."
