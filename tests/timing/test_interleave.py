"""Turns: what ran leaves the cores free for whoever is next."""

from __future__ import annotations

import hashlib
import threading

import pytest

from workbench.timing.blocks_in_turns import CallArm
from workbench.timing.interleave import timed_block, until_quiet

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
    until_quiet(limit_s=60.0)
    assert spinning.ended
    spinning.stop()


def test_one_that_never_ends_is_not_waited_for_for_ever():
    spinning = Spinning()
    try:
        until_quiet(limit_s=0.05)
        assert not spinning.ended
    finally:
        spinning.stop()


@pytest.mark.parametrize(
    "block",
    [
        lambda call: timed_block(call, block_s=0.0, settle_s=0.0),
        lambda call: CallArm("one", call, settle_s=0.0).block(0.0),
    ],
)
def test_blocks_end_quietly(block):
    started = []
    samples = block(lambda: started or started.append(Spinning(rounds=20)))
    assert samples and started[0].ended
    started[0].stop()
