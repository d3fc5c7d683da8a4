"""A study's run in a thread of its own, for panels."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.study.execution.summary import RunSummary


class Job:
    """A running :meth:`Study.run`: ask how it goes, cancel it, wait for it.

    ``result`` is the summary once it has ended, ``error`` what it raised, ``done`` whether it has ended.
    """

    def __init__(self, work: Callable[[], RunSummary], cancel: Callable[[], None]) -> None:
        self.result: RunSummary | None = None
        self.error: BaseException | None = None
        self._work = work
        self._cancel = cancel
        self._thread = threading.Thread(target=self._run, name="workbench-study", daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        """True once the run has ended, in whichever way."""
        return not self._thread.is_alive()

    def cancel(self) -> None:
        """Ask the run to stop; it ends within a few seconds, see :meth:`wait`."""
        self._cancel()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the run has ended, at most ``timeout`` seconds; return whether it has."""
        self._thread.join(timeout)
        return self.done

    def _run(self) -> None:
        try:
            self.result = self._work()
        except BaseException as error:  # noqa: BLE001 - kept for the one who asks
            self.error = error
