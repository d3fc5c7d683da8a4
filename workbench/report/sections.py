"""Sections of the report page, from rows to HTML."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from workbench.core.format.numbers import count, drop, interval, listed, number, plural, quality, quality_interval
from workbench.core.format.speedup import row_speedup
from workbench.core.machine import Machine, library_versions
from workbench.engine.names import DEFAULT_BACKENDS
from workbench.present.findings import (
    Row,
    backend_name,
    break_even_text,
    caveats,
    cold_start_ms,
    cuts_by_reason,
    headline,
    notes_by_reason,
)
from workbench.present.html import details, escaped, hint, text_rows
from workbench.report.settings import ReportSettings
from workbench.study.results.ranking import Recommendation
from workbench.study.strategy.decision_log import Decision

LIBRARIES = ("torch", "onnxruntime", "openvino", "torch-pruning", "torchao", "inference-workbench")
UNFINISHED = ("failed", "pruned", "cancelled", "waiting", "running")

METHOD = """
Every trial is one recipe on one backend at one batch size, timed in a process of its own. It runs in short blocks that
alternate in random order with blocks of the baseline: the original model in torch eager (unless another baseline is
set), float32, inference mode. Calls of the warm-up, and the first 50 ms after each switch, are discarded.|
The speedup is the baseline's latency over the trial's latency, both from the same rounds. The latency in charts,
tables and ranking is baseline-normalized: the latency of the baseline's own row, divided by the speedup. The drift of
the machine between two trials is therefore removed. The latency as timed is the median time of one call with a whole
batch; throughput is the batch size over this time.|
Disturbance by other load is removed as far as possible. The kernel counts how long threads waited for a core: calls
that waited are excluded from medians and ratios if enough others remain. Otherwise the fastest tenth of the calls is
used, and the interval is widened accordingly. All processes keep freed memory for reuse (allocator "steady"). The
baseline runs on one thread or on all, whichever is faster here; torch with its default settings is a reference row.|
At the end, the leading rows within the limit are timed against each other, and the order of these finalists is final.|
Intervals are 95 % CIs: order statistics for the median, a bootstrap over pairs of blocks for the speedup, a paired
bootstrap over evaluation samples for the quality drop. p90 and p99 appear only if there are enough calls for them. The
A/A noise floor is the difference in latency between two loads of one model on this machine; it is part of the interval
of the speedup. Faster and slower mean that this interval excludes 1; same means that it lies within the noise floor;
every other interval is undecided. An interval wider than a factor of 1.5 supports a bound only ("at least").|
Trials are ranked by the baseline-normalized latency. If the difference of two trials is undecided, the smaller model
is preferred. Reference rows and trials at low fidelity (survey) are shown and never recommended.|
Quality is the task's own metric on its evaluation samples, run on the engine that was timed. Training, calibration and
the figures after each step use other samples. Agreement is the share of evaluation samples with the same output as
the float model, right or wrong. Peak memory is that of the trial's process, runtime included; PSS divides shared
pages among their processes. Energy is read from the counters of processor or GPU, minus the idle power, and omitted if
they cannot be read. Size is the model file on disk. The cold start of a fresh process is the sum of load, compile and
first call, without the import of the runtime.
"""


def header(facts: Mapping[str, str], machine: Machine, settings: ReportSettings, *, name: str) -> str:
    """Return the title with task, machine, date and versions; ``facts`` are more pairs about the task."""
    now = datetime.datetime.now().astimezone()
    int8 = f"{'with' if machine.int8_dot else 'without'} dot-product instructions"
    int8 += "" if machine.int8_dot else " (7-bit weights)"
    versions = [f"{library} {version}" for library, version in library_versions(LIBRARIES).items() if version]
    pairs = {
        **facts,
        "machine": f"{machine.cpu_model}, {machine.memory_mib / 1024:.0f} GiB, {machine.system}",
        "cores": f"{machine.cores_allowed} allowed of {machine.cores_logical}; int8 {int8}",
        "GPU": ", ".join(machine.gpus) or machine.gpu_reason or "none",
        "settings": _settings(settings),
        "versions": ", ".join([f"Python {machine.python}", *versions]),
    }
    body = "".join(f"<dt>{escaped(key)}</dt><dd>{escaped(value)}</dd>" for key, value in pairs.items())
    stamp = f'<time datetime="{now.isoformat(timespec="seconds")}">{now:%d %B %Y, %H:%M}</time>'
    return f'<header><p class="kicker">Trade-off report · {stamp}</p><h1>{escaped(name)}</h1><dl>{body}</dl></header>'


def _settings(settings: ReportSettings) -> str:
    threads = f"{settings.threads} threads" if settings.threads else "default threads"
    sizes = ", ".join(map(str, settings.batch_sizes))
    backends = ", ".join(map(backend_name, settings.backends or DEFAULT_BACKENDS))
    return (
        f"batch sizes {sizes}; {backends}; {threads}; quality drop at most {settings.quality_drop:g}; "
        f"{settings.budget:.0f} s in total; seed {settings.seed}"
    )


def recommendation(best: Recommendation, baseline: Row | None, rows: Sequence[Row]) -> str:
    """Return the recommendation in a box: headline, figures with those of the baseline, and caveats."""
    kind = "good" if best.met else "miss"
    tiles = "" if best.row is None else _tiles(best.row, baseline or {})
    break_even = break_even_text(best.row) if best.row is not None and best.met else ""
    items = "".join(f"<li>{escaped(sentence)}</li>" for sentence in caveats(best, rows))
    warnings = f'<ul class="caveats">{items}</ul>' if items else ""
    reason = f"<p>{escaped(best.reason)} {escaped(break_even)}</p>"
    return f'<section class="answer {kind}"><h3>{escaped(headline(best))}</h3>{tiles}{reason}{warnings}</section>'


def _tiles(row: Row, base: Row) -> str:
    speedup = row_speedup(row)
    lost = quality_interval(row.get("quality_drop_low"), row.get("quality_drop_high"))
    latency = interval(row.get("latency_ms_rel_low"), row.get("latency_ms_rel_high"))
    tiles = [
        _tile("speedup", speedup.figure, _ci(speedup.interval), f"over {_baseline(base)}"),
        _tile(f"latency, batch {row['batch_size']}", *_with_unit(row, base, "latency_ms_rel", "ms", _ci(latency))),
        _tile("quality drop", drop(row.get("quality_drop")), _ci(lost), _quality(row, base)),
        _tile("peak memory", *_with_unit(row, base, "peak_rss_mib", "MiB", "runtime included")),
        _tile("model on disk", *_with_unit(row, base, "size_mib", "MiB", f"{count(row.get('params'))} parameters")),
    ]
    if (cold := cold_start_ms(row)) is not None:
        tiles.append(_tile("cold start", f"{number(cold)} ms", "load, compile and first call", ""))
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _tile(name: str, figure: str, *details: str) -> str:
    lines = "".join(f"<small>{escaped(line)}</small>" for line in details if line)
    return f'<div class="tile"><span>{escaped(name)}</span><strong>{escaped(figure)}</strong>{lines}</div>'


def _with_unit(row: Row, base: Row, name: str, unit: str, detail: str) -> tuple[str, str, str]:
    """Return a figure, its detail, and the baseline's figure."""
    before = "" if base.get(name) is None else f"baseline: {number(base[name])} {unit}"
    return f"{number(row.get(name))} {unit}", detail, before


def _ci(text: str) -> str:
    return f"95 % CI {text}" if text else ""


def _baseline(base: Row) -> str:
    """Return the baseline's backend with its threads."""
    if not base:
        return "the baseline"
    threads = base.get("threads")
    return backend_name(base["backend"]) + ("" if threads is None else f", {plural(threads, 'thread')}")


def _quality(row: Row, base: Row) -> str:
    if row.get("quality") is None:
        return ""
    return quality(row["quality"]) + ("" if base.get("quality") is None else f", baseline: {quality(base['quality'])}")


def coverage(rows: Sequence[Row]) -> str:
    """Return, for each recipe and step, the layers it changed and the reasons for the others; collapsed."""
    recipes = {row["recipe_id"]: row for row in rows if row.get("steps")}
    if not recipes:
        return hint("No recipe with steps was prepared.")
    titles = [f"{row['recipe']}: {' + '.join(str(s['label']) for s in row['steps'])}" for row in recipes.values()]
    bodies = ["".join(map(_step, row["steps"])) for row in recipes.values()]
    return "".join(map(details, titles, bodies))


def _step(step: Mapping[str, Any]) -> str:
    layers = step.get("layers") or []
    touched = [bool(layer["touched"]) for layer in layers]
    facts = [
        f"{sum(touched)} of {len(layers)} layers changed",
        f"parameters {count(step['params_before'])} → {count(step['params_after'])}",
        f"MACs {count(step['macs_before'])} → {count(step['macs_after'])}",
        f"validation quality {quality(step['quality_before'])} → {quality(step['quality_after'])}",
        f"{step['seconds']:.1f} s",
    ]
    if step.get("epochs_done"):
        facts.append(f"{step['epochs_done']:.3g} epochs")
    states = ["changed" if one else "unchanged" for one in touched]
    cells = [
        (layer["name"], layer["type"], state, layer["reason"]) for layer, state in zip(layers, states, strict=True)
    ]
    table = text_rows(("layer", "type", "", "reason"), cells, muted=[not one for one in touched]) if layers else ""
    notes = "".join(map(hint, step.get("notes") or []))
    return f"<h4>{escaped(step['label'])}</h4><p>{escaped('; '.join(facts))}</p>{notes}{table}"


def decisions(log: Sequence[Decision], *, begun: bool) -> str:
    """Return the table of a plan's decisions: candidates, predictions, measurements, outcomes and reasons."""
    if not log:
        given = "The recipes were given, so the plan had no decisions."
        return hint(given if begun else "No decision within the time budget.")
    heads = ("part", "candidate", "predicted", "measured", "outcome", "reason")
    cells = [
        (
            *(one.stage, one.subject, _speed_and_drop(one.predicted_speedup, one.predicted_drop)),
            *(_speed_and_drop(one.speedup, one.drop), one.outcome, one.why),
        )
        for one in log
    ]
    table = text_rows(heads, cells, muted=[one.outcome != "kept" for one in log])
    return table + hint(
        "Speedups of variants without training are over the baseline, all other speedups over the best variant without "
        "training, as measured at the decision. The tables above have the final figures of variants that were timed "
        "again. Drops are in the metric's units."
    )


def _speed_and_drop(speedup: float | None, lost: float | None) -> str:
    parts = [f"{number(speedup)}x"] if speedup is not None else []
    parts += [f"drop {drop(lost)}"] if lost is not None else []
    return ", ".join(parts) or "–"


def notes(rows: Sequence[Row], cut: Sequence[str]) -> str:
    """Return skipped trials, failed trials and missing figures, grouped by reason."""
    groups = notes_by_reason(rows)
    failed = [group for group in groups if group[0] in UNFINISHED]
    rest = [group for group in groups if group not in failed]
    parts = []
    if cut:
        items = "".join(f"<li>{escaped(reason)}</li>" for reason in cuts_by_reason(cut))
        parts.append(f"<h4>Skipped trials</h4><ul>{items}</ul>")
    if failed:
        items = "".join(
            f"<li><b>{escaped(state)}</b>: {escaped(why)} <i>({escaped(listed(trials))})</i></li>"
            for state, why, trials in failed
        )
        parts.append(f"<h4>Trials without a result</h4><ul>{items}</ul>")
    if rest:
        cells = [(column, why, listed(trials, 2)) for column, why, trials in rest]
        parts.append(details(f"Notes on figures ({len(rest)})", text_rows(("column", "note", "trials"), cells)))
    return "".join(parts) or hint("All planned trials ran, and every figure was measured.")


def method() -> str:
    """Return the measurement method."""
    return "".join(f"<p>{escaped(' '.join(part.split()))}</p>" for part in METHOD.split("|"))
