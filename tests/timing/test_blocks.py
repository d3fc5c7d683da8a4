"""What disturbs calls, counted by the kernel while a planted neighbor takes the core."""

from __future__ import annotations

import contextlib
import mmap
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from workbench.timing.blocks import Block, RunDelay, Usage, run_block

counted = pytest.mark.skipif(RunDelay().read_ms() is None, reason="This kernel does not count run-queue delay.")


def spin(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


@counted
def test_a_neighbor_on_the_same_core_shows_as_waiting() -> None:
    before = os.sched_getaffinity(0)
    core = min(before)
    code = f"import os\nos.sched_setaffinity(0, {{{core}}})\nprint('on', flush=True)\nwhile True: pass"
    neighbor = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert neighbor.stdout is not None
        neighbor.stdout.readline()
        os.sched_setaffinity(0, {core})
        disturbed = run_block(lambda: spin(0.02), 0.4)
    finally:
        os.sched_setaffinity(0, before)
        neighbor.kill()
        neighbor.wait()
    assert disturbed.wait_ms is not None
    share = disturbed.wait_ms.sum() / disturbed.ms.sum()
    assert 0.25 < share < 0.9  # two want one core: about half


@counted
def test_waiting_of_other_threads_counts_too_and_ended_threads_do_no_harm() -> None:
    def call() -> None:
        workers = [threading.Thread(target=spin, args=(0.002,)) for _ in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    block = run_block(call, 0.05)
    assert block.wait_ms is not None and (block.wait_ms >= 0).all()
    with RunDelay() as delay:
        assert delay.read_ms() is not None
    assert delay.read_ms() is None


def test_every_call_has_its_time_and_its_share_of_the_wait() -> None:
    block = run_block(lambda: spin(0.0005), 0.02)
    assert block.ms.size >= 1
    assert block.wait_ms is None or block.wait_ms.shape == block.ms.shape
    assert run_block(lambda: time.sleep(0.001), 0.0).ms.size == 1


def test_page_faults_of_new_memory_are_counted() -> None:
    pages = 2_000

    def touch() -> None:
        with mmap.mmap(-1, pages * mmap.PAGESIZE) as memory:
            with contextlib.suppress(AttributeError, OSError):  # else a fault may bring 512 pages at once
                memory.madvise(mmap.MADV_NOHUGEPAGE)
            for page in range(pages):
                memory[page * mmap.PAGESIZE] = 1

    block = run_block(touch, 0.0)
    if block.usage is None:
        pytest.skip("This system counts no page faults.")
    assert block.usage.faults >= pages * 0.9


def test_a_block_survives_the_protocol() -> None:
    block = Block(np.array([1.5, 2.25]), np.array([0.0, 0.5]), Usage(3, 4))
    again = Block.from_dict(block.to_dict())
    assert again.ms.tolist() == [1.5, 2.25]
    assert again.wait_ms is not None and again.wait_ms.tolist() == [0.0, 0.5]
    assert again.usage == Usage(3, 4)
    bare = Block.from_dict(Block.of([1.0]).to_dict())
    assert bare.wait_ms is None and bare.usage is None


def test_undisturbed_calls_are_those_that_hardly_waited() -> None:
    block = Block(np.array([10.0, 10.0, 10.0]), np.array([0.0, 0.4, 4.0]))
    assert block.undisturbed_ms.size == 2
    assert Block.of([1.0, 2.0]).undisturbed_ms.size == 2
