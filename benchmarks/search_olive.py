"""Olive's search, in an environment of its own: the process, and what is taken from its answer."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks.search_common import BATCH, CALIBRATION, INPUT, LIMIT, ROOT, Candidate, Say, Setting

GRACE_S = 120.0
"""Olive looks at its clock between two candidates only."""


def run_olive(setting: Setting, seed: int, folder: Path, notify: Say) -> Candidate:
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
    notify(f"olive, seed {seed}: searching for {setting.seconds:.0f} s")
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
