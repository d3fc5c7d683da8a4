"""Compression methods: quality over MACs left, and energy over rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.core.format.numbers import plural
from workbench.plots.drawing.figure import TEXT, annotate, axes_or_new, empty_chart, figure_of, set_labels, set_title
from workbench.plots.drawing.lines import lines, shades
from workbench.present import style


def compression_methods_data(methods: Mapping[str, Sequence[Any]], original: Any) -> pd.DataFrame:
    """Return a row per variant: method, label, shares of MACs and parameters left, validation quality and its drop.

    ``methods`` maps names to lists of variants, ``original`` is the variant they are compared with.
    """
    rows = [
        {
            "method": method,
            "label": variant.recipe.label,
            "macs_share": variant.macs / max(1, original.macs),
            "params_share": variant.params / max(1, original.params),
            "quality": variant.quality,
            "quality_drop": original.quality - variant.quality,
        }
        for method, variants in methods.items()
        for variant in variants
    ]
    columns = ["method", "label", "macs_share", "params_share", "quality", "quality_drop"]
    return pd.DataFrame(rows, columns=columns).sort_values(["method", "macs_share"], kind="stable", ignore_index=True)


def plot_compression_methods(methods: Mapping[str, Sequence[Any]], original: Any, *, ax: Axes | None = None) -> Figure:
    """Draw validation quality over the MACs left, a line for each method.

    Examples
    --------
    >>> plot_compression_methods({"spatial": variants}, wb.Variant.original(task))  # doctest: +SKIP
    """
    frame = compression_methods_data(methods, original)
    if frame.empty:
        return empty_chart(ax, "No variant to draw: give at least one method with one variant.")
    target = axes_or_new(ax, 7.2, 4.4)
    looks = {name: style.series(number) for number, name in enumerate(methods)}
    shown = frame.assign(percent=100 * frame["macs_share"])
    shown = shown.sort_values("method", key=lambda names: names.map(list(methods).index), kind="stable")
    lines(target, shown, "percent", "quality", hue="method", looks=looks)
    target.axhline(original.quality, color=style.MUTED, linestyle=":", linewidth=1)
    at: dict[str, Any] = {"coords": target.get_yaxis_transform(), "ha": "right", "va": "baseline"}
    annotate(target, "original", (1, original.quality), (-4, 3), color=style.MUTED, **at)
    set_labels(target, "MACs left (% of the original) ↓", "Validation quality (task's metric) ↑")
    target.legend(frameon=False, fontsize=TEXT - 0.5, loc="lower right")
    set_title(target, "Quality by MACs left", original.task.name)
    return figure_of(target)


def rank_energy_data(task: Any, *, conv: str = "channel") -> pd.DataFrame:
    """Return the energy that each rank keeps: layer, rank, rank_share, energy, shares of MACs and parameters left.

    ``conv`` is the decomposition, as in ``Factorize``; with two ranks (``tucker2``) both are the same share.
    """
    from workbench.compress.factorize.candidates import find_candidates
    from workbench.compress.factorize.decomposition import decompose
    from workbench.compress.steps import Factorize

    candidates, _ = find_candidates(Factorize(conv=conv), task.model(), task.examples(2))
    rows = []
    for candidate in candidates:
        decomposition = decompose(candidate, candidate.methods(conv)[0])
        table = decomposition.table()
        for share in np.unique(np.arange(1, max(table.full) + 1) / max(table.full)):
            choice = table.with_ranks([max(1, round(share * full)) for full in table.full])
            rows.append(
                {
                    "layer": candidate.name,
                    "rank": choice.ranks[-1],
                    "rank_share": float(share),
                    "energy": choice.kept,
                    "macs_share": choice.macs / candidate.macs if candidate.macs else np.nan,
                    "params_share": choice.params / candidate.params,
                }
            )
    return pd.DataFrame(rows, columns=["layer", "rank", "rank_share", "energy", "macs_share", "params_share"])


def plot_rank_energy(task: Any, *, conv: str = "channel", ax: Axes | None = None) -> Figure:
    """Draw the energy kept over the rank, a line for each layer; a dot marks the largest rank that saves MACs.

    Examples
    --------
    >>> plot_rank_energy(wb.tasks.digits(), conv="spatial")  # doctest: +SKIP
    """
    frame = rank_energy_data(task, conv=conv)
    if frame.empty:
        return empty_chart(ax, "The model has no layer that can be factorized.")
    target = axes_or_new(ax, 7.2, 4.4)
    percent = frame.assign(rank=100 * frame["rank_share"], energy=100 * frame["energy"])
    looks = shades(list(dict.fromkeys(frame["layer"])))
    lines(target, percent, "rank", "energy", hue="layer", looks=looks)
    for layer, part in percent[percent["macs_share"] < 1].groupby("layer", sort=False):
        last = part.iloc[-1]
        target.plot(last["rank"], last["energy"], "o", color=looks[str(layer)]["color"], markersize=5, zorder=4)
    set_labels(target, "Rank kept (% of the full rank) ↓", "Energy kept (% of the squared singular values) ↑")
    target.set_xlim(0, 101)
    if len(looks) <= 24:
        target.legend(frameon=False, fontsize=TEXT - 2, loc="lower right", ncols=1 + len(looks) // 9)
    detail = f"{task.name}, {plural(len(looks), 'layer')}; dot: break-even in MACs"
    set_title(target, f"Energy kept by rank ({conv})", detail)
    return figure_of(target)
