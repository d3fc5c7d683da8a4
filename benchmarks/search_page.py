"""The page and the chart of the search benchmark."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from benchmarks.search_common import BATCH, LIMIT
from benchmarks.search_judge import Judged
from benchmarks.search_ours import MARGIN
from workbench.core.machine import describe_machine, library_versions
from workbench.measure.comparison.noise import cached_noise, noise_text
from workbench.plots.drawing.figure import TEXT, describe, new_figure
from workbench.present import style

LOOKS = {"workbench": ("#D55E00", "*", 13), "olive": ("#0072B2", "s", 8), "nncf": ("#009E73", "D", 8)}
QUESTION = f"""\
**Question.** The fastest model at batch size {BATCH} on this CPU that loses at most {100 * LIMIT:g} point of accuracy
against the float ResNet-20. Each tool decides with training, calibration and validation images alone, within the same
time and on the same threads; then all that was chosen is judged in one run: accuracy on 1,000 images that no tool has
seen, by the outputs of the workbench's engine on the point's own backend, and latency in blocks that alternate, every
model loaded anew several times. ONNX files and OpenVINO models of the others are opened by the same engine
(`InferenceConfig(model_path=...)`).

- **Images.** 29,488 to train on, 512 to calibrate with (of which Olive and NNCF take 300, drawn by the seed), 1,000 to
  choose by. These are test images: the float model was trained on all others, and a drop on images that it knows by
  heart overstates what trained variants lose.
- **workbench.** `study.search`, TPE: one to three blocks left out or channels cut, and 2 to 4 epochs of distillation;
  int8; ONNX Runtime or OpenVINO; float32 or 16 bits. Its goal is a drop of {MARGIN:g}: of several trained points the
  fastest within a goal is easily one that was judged too well, and 1,000 images tell a drop to about half a point. What
  is taken is the fastest within the goal on the validation images; no cache of earlier searches.
- **olive.** Its own search over its ONNX Runtime and OpenVINO passes in an environment of its own, see
  [search_olive_worker.py](../../search_olive_worker.py). It trains nothing.
- **nncf.** `quantize_with_accuracy_control` on OpenVINO, both presets and both bias corrections; the fastest is taken.
"""


def page(
    rows_table: str,
    medians: Sequence[str],
    pairs: Sequence[str],
    rows: Sequence[Judged],
    *,
    threads: int,
    picture: str,
) -> str:
    """Return the whole result in Markdown."""
    versions = library_versions(("torch", "onnxruntime", "openvino", "nncf", "optuna"))
    others = {f"{name} {version}" for row in rows for name, version in row.candidate.versions.items()}
    beside = sorted(others - {f"{name} {version}" for name, version in versions.items()})
    known = ", ".join(f"{name} {version}" for name, version in versions.items())
    machine = f"{describe_machine()}, {threads} threads; {known}" + (
        f"; in tools: {', '.join(beside)}" if beside else ""
    )
    told = [f"- {row.name}: {note}" for row in rows for note in row.candidate.notes]
    return "\n\n".join(
        (
            "Written by `python -m benchmarks.search --data DIR`; not edited by hand.",
            QUESTION.strip(),
            rows_table,
            "**Median seeds** (by accuracy within the limit first, then by latency):\n\n"
            + "\n".join(f"- {words}" for words in medians),
            *(["**Seed by seed**:\n\n" + "\n".join(f"- {words}" for words in pairs)] if pairs else []),
            f"![Drop of accuracy against latency]({picture})",
            *(["**What failed in the tools**:\n\n" + "\n".join(told)] if told else []),
            f"{noise_text(cached_noise())}.",
            machine,
        )
    )


def chart(rows: Sequence[Judged], base: Judged) -> Figure:
    """Return drop of accuracy, with its interval, against latency at batch 32; a marker for each tool."""
    figure, (ax,) = new_figure(7.2, 4.4)
    seen: set[str] = set()
    for row in rows:
        if row.problem or row.drop is None or row.low is None or row.high is None:
            continue
        color, marker, size = LOOKS.get(row.candidate.tool, (style.MUTED, "o", 8))
        drop, low, high = (100 * value for value in (row.drop, row.low, row.high))
        error = [[max(0.0, drop - low)], [max(0.0, high - drop)]]
        label = row.candidate.tool if row.candidate.tool not in seen else None
        seen.add(row.candidate.tool)
        ax.errorbar(
            [row.ms[BATCH]], [drop], yerr=error, fmt=marker, color=color, markersize=size, label=label,
            elinewidth=1, capsize=2,
        )  # fmt: skip
    ax.axhline(100 * LIMIT, color=style.BAD, linewidth=1.1, linestyle="--", label=f"limit: {100 * LIMIT:g} point")
    ax.set_xlabel(f"Latency (ms/call of {BATCH} images) ↓", fontsize=TEXT + 0.5, color=style.INK)
    ax.set_ylabel("Accuracy drop (points) ↓", fontsize=TEXT + 0.5, color=style.INK)
    ax.set_xlim(0, 1.15 * max([row.ms[BATCH] for row in rows if BATCH in row.ms], default=1.0))
    float_ms = base.ms.get(BATCH)
    detail = f"the float model in torch eager takes {float_ms:.1f} ms" if float_ms else ""
    describe(ax, "What each search chose", detail)
    ax.legend(fontsize=TEXT, frameon=False)
    return figure
