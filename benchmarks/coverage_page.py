"""The page of the coverage matrix, written from its figures alone."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Any

import workbench as wb

COMMAND = "python -m benchmarks.coverage"
ENGINES = ("onnxruntime", "openvino")


def recipe_text(recipe: wb.Recipe) -> str:
    """Return the steps of a recipe as code, with the options that are not the default ones."""
    return " + ".join(_step_text(step) for step in recipe.steps)


def _step_text(step: Any) -> str:
    options = [
        f"{field.name}={getattr(step, field.name)!r}"
        for field in dataclasses.fields(step)
        if getattr(step, field.name) != field.default
    ]
    return f"{type(step).__name__}({', '.join(options)})"


def render(values: dict[str, Any]) -> str:
    """Return the page in Markdown."""
    reasons = _reasons(values)
    parts = [_intro(values), _matrix(values, reasons), _why(reasons), _savings(values), _differences(values)]
    parts += [_architectures(values), _recipes(values), _versions(values)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _cells(values: dict[str, Any]) -> list[tuple[dict[str, Any], str, dict[str, Any]]]:
    return [(row, name, cell) for row in values["architectures"] for name, cell in row["cells"].items()]


def _intro(values: dict[str, Any]) -> str:
    cells = [cell for _, _, cell in _cells(values)]
    works = sum(cell["status"] == "works" for cell in cells)
    failed = sum(cell["status"] == "failed" for cell in cells)
    share = works / max(1, len(cells))
    defects = f" {failed} ended without a clear reason: defects of the workbench." if failed else ""
    partly = sum(bool(cell.get("without")) for cell in cells)
    fewer = f" In {partly} of those that work, one engine takes no such recipe." if partly else ""
    return f"""# What works on which architecture

<!-- Written by `{COMMAND}` from coverage.json. Never edit it by hand. -->

Every technique of the workbench, tried on {len(values["architectures"])} architectures that nobody here wrote. They \
come from PyPI packages, are small, and have random weights: the matrix says what a technique *can be applied to*, not \
what quality it keeps.

**{works} of {len(cells)} cells work ({share:.0%}); the others say why they do not.**{fewer}{defects} Written on \
{values["date"]} by

    pip install --no-deps pytorchcv && pip install transformers
    {COMMAND}

A cell works when every step of the recipe touched at least one layer, and torch eager, ONNX Runtime and OpenVINO all \
gave outputs of the float model's structure and shapes, at two batch sizes, near enough to torch's to pass the \
engine's own check (a thousandth of the range for float models). {_left_out(values)}All figures, with the layers \
that a step left alone and the reasons, are in [coverage.json](coverage.json)."""


def _left_out(values: dict[str, Any]) -> str:
    """Return why an engine refuses a technique on all models, in its own words."""
    said = {
        (name, engine, _plain(reason)): None
        for _, name, cell in _cells(values)
        for engine, reason in cell.get("without", {}).items()
    }
    return "".join(f"*{name}* is not for {engine}: {reason} " for name, engine, reason in said)


def _reasons(values: dict[str, Any]) -> dict[str, list[str]]:
    """Return the reasons of refused cells in the order of the matrix, each with the cells that have it."""
    found: dict[str, list[str]] = {}
    for row, name, cell in _cells(values):
        if cell["status"] != "works":
            found.setdefault(_plain(cell["reason"]), []).append(f"{row['name']} × {name}")
    return found


def _plain(reason: str) -> str:
    """Return a reason without the name of the variant, which would tell equal ones apart."""
    return re.sub(r"variant '[^']*'", "this variant", reason)


def _matrix(values: dict[str, Any], reasons: dict[str, list[str]]) -> str:
    numbers = {reason: number for number, reason in enumerate(reasons, 1)}
    names = [technique["name"] for technique in values["techniques"]]
    rows = [
        [f"{row['name']} ({row['kind']})", *(_words(row["cells"].get(name), numbers) for name in names)]
        for row in values["architectures"]
    ]
    return f"""## The matrix

Layers touched, of those the step looked at; in a chain, step by step. *No* leads to the reason below.

{_table(["architecture", *names], rows)}"""


def _words(cell: dict[str, Any] | None, numbers: dict[str, int]) -> str:
    if cell is None:
        return "not tried"
    if cell["status"] != "works":
        number = numbers[_plain(cell["reason"])]
        word = "no" if cell["status"] == "refused" else "failed"
        return f"[*{word}: {number}*](#why-{number})"
    steps = ", ".join(f"{step['touched']} of {step['candidates']}" for step in cell["steps"])
    fixed = any(engine["fixed_batch"] for engine in cell["engines"].values())
    notes = ["fixed batch"] if fixed else []
    notes += [f"not on {engine}" for engine in cell.get("without", ())]
    return steps + (f" ({', '.join(notes)})" if notes else "")


def _why(reasons: dict[str, list[str]]) -> str:
    if not reasons:
        return ""
    lines = [
        f'<a id="why-{number}"></a>{number}. *{"; ".join(cells)}*: {reason}'
        for number, (reason, cells) in enumerate(reasons.items(), 1)
    ]
    return "## Why not\n\n" + "\n\n".join(lines)


def _savings(values: dict[str, Any]) -> str:
    names = [
        name
        for name in (technique["name"] for technique in values["techniques"])
        if any(_shrinks(row["cells"].get(name)) for row in values["architectures"])
    ]
    rows = [
        [row["name"], *(_shares(row["cells"].get(name)) for name in names)]
        for row in values["architectures"]
        if any(_shrinks(row["cells"].get(name)) for name in names)
    ]
    return f"""## What is left

Parameters and multiply-accumulates after the recipe, as shares of those before; quantization changes the width of \
numbers, not how many there are.

{_table(["architecture", *names], rows)}"""


def _shrinks(cell: dict[str, Any] | None) -> bool:
    return cell is not None and cell["status"] == "works" and cell["params"][0] != cell["params"][1]


def _shares(cell: dict[str, Any] | None) -> str:
    if cell is None or not _shrinks(cell):
        return ""
    params, macs = (after / max(1, before) for before, after in (cell["params"], cell["macs"]))
    return f"{params:.0%} params, {macs:.0%} MACs"


def _differences(values: dict[str, Any]) -> str:
    rows = []
    for technique in values["techniques"]:
        name = technique["name"]
        done = [(r, r["cells"][name]) for r in values["architectures"] if name in r["cells"]]
        works = [(row, cell) for row, cell in done if cell["status"] == "works"]
        if works:
            rows.append([name, *(_worst(works, engine) for engine in ENGINES)])
    return f"""## How far the engines are from torch

The largest difference of any output from the same variant in torch, as a share of the largest output: the worst \
architecture of each technique. Integer kernels round differently from torch's simulation, and OpenVINO rounds the \
inputs of matrix products whose weights are int8.

{_table(["technique", *ENGINES], rows)}"""


def _worst(cells: Sequence[tuple[dict[str, Any], dict[str, Any]]], engine: str) -> str:
    answered = [pair for pair in cells if engine in pair[1]["engines"]]
    if not answered:
        return "not run"
    row, cell = max(answered, key=lambda pair: pair[1]["engines"][engine]["share"])
    return f"{cell['engines'][engine]['share']:.2g} ({row['name']})"


def _architectures(values: dict[str, Any]) -> str:
    rows = [[row["name"], row["source"], row["kind"], row["what"], *_size(row)] for row in values["architectures"]]
    return "## The architectures\n\n" + _table(
        ["architecture", "package", "kind", "what is hard in it", "parameters", "MACs per sample"], rows
    )


def _size(row: dict[str, Any]) -> list[str]:
    known = [cell for cell in row["cells"].values() if "params" in cell]
    return [f"{known[0][key][0]:,}" for key in ("params", "macs")] if known else ["", ""]


def _recipes(values: dict[str, Any]) -> str:
    rows = [[technique["name"], f"`{technique['recipe']}`"] for technique in values["techniques"]]
    about = (
        "All other options have their defaults. The spatial and the tucker2 cut are for kernels larger than 1: Linears "
        "and other layers are split as by plain Factorize, and a model without such kernels comes out the same. "
        "*Distill features* also matches the outputs of one layer, the one called halfway through the model."
    )
    return f"## The techniques\n\n{about}\n\n" + _table(["technique", "recipe"], rows)


def _versions(values: dict[str, Any]) -> str:
    rows = [[name, version or "not installed"] for name, version in values["versions"].items()]
    dot = "with" if values["int8_dot"] else "without"
    return f"## Made with\n\n{_table(['package', 'version'], rows)}\n\non {values['cpu']} ({dot} an int8 dot product)."


def _table(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
