"""A study's run in a thread of its own, as a future."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.study.execution.summary import RunSummary


class Job(Future["RunSummary"]):
    """A running :meth:`Study.run`: a :class:`concurrent.futures.Future` of its summary.

    ``result(timeout)`` returns the summary or raises what the run raised; ``exception(timeout)``, ``done()`` and
    ``add_done_callback(function)`` are those of every future.
    """

    def __init__(self, work: Callable[[], RunSummary], request_stop: Callable[[], None]) -> None:
        super().__init__()
        self._work, self._request_stop = work, request_stop
        self.set_running_or_notify_cancel()
        threading.Thread(target=self._run, name="workbench-study", daemon=True).start()

    def cancel(self) -> bool:
        """Request the run to stop; return False if it has ended.

        It ends within a few seconds, and the summary has ``cancelled`` True.
        """
        if self.done():
            return False
        self._request_stop()
        return True

    def _run(self) -> None:
        try:
            summary = self._work()
        except BaseException as error:  # noqa: BLE001 - raised again by result()
            self.set_exception(error)
        else:
            self.set_result(summary)
