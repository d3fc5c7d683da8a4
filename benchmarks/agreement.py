"""Every backend's outputs beside torch eager's, over the architectures of the zoo and the precisions of this machine.

    python -m benchmarks.agreement [--models NAME ...] [--backends NAME ...] [--output FILE]

Each engine is loaded without its own check, run on a batch of the size it was loaded for and on a smaller one, and its
outputs are held against the module's in float32, computed here. A difference is a share of the largest absolute value
of the reference's output, as in the engine's own check. Cells above the tolerance of their precision are shown with
what the engine says when its check is on: it must refuse them. Exits with 1 where a cell is above its tolerance and the
engine would have run.

Needs the dependencies of the zoo: see ``benchmarks/zoo/__init__.py``. Compilers take minutes for some models.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import workbench as wb
from benchmarks.zoo import ARCHITECTURES, Architecture, task_of
from workbench.compress.variant import Variant
from workbench.core.errors import WorkbenchError
from workbench.core.machine import library_versions, this_machine
from workbench.engine.backends import get_backend
from workbench.engine.names import BACKENDS
from workbench.engine.precision import TOLERANCES, native_set
from workbench.tasks.trees import call_model, leaves, tree_map

BATCH, SMALLER = 4, 3
OUTPUT = Path(__file__).parent / "results" / "agreement.md"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One engine on one model: the largest difference as a share of the largest value, or why there is none."""

    model: str
    backend: str
    precision: str
    share: float | None
    reason: str = ""

    @property
    def fine(self) -> bool:
        """Within the tolerance, or refused by the engine itself."""
        return self.share is None or self.share <= TOLERANCES[self.precision] or bool(self.reason)

    def __str__(self) -> str:
        if self.share is None:
            return "cannot run"
        mark = "" if self.share <= TOLERANCES[self.precision] else " (refused)" if self.reason else " **wrong**"
        return f"{self.share:.1e}{mark}"


def precisions(backend: str) -> list[str]:
    """Return float32 and the 16-bit formats that the backend has and this CPU computes natively."""
    has = get_backend(backend).capabilities.precisions
    return ["float32"] + [name for name in ("bfloat16", "float16") if name in has and native_set(name)]


def agree(variant: Variant, backend: str, precision: str) -> Cell:
    """Run one engine and compare; a backend that takes another precision than asked for is left out as such."""
    options: dict[str, Any] = {"backend": backend, "batch_size": BATCH, "precision": precision, "threads": 1}
    name = variant.task.name
    inputs = variant.task.examples(BATCH)
    try:
        with wb.OptimizedInferenceEngine.from_variant(variant, verify=False, strict=True, **options) as engine:
            share = max(_share(variant, engine, inputs), _share(variant, engine, _first(inputs, SMALLER)))
    except WorkbenchError as error:
        return Cell(name, backend, precision, None, str(error))
    if share <= TOLERANCES[precision]:
        return Cell(name, backend, precision, share)
    try:
        wb.OptimizedInferenceEngine.from_variant(variant, **options).dispose()
    except WorkbenchError as error:
        return Cell(name, backend, precision, share, str(error))
    return Cell(name, backend, precision, share)


def _first(inputs: Any, count: int) -> Any:
    return tree_map(lambda leaf: leaf[:count], inputs)


def _share(variant: Variant, engine: Any, inputs: Any) -> float:
    """Return the largest difference of any output as a share of its largest value in the reference."""
    with torch.inference_mode():
        expected = [leaf.numpy() for leaf in leaves(call_model(variant.module, inputs))]
    found = [leaf.numpy() for leaf in leaves(engine.predict(inputs).result)]
    return max(_one(a, b) for a, b in zip(found, expected, strict=True))


def _one(found: np.ndarray, expected: np.ndarray) -> float:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return float("inf")
    wide = expected.astype(np.float64)
    worst = float(np.abs(found.astype(np.float64) - wide).max()) / (float(np.abs(wide).max()) or 1.0)
    return worst if np.isfinite(worst) else float("inf")


def page(cells: Sequence[Cell]) -> str:
    """Return the table in Markdown, a row for each model."""
    ways = list(dict.fromkeys((cell.backend, cell.precision) for cell in cells))
    found = {(cell.model, cell.backend, cell.precision): cell for cell in cells}
    models = list(dict.fromkeys(cell.model for cell in cells))
    lines = ["| model | " + " | ".join(f"{b} {p}" for b, p in ways) + " |", "|---" * (len(ways) + 1) + "|"]
    lines += [
        f"| {m} | " + " | ".join(str(found[m, *w]) if (m, *w) in found else "" for w in ways) + " |" for m in models
    ]
    reasons = [f"- {c.model}, {c.backend}, {c.precision}: {c.reason}" for c in cells if c.reason]
    allowed = ", ".join(f"{name} {value:g}" for name, value in TOLERANCES.items())
    versions = library_versions(("torch", "onnxruntime", "openvino", "transformers", "pytorchcv"))
    return "\n\n".join(
        (
            "Written by `python -m benchmarks.agreement`; not edited by hand.",
            f"Largest difference from torch eager in float32, as a share of its largest value. Tolerances: {allowed}.",
            "\n".join(lines),
            *(["Refused, or not to be run:\n\n" + "\n".join(reasons)] if reasons else []),
            f"{this_machine().cpu_model}; " + ", ".join(f"{name} {version}" for name, version in versions.items()),
        )
    )


def select(names: Sequence[str] | None) -> list[Architecture]:
    """Return the architectures of these names, all without any."""
    return [architecture for architecture in ARCHITECTURES if not names or architecture.name in names]


def main() -> int:
    """Run all of it, write the page after every model, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=[a.name for a in ARCHITECTURES], metavar="NAME")
    parser.add_argument("--backends", nargs="+", choices=list(BACKENDS), default=list(BACKENDS), metavar="NAME")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args()
    cells: list[Cell] = []
    given.output.parent.mkdir(parents=True, exist_ok=True)
    for architecture in select(given.models):
        variant = Variant.original(task_of(architecture))
        for backend in given.backends:
            for precision in precisions(backend):
                cells.append(agree(variant, backend, precision))
                print(cells[-1].model, backend, precision, cells[-1], flush=True)
        torch.compiler.reset()
        given.output.write_text(page(cells) + "\n", encoding="utf-8")
    return int(not all(cell.fine for cell in cells))


if __name__ == "__main__":
    sys.exit(main())
