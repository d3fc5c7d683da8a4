"""The GPU benchmark: its table on lines of known speed, its engines on the CPU, and what it says without a GPU."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu import Line, cell, main, page, table


def line(way: str, ms: float, peak: float | None = 25.04) -> Line:
    return Line(8, way, "float16", ms, ms / 2, 0.5, 0.49, 0.51, 0.0012, peak)


def test_the_fastest_comes_first_and_all_figures_are_there():
    rows = table([line("eager", 4.0, None), line("graph", 2.0)]).splitlines()
    assert rows[2] == "| 8 | graph | float16 | 2 | 1 | 4000 | 0.500 (0.490 to 0.510) | 0.0012 | 25.0 |"
    assert rows[3].startswith("| 8 | eager |") and rows[3].endswith("| 0.0012 |  |")


def test_what_could_not_run_and_where_it_ran_are_named():
    text = page([line("eager", 4.0)], {"batch 8, graph tf32": "no tf32"}, "NVIDIA L4, driver 999")
    assert "- batch 8, graph tf32: no tf32" in text and text.endswith("NVIDIA L4, driver 999\n")


def test_engines_are_timed_and_what_does_not_fit_the_device_is_left_out(tiny_task):
    arms = [("eager", "float32"), ("eager", "bfloat16"), ("eager", "tf32"), ("graph", "float32")]
    lines, left_out = cell(tiny_task, 2, "cpu", 2, arms)
    assert [(found.way, found.precision) for found in lines] == arms[:2]
    assert all(found.ms > 0 and found.compute_ms > 0 and found.peak_mib is None for found in lines)
    assert lines[0].max_abs_diff < 1e-5 < lines[1].max_abs_diff
    assert lines[0].low == lines[0].ratio == lines[0].high == 1.0
    assert "is a mode of CUDA devices" in left_out["batch 2, eager tf32"]
    assert "no effect on the CPU" in left_out["batch 2, graph float32"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this says what happens without a GPU, and there is one")
def test_without_a_gpu_it_says_so_in_one_line_and_fails(capsys, tmp_path):
    assert main(["--output", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().out
    assert printed.startswith("Nothing to measure: torch") and printed.count("\n") == 1
    assert not (tmp_path / "out").exists()
