"""When compressing has paid."""

import pytest

from workbench.present.findings import break_even_text
from workbench.study.results.relative_latency import break_even

ROW = {"latency_ms_rel": 2.0, "speedup": 5.0, "prepare_s": 80.0, "batch_size": 32, "verdict": "faster"}


def test_the_seconds_spent_are_those_saved_by_so_many_calls():
    found = break_even(ROW)
    assert found.saved_ms == 8.0 and found.calls == 10_000
    assert found.calls * found.saved_ms / 1e3 == pytest.approx(found.spent_s)
    assert break_even_text(ROW) == ("Break-even after 320 k samples: 80.0 s to build, 8.00 ms saved per batch of 32.")


def test_what_came_from_the_cache_counts_with_what_it_took_once():
    steps = [{"seconds": 300.0}, {"seconds": 2.0}]
    assert break_even({**ROW, "steps": steps}).spent_s == 302.0
    assert break_even({**ROW, "steps": [{"seconds": 3.0}]}).spent_s == 80.0


@pytest.mark.parametrize(
    "change",
    [{"verdict": "undecided"}, {"verdict": "slower"}, {"baseline": True}, {"speedup": None}, {"prepare_s": None}],
)
def test_what_is_not_surely_faster_never_pays(change):
    assert break_even({**ROW, **change}) is None
    assert break_even_text({**ROW, **change}) == ""
