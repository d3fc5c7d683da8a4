"""Small real tasks that every room's tests may use."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from paths import SUPPORT

# Of several processes side by side each takes one thread: two teams on two cores wait for each other half of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
if "PYTEST_XDIST_WORKER" in os.environ:
    _cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {_cores[int(os.environ["PYTEST_XDIST_WORKER"][2:]) % len(_cores)]})

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


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test out of the user's cache."""
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))


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
