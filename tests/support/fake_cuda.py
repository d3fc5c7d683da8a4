"""Stands for torch.cuda where there is none: streams and events that keep a record of what was ordered, and when.

Tensors stay on the CPU and everything runs at once, so that numbers are right only if nothing is forgotten, and the
record tells whether the order is one that a device would be safe with.
"""

from __future__ import annotations

import contextlib
import itertools
import time

import torch

from workbench.engine.backends.torch.cuda import CudaPipe
from workbench.engine.backends.torch.eager import EagerSession


class Stream:
    def __init__(self, cuda, device):
        self.cuda, self.name = cuda, f"stream {next(cuda.numbers)} on {device}"

    def wait_event(self, event):
        self.cuda.log.append(("waits", self.name, event.number))

    def wait_stream(self, other):
        self.cuda.log.append(("waits", self.name, other.name))


class Event:
    def __init__(self, cuda):
        self.cuda, self.number, self.at = cuda, next(cuda.numbers), None

    def record(self, stream):
        assert stream.name == self.cuda.streams[-1], "recorded on a stream that is not the current one"
        self.at = time.perf_counter()
        self.cuda.log.append(("marks", stream.name, self.number))

    def synchronize(self):
        assert self.at is not None, "waits for what was never recorded"
        self.cuda.log.append(("host waits", self.number))

    def elapsed_time(self, later):
        return (later.at - self.at) * 1e3


class FakeCuda:
    """What the pipe and the graphs use of torch.cuda."""

    CUDAGraph = object

    def __init__(self):
        self.numbers, self.log, self.streams = itertools.count(), [], ["default"]
        self.recording = False

    def Stream(self, device):  # noqa: N802
        return Stream(self, device)

    def Event(self, *, enable_timing):  # noqa: N802
        assert enable_timing
        return Event(self)

    @contextlib.contextmanager
    def stream(self, stream):
        self.streams.append(stream.name)
        try:
            yield
        finally:
            self.streams.pop()

    def current_stream(self, device):
        return type("Current", (), {"name": self.streams[-1], "wait_stream": lambda self, other: None})()

    def empty_cache(self):
        self.log.append(("empties the cache",))

    def synchronize(self, device):
        self.log.append(("host waits", device))

    def graph_pool_handle(self):
        return (0, 1)

    @contextlib.contextmanager
    def graph(self, graph, *, pool, stream, capture_error_mode):
        assert pool == (0, 1) and capture_error_mode == "thread_local"
        self.recording = True
        try:
            with self.stream(stream):
                yield
        finally:
            self.recording = False


def plain_array(shape, dtype):
    """Return an array full of what must not be seen."""
    array = torch.empty(shape, dtype=getattr(torch, dtype)).numpy()
    array.view("u1").fill(0xAB)
    return array


def give_pipe(monkeypatch, cuda, *, peak=None):
    """Give torch-eager a pipe to the CPU, as it has one on a GPU; ``peak()`` makes what watches its memory."""
    before = EagerSession._prepare

    def prepare(self, source, config):
        limit = config.pool_limit_mib
        watched = None if peak is None else peak()
        self.pipe = CudaPipe(
            lambda tensors: self._on_device(tensors), "cpu", limit_mib=limit, peak=watched, cuda=cuda, make=plain_array
        )
        return before(self, source, config)

    monkeypatch.setattr(EagerSession, "_prepare", prepare)
