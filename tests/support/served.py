"""Engines whose latency is known: they sleep, and keep what they were given."""

from __future__ import annotations

import threading
import time

from workbench.engine.calls.batcher import Batcher, predict_batch
from workbench.engine.calls.batching import BoundInputs, InferenceResult, metrics_of


class Sleeper:
    """Takes ``ms`` for a call, whatever its rows; ``calls`` are (rows, thread) of each one.

    ``on_call`` is called with the number of the call before it sleeps.
    """

    parallel_calls = 1
    backend = "sleeper"

    def __init__(self, ms, *, call_size=4, on_call=None):
        self.ms, self.call_size, self.calls, self.on_call = ms, call_size, [], on_call

    def call(self, rows):
        if self.on_call is not None:
            self.on_call(len(self.calls))
        self.calls.append((rows, threading.get_ident()))
        time.sleep(self.ms / 1e3)

    def predict(self, inputs):
        self.call(len(inputs))
        return InferenceResult(inputs, metrics_of(0.0, 0.0, 0.0, len(inputs), "cpu", self.backend))

    def release_workers(self):
        """Any thread may sleep."""

    def predict_batch(self, items):
        return predict_batch(self, items)

    def batcher(self, **options):
        return Batcher(lambda: self, **options)

    def bound(self, inputs, position=None):
        return BoundInputs([inputs], len(inputs), False, time.perf_counter())

    def run_bound(self, bound, batch):
        left = sum(item.size for item in bound)
        while left > 0:
            self.call(min(left, batch))
            left -= batch
        return [InferenceResult(item.arrays[0], None) for item in bound]
