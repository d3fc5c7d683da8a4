"""The machine as this process may use it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.core import machine


def test_machine_is_plausible_and_json_ready() -> None:
    found = machine.this_machine()
    assert 1 <= found.cores_allowed <= (os.cpu_count() or 1)
    assert 1 <= machine.default_threads() <= found.cores_allowed
    assert found.memory_mib > 256
    assert bool(found.gpus) == (found.gpu_reason is None)
    assert json.loads(json.dumps(machine.fingerprint()))["cores_allowed"] == found.cores_allowed
    assert len(machine.fingerprint_id()) == 12


@pytest.mark.parametrize(("text", "cores"), [("150000 100000", 1.5), ("max 100000", None), ("nonsense", None)])
def test_cgroup_v2_quota(tmp_path: Path, text: str, cores: float | None) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert machine._cgroup_quota(tmp_path) == cores


def test_cgroup_v1_quota(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("300000")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert machine._cgroup_quota(tmp_path) == 3


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux: os.sched_setaffinity")
def test_affinity_limits_the_cores() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from workbench.core.machine import available_cores; assert available_cores() == 1"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("flags", "isa", "dot"),
    [
        ({"flags": "sse4_2 avx2 fma"}, ("sse4_2", "avx2", "fma"), False),
        ({"flags": "avx2 avx512f avx512_vnni"}, ("avx2", "avx512f", "avx512_vnni"), True),
        ({"Features": "asimd asimddp"}, ("asimd", "asimddp"), True),
    ],
)
def test_instruction_sets_decide_whether_int8_saturates(
    flags: dict, isa: tuple[str, ...], dot: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")
    found = machine._instruction_sets(flags)
    assert found == isa
    assert bool(machine.INT8_DOT.intersection(found)) is dot


def test_versions_do_not_import() -> None:
    versions = machine.library_versions(["torch", "no-such-distribution"])
    assert versions["torch"]
    assert versions["no-such-distribution"] is None
