"""Standard output that is closed or full is told in one line, by every command."""

from __future__ import annotations

import subprocess
import sys

import pytest

COMMANDS = (["doctor"], ["doctor", "--json"])


def run(command, redirect):
    line = " ".join([f'"{sys.executable}" -m workbench', *command, redirect])
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_full_disk_behind_the_output_is_one_line(command):
    done = run(command, ">/dev/full")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "Cannot write to standard output: No space left on device" in done.stderr


@pytest.mark.parametrize("command", [["--help"], ["--version"], ["noise", "--help"]], ids=" ".join)
@pytest.mark.parametrize("redirect", [">/dev/full", ">&-"])
def test_help_leaves_no_trace(command, redirect):
    done = run(command, redirect)
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


@pytest.mark.slow
def test_closed_streams_are_one_line_or_silence():
    done = run(["doctor"], ">&-")
    assert done.returncode == 1 and "Cannot write to standard output" in done.stderr and done.stderr.count("\n") == 1
    done = run(["doctor"], "2>&- >/dev/full")
    assert (done.returncode, done.stderr) == (1, "")
    done = run(["study"], "2>&-")
    assert done.returncode == 2


@pytest.mark.slow
def test_folders_that_cannot_be_made_are_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    line = f'HOME="{tmp_path}/file" XDG_CACHE_HOME="{tmp_path}/file/x" "{sys.executable}" -m workbench doctor'
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, timeout=120)
    assert "Traceback" not in done.stderr and done.returncode == 0
