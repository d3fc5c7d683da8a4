"""The workbench's chains against torch-pruning, ONNX Runtime's quantizer and NNCF, each alone, on ResNet-20/CIFAR-10.

    python benchmarks/compress.py --data ../shared/data

Our chains remove residual blocks (``wb.PruneDepth``), learn the outputs and the last feature map of the float model for
8 epochs with the defaults of ``Distill``, and end in int8. Blocks are ranked by multiply-accumulates, equal here, and
not by measured latency, so that the choice is the same on a busy machine. The narrow one cuts half of the channels
instead: latency goes by layers at least as much as by their width (a convolution of 8 channels takes 0.7 times as long
as one of 16: OpenVINO, int8, AVX-512), and the weights that are left have to learn anew.

Every model that is trained is kept in the store and read from there the next time, so that a second run takes minutes;
``--retrain`` makes them again (about ten minutes each on two cores). All rows are timed
in one run, in turns, with the same threads and the same images, through each runtime's own API with the same settings,
in a process with the steady allocator: torch eager is the steady baseline.
Prints a table, writes it beside the store, and exits with 1 where no chain of ours is 1.25 times as fast as the fastest
single peer and 4 times as fast as the baseline within 1 point of quality.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

sys.path.insert(0, str(Path(__file__).parent))

import cifar
import peers

import workbench as wb
from workbench.artifact import open_artifact
from workbench.artifact.load import load_module
from workbench.compress.model_ops import count_macs, count_params
from workbench.compress.variant import Variant
from workbench.core.allocator import allocator_state, use_steady_allocator
from workbench.core.errors import WorkbenchError
from workbench.core.machine import default_threads, library_versions, this_machine
from workbench.core.progress import Progress
from workbench.core.stats import bootstrap_drop, ratio_interval
from workbench.engine.backends.openvino.runtime import import_openvino, shared_core
from workbench.export.onnx import export_onnx
from workbench.tasks import Task
from workbench.timing.interleave import CallArm, interleave

STORE = Path(__file__).parent / "results" / "compress"
BASELINE = ("float", "torch-eager")
BATCHES = (32, 1)
PEER_EPOCHS = 15
OURS = {
    "ours": wb.Recipe(wb.PruneDepth(blocks=2), wb.Distill(epochs=8, blend=True), wb.Quantize()),
    "ours, shallower": wb.Recipe(wb.PruneDepth(blocks=3), wb.Distill(epochs=8, blend=True), wb.Quantize()),
    "ours, narrow": wb.Recipe(wb.Prune(0.5), wb.Distill(epochs=8, blend=True), wb.Quantize()),
}


@dataclasses.dataclass
class Model:
    """One contestant: its files, and how many parameters and multiply-accumulates it has."""

    name: str
    size_kib: float
    params: int
    macs: int
    onnx: Path | None = None
    openvino: Path | None = None
    module: torch.nn.Module | None = None


@dataclasses.dataclass
class Row:
    """One model on one engine: quality with the interval of its drop, and latency at each batch size."""

    model: Model
    engine: str
    quality: float
    drop: float
    low: float
    high: float
    latency_ms: dict[int, float] = dataclasses.field(default_factory=dict)
    speedup: dict[int, tuple[float, float, float]] = dataclasses.field(default_factory=dict)
    blocks: list[np.ndarray] = dataclasses.field(default_factory=list)

    @property
    def key(self) -> tuple[str, str]:
        """Model and engine."""
        return self.model.name, self.engine


def notify(text: str) -> None:
    """Print a line of progress."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def kept(folder: Path, retrain: bool, make: Callable[[Path], None]) -> Path:
    """Return ``folder``, made by ``make`` in a temporary place where it is missing or asked for anew."""
    if retrain or not folder.exists():
        notify(f"making {folder.name}")
        temporary = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        make(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    return folder


def contestants(task: Task, store: Path, retrain: bool) -> list[Model]:
    """Return every model of the comparison, trained or read from the store."""
    original = Variant.original(task)
    plain = kept(store / "float", retrain, lambda folder: _export(task, original.module, folder))
    onnx = plain / "model.onnx"
    whole = (original.params, original.macs)
    models = [Model("float", _kib(onnx), *whole, onnx=onnx, module=original.module)]
    models += [_torch_pruning(task, store, ratio, retrain) for ratio in (0.3, 0.5)]
    path = kept(store / "onnxruntime", retrain, lambda f: peers.onnxruntime_alone(task, onnx, f / "model.onnx"))
    path /= "model.onnx"
    models.append(Model("ONNX Runtime int8", _kib(path), *whole, onnx=path))
    path = kept(store / "nncf", retrain, lambda folder: peers.nncf_alone(task, onnx, folder / "model.xml"))
    path /= "model.xml"
    models.append(Model("NNCF int8", _kib(path) + _kib(path.with_suffix(".bin")), *whole, openvino=path))
    cache: dict[str, Variant] = {}
    for name, recipe in OURS.items():
        models.append(_ours(task, store, name, recipe, retrain, cache))
    return models


def _kib(path: Path) -> float:
    return path.stat().st_size / 1024


def _export(task: Task, module: torch.nn.Module, folder: Path) -> None:
    export_onnx(module, task.examples(2), folder / "model.onnx", names=("x",), batch=1)
    safetensors.torch.save_file(dict(module.state_dict()), folder / "weights.safetensors")


def _torch_pruning(task: Task, store: Path, ratio: float, retrain: bool) -> Model:
    def make(folder: Path) -> None:
        _export(task, peers.torch_pruning_alone(task, ratio, PEER_EPOCHS, notify), folder)

    folder = kept(store / f"torch-pruning-{ratio:g}", retrain, make)
    module = peers.torch_pruning_alone(task, ratio, 0, notify)
    module.load_state_dict(safetensors.torch.load_file(folder / "weights.safetensors"))
    path = folder / "model.onnx"
    counts = (count_params(module), count_macs(module, task.examples(2)))
    return Model(f"torch-pruning {ratio:g}", _kib(path), *counts, onnx=path, module=module)


def _ours(task: Task, store: Path, name: str, recipe: wb.Recipe, retrain: bool, cache: dict[str, Variant]) -> Model:
    last = 0.0

    def progress(event: Progress) -> None:
        nonlocal last
        if time.monotonic() - last > 20:
            last = time.monotonic()
            notify(f"{name}: {event.stage}: {event.message}")

    def make(folder: Path) -> None:
        checkpoints = store / "checkpoints"
        recipe.apply(task, progress=progress, cache=cache, checkpoints=checkpoints).save(folder / "artifact")
        shutil.rmtree(checkpoints, ignore_errors=True)

    place = store / name.replace(", ", "-").replace(" ", "-")
    retrain = retrain or not _was_made_by(place / "artifact" / "manifest.json", recipe)
    artifact = open_artifact(kept(place, retrain, make) / "artifact")
    module = load_module(artifact, task.build, trust=True)
    manifest = artifact.manifest
    path = artifact.folder / "model.onnx"
    return Model(f"{name}: {recipe.label}", _kib(path), manifest["params"], manifest["macs"], onnx=path, module=module)


def _was_made_by(manifest: Path, recipe: wb.Recipe) -> bool:
    """Return whether ``recipe`` made a stored artifact; the options of a step may have changed since."""
    if not manifest.exists():
        return False
    try:
        return wb.Recipe.from_dict(json.loads(manifest.read_text())["recipe"]) == recipe
    except WorkbenchError:
        return False


def runners(model: Model, threads: int, batch: int) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Return what runs a batch of images on every engine that takes the model."""
    found: dict[str, Callable[[np.ndarray], np.ndarray]] = {}
    if model.module is not None:
        found["torch-eager"] = _eager(model.module)
    if model.onnx is not None:
        found["onnxruntime"] = _onnxruntime(model.onnx, threads)
    found["openvino"] = _openvino(model.onnx or model.openvino, threads, batch)
    return found


def _eager(module: torch.nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(images)).numpy()

    return run


def _onnxruntime(path: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def _openvino(path: Any, threads: int, batch: int) -> Callable[[np.ndarray], np.ndarray]:
    openvino = import_openvino()
    core = shared_core()
    model = core.read_model(str(path))
    model.reshape([batch, 3, 32, 32])
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    request = core.compile_model(model, "CPU", settings).create_infer_request()

    def run(images: np.ndarray) -> np.ndarray:
        request.infer({0: openvino.Tensor(images, shared_memory=True)})
        return np.array(request.get_output_tensor(0).data)

    return run


def judged(task: Task, models: list[Model], threads: int) -> list[Row]:
    """Return a row per model and engine, with the quality that the engine's own outputs have."""
    images, labels = task.evaluation.inputs.numpy(), task.evaluation.targets.numpy()
    base: np.ndarray | None = None
    rows = []
    for model in models:
        for engine, run in runners(model, threads, 50).items():
            outputs = np.concatenate([run(images[i : i + 50]) for i in range(0, len(images), 50)])
            right = outputs.argmax(1) == labels
            base = right if base is None else base  # the float model on torch eager comes first
            low, high = bootstrap_drop(_scores(base, right), len(labels), resamples=2000)
            rows.append(Row(model, engine, right.mean(), base.mean() - right.mean(), low, high))
            notify(f"{model.name} on {engine}: {right.mean():.4f}")
    return rows


def _scores(base: np.ndarray, right: np.ndarray) -> Callable[[Any], tuple[float, float]]:
    return lambda index: (float(base[index].mean()), float(right[index].mean()))


def timed(task: Task, rows: list[Row], threads: int, batch: int, rounds: int) -> None:
    """Time every row at a batch size, all of them in turns, and set latency and speedup."""
    images = np.ascontiguousarray(task.evaluation.inputs[:batch].numpy())
    arms = []
    for row in rows:
        run = runners(row.model, threads, batch)[row.engine]
        arms.append(CallArm("|".join(row.key), lambda run=run: run(images)))
        arms[-1].warm()
    blocks = interleave(arms, rounds=(rounds, rounds)).blocks
    base = blocks["|".join(BASELINE)]
    for row in rows:
        mine = blocks["|".join(row.key)]
        row.latency_ms[batch] = float(np.median(np.concatenate(mine)))
        row.speedup[batch] = ratio_interval(base, mine)
        if batch == BATCHES[0]:
            row.blocks = mine


def table(rows: list[Row]) -> str:
    """Return the rows as a table in Markdown."""
    lines = [
        "| model | engine | accuracy | drop in points (95 %) | MACs (M) | params (k) | size (KiB) "
        "| batch 32 (ms) | batch 1 (ms) | speedup at 32 (95 %) |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        ratio, low, high = row.speedup[32]
        lines.append(
            f"| {row.model.name} | {row.engine} | {row.quality:.2%} | {100 * row.drop:.2f} ({100 * row.low:.2f} to "
            f"{100 * row.high:.2f}) | {row.model.macs / 1e6:.1f} | {row.model.params / 1e3:.0f} "
            f"| {row.model.size_kib:.0f} | {row.latency_ms[32]:.2f} | {row.latency_ms[1]:.3f} "
            f"| {ratio:.2f} ({low:.2f} to {high:.2f}) |"
        )
    return "\n".join(lines)


def answer(rows: list[Row], points: float) -> tuple[str, bool]:
    """Return in words how our fastest row within ``points`` stands against the fastest peer within them."""
    within = [row for row in rows if 100 * row.drop <= points + 1e-9]
    ours = [row for row in within if row.model.name.startswith("ours")]
    others = [row for row in within if not row.model.name.startswith("ours")]
    rival = max(others, key=lambda row: row.speedup[32][0])
    limit = f"{points:g} point{'s' if points != 1 else ''}"
    if not ours:
        return f"Within {limit}: none of our chains is left.", False
    mine = max(ours, key=lambda row: row.speedup[32][0])
    ratio, low, high = ratio_interval(rival.blocks, mine.blocks)
    speed = mine.speedup[32][0]
    text = (
        f"Within {limit}: {mine.model.name} on {mine.engine} is {ratio:.2f}x "
        f"({low:.2f} to {high:.2f}) as fast as the fastest single peer, {rival.model.name} on {rival.engine}, and "
        f"{speed:.2f}x as fast as the float model in torch eager (batch 32; drop {100 * mine.drop:.2f} against "
        f"{100 * rival.drop:.2f} points)."
    )
    return text, ratio >= 1.25 and speed >= 4


def main() -> int:
    """Make what is missing, measure, print, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10.py and the ResNet-20's weights")
    parser.add_argument("--store", type=Path, default=STORE, help="where trained models are kept")
    parser.add_argument("--retrain", action="store_true", help="train again what the store holds")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--rounds", type=int, default=20, help="blocks of 80 ms for each row and batch size")
    given = parser.parse_args()
    use_steady_allocator()
    os.environ["CIFAR_DATA"] = str(given.data.resolve())
    torch.set_num_threads(given.threads)
    task = cifar.cifar10()
    models = contestants(task, given.store, given.retrain)
    rows = judged(task, models, given.threads)
    for batch in BATCHES:
        notify(f"timing {len(rows)} rows at batch {batch}")
        timed(task, rows, given.threads, batch, given.rounds)
    machine = this_machine()
    versions = library_versions(("torch", "torch-pruning", "torchao", "onnxruntime", "openvino", "nncf"))
    one, two = answer(rows, 1.0), answer(rows, 2.0)
    text = "\n\n".join(
        [
            table(rows),
            f"{one[0]}\n{two[0]}",
            "A speedup is the median of the ratios block by block, arms beside each other in time; milliseconds are "
            "medians over the whole run. Where the baseline's threads stall now and then, the two differ.",
            f"{machine.cpu_model}, {given.threads} threads, {len(task.evaluation)} test images; "
            f"allocator {allocator_state()}; " + ", ".join(f"{name} {version}" for name, version in versions.items()),
        ]
    )
    print(text)
    given.store.mkdir(parents=True, exist_ok=True)
    head = "Written by `python benchmarks/compress.py --data DIR`; not edited by hand.\n\n"
    (given.store / "README.md").write_text(head + text + "\n", encoding="utf-8")
    recipes = {name: json.loads(recipe.to_json()) for name, recipe in OURS.items()}
    (given.store / "recipes.json").write_text(json.dumps(recipes, indent=1) + "\n", encoding="utf-8")
    return 0 if one[1] else 1


if __name__ == "__main__":
    sys.exit(main())
