"""Every step on every engine at several batch sizes equals the step's own module, or is refused in one line."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from generated import Spec, task_of

import workbench as wb
from workbench.core.errors import WorkbenchError
from workbench.engine.backends import backend_status
from workbench.tasks.trees import leaves, tree_map

SEEDS = 60
STEPS = {
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


def failures(spec: Spec) -> list[str]:
    """Return what is wrong with a model, a line each."""
    task = task_of(spec)
    try:
        task.check()
    except WorkbenchError as error:
        return [] if _is_one_line(error) else [f"check: {error!r}"]
    found = []
    for name, steps in STEPS.items():
        try:
            variant = wb.Recipe(*steps).apply(task)
        except WorkbenchError as error:
            found += [] if _is_one_line(error) else [f"{name}: {error!r}"]
            continue
        except Exception as error:  # noqa: BLE001 - a trace is a failure, whatever it is
            found.append(f"{name}: {type(error).__name__}: {error}")
            continue
        for backend in BACKENDS:
            found += [f"{name} on {backend}: {words}" for words in _engine_failures(variant, backend)]
    return found


def _engine_failures(variant: wb.Variant, backend: str) -> list[str]:
    inputs = variant.task.evaluation.inputs
    try:
        engine = wb.OptimizedInferenceEngine.from_variant(variant, backend=backend, batch_size=OWN)
    except WorkbenchError as error:
        return [] if _is_one_line(error) else [f"loading: {error!r}"]
    except Exception as error:  # noqa: BLE001 - as above
        return [f"loading: {type(error).__name__}: {error}"]
    found = []
    with engine:
        for size in SIZES:
            some = tree_map(lambda x: x[:size].clone(), inputs)  # noqa: B023
            want = leaves(variant.predict(tree_map(torch.clone, some)))
            try:
                got = leaves(engine.predict(tree_map(lambda x: x.numpy(), some)).result)
            except WorkbenchError as error:
                found += [] if _is_one_line(error) else [f"size {size}: {error!r}"]
                continue
            for place, (mine, theirs) in enumerate(zip(got, want, strict=True)):
                apart = _apart(np.asarray(mine), theirs.numpy())
                if not apart <= (CLOSE_QUANTIZED if variant.quantized else CLOSE):
                    found.append(f"size {size}, output {place}: {apart:.3g} of the spread apart")
    return found


def _apart(mine: np.ndarray, theirs: np.ndarray) -> float:
    if mine.shape != theirs.shape:
        return float("inf")
    spread = max(float(theirs.std()), 0.1 * float(np.abs(theirs).max(initial=0.0)), 1e-6)
    return float(np.sqrt(np.mean((mine - theirs) ** 2))) / spread


def _is_one_line(error: WorkbenchError) -> bool:
    text = str(error)
    return "\n" not in text and len(text) < 1500 and "Traceback" not in text


def shrunk(spec: Spec) -> tuple[Spec, list[str]]:
    """Return the smallest spec that still fails, with its failures."""
    found = failures(spec)
    for smaller in spec.smaller():
        if failures(smaller):
            return shrunk(smaller)
    return spec, found


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_generated_model_is_right_everywhere_or_refused(seed):
    spec = Spec.of(seed)
    if failures(spec):
        smallest, found = shrunk(spec)
        pytest.fail(f"seed {seed}, {spec}; shrunk to {smallest}: " + "; ".join(found))


@pytest.mark.parametrize("kind", ["image", "sequence", "vector"])
def test_a_smallest_model_of_each_kind(kind):
    assert failures(Spec(0, kind, (), "none" if kind == "vector" else "mean", "tensor", False, False)) == []
