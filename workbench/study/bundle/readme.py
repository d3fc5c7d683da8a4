"""Write the README and the program of an exported folder from templates; every value in them is escaped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from workbench.artifact.artifact import Artifact
from workbench.core.format.numbers import interval, number
from workbench.core.format.speedup import row_speedup
from workbench.core.machine import INT8_DOT
from workbench.core.untrusted import code_span, escape_markdown, one_line
from workbench.export.io import IOSpec

Row = Mapping[str, Any]
FIGURES = {
    "latency, baseline-normalized": ("latency_ms_rel", " ms", "latency_ms_rel"),
    "latency as timed, median": ("latency_ms_p50", " ms", "latency_ms"),
    "throughput": ("throughput_per_s", " samples/s", ""),
    "speedup over the original": ("speedup", "", ""),
    "quality, the task's metric": ("quality", "", ""),
    "quality drop": ("quality_drop", "", "quality_drop"),
    "agreement with the float model": ("agreement", " %", ""),
    "peak memory of the process": ("peak_rss_mib", " MiB", ""),
    "memory on the GPU": ("gpu_memory_mib", " MiB", ""),
    "energy per sample above idle": ("energy_mj_per_sample", " mJ", ""),
    "load time": ("load_ms", " ms", ""),
    "compile time": ("compile_ms", " ms", ""),
    "first call": ("first_call_ms", " ms", ""),
}
"""Rows of the table: the column, its unit, and the beginning of the columns of its 95 % CI."""


def page(row: Row, artifact: Artifact, *, reason: str, runs_on: str, remade: bool) -> str:
    """Return the README; ``runs_on`` is the backend in ``engine.json``, another than the row's if that is torch."""
    io = artifact.io
    open_dims = [*io.axes, *(["any"] if any(None in spec.shape and not spec.axes for spec in io.inputs) else [])]
    return _MARKDOWN.get_template("bundle_readme.md.j2").render(
        row=row,
        manifest=artifact.manifest,
        io=io,
        open_dims=open_dims,
        mib=artifact.manifest["files"]["model.onnx"]["bytes"] / 2**20,
        figures=_figures(row),
        instructions=Markup(instruction_words(artifact.manifest)),
        reason=reason,
        runs_on=runs_on,
        remade=remade,
    )


def program(io: IOSpec) -> str:
    """Return a program that runs its folder with the extra ``runtime`` alone."""
    arrays = [f'stored["input_{index}"]' for index in range(len(io.inputs))]
    if io.kind == "dict":
        pairs = ", ".join(f"{spec.name!r}: {name}" for spec, name in zip(io.inputs, arrays, strict=True))
        inputs = f"{{{pairs}}}"
    else:
        inputs = arrays[0] if io.kind == "tensor" else f"({', '.join(arrays)},)"
    return _PYTHON.get_template("run.py.j2").render(io=io, inputs=inputs)


def instruction_words(manifest: Mapping[str, Any]) -> str:
    """Return the instruction sets that a model was made for, and what to check on a CPU that has others."""
    dots = sorted(INT8_DOT.intersection(manifest["machine"].get("isa") or ()))
    return _MARKDOWN.get_template("instructions.md.j2").render(manifest=manifest, dots=dots).rstrip("\n")


def _figures(row: Row) -> dict[str, str]:
    """Return the figures of a row that are known, by their names in the table."""
    figures = {}
    for name, (column, unit, start) in FIGURES.items():
        value = row.get(column)
        if column == "speedup" and row.get("baseline"):  # its interval is the noise of two equal processes
            figures[name] = f"none: this is the original on {row['backend']}, which the others are compared with"
        elif value is not None and column == "speedup":
            figures[name] = str(row_speedup(row))
        elif value is not None:
            ci = interval(row.get(f"{start}_low"), row.get(f"{start}_high"), 4)
            shown = number(100 * value if unit == " %" else value, 4)
            figures[name] = f"{shown}{unit} (95 % CI {ci})" if ci else f"{shown}{unit}"
    return figures


def _escape(value: Any) -> Markup:
    return value if isinstance(value, Markup) else Markup(escape_markdown(value))


def _environment(**options: Any) -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    made = jinja2.Environment(
        loader=loader, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, **options
    )
    made.filters |= {
        "count": lambda value: f"{value:,}",
        "number": lambda value: number(value, 4),
        "code": lambda value: Markup(code_span(value)),
        "one_line": one_line,
    }
    return made


_MARKDOWN = _environment(autoescape=True, finalize=_escape)
_PYTHON = _environment()
