"""Bias correction: no mean error remains behind a layer."""

from __future__ import annotations

import pytest
import torch
from compress_models import OptionA, images, seeded, task_of

from workbench.compress import Quantize
from workbench.compress.graph.capture import capture, run_graph
from workbench.compress.handlers import Work
from workbench.compress.quantize.annotate import weighted_nodes
from workbench.compress.quantize.apply import quantized_copy
from workbench.compress.quantize.biases import correct_biases
from workbench.compress.quantize.qspec import scheme_for


def work_of(build, x, y):
    return Work(task_of(build, x, y), build(), lambda _: None, 0)


@pytest.mark.parametrize(
    "step", [Quantize(target="int8_dot"), Quantize(bits=4, activations="none")], ids=lambda step: step.label
)
def test_corrected_biases_leave_no_mean_error_behind_any_layer(step) -> None:
    x, y = images(96)
    build = seeded(OptionA)  # its stem has no bias to correct: it gets one
    work, scheme = work_of(build, x, y), scheme_for(step)
    graph = capture(work.module, x[:2])
    converted, _ = quantized_copy(graph, work, scheme, {})
    sample = work.task.calibration.inputs

    def means(module):
        names, found = {node.name for node, _ in weighted_nodes(graph)}, {}

        def see(node, _, value):
            if node.name in names:
                axes = [i for i in range(value.ndim) if i != (1 if value.ndim == 4 else value.ndim - 1)]
                found[node.name] = value.double().mean(axes)
            return value

        run_graph(module, sample, see)
        return found

    wanted, before = means(graph), means(converted)
    remarks = correct_biases(graph, converted, sample)
    after = means(converted)
    assert len(wanted) == 4
    for name, mean in wanted.items():
        assert float((after[name] - mean).abs().max()) < 1e-5
    assert max(float((before[name] - wanted[name]).abs().max()) for name in wanted) > 1e-4
    assert all("bias corrected" in words for words in remarks.values())
    torch.testing.assert_close(converted(sample).mean(0), graph(sample).mean(0), rtol=1e-3, atol=1e-4)
