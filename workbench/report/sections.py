"""The pieces of a report's page, from rows to HTML: each a function that a test can call."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from workbench.core.machine import Machine, library_versions
from workbench.core.speedup import row_speedup
from workbench.engine.names import DEFAULT_BACKENDS
from workbench.present.findings import (
    Row,
    break_even_words,
    caveats,
    count,
    cuts_by_reason,
    drop,
    engine_name,
    first_answer_ms,
    headline,
    interval,
    notes_by_reason,
    number,
    quality,
    quality_interval,
    some,
)
from workbench.present.html import details, text
from workbench.report.settings import ReportSettings
from workbench.study.results.ranking import Recommendation
from workbench.study.strategy.decision_log import Decision

LIBRARIES = ("torch", "onnxruntime", "openvino", "torch-pruning", "torchao", "inference-workbench")

METHOD = """
Every trial is one recipe on one backend at one batch size, timed in a process of its own.
It runs in short blocks that alternate in random order with blocks of the baseline: the original model in torch eager
(unless another baseline was asked for), float32, inference mode. Calls of the warm-up, and the first 50 ms after each
switch, are discarded.|
The speedup is the baseline's latency over the trial's latency, both from the same rounds. The latency in charts, tables
and ranking is baseline-normalised: the latency of the baseline's own row, divided by the speedup. The drift of the
machine between two trials is therefore left out. The latency as timed is the median time of one call with a whole
batch; throughput follows from it.|
Other work on the machine is left out too, as far as it can be. The kernel counts how long threads waited for a core:
calls that waited are left out of medians and ratios as long as enough others remain. Otherwise the lowest tenth of the
calls counts, and the interval is widened by what waiting may hide. All processes keep freed memory (a steady
allocator). The baseline runs on one thread or on all, whichever is faster here; torch as commonly started is a
reference row beside it.|
The leading rows within the limit are timed head to head at the end, and the order of these finalists is final.|
Intervals are 95 % CIs: order statistics for the median, a bootstrap over pairs of blocks for the speedup, a paired
bootstrap over evaluation samples for the quality drop. p90 and p99 appear only if the samples resolve them. The A/A
noise floor is the difference between two loads of one model on this machine, and part of the interval of the speedup.
Faster and slower mean that this interval excludes 1; same means that it lies within the noise floor; every other
interval is undecided. An interval wider than a factor of 1.5 supports a bound only ("at least").|
Trials are ranked by the baseline-normalised latency. Of trials that are not told apart, the smaller model is preferred.
Reference rows and trials at low fidelity (survey) are shown and never recommended.|
Quality is the task's own metric on its evaluation samples, run on the engine that was timed. Training,
calibration and the figures after each step use other samples. Agreement is the share of those samples for which the
output equals that of the float model, right or wrong. Peak memory is that of the trial's process, runtime included; PSS
divides pages that several processes share among them. Energy is read from the counters of processor or GPU, above the
machine at rest, and left out if they cannot be read. Size is the model file on disk. Load, compile and first call are
the cold start of a fresh process, without the import of the runtime; they add up to the time until its first answer.
"""


def header(facts: Mapping[str, str], machine: Machine, settings: ReportSettings, *, name: str) -> str:
    """Return the title with task, machine, date and versions. ``facts`` are further pairs about the task."""
    now = datetime.datetime.now().astimezone()
    versions = library_versions(LIBRARIES)
    shown = [f"{lib} {version}" for lib, version in versions.items() if version]
    pairs = {
        **facts,
        "machine": f"{machine.cpu_model}, {machine.memory_mib / 1024:.0f} GiB, {machine.system}",
        "cores": f"{machine.cores_allowed} allowed of {machine.cores_logical}; int8 {int8_words(machine)}",
        "GPU": ", ".join(machine.gpus) or machine.gpu_reason or "none",
        "asked": _asked(settings),
        "versions": f"Python {machine.python}, {', '.join(shown)}",
    }
    body = "".join(f"<dt>{text(key)}</dt><dd>{text(value)}</dd>" for key, value in pairs.items())
    stamp = f'<time datetime="{now.isoformat(timespec="seconds")}">{now:%d %B %Y, %H:%M}</time>'
    return f'<header><p class="kicker">Trade-off report · {stamp}</p><h1>{text(name)}</h1><dl>{body}</dl></header>'


def int8_words(machine: Machine) -> str:
    """Return what the instruction sets mean for int8 on this machine."""
    return "with dot-product instructions" if machine.int8_dot else "without dot-product instructions (7-bit weights)"


def recommendation(best: Recommendation, baseline: Row | None, rows: Sequence[Row]) -> str:
    """Return the answer in a box: one sentence, the figures beside the baseline's, and what weakens them."""
    kind = "good" if best.met else "miss"
    tiles = "" if best.row is None else _tiles(best.row, baseline)
    warnings = "".join(f"<li>{text(words)}</li>" for words in caveats(best, rows))
    earned = break_even_words(best.row) if best.row is not None and best.met else ""
    reason = f"<p>{text(best.reason)} {text(earned)}</p>"
    listed = f'<ul class="caveats">{warnings}</ul>' if warnings else ""
    return f'<section class="answer {kind}"><h3>{text(headline(best))}</h3>{tiles}{reason}{listed}</section>'


def _baseline_words(base: Row) -> str:
    """Return the baseline's engine with its threads."""
    threads = base.get("threads")
    count = "" if threads is None else f", {threads} thread{'' if threads == 1 else 's'}"
    return f"{engine_name(base['backend'])}{count}"


def _tiles(row: Row, baseline: Row | None) -> str:
    base, speedup = baseline or {}, row_speedup(row)
    over = f"over {_baseline_words(base)}" if base else "over the baseline"
    tiles = [
        _tile("speedup", speedup.figure, f"95 % CI {speedup.interval}" if speedup.interval else "", over),
        _tile(
            f"latency, batch {row['batch_size']}",
            f"{number(row.get('latency_ms_rel'))} ms",
            _between(row, "latency_ms_rel", 3),
            _was(base, "latency_ms_rel", "ms"),
        ),
        _tile("quality drop", drop(row.get("quality_drop")), _drop_between(row), _quality(row, base)),
        _tile(
            "peak memory",
            f"{number(row.get('peak_rss_mib'))} MiB",
            "runtime included",
            _was(base, "peak_rss_mib", "MiB"),
        ),
        _tile(
            "model on disk",
            f"{number(row.get('size_mib'))} MiB",
            f"{count(row.get('params'))} parameters",
            _was(base, "size_mib", "MiB"),
        ),
    ]
    if (waited := first_answer_ms(row)) is not None:
        tiles.append(_tile("first answer", f"{number(waited)} ms", "load, compile and first call", ""))
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _tile(name: str, figure: str, beside: str, below: str) -> str:
    lines = "".join(f"<small>{text(line)}</small>" for line in (beside, below) if line)
    return f'<div class="tile"><span>{text(name)}</span><strong>{text(figure)}</strong>{lines}</div>'


def _between(row: Row, name: str, digits: int) -> str:
    words = interval(row.get(f"{name}_low"), row.get(f"{name}_high"), digits)
    return f"95 % CI {words}" if words else ""


def _drop_between(row: Row) -> str:
    words = quality_interval(row.get("quality_drop_low"), row.get("quality_drop_high"))
    return f"95 % CI {words}" if words else ""


def _was(base: Row, name: str, unit: str) -> str:
    return "" if base.get(name) is None else f"baseline: {number(base[name])} {unit}"


def _quality(row: Row, base: Row) -> str:
    if row.get("quality") is None:
        return ""
    return quality(row["quality"]) + ("" if base.get("quality") is None else f", baseline: {quality(base['quality'])}")


def _asked(settings: ReportSettings) -> str:
    threads = f"{settings.threads} threads" if settings.threads else "default threads"
    sizes = ", ".join(map(str, settings.batch_sizes))
    backends = ", ".join(map(engine_name, settings.backends or DEFAULT_BACKENDS))
    return (
        f"batch sizes {sizes}; {backends}; {threads}; quality drop at most {settings.quality_drop:g}; "
        f"{settings.budget:.0f} s in all; seed {settings.seed}"
    )


def coverage(rows: Sequence[Row]) -> str:
    """Return, for each recipe and step, which layers were touched and why the others were not; folded."""
    recipes = {row["recipe_id"]: row for row in rows if row.get("steps")}
    if not recipes:
        return '<p class="hint">No recipe with steps was prepared.</p>'
    parts = []
    for row in recipes.values():
        steps = "".join(_step(step) for step in row["steps"])
        parts.append(details(f"{row['recipe']}: {' + '.join(str(s['label']) for s in row['steps'])}", steps))
    return "".join(parts)


def _step(step: Mapping[str, Any]) -> str:
    layers = step.get("layers") or []
    touched = sum(bool(layer["touched"]) for layer in layers)
    facts = [
        f"{touched} of {len(layers)} layers touched",
        f"parameters {count(step['params_before'])} → {count(step['params_after'])}",
        f"MACs {count(step['macs_before'])} → {count(step['macs_after'])}",
        f"quality on validation {quality(step['quality_before'])} → {quality(step['quality_after'])}",
        f"{step['seconds']:.1f} s",
    ]
    if step.get("epochs_done"):
        facts.append(f"{step['epochs_done']:.3g} epochs")
    lines = "".join(
        f'<tr class="{"" if layer["touched"] else "untouched"}"><td class="words">{text(layer["name"])}</td>'
        f'<td class="words">{text(layer["type"])}</td>'
        f'<td class="words">{"touched" if layer["touched"] else "left"}</td>'
        f'<td class="words">{text(layer["reason"])}</td></tr>'
        for layer in layers
    )
    heads = "".join(f'<th class="words">{head}</th>' for head in ("layer", "type", "", "how, or why not"))
    notes = "".join(f'<p class="hint">{text(note)}</p>' for note in step.get("notes") or [])
    body = f"<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>" if layers else ""
    return f"<h4>{text(step['label'])}</h4><p>{text('; '.join(facts))}</p>{notes}<div class='scroll'>{body}</div>"


def decisions(found: Sequence[Decision], *, begun: bool) -> str:
    """Return the table of a plan's decisions: the candidates, predicted and measured, and why they were kept or not."""
    if not found and not begun:
        return '<p class="hint">The time was over before anything was decided.</p>'
    if not found:
        return '<p class="hint">The recipes were given: the plan had nothing to decide.</p>'
    heads = ("part", "candidate", "predicted", "measured", "outcome", "why")
    lines = []
    for one in found:
        cells = (
            *(one.stage, one.subject, _speed_and_drop(one.predicted_speedup, one.predicted_drop)),
            *(_speed_and_drop(one.speedup, one.drop), one.outcome, one.why),
        )
        body = "".join(f'<td class="words">{text(cell)}</td>' for cell in cells)
        lines.append(f'<tr class="{"" if one.outcome == "kept" else "untouched"}">{body}</tr>')
    head = "".join(f'<th class="words">{name}</th>' for name in heads)
    hint = (
        '<p class="hint">Speedups of free variants are over the baseline, those of structures and trainings over the '
        "best variant without training, as measured when the plan decided; what was timed again later has its "
        "final figures in the tables above. Drops are in the metric's units.</p>"
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<div class="scroll">{table}</div>{hint}'


def _speed_and_drop(speedup: float | None, lost: float | None) -> str:
    parts = [f"{number(speedup)}x"] if speedup is not None else []
    parts += [f"drop {drop(lost)}"] if lost is not None else []
    return ", ".join(parts) or "–"


def notes(rows: Sequence[Row], cut: Sequence[str]) -> str:
    """Return what was cut, what failed and what could not be measured, equal reasons together."""
    found = notes_by_reason(rows)
    failed = [n for n in found if n[0] in ("failed", "pruned", "cancelled", "waiting", "running")]
    rest = [n for n in found if n not in failed]
    parts = []
    if cut:
        items = "".join(f"<li>{text(words)}</li>" for words in cuts_by_reason(cut))
        parts.append(f"<h4>Not run in this report</h4><ul>{items}</ul>")
    if failed:
        items = "".join(f"<li><b>{text(s)}</b>: {text(why)} <i>({text(some(who))})</i></li>" for s, why, who in failed)
        parts.append(f"<h4>Trials without a result</h4><ul>{items}</ul>")
    if rest:
        lines = "".join(
            f'<tr><td class="words"><code>{text(column)}</code></td><td class="words">{text(why)}</td>'
            f'<td class="words">{text(some(who, 2))}</td></tr>'
            for column, why, who in rest
        )
        heads = "".join(f'<th class="words">{head}</th>' for head in ("column", "what to know", "trials"))
        shown = f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>'
        parts.append(details(f"Notes on single figures ({len(rest)})", shown))
    return "".join(parts) or '<p class="hint">Everything that was planned ran and could be measured.</p>'


def method() -> str:
    """Return how the numbers were made."""
    return "".join(f"<p>{text(' '.join(part.split()))}</p>" for part in METHOD.split("|"))
