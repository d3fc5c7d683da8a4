"""The three searches of the search benchmark: each takes a seed and seconds, and gives the one point that it chose."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import workbench as wb
from benchmarks.cifar import cifar10_held_out
from workbench.compress.variant import Variant
from workbench.core.machine import library_versions
from workbench.core.progress import Progress
from workbench.engine.backends.openvino_ import import_openvino, shared_core
from workbench.export.onnx import export_onnx
from workbench.measure.timing import CallArm, interleave
from workbench.study.search.history import History, Tried
from workbench.tasks import Task

ROOT = Path(__file__).parents[1]
TASK = f"{ROOT / 'benchmarks' / 'cifar.py'}:cifar10_held_out"
INPUT, BATCH, LIMIT = "x", 32, 0.01
CALIBRATION = 300
"""Images that NNCF takes by default; Olive and NNCF draw them by the seed."""
MARGIN = 0.005
GRACE_S = 120.0
"""Olive looks at its clock between two candidates only."""
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """What a tool chose with one seed: ``options`` of the engine that it is for, and its file, None where none held.

    ``validation_drop`` and ``own_ms`` are the tool's own figures. ``by_itself`` is False where the time ended it.
    """

    tool: str
    seed: int
    words: str
    options: dict[str, Any]
    model: str | None
    seconds: float
    limit_s: float
    tried: int
    by_itself: bool
    validation_drop: float | None = None
    own_ms: float | None = None
    notes: tuple[str, ...] = ()
    versions: dict[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def nothing(cls, tool: str, seed: int, seconds: float, limit_s: float, **more: Any) -> Candidate:
        """Return what stands where a tool found no point within the limit."""
        return cls(tool, seed, "nothing within the limit", {}, None, seconds, limit_s, **more)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all tools get alike: the task, the float model as ONNX, the images as a file, threads and seconds."""

    task: Task
    onnx: Path
    arrays: Path
    threads: int
    seconds: float
    olive: Path | None = None


def prepare(work: Path, threads: int, seconds: float) -> Setting:
    """Write the float model and the images that other processes read, where they are not there yet."""
    task, common = cifar10_held_out(), work / "common"
    common.mkdir(parents=True, exist_ok=True)
    onnx, arrays = common / "float.onnx", common / "images.npz"
    if not onnx.exists():
        temporary = common / "float.tmp.onnx"
        export_onnx(Variant.original(task).module, task.examples(2), temporary, names=(INPUT,), batch=1)
        temporary.replace(onnx)
    if not arrays.exists():
        kept = {}
        for name in ("calibration", "validation"):
            split = task.split(name)
            kept |= {f"{name}_images": split.inputs.numpy(), f"{name}_labels": split.targets.numpy()}
        np.savez(common / "images.tmp.npz", **kept)
        (common / "images.tmp.npz").replace(arrays)
    return Setting(task, onnx, arrays, threads, seconds)


def space(seed: int) -> wb.Space:
    """Return what a user of a small residual network would vary.

    Blocks left out or channels cut, with a short training; int8 or not; and the engine. Two to four epochs: one takes
    40 s on two cores, so that more do not fit into 20 minutes beside others, and weights begin as the float model's.
    """
    student = wb.choice(*(f"benchmarks.cifar:{name}" for name in ("less_one", "shallow", "shallower")))
    smaller = wb.vary(wb.Distill(learning_rate=0.01), student=student, epochs=wb.choice(2.0, 4.0))
    narrower = wb.Recipe(wb.Prune(ratio=0.25), wb.Distill(epochs=4.0, learning_rate=0.02))
    return wb.Space(
        wb.choice(None, smaller, narrower),
        wb.maybe(wb.Quantize()),
        backends=("onnxruntime", "openvino"),
        batch_sizes=BATCH,
        engine={"precision": wb.choice("float32", "auto")},
        seed=seed,
    )


def best_seen(history: History) -> Tried | None:
    """Return the fastest point that held the goals on what the search saw; the evaluation split has no say here."""
    held = [one for one in history.tried if one.holds and one.values]
    return min(held, key=lambda one: one.values[0] if one.values else 0.0, default=None)


def run_workbench(setting: Setting, seed: int, folder: Path, say: Say) -> Candidate:
    """Search with the workbench.

    The goal is a drop of 0.005, half of what is accepted: the search tries models that were trained and takes the
    fastest within its goal, and of 1,000 images a drop is known to about half a point. What other seeds trained is
    not taken over.
    """
    last = 0.0

    def progress(event: Progress) -> None:
        nonlocal last
        ended = "best" in event.values
        if ended or time.monotonic() - last > 30:
            last = time.monotonic()
            say(f"workbench, seed {seed}: {event.message}")

    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    begun = time.monotonic()
    with wb.Study(TASK, storage=f"sqlite:///{folder / 'study.db'}", name="search", prefix_cache=False) as study:
        result = study.search(
            space(seed),
            goals=wb.Goals(max_quality_drop=MARGIN),
            trials=10_000,
            budget_s=setting.seconds,
            seed=seed,
            threads=setting.threads,
            progress=progress,
        )
        seconds = time.monotonic() - begun
        chosen = best_seen(result.history)
        result.frame().to_json(folder / "tried.json", orient="records", indent=1)
        known = {
            "tried": len({one.trial_key for one in result.history.tried if one.trial_key}),
            "by_itself": "budget" not in result.ended,
            "versions": library_versions(("torch", "optuna")),
        }
        if chosen is None or chosen.trial_key is None:
            return Candidate.nothing("workbench", seed, seconds, setting.seconds, **known)
        study.export(folder / "model", trial=chosen.trial_key)
    options = json.loads((folder / "model" / "engine.json").read_text(encoding="utf-8"))
    shutil.rmtree(folder / "study_files", ignore_errors=True)
    return Candidate(
        "workbench", seed, str(chosen.recipe), options, "model", seconds, setting.seconds,
        validation_drop=chosen.validation_drop, own_ms=chosen.values[0] if chosen.values else None, **known,
    )  # fmt: skip


def run_nncf(setting: Setting, seed: int, folder: Path, say: Say) -> Candidate:
    """Quantize with NNCF under its control of accuracy, in both presets and both bias corrections.

    NNCF does not look at latency. Of what it gives the fastest is taken, as timed here on OpenVINO's defaults.
    """
    openvino = import_openvino()
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # NNCF reports to its maker else
    import nncf

    task, begun = setting.task, time.monotonic()
    images = task.calibration.inputs.numpy()
    order = np.random.default_rng(seed).permutation(len(images))[:CALIBRATION]
    calibration = nncf.Dataset([images[i : i + 1] for i in order])
    held_out = [(inputs.numpy(), labels.numpy()) for inputs, labels in task.validation.batches(50)]

    def accuracy(compiled: Any, batches: Any) -> float:
        return float(np.mean(np.concatenate([compiled(x)[0].argmax(1) == labels for x, labels in batches])))

    base = accuracy(shared_core().compile_model(str(setting.onnx), "CPU"), held_out)
    found: list[tuple[str, Path, float]] = []
    notes: list[str] = []
    kinds = [(preset, fast) for fast in (True, False) for preset in ("PERFORMANCE", "MIXED")]
    for number, (preset, fast) in enumerate(kinds):
        if time.monotonic() - begun > setting.seconds:
            break
        words = f"quantize_with_accuracy_control(preset={preset}, fast_bias_correction={fast})"
        say(f"nncf, seed {seed}: {words}")
        try:
            model = nncf.quantize_with_accuracy_control(
                shared_core().read_model(str(setting.onnx)),
                calibration,
                nncf.Dataset(held_out, lambda pair: pair[0]),
                validation_fn=accuracy,
                max_drop=LIMIT,
                drop_type=nncf.DropType.ABSOLUTE,
                preset=nncf.QuantizationPreset[preset],
                subset_size=CALIBRATION,
                fast_bias_correction=fast,
            )
        except Exception as error:  # noqa: BLE001 - the page tells it, and the other kinds are tried
            notes.append(f"{words}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
            continue
        path = folder / f"nncf-{number}.xml"
        openvino.save_model(model, str(path), compress_to_fp16=False)
        after = accuracy(shared_core().compile_model(model, "CPU"), held_out)
        found.append((words, path, base - after))
    spent = {"tried": len(found), "by_itself": len(found) + len(notes) == len(kinds), "notes": tuple(notes),
             "versions": library_versions(("nncf", "openvino"))}  # fmt: skip
    held = [one for one in found if one[2] <= LIMIT + 1e-9]
    if not held:
        return Candidate.nothing("nncf", seed, time.monotonic() - begun, setting.seconds, **spent)
    times = _timed({str(path): _compiled(path, setting) for _, path, _ in held})
    words, path, drop = min(held, key=lambda one: times[str(one[1])])
    for _, other, _ in found:
        if other != path:
            other.unlink()
            other.with_suffix(".bin").unlink()
    return Candidate(
        "nncf", seed, words, {"backend": "openvino", "precision": "auto"}, path.name, time.monotonic() - begun,
        setting.seconds, validation_drop=drop, own_ms=times[str(path)], **spent,
    )  # fmt: skip


def _compiled(path: Path, setting: Setting) -> Callable[[], Any]:
    images = np.ascontiguousarray(setting.task.validation.inputs[:BATCH].numpy())
    model = shared_core().read_model(str(path))
    model.reshape(list(images.shape))
    options = {"INFERENCE_NUM_THREADS": setting.threads, "PERFORMANCE_HINT": "LATENCY"}
    request = shared_core().compile_model(model, "CPU", options).create_infer_request()
    return lambda: request.infer({0: images})


def _timed(calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    arms = [CallArm(name, call) for name, call in calls.items()]
    for arm in arms:
        arm.warm()
    blocks = interleave(arms, rounds=(10, 10)).blocks
    return {name: float(np.median([np.median(block) for block in found])) for name, found in blocks.items()}


def run_olive(setting: Setting, seed: int, folder: Path, say: Say) -> Candidate:
    """Have Olive search in its own environment; see search_olive_worker.py for what it gets."""
    if setting.olive is None:
        raise ValueError("run_olive needs the Python of Olive's environment in setting.olive.")
    job, result = folder / "job.json", folder / "olive.json"
    wanted = {
        "float": str(setting.onnx), "data": str(setting.arrays), "seconds": setting.seconds, "seed": seed,
        "threads": setting.threads, "batch": BATCH, "limit": LIMIT, "input": INPUT, "calibration": CALIBRATION,
        "classes": 10,
        "folder": str(folder / "olive"), "result": str(result),
    }  # fmt: skip
    job.write_text(json.dumps(wanted, indent=1), encoding="utf-8")
    say(f"olive, seed {seed}: searching for {setting.seconds:.0f} s")
    begun, notes = time.monotonic(), []
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [str(setting.olive), str(ROOT / "benchmarks" / "search_olive_worker.py"), str(job)]
    with (folder / "olive.log").open("w", encoding="utf-8") as log:
        try:
            done = subprocess.run(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment, timeout=setting.seconds + GRACE_S,
                cwd=folder, check=False,
            )  # fmt: skip
            if done.returncode:
                notes.append(f"Olive's process ended with {done.returncode}: {_last_line(folder / 'olive.log')}")
        except subprocess.TimeoutExpired:
            notes.append(f"Olive's process was ended {GRACE_S:.0f} s after its time.")
    flows = json.loads(result.read_text(encoding="utf-8"))["flows"] if result.exists() else []
    candidate = olive_choice(flows, seed, time.monotonic() - begun, setting, tuple(notes))
    if candidate.model is not None:
        candidate = dataclasses.replace(candidate, model=_taken(Path(candidate.model), folder))
    shutil.rmtree(folder / "olive", ignore_errors=True)
    return candidate


def olive_choice(
    flows: list[dict[str, Any]], seed: int, seconds: float, setting: Setting, notes: tuple[str, ...] = ()
) -> Candidate:
    """Return the fastest of what Olive called best in each workflow, by its own measure."""
    found = []
    for flow in flows:
        found += [f"{flow['flow']}: {count} x {words}" for words, count in flow.get("failures", {}).items()]
        if "error" in flow:
            found.append(f"{flow['flow']}: {flow['error']}")
    spent = {
        "tried": sum(flow["tried"] for flow in flows),
        "by_itself": bool(flows) and all(flow["by_itself"] for flow in flows),
        "notes": (*notes, *found),
    }
    best = min((f for f in flows if f["best"]), key=lambda f: f["best"]["latency_ms"], default=None)
    if best is None:
        return Candidate.nothing("olive", seed, seconds, setting.seconds, **spent)
    one, base = best["best"], best.get("base")
    ir = one["path"].endswith(".xml")
    options = {"backend": "openvino", "precision": "auto"} if ir else {"backend": "onnxruntime"}
    return Candidate(
        "olive", seed, one["words"], options, one["path"], seconds, setting.seconds, own_ms=one["latency_ms"],
        validation_drop=None if base is None else base - one["accuracy"], versions=best.get("versions", {}), **spent,
    )  # fmt: skip


def _taken(path: Path, folder: Path) -> str:
    """Copy a model's files out of Olive's folders, and return the name of the model's file."""
    name = f"olive{path.suffix}"
    shutil.copyfile(path, folder / name)
    weights = path.with_suffix(".bin")
    if path.suffix == ".xml":
        shutil.copyfile(weights, folder / f"olive{weights.suffix}")
    data = path.with_name(f"{path.name}.data")
    if data.exists():  # its name stands in the ONNX file
        shutil.copyfile(data, folder / data.name)
    return name


def _last_line(path: Path) -> str:
    lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it wrote nothing"


TOOLS: dict[str, Callable[[Setting, int, Path, Say], Candidate]] = {
    "workbench": run_workbench,
    "olive": run_olive,
    "nncf": run_nncf,
}
