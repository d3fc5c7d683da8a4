"""Turns: what ran leaves the cores free for whoever is next."""

from __future__ import annotations

import hashlib
import threading

from workbench.timing.interleave import CallArm
from workbench.timing.settling import wait_until_idle

DATA = b"x" * (1 << 21)


class Spinning:
    """A thread that uses a core for as long as told, as a runtime's worker does after a call."""

    def __init__(self, rounds=None):
        self._stop, self._rounds = threading.Event(), rounds
        self.ended = False
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self):
        done = 0
        while not self._stop.is_set() and done != self._rounds:
            hashlib.sha256(DATA)  # without the interpreter's lock
            done += 1
        self.ended = True

    def stop(self):
        self._stop.set()
        self._thread.join()


def test_a_thread_that_goes_on_for_a_while_is_waited_for():
    spinning = Spinning(rounds=20)
    wait_until_idle(limit_s=60.0)
    assert spinning.ended
    spinning.stop()


def test_one_that_never_ends_is_not_waited_for_for_ever():
    spinning = Spinning()
    try:
        wait_until_idle(limit_s=0.05)
        assert not spinning.ended
    finally:
        spinning.stop()


def test_blocks_end_idle():
    started = []
    block = CallArm("one", lambda: started or started.append(Spinning(rounds=5)), settle_s=0.0).block(0.0)
    assert block.ms.size and started[0].ended
    started[0].stop()
