"""Timing by the events of a real CUDA device."""

from __future__ import annotations

import torch

import workbench as wb


def test_events_time_what_the_device_computes():
    a = torch.rand(2048, 2048, device="cuda:0")
    small, large = torch.rand(256, 256, device="cuda:0"), a
    calls = {"large": lambda: large @ large, "small": lambda: small @ small}
    rows = {row.name: row for row in wb.time_calls(calls, device="cuda:0", budget_s=4.0)}
    assert rows["small"].ratio > 2  # 512 times the work
    assert 2 * 2048**3 / rows["large"].ms / 1e6 < 2e6  # below 2,000 TFLOP/s: it was waited for
