"""What a call holds in torch's CPU allocator: the peak is that of tensors which live at the same time."""

from __future__ import annotations

import pytest
import torch

from workbench.core.errors import ConfigError
from workbench.measure.resources.torch_memory import torch_call_peak_mib

MIB = 2**18  # floats in a MiB


def test_tensors_that_live_together_add_up_and_those_given_back_do_not():
    def together():
        first = torch.ones(8 * MIB)
        return first + torch.ones(8 * MIB)  # three at a time

    def one_after_the_other():
        for _ in range(3):
            torch.ones(8 * MIB).sum()

    assert torch_call_peak_mib(together) == pytest.approx(24, abs=0.1)
    assert torch_call_peak_mib(one_after_the_other) == pytest.approx(8, abs=0.1)


def test_what_was_there_before_is_not_counted():
    held = torch.ones(32 * MIB)
    assert torch_call_peak_mib(held.sum) < 1
    kept = [torch.ones(4 * MIB)]
    assert torch_call_peak_mib(kept.clear) == 0


def test_a_layer_holds_its_output():
    layer, x = torch.nn.Linear(64, 1024), torch.ones(4096, 64)
    with torch.inference_mode():
        peak = torch_call_peak_mib(lambda: layer(x))
    assert peak == pytest.approx(4096 * 1024 * 4 / 2**20, rel=0.1)


def test_what_is_no_call_is_refused():
    with pytest.raises(ConfigError, match="torch_call_peak_mib: call must be a function"):
        torch_call_peak_mib(torch.ones(1))
