"""Ways to make a model cheaper, side by side: quality over multiply-accumulates, and energy over rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.plots.drawing.figure import TEXT, axes_or_new, plain, plural, say, title
from workbench.present import style

_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "P", "v", "X")


def ways_data(ways: Mapping[str, Sequence[Any]], original: Any) -> pd.DataFrame:
    """Return a row per variant: way, label, shares of MACs and parameters left, validation quality and its drop.

    ``ways`` names lists of variants, ``original`` is the variant that they are held against.
    """
    rows = [
        {
            "way": way,
            "label": variant.recipe.label,
            "macs_share": variant.macs / max(1, original.macs),
            "params_share": variant.params / max(1, original.params),
            "quality": variant.quality,
            "quality_drop": original.quality - variant.quality,
        }
        for way, variants in ways.items()
        for variant in variants
    ]
    columns = ["way", "label", "macs_share", "params_share", "quality", "quality_drop"]
    return pd.DataFrame(rows, columns=columns).sort_values(["way", "macs_share"], kind="stable", ignore_index=True)


def plot_ways(ways: Mapping[str, Sequence[Any]], original: Any, *, ax: Axes | None = None) -> Figure:
    """Draw validation quality over the MACs that are left, a line for each way.

    Examples
    --------
    >>> plot_ways({"spatial": variants}, wb.Variant.original(task))  # doctest: +SKIP
    """
    frame = ways_data(ways, original)
    figure, ax = axes_or_new(ax, 7.2, 4.4)
    if frame.empty:
        say(ax, "No variant to draw: give at least one way with one variant.")
        return figure
    for number, way in enumerate(ways):
        line = frame[frame["way"] == way]
        colour, marker = _look(number)
        ax.plot(
            100 * line["macs_share"], line["quality"], color=colour, marker=marker, markersize=6, label=way, zorder=3
        )
    ax.axhline(original.quality, color=style.MUTED, linestyle=":", linewidth=1)
    ax.annotate(
        "original", (1, original.quality), (-4, 3), ("axes fraction", "data"), "offset points", ha="right",
        fontsize=TEXT - 0.5, color=style.MUTED,
    )  # fmt: skip
    ax.set_xlabel("MACs left (% of the original) ↓", fontsize=TEXT)
    ax.set_ylabel("Validation quality (task's metric) ↑", fontsize=TEXT)
    ax.legend(frameon=False, fontsize=TEXT - 0.5, loc="lower right")
    title(ax, "Quality for the work that is left", original.task.name)
    return figure


def rank_energy_data(task: Any, *, conv: str = "channel") -> pd.DataFrame:
    """Return what each rank keeps: layer, rank, its share of the full rank, energy, shares of MACs and weights left.

    ``conv`` is the way to cut, as in ``Factorize``; with two ranks (``tucker2``) both are the same share.
    """
    from workbench.compress.factorize.candidates import find_spots
    from workbench.compress.factorize.split import open_split
    from workbench.compress.steps import Factorize

    spots, _ = find_spots(Factorize(conv=conv), task.model(), task.examples(2))
    rows = []
    for spot in spots:
        split = open_split(spot, spot.methods(conv)[0])
        table = split.table()
        for share in np.unique(np.arange(1, max(table.full) + 1) / max(table.full)):
            choice = table.with_ranks([max(1, round(share * full)) for full in table.full])
            rows.append(
                {
                    "layer": spot.name,
                    "rank": choice.ranks[-1],
                    "rank_share": float(share),
                    "energy": choice.kept,
                    "macs_share": choice.macs / spot.macs if spot.macs else np.nan,
                    "params_share": choice.params / spot.params,
                }
            )
    return pd.DataFrame(rows, columns=["layer", "rank", "rank_share", "energy", "macs_share", "params_share"])


def plot_rank_energy(task: Any, *, conv: str = "channel", ax: Axes | None = None) -> Figure:
    """Draw the energy kept over the rank, a line for each layer; a dot marks where the layer stops to save MACs.

    Examples
    --------
    >>> plot_rank_energy(wb.tasks.digits(), conv="spatial")  # doctest: +SKIP
    """
    frame = rank_energy_data(task, conv=conv)
    figure, ax = axes_or_new(ax, 7.2, 4.4)
    if frame.empty:
        say(ax, "The model has no layer that can be split.")
        return figure
    layers = list(dict.fromkeys(frame["layer"]))
    from matplotlib import colormaps

    shades = colormaps["viridis"](np.linspace(0.0, 0.9, len(layers)))
    for shade, layer in zip(shades, layers, strict=True):
        line = frame[frame["layer"] == layer]
        ax.plot(100 * line["rank_share"], 100 * line["energy"], color=shade, linewidth=1.3, label=plain(layer))
        pays = line[line["macs_share"] < 1]
        if len(pays):
            last = pays.iloc[-1]
            ax.plot(100 * last["rank_share"], 100 * last["energy"], "o", color=shade, markersize=5, zorder=4)
    ax.set_xlabel("rank kept (% of the full rank)", fontsize=TEXT)
    ax.set_ylabel("energy kept (% of the squared singular values)", fontsize=TEXT)
    ax.set_xlim(0, 101)
    if len(layers) <= 24:
        ax.legend(frameon=False, fontsize=TEXT - 2, loc="lower right", ncols=1 + len(layers) // 9)
    title(
        ax, f"How much a rank keeps ({conv})", f"{task.name}, {plural(len(layers), 'layer')}; dot: break-even in MACs"
    )
    return figure


def _look(number: int) -> tuple[str, str]:
    return _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
