"""One model: every step on every engine at several batch sizes, each right, refused in one line, or wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import workbench as wb
from workbench.core.errors import WorkbenchError
from workbench.engine.backends import backend_status
from workbench.tasks.trees import Tree, leaves, tree_map

STEPS: dict[str, tuple[Any, ...]] = {
    "float": (),
    "prune": (wb.Prune(ratio=0.3, round_to=1, allow_untouched=True),),
    "factorize": (wb.Factorize(budget=0.6, allow_untouched=True),),
    "sparsify": (wb.Sparsify(ratio=0.5, allow_untouched=True),),
    "int8": (wb.Quantize(),),
    "dynamic": (wb.Quantize(activations="dynamic"),),
    "weights": (wb.Quantize(activations="none"),),
    "prune + int8": (wb.Prune(ratio=0.3, round_to=4, allow_untouched=True), wb.Quantize()),
}
BACKENDS = [s.name for s in backend_status(("torch-eager", "onnxruntime", "openvino")) if s.available]
OWN = 4
SIZES = (1, 3, OWN, 20)
CLOSE, CLOSE_QUANTIZED = 1e-3, 0.15
"""Root mean square error as a share of the spread; torch's simulation and integer kernels round ties apart."""


@dataclass
class Cells:
    """Outcomes: the number of right cells, and a line for each refused or wrong one."""

    right: int = 0
    refused: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def failed(self, where: str, error: Exception) -> None:
        """Count a refusal, or a failure where it is no clear one."""
        if isinstance(error, WorkbenchError) and _is_one_line(str(error)):
            self.refused.append(f"{where}: {error}")
        else:
            self.wrong.append(f"{where}: {type(error).__name__}: {error}")

    def __str__(self) -> str:
        lines = [f"{self.right} cells right, {len(self.refused)} refused, {len(self.wrong)} wrong"]
        return "\n".join((*lines, *(f"refused: {line}" for line in self.refused), *(f"WRONG: {x}" for x in self.wrong)))


def cells_of(
    task: wb.Task,
    *,
    steps: Mapping[str, Sequence[Any]] = STEPS,
    others: Sequence[Callable[[torch.Tensor], torch.Tensor]] = (),
) -> Cells:
    """Return what becomes of a task's model; ``others`` change its inputs to those of other lengths."""
    cells = Cells()
    try:
        task.check()
    except Exception as error:  # noqa: BLE001 - a trace is a failure, whatever it is
        cells.failed("check", error)
        return cells
    for name, some in steps.items():
        try:
            variant = wb.Recipe(*some).apply(task)
        except Exception as error:  # noqa: BLE001 - as above
            cells.failed(name, error)
            continue
        for backend in BACKENDS:
            _run(cells, variant, f"{name} on {backend}", backend, others)
    return cells


def _run(cells: Cells, variant: wb.Variant, where: str, backend: str, others: Sequence[Callable[..., Any]]) -> None:
    try:
        engine = wb.OptimizedInferenceEngine.from_variant(variant, backend=backend, batch_size=OWN)
    except Exception as error:  # noqa: BLE001 - as above
        cells.failed(where, error)
        return
    held_out = variant.task.evaluation.inputs
    inputs = tree_map(lambda x: x[torch.arange(max(SIZES)) % len(x)], held_out)
    with engine:
        for size in SIZES:
            _call(cells, variant, engine, f"{where}, size {size}", tree_map(lambda x: x[:size], inputs))  # noqa: B023
        for place, change in enumerate(others):
            _call(cells, variant, engine, f"{where}, other length {place}", tree_map(change, inputs))


def _call(cells: Cells, variant: wb.Variant, engine: Any, where: str, inputs: Tree) -> None:
    try:
        want = leaves(variant.predict(tree_map(torch.clone, inputs)))
        got = leaves(engine.predict(tree_map(lambda x: x.clone().numpy(), inputs)).result)
    except Exception as error:  # noqa: BLE001 - as above
        cells.failed(where, error)
        return
    limit = CLOSE_QUANTIZED if variant.quantized else CLOSE
    apart = [_apart(np.asarray(mine), theirs.numpy()) for mine, theirs in zip(got, want, strict=True)]
    if all(share <= limit for share in apart):  # a NaN is above every limit; max() would hide it
        cells.right += 1
    else:
        cells.wrong.append(f"{where}: outputs are {', '.join(f'{x:.3g}' for x in apart)} of the spread apart")


def _apart(mine: np.ndarray, theirs: np.ndarray) -> float:
    if mine.shape != theirs.shape:
        return float("inf")
    spread = max(float(theirs.std()), 0.1 * float(np.abs(theirs).max(initial=0.0)), 1e-6)
    return float(np.sqrt(np.mean((mine - theirs) ** 2))) / spread


def _is_one_line(text: str) -> bool:
    return "\n" not in text and len(text) < 1500 and "Traceback" not in text
