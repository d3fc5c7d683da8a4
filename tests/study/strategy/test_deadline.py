"""The nearer deadline of one preparation, with a clock that is set by hand."""

import pytest

from workbench.core.errors import Cancelled
from workbench.study.strategy.deadline import Leash, Overrun
from workbench.study.workers.process import CancelToken, OutOfTime


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_limit_ends_what_runs_and_can_be_taken_away():
    clock = Clock()
    leash = Leash(CancelToken(), clock=clock)
    assert leash.remaining() == float("inf")
    leash.limit(10.0)
    clock.now = 5.0
    leash.check()  # it counts from here: before, it waited for its turn
    clock.now = 14.0
    leash.check()
    assert leash.remaining() == pytest.approx(1.0)
    clock.now = 15.0
    with pytest.raises(Overrun, match="10 s"):
        leash.check()
    leash.limit(float("inf"))
    leash.check()


def test_the_outer_stop_comes_first():
    outer = CancelToken()
    leash = Leash(outer, clock=Clock())
    leash.limit(0.0)
    leash.set()
    assert outer.requested and leash.requested
    with pytest.raises(Cancelled):
        leash.check()
    with pytest.raises(OutOfTime):
        Leash(CancelToken(deadline=0.0)).check()
