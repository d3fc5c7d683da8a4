"""Page faults are counted by the kernel: an oracle that knows nothing of the module."""

import json
import os
import subprocess
import sys

import pytest

from workbench.core.allocator import AllocatorState, allocator_state

_COUNT = """
import json, resource, sys
import numpy as np
from workbench.core.allocator import allocator_state, use_steady_allocator
state = use_steady_allocator() if sys.argv[1] == "steady" else allocator_state()
def work():
    buffers = [np.ones(2_000_000) for _ in range(4)]
    del buffers
for _ in range(3):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    work()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(json.dumps({"faults": faults, "steady": state.steady, "library": state.library, "reason": state.reason}))
"""

glibc = pytest.mark.skipif(allocator_state().library != "glibc", reason="This process does not run on glibc's malloc.")


def counted(setting: str, **environment: str) -> dict:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    done = subprocess.run(
        [sys.executable, "-c", _COUNT, setting],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return json.loads(done.stdout)


@glibc
def test_a_steady_process_takes_no_page_faults_where_the_default_takes_thousands() -> None:
    default, steady = counted("default"), counted("steady")
    assert not default["steady"]
    assert steady["steady"]
    assert default["faults"] > 1_000
    assert steady["faults"] < default["faults"] / 50


@glibc
@pytest.mark.parametrize(
    "environment",
    [
        {"MALLOC_TRIM_THRESHOLD_": "4294967296", "MALLOC_MMAP_THRESHOLD_": "4294967296"},
        {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=4294967296:glibc.malloc.mmap_threshold=4294967296"},
    ],
)
def test_thresholds_of_the_environment_count_as_steady(environment: dict[str, str]) -> None:
    found = counted("default", **environment)
    assert found["steady"]
    assert found["faults"] < 100


@glibc
def test_small_thresholds_of_the_environment_do_not(tmp_path: object) -> None:
    assert not counted("default", MALLOC_TRIM_THRESHOLD_="1024", MALLOC_MMAP_THRESHOLD_="nonsense")["steady"]


def test_a_preloaded_allocator_is_recognized(tmp_path, monkeypatch) -> None:
    maps = tmp_path / "maps"
    maps.write_text("7f00-7f01 r-xp 00000000 fe:00 123   /usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4\n")
    monkeypatch.setattr("workbench.core.allocator._MAPS", maps)
    state = allocator_state()
    assert (state.library, state.steady) == ("tcmalloc", True)


def test_the_state_in_words() -> None:
    assert str(AllocatorState("jemalloc", True, "")) == "jemalloc, steady"
    assert str(AllocatorState("other", False, "")) == "other"
