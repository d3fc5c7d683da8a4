from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, strategies as st

from workbench.engine.binding.buffers import BufferPool
from workbench.engine.calls.batching import pad, run_in_batches, timed_call


def one_by_one(call):
    return lambda batches: (timed_call(call, inputs) for inputs in batches)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 7), st.booleans())
def test_items_of_any_size_come_back_in_order_and_calls_are_full(sizes, batch, fixed):
    values = np.arange(sum(sizes), dtype=np.float32)[:, None]
    items = [[part, part + 1] for part in np.split(values, np.cumsum(sizes)[:-1])]
    calls = []

    def call(arrays):
        calls.append(arrays[0].shape[0])
        return [arrays[0] * 2, arrays[0] + arrays[1]], 0.25

    done = run_in_batches(items, batch, fixed=fixed, calls=one_by_one(call), pool=BufferPool(limit_mib=1))
    for (outputs, runs), (first, second) in zip(done, items, strict=True):
        np.testing.assert_array_equal(outputs[0], first * 2)
        np.testing.assert_array_equal(outputs[1], first + second)
        assert all(run.copied == 0.25 for run in runs)
    full, rest = divmod(sum(sizes), batch)
    assert calls == [batch] * full + ([batch if fixed else rest] if rest else [])
    starts = np.cumsum([0, *sizes])
    spans = [len({i // batch for i in range(a, b)}) for a, b in itertools.pairwise(starts)]
    assert [len(runs) for _, runs in done] == spans


def test_outputs_of_two_items_share_no_memory():
    def call(arrays):
        return [arrays[0] * 1], 0.0

    (a, _), (b, _) = run_in_batches(
        [[np.zeros((1, 2))], [np.zeros((1, 2))]], 8, fixed=False, calls=one_by_one(call), pool=BufferPool(limit_mib=1)
    )
    assert not np.shares_memory(a[0], b[0])
    assert a[0].base is None


def test_padding_repeats_the_last_sample():
    (padded,) = pad([np.array([[1.0], [2.0]])], 4)
    assert padded[:, 0].tolist() == [1, 2, 2, 2]
