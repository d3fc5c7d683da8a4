"""Small real tasks that every room's tests may use."""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import shutil
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

from paths import SUPPORT

# Runtimes start a thread for each core that they may use, and these spin: workers of pytest-xdist that share the cores
# would wait for each other most of the time. Tests marked `cores` need several cores and run in a process of their own.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # not a default: a worker inherits the number of the process that started it
    if hasattr(os, "sched_setaffinity"):
        _cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {_cores[int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw")) % len(_cores)]})
os.environ.setdefault("OMP_NUM_THREADS", "2")

import pytest
from hypothesis import settings

# The same examples in every run: what fails here fails everywhere. To search for new ones:
# pytest --hypothesis-profile=default --hypothesis-seed=random
settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")

# Fixtures of a whole module are made before _own_cache below: they too must keep out of the user's cache.
os.environ["WORKBENCH_CACHE"] = tempfile.mkdtemp(prefix="workbench-tests-")
atexit.register(shutil.rmtree, os.environ["WORKBENCH_CACHE"], ignore_errors=True)
# Tests that run side by side measure nothing that matters: they need not wait for each other's turn on the cores.
os.environ["WORKBENCH_LOCK_DIR"] = os.environ["WORKBENCH_CACHE"]
FIXTURES = SUPPORT
# Captured graphs are many objects that live on; the default thresholds spend a tenth of the time looking at them.
gc.set_threshold(100_000, 50, 50)


CPU_S = pytest.StashKey[float]()
LIBRARIES = ("torch", "torch._dynamo", "torch.onnx", "torch_pruning", "torchao.quantization.pt2e.quantize_pt2e",
             "onnxruntime", "onnxscript", "openvino", "optuna", "pandas", "matplotlib.figure", "nbformat",
             "sqlalchemy")  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the limit for fast tests."""
    text = "processor seconds that a test may take unless it is marked slow; 0: any"
    parser.addoption("--fast-limit-s", type=float, default=2.0, help=text)


def slowness() -> float:
    """Return how many times longer a loop takes now than on the machine for which the limit was set; at least 1."""
    begin = time.process_time()
    sum(i * i % 7 for i in range(1_000_000))
    return max(1.0, (time.process_time() - begin) / 0.06)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Count the processor seconds of a test and its child processes; unlike wall time, a busy neighbor adds few."""
    before = sum(os.times()[:4])
    try:
        return (yield)
    finally:
        item.stash[CPU_S] = sum(os.times()[:4]) - before
        item.user_properties.append(("cpu_s", round(item.stash[CPU_S], 2)))  # for --junit-xml


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test that is too slow for the fast tier."""
    report = yield
    used, own = item.stash.get(CPU_S, 0.0), item.get_closest_marker("cpu_limit")
    limit = item.config.getoption("--fast-limit-s") and (
        own.args[0] if own else item.config.getoption("--fast-limit-s")
    )
    exempt = report.when != "call" or not report.passed or item.get_closest_marker("slow")
    if not exempt and 0 < limit < used and (limit := limit * slowness()) < used:
        report.outcome = "failed"
        report.longrepr = (
            f"Fast tests may take {limit:g} processor seconds, took {used:.1f}. Mark it slow, or shrink it."
        )
    return report


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test out of the user's cache."""
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True, scope="session")
def _libraries_are_loaded() -> None:
    """Import what most tests use, so that no single test pays for it."""
    for name in LIBRARIES:
        importlib.import_module(name)


@pytest.fixture(autouse=True, scope="session")
def _compiled_once() -> None:
    """Compile for OpenVINO in this process at once: trying each model elsewhere first takes a minute of all tests."""
    from workbench.engine.backends.openvino.compiler_guard import disable_trial_compile

    disable_trial_compile()


@pytest.fixture
def tiny_task():
    """Return a task of 8x8 images in four classes, learned well by a net of a few thousand weights."""
    from workbench.tasks.load import load_task

    return load_task(f"{FIXTURES / 'tiny.py'}:tiny")


@pytest.fixture
def tiny_spec() -> str:
    """Return the same task as a reference that a shell or a child process can load."""
    return f"{FIXTURES / 'tiny.py'}:tiny"
