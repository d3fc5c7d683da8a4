"""wb.compare: two engines in this process, a ratio that is known beforehand, and words."""

import time

import numpy as np
import pytest

import workbench as wb
from workbench.core.errors import ConfigError, InputError
from workbench.core.format.speedup import speedup_text


class Sleeper:
    """An engine whose latency is known."""

    def __init__(self, name, seconds, threads=1):
        self.backend, self.seconds, self.threads = name, seconds, threads

    def predict(self, inputs):
        time.sleep(self.seconds)
        return inputs


def quick(a, b, **options):
    return wb.compare(a, b, np.zeros((1, 2)), **{"block_s": 0.01, "budget_s": 0.5, "rounds": (6, 8), **options})


def test_a_candidate_of_a_quarter_of_the_time_is_faster_with_an_interval_around_the_ratio():
    found = quick(Sleeper("slow", 0.02), Sleeper("quick", 0.005), block_s=0.04, budget_s=1.5, floor=0.01)
    assert found.verdict == "faster"
    assert 2.5 < found.low <= found.ratio <= found.high < 4.5
    text = speedup_text(found.ratio, found.low, found.high, found.verdict)
    assert repr(found).startswith(f"quick: {text.over('slow')}") and text.kind in ("faster", "at least")


def test_the_other_way_round_is_slower_in_words():
    found = quick(Sleeper("quick", 0.002), Sleeper("slow", 0.008))
    assert found.verdict == "slower"
    assert "slower than quick" in repr(found).splitlines()[0]


def test_the_noise_floor_decides_what_counts_as_the_same():
    found = quick(Sleeper("a", 0.01), Sleeper("b", 0.01), floor=0.5, block_s=0.03, budget_s=1.5)
    assert found.verdict == "same"
    assert repr(found).startswith("b: same speed as a")


def test_two_engines_of_one_backend_are_told_apart():
    found = quick(Sleeper("onnxruntime", 0.001), Sleeper("onnxruntime", 0.001))
    assert (found.baseline_name, found.candidate_name) == ("onnxruntime (baseline)", "onnxruntime (candidate)")


def test_different_threads_are_noted():
    assert "threads differ: 1" in repr(quick(Sleeper("a", 0.001, 1), Sleeper("b", 0.001, 2)))


def test_comparing_an_engine_with_itself_is_refused():
    engine = Sleeper("a", 0.001)
    with pytest.raises(InputError, match="different engines"):
        quick(engine, engine)


NAN = float("nan")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rounds": (2, 5)}, "6 <= min <= max"),
        ({"rounds": (6, 2)}, "6 <= min <= max"),
        ({"rounds": (6.5, 8)}, "integers"),
        ({"rounds": None}, "rounds must be"),
        ({"rounds": "ab"}, "rounds must be"),
        ({"budget_s": 0.0}, "budget_s must be a number of seconds above 0"),
        ({"budget_s": NAN}, "budget_s must be"),
        ({"budget_s": "5"}, "budget_s must be"),
        ({"block_s": -1.0}, "block_s must be"),
        ({"block_s": NAN}, "block_s must be"),
        ({"floor": -1}, "floor must be"),
        ({"floor": NAN}, "floor must be"),
        ({"floor": 5}, r"in \[0, 1\)"),
        ({"floor": "a"}, "floor must be"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_settings_that_cannot_work_are_refused(options, words):
    with pytest.raises(ConfigError, match=f"compare: .*{words}"):
        wb.compare(Sleeper("a", 0.001), Sleeper("b", 0.001), None, **options)


@pytest.mark.parametrize("engine", [None, "torch-eager", 3])
def test_what_is_no_engine_is_refused(engine):
    with pytest.raises(InputError, match="candidate must be an engine that is open"):
        wb.compare(Sleeper("a", 0.001), engine, None)
