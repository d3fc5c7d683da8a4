"""Every backend gives torch eager's outputs over the architectures of the coverage matrix, in every precision here."""

from __future__ import annotations

import pytest
import torch
from packages import require_package

from benchmarks.agreement import agree, page, precisions
from benchmarks.zoo import ARCHITECTURES
from benchmarks.zoo.task import task_of
from workbench.compress.variant import Variant
from workbench.engine.precision import TOLERANCES

QUICK = ("torch-eager", "onnxruntime", "openvino", "torchscript")
COMPILERS = ("torch-compile", "aot-inductor")
# What a model of the zoo cannot do, in words of the reason that the engine gives.
CANNOT = {
    ("EnCodec encoder", "onnxruntime"): "cannot be exported",
    ("EnCodec encoder", "openvino"): "cannot be exported",
    ("EnCodec encoder", "torchscript"): "TorchScript traces variant",
    ("QuartzNet", "torchscript"): "TorchScript traces variant",
    ("Parakeet decoder", "torchscript"): "TorchScript traces variant",
}


def variant_of(name: str) -> Variant:
    require_package("pytorchcv", "transformers")
    return Variant.original(task_of(next(a for a in ARCHITECTURES if a.name == name)))


@pytest.mark.slow
@pytest.mark.parametrize("name", [architecture.name for architecture in ARCHITECTURES])
def test_all_quick_backends_agree_with_eager(name):
    variant = variant_of(name)
    cells = [agree(variant, backend, precision) for backend in QUICK for precision in precisions(backend)]
    for cell in cells:
        assert cell.fine, (cell.backend, cell.precision, cell.share)
        if cell.share is None:
            assert CANNOT[name, cell.backend] in cell.reason
    eager = cells[0]
    assert (eager.backend, eager.precision, eager.share) == ("torch-eager", "float32", 0.0)
    close = [cell.share <= TOLERANCES[cell.precision] for cell in cells if cell.share is not None]
    assert len(close) >= 2 and all(close)
    assert name in page(cells)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("backend", COMPILERS)
@pytest.mark.parametrize("name", ["SqueezeNet", "BERT"])
def test_compilers_agree_with_eager(name, backend):
    cells = [agree(variant_of(name), backend, precision) for precision in precisions(backend)]
    torch.compiler.reset()
    for cell in cells:
        assert cell.share is not None and cell.share <= TOLERANCES[cell.precision], (cell.precision, cell.reason)
