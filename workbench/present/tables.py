"""HTML tables of trials: figures with units and intervals, the recommended row marked."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.core.format.numbers import (
    count,
    drop,
    interval,
    number,
    percent,
    quality,
    quality_interval,
    shortened,
    signed,
)
from workbench.core.format.speedup import row_speedup
from workbench.present.findings import Row, backend_name, variant_name
from workbench.present.html import escaped, hint, scrolling

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Column:
    """A column: head, unit, the figure of a row, a smaller detail next to it, and a tooltip.

    ``note`` is the column of the row's notes with the reason for a missing figure. Text columns are left-aligned.
    """

    head: str
    unit: str
    figure: Callable[[Row], str]
    detail: Callable[[Row], str] = lambda _: ""
    note: str = ""
    is_text: bool = False
    tooltip: Callable[[Row], str] = lambda _: ""


def table(columns: Sequence[Column], rows: Sequence[Row], *, empty: str = "No finished trials.") -> str:
    """Return an HTML table; the tooltip of a missing figure is its reason."""
    if not rows:
        return hint(empty)
    return scrolling("".join(map(_head, columns)), "".join(_line(columns, row) for row in rows))


def with_column(columns: Sequence[Column], column: Column, *, after: Column) -> tuple[Column, ...]:
    """Return columns with one more, after another one."""
    place = columns.index(after) + 1
    return (*columns[:place], column, *columns[place:])


def with_threads(columns: Sequence[Column], rows: Sequence[Row]) -> tuple[Column, ...]:
    """Return columns with the threads after the backend if rows differ in them."""
    several = len({row.get("threads") for row in rows}) > 1
    return with_column(columns, THREADS, after=BACKEND) if several else tuple(columns)


def with_shape_and_machine(columns: Sequence[Column], rows: Sequence[Row]) -> tuple[Column, ...]:
    """Return columns with the shape after the batch if a row has one, and the machine at the end if rows differ."""
    if any(row.get("shape") for row in rows):
        columns = with_column(columns, SHAPE, after=BATCH)
    several = len({row.get("fingerprint") for row in rows}) > 1
    return (*columns, MACHINE) if several else tuple(columns)


def _head(column: Column) -> str:
    kind = ' class="words"' if column.is_text else ""
    unit = f"<small>{escaped(column.unit)}</small>" if column.unit else ""
    return f"<th{kind}>{escaped(column.head)}{unit}</th>"


def _line(columns: Sequence[Column], row: Row) -> str:
    kind = "recommended" if row.get("recommended") else "reference" if row.get("reference") else row.get("state", "")
    return f'<tr class="{escaped(kind)}">' + "".join(_cell(column, row) for column in columns) + "</tr>"


def _cell(column: Column, row: Row) -> str:
    figure, detail = column.figure(row), column.detail(row)
    reason = (row.get("notes") or {}).get(column.note) if figure == "–" else column.tooltip(row)
    title = f' title="{escaped(reason)}"' if reason else ""
    small = f"<small>{escaped(detail)}</small>" if detail else ""
    mark = ' <b class="mark">★ recommended</b>' if column.head == "recipe" and row.get("recommended") else ""
    kind = ' class="words"' if column.is_text else ""
    return f"<td{kind}{title}>{escaped(figure)}{mark}{small}</td>"


def _number(head: str, unit: str, name: str, digits: int = 3, **options: Any) -> Column:
    """Return the column of a row's number, with the reason if it is missing."""
    return Column(head, unit, lambda row: number(row.get(name), digits), note=name, **options)


def _text(head: str, name: str, **options: Any) -> Column:
    return Column(head, "", lambda row: str(row.get(name) or "–"), is_text=True, **options)


def _standing(row: Row) -> str:
    """Return the reason why a row is not ranked; empty if it is ranked."""
    if row.get("reference"):
        return "reference, not ranked"
    return "low fidelity, never recommended" if row.get("fidelity") == "survey" else ""


def _latency_tooltip(row: Row) -> str:
    parts = [f"estimator: {row['estimator']}" if row.get("estimator") else "", _note_of("latency_ms_rel")(row)]
    return "; ".join(filter(None, parts))


def _note_of(column: str) -> Callable[[Row], str]:
    return lambda row: str((row.get("notes") or {}).get(column, ""))


def _interval_of(name: str) -> Callable[[Row], str]:
    return lambda row: interval(row.get(f"{name}_low"), row.get(f"{name}_high"))


RECIPE = Column("recipe", "", variant_name, _standing, is_text=True, tooltip=_note_of("fidelity"))
BACKEND = Column(
    "backend",
    "",
    lambda row: backend_name(row["backend"]).replace(" ", "\u00a0"),
    lambda row: ", ".join(f"{k}={v}" for k, v in json.loads(row["engine_json"]).items()),
    is_text=True,
)
BATCH = Column("batch", "samples", lambda row: str(row["batch_size"]))
SHAPE = _text("shape", "shape")
LATENCY = _number(
    "latency ↓",
    "ms/batch, baseline-normalized",
    "latency_ms_rel",
    detail=_interval_of("latency_ms_rel"),
    tooltip=_latency_tooltip,
)
TIMED = _number("latency as timed", "ms/batch, not comparable", "latency_ms_p50", detail=_interval_of("latency_ms"))
SPREAD = _number("spread", "ms, IQR", "latency_ms_iqr", 2)
P90 = _number("p90", "ms", "latency_ms_p90")
P99 = _number("p99", "ms", "latency_ms_p99")
SPEEDUP = Column(
    "speedup ↑", "95 % CI", lambda row: row_speedup(row).figure, lambda row: row_speedup(row).interval, "speedup"
)
VERDICT = Column(
    "verdict", "", lambda row: "baseline" if row.get("baseline") else row.get("verdict") or "–", is_text=True
)
QUALITY = Column("quality", "task's metric", lambda row: quality(row.get("quality")), note="quality")
DROP = Column(
    "quality drop",
    "metric's units",
    lambda row: drop(row.get("quality_drop")),
    lambda row: quality_interval(row.get("quality_drop_low"), row.get("quality_drop_high")),
    "quality_drop",
)
THROUGHPUT = _number("throughput", "samples/s", "throughput_per_s")
AGREEMENT = Column("agreement", "% with the float model", lambda row: percent(row.get("agreement")), note="agreement")
MEMORY = _number("peak memory", "MiB", "peak_rss_mib")
PSS = _number("PSS", "MiB, shared pages divided", "peak_pss_mib")
GPU_MEMORY = _number("GPU memory", "MiB", "gpu_memory_mib")
ALLOCATOR = _number("torch's allocator", "MiB", "allocator_peak_mib")
ENERGY = _number("energy", "mJ per sample", "energy_mj_per_sample")
SIZE = _number("size", "MiB on disk", "size_mib")
PARAMS = Column("parameters", "", lambda row: count(row.get("params")), note="params")
MACS = Column("MACs", "per sample", lambda row: count(row.get("macs")), note="macs")
DIFFERENCE = _number("max diff", "outputs, from torch", "max_abs_diff", 2)
COLD = (
    _number("load", "ms", "load_ms", 2),
    _number("compile", "ms", "compile_ms", 2),
    _number("first call", "ms", "first_call_ms", 2),
)
PREPARE = _number("prepare", "s", "prepare_s", 2)
FINAL = Column(
    "finals", "place, head to head", lambda row: count(row.get("final_rank")), tooltip=_note_of("final_rank")
)
FAULTS = _number("page faults", "per call", "page_faults_per_call", tooltip=_note_of("page_faults_per_call"))
SWITCHES = _number("context switches", "per call", "context_switches_per_call")
ESTIMATOR = _text("estimator", "estimator", note="estimator")
HEAP = _text("allocator", "allocator", note="allocator")
THREADS = Column("threads", "", lambda row: count(row.get("threads")))
MACHINE = Column("machine", "", lambda row: f"{row.get('machine') or '–'} ({row.get('fingerprint')})", is_text=True)
STATE = Column(
    "state",
    "",
    lambda row: "finished" if row["state"] == "complete" else str(row["state"]),
    lambda row: shortened(str(row["error"]), 120) if row.get("error") else "",
    is_text=True,
)

TRADEOFF = (RECIPE, BACKEND, LATENCY, SPEEDUP, VERDICT, QUALITY, DROP, TIMED, SPREAD, SIZE, MACS)
TERMINAL = (RECIPE, BACKEND, BATCH, STATE, LATENCY, SPEEDUP, VERDICT, QUALITY, MEMORY, SIZE)
BENCH = (BACKEND, BATCH, STATE, TIMED, P90, THROUGHPUT, MEMORY, SIZE, *COLD)
MEMORY_TABLE = (RECIPE, BACKEND, MEMORY, PSS, SIZE, PARAMS, QUALITY, DROP)
TRIALS = (
    *(RECIPE, BACKEND, BATCH, STATE, LATENCY, SPEEDUP, VERDICT, FINAL, QUALITY, DROP, TIMED, SPREAD, P90, P99),
    *(THROUGHPUT, AGREEMENT, MEMORY, PSS, GPU_MEMORY, ALLOCATOR, ENERGY),
    *(SIZE, PARAMS, MACS, DIFFERENCE, *COLD, PREPARE, THREADS, ESTIMATOR, HEAP, FAULTS, SWITCHES),
)


def throughput_table(rows: Sequence[Row]) -> str:
    """Return samples per second: a line for each variant and backend, a column for each batch size."""
    sizes = sorted({row["batch_size"] for row in rows})
    lines: dict[tuple[Any, ...], dict[str, Any]] = {}
    names = ("recipe", "backend", "engine_json", "threads", "reference", "fidelity")
    for row in rows:
        variant = {name: row.get(name) for name in names}
        line = lines.setdefault((row["recipe_id"], *variant.values()), {**variant, "recommended": False})
        line[f"batch {row['batch_size']}"] = row.get("throughput_per_s")
        line["recommended"] |= bool(row.get("recommended"))
    columns = [*with_threads([RECIPE, BACKEND], rows)]
    columns += [_number(f"batch {size}", "samples/s", f"batch {size}") for size in sizes]
    return table(columns, sorted(lines.values(), key=lambda line: -(line.get(f"batch {sizes[-1]}") or 0.0)))


def waterfall_table(frame: pd.DataFrame) -> str:
    """Return the stages of ``waterfall_data`` with each figure and its change."""
    lines = [
        {str(key): None if v is None or v != v else v for key, v in line.items()} for line in frame.to_dict("records")
    ]
    columns = [Column("stage", "", lambda line: str(line["label"]), is_text=True)]
    for head, unit, name, scale in (
        ("latency ↓", "ms/batch, baseline-normalized", "latency_ms_rel", 1.0),
        ("MACs", "M per sample", "macs", 1e-6),
        ("parameters", "thousand", "params", 1e-3),
        ("size", "MiB on disk", "size_mib", 1.0),
        ("quality", "validation", "quality_validation", 1.0),
    ):
        change = name.replace("_rel", "").replace("_validation", "") + "_change"
        columns.append(Column(head, unit, _scaled(name, scale, number), _scaled(change, scale, _changed)))
    return table(columns, lines)


def _scaled(name: str, scale: float, write: Callable[[float | None, int], str]) -> Callable[[Row], str]:
    digits = 4 if name == "quality_validation" else 3
    return lambda line: write(None if line[name] is None else line[name] * scale, digits)


def _changed(value: float | None, digits: int) -> str:
    return "" if value is None else "no change" if value == 0 else signed(value, digits)
