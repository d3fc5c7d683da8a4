"""Peak memory: a process that touches a known amount shows it; a kernel that does not count says so."""

import subprocess
import sys
from pathlib import Path

import pytest

from workbench.measure.memory import _from_status, peak_rss_mib

_PEAK = """
import sys
from workbench.measure.memory import peak_rss_mib
held = b"x" * (int(sys.argv[1]) * 2**20)
del held
print(peak_rss_mib()[0])
"""


def _peak(mib: int) -> float:
    run = subprocess.run([sys.executable, "-c", _PEAK, str(mib)], capture_output=True, text=True, check=True)
    return float(run.stdout)


@pytest.mark.skipif(peak_rss_mib()[0] is None, reason="this machine does not count peak memory")
def test_the_peak_grows_by_what_was_held_even_after_it_was_given_back():
    assert _peak(200) - _peak(0) == pytest.approx(200, abs=8)


def test_a_kernel_without_the_counter_gives_a_reason(tmp_path: Path):
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmRSS:\t 100 kB\n")
    assert _from_status(status)[0] is None
    assert "VmHWM" in _from_status(status)[1]
    assert _from_status(tmp_path / "missing")[0] is None


def test_the_counter_is_read_in_mib(tmp_path: Path):
    status = tmp_path / "status"
    status.write_text("VmPeak:\t 999 kB\nVmHWM:\t    2048 kB\n")
    assert _from_status(status) == (2.0, None)
