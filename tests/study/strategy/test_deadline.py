"""The nearer deadline of one preparation, with a clock that is set by hand."""

import pytest

from workbench.core.errors import Cancelled
from workbench.study.strategy.deadline import TrialDeadline, TrialTimeout
from workbench.study.workers.process import CancelToken, OutOfTime


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_limit_ends_what_runs_and_can_be_taken_away():
    clock = Clock()
    deadline = TrialDeadline(CancelToken(), clock=clock)
    assert deadline.remaining() == float("inf")
    deadline.limit(10.0)
    clock.now = 5.0
    deadline.check()  # it counts from here: before, it waited for its turn
    clock.now = 14.0
    deadline.check()
    assert deadline.remaining() == pytest.approx(1.0)
    clock.now = 15.0
    with pytest.raises(TrialTimeout, match="10 s"):
        deadline.check()
    deadline.limit(float("inf"))
    deadline.check()


def test_the_outer_stop_comes_first():
    outer = CancelToken()
    deadline = TrialDeadline(outer, clock=Clock())
    deadline.limit(0.0)
    deadline.set()
    assert outer.requested and deadline.requested
    with pytest.raises(Cancelled):
        deadline.check()
    with pytest.raises(OutOfTime):
        TrialDeadline(CancelToken(deadline=0.0)).check()
