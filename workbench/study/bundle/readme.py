"""What stands beside a model that is handed over: a page in plain words, and a program that runs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workbench.artifact.artifact import Artifact
from workbench.core.format.speedup import row_speedup
from workbench.core.machine import INT8_DOT
from workbench.core.untrusted import code_span, escape_markdown, one_line
from workbench.export.io import IOSpec, TensorSpec

Row = Mapping[str, Any]

PAGE = """# {recipe} of task {task}

{what}

{reason}

## Run it

```sh
pip install "inference-workbench[runtime]"
python run.py
```

In a program of your own:

```python
import json, workbench as wb
options = json.load(open("engine.json"))
with wb.OptimizedInferenceEngine.from_artifact(".", **options) as engine:
    print(engine.predict(inputs).result)
```

{engine}

## Inputs and outputs

{io}

## Measured

On {backend}, on {machine} (fingerprint {fingerprint}), with {threads} and a batch of {batch}:

| | |
|---|---|
{figures}

{elsewhere}

## Instruction sets

{instructions}
"""

PROGRAM = '''"""Run the model in this folder. It needs: pip install "inference-workbench[runtime]"."""

import json
from pathlib import Path

import numpy as np

import workbench as wb

folder = Path(__file__).parent
options = json.loads((folder / "engine.json").read_text())
stored = np.load(folder / "reference.npz")  # a few samples of the task; put your own arrays in their place
{inputs}
with wb.OptimizedInferenceEngine.from_artifact(folder, **options) as engine:
    answer = engine.predict(inputs)
print(answer.result)
count = answer.metrics.batch_size
samples = f"{{count}} sample{{'s' if count > 1 else ''}}"
print(f"{{answer.metrics.inference_time_ms:.3g}} ms for {{samples}} on {{engine.backend}}")
'''

_ELSEWHERE = (
    "Another machine gives other figures. `workbench doctor` shows what it is, `workbench bench . --output rows.jsonl` "
    "measures this folder there, and `workbench study --merge rows.jsonl` brings the rows home."
)
_REMADE = (
    "The artefact that was measured was gone, and this one was made again from its recipe: measure it before you rely "
    "on the figures. "
)


def page(row: Row, artifact: Artifact, *, reason: str, runs_on: str, remade: bool) -> str:
    """Return the page; ``runs_on`` is the backend that ``engine.json`` names, not the row's where that needs torch."""
    count = row["threads"]
    return PAGE.format(
        recipe=escape_markdown(row["recipe"]),
        task=escape_markdown(row["task"]),
        what=_what(artifact),
        reason=escape_markdown(reason),
        engine=_engine(row, runs_on),
        io=_tensors(artifact.io),
        backend=escape_markdown(row["backend"]),
        machine=escape_markdown(row.get("machine") or "a machine"),
        fingerprint=escape_markdown(row["fingerprint"]),
        threads=f"{count} thread{'s' if count > 1 else ''}",
        batch=", ".join(escape_markdown(part) for part in (row["batch_size"], row.get("shape")) if part),
        figures="\n".join(f"| {name} | {figure} |" for name, figure in _figures(row).items()),
        elsewhere=(_REMADE if remade else "") + _ELSEWHERE,
        instructions=instruction_words(artifact.manifest),
    )


def program(io: IOSpec) -> str:
    """Return a program that runs the folder it lies in with the extra ``runtime`` alone."""
    names = [f'stored["input_{index}"]' for index in range(len(io.inputs))]
    if io.kind == "dict":
        pairs = ", ".join(f"{spec.name!r}: {name}" for spec, name in zip(io.inputs, names, strict=True))
        inputs = f"{{{pairs}}}"
    else:
        inputs = names[0] if io.kind == "tensor" else f"({', '.join(names)},)"
    described = "".join(f"# {one_line(spec.describe())}\n" for spec in io.inputs)
    return PROGRAM.format(inputs=f"{described}inputs = {inputs}")


def _what(artifact: Artifact) -> str:
    manifest = artifact.manifest
    size = artifact.manifest["files"]["model.onnx"]["bytes"] / 2**20
    made = (
        f"made by: {escape_markdown(manifest['label'])}"
        if manifest["recipe"].get("steps")
        else "the original model, not compressed"
    )
    return (
        f"An ONNX model of {manifest['params']:,} parameters, {manifest['macs']:,} multiply-accumulates per sample and "
        f"{size:.3g} MiB, {made}. Recipe {escape_markdown(manifest['recipe_id'])}, in whole in `manifest.json`."
    )


def _engine(row: Row, runs_on: str) -> str:
    backend = escape_markdown(row["backend"])
    words = (
        f"`engine.json` holds what was measured: {backend}, batches of {row['batch_size']}, {row['threads']} threads."
    )
    if runs_on != row["backend"]:
        words = (
            f"The figures below are those of {backend}, which needs torch and the task's code. `engine.json` names "
            f"{runs_on}, which runs this folder without them and was not measured for these figures; batches of "
            f"{row['batch_size']} and {row['threads']} threads are as measured."
        )
    return f"{words} Leave `threads` out to take the physical cores of the machine at hand."


def _tensors(io: IOSpec) -> str:
    batch = "any size" if io.batch is None else f"{io.batch} samples and no other"
    structure = {"tensor": "one array", "tuple": "a tuple", "dict": "a dict with these names"}[io.kind]
    lines = [f"It takes {structure}; the batch may have {batch}. {_open(io)}"]
    lines += [f"- input {_tensor(spec)}" for spec in io.inputs]
    lines += [f"- output {_tensor(spec)}" for spec in io.outputs]
    return "\n".join((lines[0], "", *lines[1:]))


def _open(io: IOSpec) -> str:
    """Say which dimensions may have any size besides the batch."""
    names = [code_span(name) for name in io.axes]
    if any(None in spec.shape and not spec.axes for spec in io.inputs):
        names.append("those written `any`")
    if not names:
        return "Every other dimension of the inputs is fixed."
    return f"Besides the batch, any size may be given to {', '.join(names)}; the others are fixed."


def _tensor(spec: TensorSpec) -> str:
    return f"{code_span(spec.name)}: {escape_markdown(spec.describe().removeprefix(f'{spec.name}: '))}"


def _figures(row: Row) -> dict[str, str]:
    """Return what is known of a row, in words; what is None is left out."""
    found = {
        "latency, baseline-normalised": _figure(
            row, "latency_ms_rel", "ms", "latency_ms_rel_low", "latency_ms_rel_high"
        ),
        "latency as timed, median": _figure(row, "latency_ms_p50", "ms", "latency_ms_low", "latency_ms_high"),
        "throughput": _figure(row, "throughput_per_s", "samples/s"),
        "speedup over the original": _speedup(row),
        "quality, the task's metric": _figure(row, "quality", ""),
        "quality lost": _figure(row, "quality_drop", "", "quality_drop_low", "quality_drop_high"),
        "answers that are the float model's": _share(row, "agreement"),
        "peak memory of the process": _figure(row, "peak_rss_mib", "MiB"),
        "memory on the GPU": _figure(row, "gpu_memory_mib", "MiB"),
        "energy of a sample, above the machine at rest": _figure(row, "energy_mj_per_sample", "mJ"),
        "loading": _figure(row, "load_ms", "ms"),
        "compiling": _figure(row, "compile_ms", "ms"),
        "first call": _figure(row, "first_call_ms", "ms"),
    }
    return {name: words for name, words in found.items() if words}


def _speedup(row: Row) -> str:
    if row.get("baseline"):  # the interval of its row is the noise of two equal processes, no gain
        return f"none: this is the original on {row['backend']}, which the others are compared with"
    return "" if row.get("speedup") is None else str(row_speedup(row))


def _figure(row: Row, name: str, unit: str, low: str = "", high: str = "") -> str:
    if row.get(name) is None:
        return ""
    words = f"{_number(row[name])} {unit}".rstrip()
    known = row.get(low) is not None and row.get(high) is not None
    return f"{words} (95 % CI {_number(row[low])} to {_number(row[high])})" if known else words


def _share(row: Row, name: str) -> str:
    return "" if row.get(name) is None else f"{100 * row[name]:.4g} %"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def instruction_words(manifest: Mapping[str, Any]) -> str:
    """Return for which instruction sets a model was made, and what to check on a CPU that has others."""
    machine = manifest["machine"]
    isa = machine.get("isa") or []
    sets = " ".join(map(str, isa)) or "instruction sets unknown"
    where = f"{escape_markdown(machine.get('cpu_model') or 'an unknown CPU')} ({escape_markdown(sets)})"
    if not manifest["quantized"]:
        return f"The model computes in float and runs on every CPU. It was made on {where}; wider vectors are faster."
    step = manifest["recipe"]["steps"][-1]
    notes = manifest["steps"][-1].get("notes") if manifest["steps"] else None
    lines = [escape_markdown(note) for note in notes or ()]
    if step.get("activations") == "none":
        words = "Its weights are integers and its arithmetic is float, so it needs no special instructions."
    elif step["target"] == "int8_dot" or (step["target"] == "this" and machine.get("int8_dot")):
        dots = ", ".join(sorted(INT8_DOT.intersection(isa))) or "dot-product instructions"
        words = (
            f"The int8 scheme was chosen for a CPU that sums int8 products in 32 bits (here: {dots}). On a CPU without "
            "such instructions pairs of products can saturate at 16 bits, and answers go wrong without an error. Look "
            "at the line `int8` of `workbench doctor` there; where they are missing, make the model again with "
            '`Quantize(target="no_int8_dot")`, or measure its quality before you rely on it.'
        )
    else:
        words = (
            "The int8 scheme was chosen for a CPU without int8 dot-product instructions, and is safe on every CPU. "
            'Where they are there, `Quantize(target="int8_dot")` may lose less quality.'
        )
    return "\n".join((f"{words} It was made on {where}.", *("", *(f"- {note}" for note in lines)) * bool(lines)))
