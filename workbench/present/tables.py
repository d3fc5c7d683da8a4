"""Tables of trials: figures with units, intervals beside them, the recommended row marked in words."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.core.speedup import row_speedup
from workbench.present.findings import (
    Row,
    count,
    drop,
    engine_name,
    first_line,
    interval,
    number,
    quality,
    quality_interval,
    share,
    signed,
    variant_name,
)
from workbench.present.html import text

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Column:
    """A head with its unit, and the text of a row: the figure, a smaller text beside it, and a hint on hovering."""

    head: str
    unit: str
    figure: Callable[[Row], str]
    beside: Callable[[Row], str] = lambda _: ""
    note: str = ""
    words: bool = False
    hint: Callable[[Row], str] = lambda _: ""


def table(columns: Sequence[Column], rows: Sequence[Row], *, empty: str = "No finished trials.") -> str:
    """Return an HTML table; a figure that is missing shows its reason when pointed at."""
    if not rows:
        return f'<p class="hint">{text(empty)}</p>'
    heads = "".join(_head(column) for column in columns)
    body = "".join(_line(columns, row) for row in rows)
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'


def with_threads(columns: Sequence[Column], rows: Sequence[Row]) -> tuple[Column, ...]:
    """Return columns with the threads after the backend if rows differ in them."""
    place = columns.index(BACKEND) + 1
    several = len({row.get("threads") for row in rows}) > 1
    return (*columns[:place], *((THREADS,) if several else ()), *columns[place:])


def _head(column: Column) -> str:
    kind = ' class="words"' if column.words else ""
    unit = f"<small>{text(column.unit)}</small>" if column.unit else ""
    return f"<th{kind}>{text(column.head)}{unit}</th>"


def _line(columns: Sequence[Column], row: Row) -> str:
    kind = "recommended" if row.get("recommended") else "reference" if row.get("reference") else row.get("state", "")
    return f'<tr class="{text(kind)}">' + "".join(_cell(column, row) for column in columns) + "</tr>"


def _cell(column: Column, row: Row) -> str:
    figure = column.figure(row)
    beside = column.beside(row)
    reason = (row.get("notes") or {}).get(column.note) if figure == "–" else column.hint(row)
    hint = f' title="{text(reason)}"' if reason else ""
    small = f"<small>{text(beside)}</small>" if beside else ""
    mark = ' <b class="mark">★ recommended</b>' if column.head == "recipe" and row.get("recommended") else ""
    kind = ' class="words"' if column.words else ""
    return f"<td{kind}{hint}>{text(figure)}{mark}{small}</td>"


def _plain(name: str, digits: int = 3) -> Callable[[Row], str]:
    return lambda row: number(row.get(name), digits)


def _standing(row: Row) -> str:
    """Return why a row is not ranked, empty if it is."""
    if row.get("reference"):
        return "reference, not ranked"
    return "low fidelity, never recommended" if row.get("fidelity") == "survey" else ""


def _latency_hint(row: Row) -> str:
    """Return the estimator of the latency, and why it is not baseline-normalised if it is not."""
    parts = [f"estimator: {row['estimator']}" if row.get("estimator") else ""]
    parts.append((row.get("notes") or {}).get("latency_ms_rel", ""))
    return "; ".join(part for part in parts if part)


def _note_of(column: str) -> Callable[[Row], str]:
    return lambda row: str((row.get("notes") or {}).get(column, ""))


RECIPE = Column("recipe", "", variant_name, _standing, words=True, hint=_note_of("fidelity"))
BACKEND = Column(
    "backend",
    "",
    lambda row: engine_name(row["backend"]).replace(" ", "\u00a0"),
    lambda row: ", ".join(f"{k}={v}" for k, v in json.loads(row["engine_json"]).items()),
    words=True,
)
BATCH = Column("batch", "samples", lambda row: str(row["batch_size"]))
SHAPE = Column("shape", "", lambda row: str(row.get("shape") or "–"), words=True)
LATENCY = Column(
    "latency ↓",
    "ms/batch, baseline-normalised",
    _plain("latency_ms_rel"),
    lambda row: interval(row.get("latency_ms_rel_low"), row.get("latency_ms_rel_high")),
    "latency_ms_rel",
    hint=_latency_hint,
)
TIMED = Column(
    "latency as timed",
    "ms/batch, not comparable",
    _plain("latency_ms_p50"),
    lambda row: interval(row.get("latency_ms_low"), row.get("latency_ms_high")),
    "latency_ms_p50",
)
SPREAD = Column("spread", "ms, IQR", _plain("latency_ms_iqr", 2), note="latency_ms_iqr")
P90 = Column("p90", "ms", _plain("latency_ms_p90"), note="latency_ms_p90")
P99 = Column("p99", "ms", _plain("latency_ms_p99"), note="latency_ms_p99")
SPEEDUP = Column(
    "speedup ↑",
    "95 % CI",
    lambda row: row_speedup(row).figure,
    lambda row: row_speedup(row).interval,
    "speedup",
)
VERDICT = Column(
    "verdict", "", lambda row: "baseline" if row.get("baseline") else row.get("verdict") or "–", words=True
)
QUALITY = Column("quality", "task's metric", lambda row: quality(row.get("quality")), note="quality")
DROP = Column(
    "quality drop",
    "metric's units",
    lambda row: drop(row.get("quality_drop")),
    lambda row: quality_interval(row.get("quality_drop_low"), row.get("quality_drop_high")),
    "quality_drop",
)
THROUGHPUT = Column("throughput", "samples/s", _plain("throughput_per_s"), note="throughput_per_s")
AGREEMENT = Column("agreement", "% with the float model", lambda row: share(row.get("agreement")), note="agreement")
MEMORY = Column("peak memory", "MiB", _plain("peak_rss_mib"), note="peak_rss_mib")
PSS = Column("PSS", "MiB, shared pages divided", _plain("peak_pss_mib"), note="peak_pss_mib")
GPU_MEMORY = Column("GPU memory", "MiB", _plain("gpu_memory_mib"), note="gpu_memory_mib")
ALLOCATOR = Column("torch's allocator", "MiB", _plain("allocator_peak_mib"), note="allocator_peak_mib")
ENERGY = Column("energy", "mJ per sample", _plain("energy_mj_per_sample"), note="energy_mj_per_sample")
SIZE = Column("size", "MiB on disk", _plain("size_mib"), note="size_mib")
PARAMS = Column("parameters", "", lambda row: count(row.get("params")), note="params")
MACS = Column("MACs", "per sample", lambda row: count(row.get("macs")), note="macs")
DIFFERENCE = Column("max diff", "outputs, to torch", _plain("max_abs_diff", 2), note="max_abs_diff")
LOAD = Column("load", "ms", _plain("load_ms", 2), note="load_ms")
COMPILE = Column("compile", "ms", _plain("compile_ms", 2), note="compile_ms")
FIRST = Column("first call", "ms", _plain("first_call_ms", 2), note="first_call_ms")
COLD = (LOAD, COMPILE, FIRST)
PREPARE = Column("prepare", "s", _plain("prepare_s", 2), note="prepare_s")
FINAL = Column("finals", "place, head to head", lambda row: count(row.get("final_rank")), hint=_note_of("final_rank"))
FAULTS = Column(
    "page faults",
    "per call",
    _plain("page_faults_per_call"),
    note="page_faults_per_call",
    hint=_note_of("page_faults_per_call"),
)
SWITCHES = Column("context switches", "per call", _plain("context_switches_per_call"), note="context_switches_per_call")
ESTIMATOR = Column("estimator", "", lambda row: str(row.get("estimator") or "–"), note="estimator", words=True)
HEAP = Column("allocator", "", lambda row: str(row.get("allocator") or "–"), note="allocator", words=True)
THREADS = Column("threads", "", lambda row: count(row.get("threads")))
MACHINE = Column("machine", "", lambda row: f"{row.get('machine') or '–'} ({row.get('fingerprint')})", words=True)
STATE = Column(
    "state",
    "",
    lambda row: "finished" if row["state"] == "complete" else str(row["state"]),
    lambda row: first_line(str(row["error"]), 120) if row.get("error") else "",
    words=True,
)

TRADEOFF = (RECIPE, BACKEND, LATENCY, SPEEDUP, VERDICT, QUALITY, DROP, TIMED, SPREAD, SIZE, MACS)
MEMORY_TABLE = (RECIPE, BACKEND, MEMORY, PSS, SIZE, PARAMS, QUALITY, DROP)
TRIALS = (
    *(RECIPE, BACKEND, BATCH, STATE, LATENCY, SPEEDUP, VERDICT, FINAL, QUALITY, DROP, TIMED, SPREAD, P90, P99),
    *(THROUGHPUT, AGREEMENT, MEMORY, PSS, GPU_MEMORY, ALLOCATOR, ENERGY),
    *(SIZE, PARAMS, MACS, DIFFERENCE, *COLD, PREPARE, THREADS, ESTIMATOR, HEAP, FAULTS, SWITCHES),
)


def throughput_table(rows: Sequence[Row]) -> str:
    """Return samples per second, a line for each variant and engine, a column for each batch size."""
    sizes = sorted({row["batch_size"] for row in rows})
    lines: dict[tuple[Any, ...], dict[str, Any]] = {}
    names = ("recipe", "backend", "engine_json", "threads", "reference", "fidelity")
    for row in rows:
        own = {name: row.get(name) for name in names}
        line = lines.setdefault((row["recipe_id"], *own.values()), {**own, "sizes": {}, "recommended": False})
        line["sizes"][row["batch_size"]] = row.get("throughput_per_s")
        line["recommended"] |= bool(row.get("recommended"))
    columns = [*with_threads([RECIPE, BACKEND], rows)]
    columns += [Column(f"batch {size}", "samples/s", _at(size)) for size in sizes]
    order = sorted(lines.values(), key=lambda line: -(line["sizes"].get(sizes[-1]) or 0.0))
    return table(columns, order)


def _at(size: int) -> Callable[[Row], str]:
    return lambda line: number(line["sizes"].get(size))


def waterfall_table(frame: pd.DataFrame) -> str:
    """Return the stages of ``waterfall_data`` with each figure and its change."""
    lines = [
        {str(key): None if v is None or v != v else v for key, v in line.items()} for line in frame.to_dict("records")
    ]
    columns = [Column("stage", "", lambda line: str(line["label"]), words=True)]
    for head, unit, name, scale in (
        ("latency ↓", "ms/batch, baseline-normalised", "latency_ms_rel", 1.0),
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
