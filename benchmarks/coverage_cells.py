"""One cell of the coverage matrix: a technique applied to an architecture and run on every engine.

    python -m benchmarks.coverage_cells ARCHITECTURE TECHNIQUE...

works as the child of :mod:`benchmarks.coverage`: one line of JSON on standard output for every finished cell.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

import workbench as wb
from workbench.compress.model_ops import predict_with
from workbench.compress.quantize.modes import mode_of_recipe, refusal
from workbench.core.errors import WorkbenchError
from workbench.tasks.trees import Tree, call_model, named_leaves, to_numpy

ENGINES = ("torch-eager", "onnxruntime", "openvino")
BATCH = 4


@dataclass(frozen=True)
class Technique:
    """A column of the matrix: its heading, and the recipe that it stands for."""

    name: str
    recipe: Callable[[], wb.Recipe]
    promised: bool = False
    """Whether it must work on every CNN."""
    in_task: Callable[[wb.Task], wb.Recipe] | None = None
    """Makes the recipe where it names layers, which every architecture calls otherwise."""

    def recipe_for(self, task: wb.Task) -> wb.Recipe:
        """Return the recipe for one architecture."""
        return self.recipe() if self.in_task is None else self.in_task(task)


TRAIN = {"epochs": 2.0, "batch_size": 16, "learning_rate": 1e-3}
A_LAYER = "the layer in the middle"


def distill_features(layer: str) -> wb.Recipe:
    """Return distillation that also matches one layer's outputs."""
    return wb.Recipe(wb.Distill(**TRAIN, features=(layer,)))


def middle_layer(task: wb.Task) -> str:
    """Return the convolution, Linear or recurrent layer called halfway through the model."""
    module, called = task.model(), []
    kinds = (nn.modules.conv._ConvNd, nn.Linear, nn.RNNBase)
    for name, layer in module.named_modules():
        if isinstance(layer, kinds):
            layer.register_forward_hook(lambda *_, name=name: called.append(name))
    # fused attention kernels, which call no layer, are off while gradients are on
    with torch.enable_grad():
        call_model(module, task.examples(2))
    return called[len(called) // 2]


# A new technique is a new line here.
TECHNIQUES: tuple[Technique, ...] = (
    Technique("Prune 0.3", lambda: wb.Recipe(wb.Prune(ratio=0.3)), promised=True),
    Technique("Prune global, Taylor", lambda: wb.Recipe(wb.Prune(ratio=0.3, scope="global", importance="taylor"))),
    Technique("Prune depth", lambda: wb.Recipe(wb.PruneDepth(ratio=0.3))),
    Technique("Distill", lambda: wb.Recipe(wb.Distill(**TRAIN))),
    Technique("Prune, Recover", lambda: wb.Recipe(wb.Prune(ratio=0.3), wb.Recover(**TRAIN))),
    Technique(
        "Distill features",
        lambda: distill_features(A_LAYER),
        in_task=lambda task: distill_features(middle_layer(task)),
    ),
    Technique("Sparsify", lambda: wb.Recipe(wb.Sparsify(ratio=0.5))),
    Technique("Factorize", lambda: wb.Recipe(wb.Factorize(ratio=0.3)), promised=True),
    Technique("Factorize spatial", lambda: wb.Recipe(wb.Factorize(ratio=0.3, conv="spatial")), promised=True),
    Technique("Factorize tucker2", lambda: wb.Recipe(wb.Factorize(ratio=0.3, conv="tucker2")), promised=True),
    Technique("Quantize static", lambda: wb.Recipe(wb.Quantize()), promised=True),
    Technique("Quantize dynamic", lambda: wb.Recipe(wb.Quantize(activations="dynamic"))),
    Technique("Quantize weights", lambda: wb.Recipe(wb.Quantize(activations="none"))),
    Technique("Quantize 4-bit weights", lambda: wb.Recipe(wb.Quantize(bits=4, activations="none"))),
    Technique(
        "Quantize with training", lambda: wb.Recipe(wb.Quantize(qat_epochs=1.0, batch_size=16, learning_rate=1e-4))
    ),
    Technique("Prune, Distill, Quantize", lambda: wb.Recipe(wb.Prune(ratio=0.3), wb.Distill(**TRAIN), wb.Quantize())),
)


def run_cell(
    technique: Technique,
    task: wb.Task,
    cache: MutableMapping[str, wb.Variant],
    *,
    engines: tuple[str, ...] = ENGINES,
) -> dict[str, Any]:
    """Return what became of one cell, ready for JSON.

    ``status`` is ``works``, ``refused`` (the workbench said why: ``reason``) or ``failed`` (another exception: a
    defect). It works where every step touched a layer and every engine gave outputs of the float model's shapes,
    at the batch size it was loaded for and at another one, near enough to torch's to pass the engine's own check.
    An engine that takes this way of quantizing from no model is tried too: what it says is in ``without``.
    """
    started = time.perf_counter()
    cell: dict[str, Any] = {"status": "works", "reason": None, "steps": [], "engines": {}}
    stage = ""
    try:
        recipe = technique.recipe_for(task)
        mode = mode_of_recipe(recipe.to_dict())
        variant = recipe.apply(task, cache=cache)
        cell |= _figures(variant)
        for engine in engines:
            stage = f"{engine}: "
            try:
                cell["engines"][engine] = _on_engine(variant, task, engine)
            except WorkbenchError as error:
                if refusal(mode, engine) is None:
                    raise
                cell.setdefault("without", {})[engine] = str(error)
    except WorkbenchError as error:
        engine = "" if stage.removesuffix(": ") in str(error) else stage
        cell |= {"status": "refused", "reason": engine + str(error)}
    except Exception as error:  # noqa: BLE001 - a cell must not end the matrix, and whatever it raised is the finding
        cell |= {"status": "failed", "reason": f"{stage}{type(error).__name__}: {str(error)[:300]}"}
    return cell | {"seconds": round(time.perf_counter() - started, 1)}


def _figures(variant: wb.Variant) -> dict[str, Any]:
    """Return coverage by step, and parameters and MACs before and after."""
    first, last = variant.reports[0], variant.reports[-1]
    return {
        "steps": [{"label": r.label, "touched": r.touched, "candidates": len(r.layers)} for r in variant.reports],
        "untouched": sorted({f"{layer.type}: {layer.reason}" for layer in last.layers if not layer.touched})[:8],
        "params": [first.params_before, last.params_after],
        "macs": [first.macs_before, last.macs_after],
        "quality": [round(first.quality_before, 4), round(last.quality_after, 4)],
    }


def _on_engine(variant: wb.Variant, task: wb.Task, backend: str) -> dict[str, Any]:
    """Return the largest difference from torch on evaluation samples; raise where an output has another shape."""
    original = task.model()
    worst = share = 0.0
    with wb.OptimizedInferenceEngine.from_variant(variant, backend=backend, batch_size=BATCH, threads=1) as engine:
        for count in (BATCH, 1):
            inputs = task.evaluation.take(range(count)).inputs
            float_model, torch_here = _arrays(predict_with(original, inputs)), _arrays(variant.predict(inputs))
            found = _arrays(engine.predict(inputs).result)
            shapes = [{key: list(array.shape) for key, array in outputs.items()} for outputs in (float_model, found)]
            if shapes[0] != shapes[1]:
                raise WorkbenchError(f"outputs {shapes[1]} at batch size {count}, the float model gives {shapes[0]}.")
            for key, array in torch_here.items():
                apart = float(np.abs(array.astype(np.float64) - found[key]).max())
                worst, share = max(worst, apart), max(share, apart / max(float(np.abs(array).max()), 1e-12))
        fixed = engine.io.batch
    return {"max_abs_diff": float(f"{worst:.3g}"), "share": float(f"{share:.3g}"), "fixed_batch": fixed}


def _arrays(outputs: Tree) -> dict[str, np.ndarray[Any, Any]]:
    return dict(named_leaves(to_numpy(outputs)))


def main(name: str, techniques: list[str]) -> int:
    """Run some cells of one architecture; each one's JSON goes to what was standard output when this began."""
    from benchmarks.zoo import ARCHITECTURES, task_of

    # Libraries write to standard output as they like: that goes to standard error from here on.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    task = task_of(next(a for a in ARCHITECTURES if a.name == name))
    cache: dict[str, wb.Variant] = {}
    for technique in TECHNIQUES:
        if technique.name in techniques:
            answers.write(json.dumps({"technique": technique.name, **run_cell(technique, task, cache)}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
