"""Blocks alternate, lost arms are dropped, summaries agree with numpy; a stand-in keeps the clock of a GPU."""

import itertools
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import workbench as wb
from workbench.core.errors import ConfigError, TrialFailed
from workbench.timing.interleave import CallArm, EventArm, interleave
from workbench.timing.pace import Timing
from workbench.timing.settling import run_for, warm_until_steady


class Scripted:
    """An arm that answers from a list and writes down when it was asked."""

    def __init__(self, name, ms, log, dies_at=None):
        self.name, self.ms, self.log, self.dies_at = name, ms, log, dies_at
        self.asked = 0

    def warm(self):
        pass

    def block(self, seconds):
        self.asked += 1
        if self.asked == self.dies_at:
            raise TrialFailed(f"{self.name} was killed")
        self.log.append(self.name)
        return [self.ms] * 3


def test_every_round_holds_every_arm_once_in_changing_order():
    log = []
    arms = [Scripted(name, 1.0, log) for name in "abcd"]
    timed = interleave(arms, rounds=(12, 12), seed=3)
    rounds = [log[i : i + 4] for i in range(0, len(log), 4)]
    assert len(rounds) == 12
    assert all(sorted(r) == list("abcd") for r in rounds)
    assert rounds == timed.order
    assert len({tuple(r) for r in rounds}) > 3
    assert all(len(timed.blocks[name]) == 12 for name in "abcd")


def test_the_same_seed_gives_the_same_order():
    orders = [interleave([Scripted(n, 1.0, []) for n in "abc"], rounds=(5, 5), seed=7).order for _ in range(2)]
    assert orders[0] == orders[1]


def test_a_lost_arm_is_dropped_with_its_reason_and_the_others_go_on():
    arms = [Scripted("base", 2.0, []), Scripted("gone", 1.0, [], dies_at=3), Scripted("kept", 1.0, [])]
    timed = interleave(arms, rounds=(6, 6))
    assert str(timed.lost["gone"]) == "gone was killed"
    assert set(timed.blocks) == {"base", "kept"}
    assert len(timed.blocks["kept"]) == len(timed.blocks["base"]) == 6


def test_losing_the_reference_ends_the_timing():
    with pytest.raises(TrialFailed, match="base was killed"):
        interleave([Scripted("base", 2.0, [], dies_at=2), Scripted("other", 1.0, [])], rounds=(6, 6))


def test_enough_ends_early_but_not_before_the_least_number_of_rounds():
    asked = []
    timed = interleave(
        [Scripted("a", 1.0, [])], rounds=(4, 20), enough=lambda blocks: asked.append(len(blocks["a"])) or True
    )
    assert asked == [4]
    assert len(timed.blocks["a"]) == 4


def test_a_used_up_budget_still_leaves_the_least_number_of_rounds():
    timed = interleave([Scripted("a", 1.0, [])], rounds=(3, 20), budget_s=0.0, enough=lambda blocks: False)
    assert len(timed.blocks["a"]) == 3


def test_no_round_starts_that_would_not_end_in_time():
    class Slow:
        name = "slow"

        def block(self, seconds):
            time.sleep(0.05)
            return [1.0]

    assert len(interleave([Slow()], rounds=(2, 50), budget_s=0.12).blocks["slow"]) == 2


def test_two_arms_of_one_name_are_refused():
    with pytest.raises(ValueError, match="different names"):
        interleave([Scripted("a", 1.0, []), Scripted("a", 1.0, [])])


def test_settling_calls_are_not_recorded():
    calls = []
    arm = CallArm("x", lambda: (calls.append(1), time.sleep(0.002)), settle_s=0.02)
    samples = arm.block(0.02).ms
    assert 0 < len(samples) < len(calls)
    assert min(samples) >= 2.0


def test_a_block_leaves_out_the_cost_of_the_switch_and_has_at_least_one_call():
    assert len(run_for(lambda: time.sleep(0.01), 0.0)) == 1
    calls = itertools.count()
    assert CallArm("x", lambda: next(calls), settle_s=0.0).block(0.0).ms.size == 1
    slow_start = itertools.chain([0.03], itertools.repeat(0.0))
    assert max(CallArm("x", lambda: time.sleep(next(slow_start)), settle_s=0.05).block(0.01).ms) < 30.0
    slow_start = iter([0.03, *[0.01] * 100])  # longer than the settling itself
    assert max(CallArm("x", lambda: time.sleep(next(slow_start)), settle_s=0.02).block(0.0).ms) < 29.0


def test_warm_up_goes_on_while_calls_still_get_faster():
    left = [0.02, 0.016, 0.012, 0.008, 0.004]

    def call():
        time.sleep(left.pop(0) if left else 0.002)

    calls, steady = warm_until_steady(call, window_s=0.0, limit_s=5.0)
    assert steady
    assert calls > 5


def test_warm_up_gives_up_and_says_so():
    pause = iter(np.geomspace(0.05, 1e-5, 400))
    calls, steady = warm_until_steady(lambda: time.sleep(next(pause)), window_s=0.0, limit_s=0.05)
    assert not steady
    assert calls >= 3


def test_summary_agrees_with_numpy_over_the_pooled_calls():
    rng = np.random.default_rng(0)
    blocks = [rng.gamma(4.0, 1.0, size=60) for _ in range(8)]
    timing = Timing.of(blocks)
    pooled = np.concatenate(blocks)
    assert timing.p50 == pytest.approx(np.median([np.median(block) for block in blocks]))
    assert timing.iqr == pytest.approx(np.percentile(pooled, 75) - np.percentile(pooled, 25))
    assert timing.p90 == pytest.approx(np.percentile(pooled, 90))
    assert timing.p99 == pytest.approx(np.percentile(pooled, 99))
    assert timing.calls == 480
    medians = sorted(np.median(b) for b in blocks)
    assert (timing.low, timing.high) == (medians[0], medians[-1])  # 8 blocks: the outer ones bound it at 99 %
    assert timing.notes == {}


def test_the_median_lies_within_its_interval_where_the_machine_has_two_paces():
    timing = Timing.of([[1.0] * 30] * 21 + [[2.0] * 15] * 39)  # most blocks are slow, and most calls are quick
    assert timing.low <= timing.p50 <= timing.high and timing.p50 == 2.0


def test_what_the_calls_do_not_resolve_is_none_with_a_reason():
    timing = Timing.of([[1.0] * 5] * 5)
    assert timing.p90 is None and timing.p99 is None and timing.low is None and timing.high is None
    assert "36 are needed" in timing.notes["p90"]
    assert "368 are needed" in timing.notes["p99"]
    assert "6 are needed" in timing.notes["low"]


def test_settling_ends_once_the_usual_pace_is_reached_and_lasts_the_whole_time_before_it_is_known():
    pace = {"s": 0.002}
    calls = []
    arm = CallArm("x", lambda: (calls.append(1), time.sleep(pace["s"])), settle_s=0.2)
    arm.block(0.01)
    unknown = len(calls)
    calls.clear()
    arm.block(0.01)
    assert len(calls) < unknown / 2
    calls.clear()
    pace["s"] = 0.004  # never as fast as before
    slow = arm.block(0.01)
    assert len(calls) > 2 * slow.ms.size


class Gpu:
    """Works off what is ordered: every call takes ``ms`` of its clock, and none of the host's."""

    def __init__(self, ms):
        self.ms, self.clock, self.ordered, self.waits = ms, 0.0, 0, []

    def order(self):
        self.ordered += 1
        self.clock += self.ms

    def Event(self, *, enable_timing):  # noqa: N802
        assert enable_timing
        event = SimpleNamespace(at=None)
        event.record = lambda stream: setattr(event, "at", self.clock)
        event.synchronize = lambda: self.waits.append("event")
        event.elapsed_time = lambda later: later.at - event.at
        return event

    def current_stream(self, device):
        assert device == "cuda:0"
        return "stream"

    def synchronize(self, device):
        self.waits.append(device)


def make(gpu):
    return EventArm("gpu", gpu.order, device="cuda:0", settle_s=0.0, cuda=gpu)


def test_a_block_is_the_mean_of_its_calls_by_the_gpus_clock_with_one_wait():
    gpu = Gpu(ms=2.5)
    arm = make(gpu)
    arm.warm_ms = 2.5
    gpu.ordered, gpu.waits = 0, []
    assert arm.block(0.05) == [2.5]
    assert (gpu.ordered, gpu.waits) == (20, ["event"])


def test_the_length_of_a_block_follows_what_a_call_took():
    gpu = Gpu(ms=0.5)
    arm = make(gpu)
    arm.warm()
    assert arm.warm_ms is not None and arm.warm_ms >= 0
    arm.block(0.01)
    gpu.ordered = 0
    arm.block(0.01)
    assert gpu.ordered == 20


def test_it_takes_turns_like_any_arm():
    gpus = {"a": Gpu(1.0), "b": Gpu(3.0)}
    arms = [EventArm(name, gpu.order, device="cuda:0", settle_s=0.0, cuda=gpu) for name, gpu in gpus.items()]
    for arm in arms:
        arm.warm()
    blocks = interleave(arms, rounds=(6, 6), block_s=0.005).blocks
    assert {name: [list(block) for block in found] for name, found in blocks.items()} == {
        "a": [[1.0]] * 6,
        "b": [[3.0]] * 6,
    }


def test_time_calls_takes_a_device(monkeypatch):
    gpu = Gpu(4.0)
    monkeypatch.setattr("workbench.timing.interleave._cuda", lambda device: gpu)
    (row,) = wb.time_calls({"gpu": gpu.order}, samples=8, device="cuda:0", block_s=0.02, settle_s=0.0)
    assert (row.ms, row.per_s) == (4.0, 2000.0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device, which is timed in tests/gpu")
def test_no_gpu_is_told_before_anything_runs():
    with pytest.raises(ConfigError, match="CUDA device"):
        wb.time_calls({"x": lambda: pytest.fail("ran")}, device="cuda:0")
