"""Quality over MACs for compression methods and importances of pruning; energy over rank."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from workbench.compress.steps import Prune
from workbench.core.format.numbers import plural
from workbench.plots.drawing.figure import (
    TEXT,
    annotate,
    axes_or_new,
    describe,
    empty_chart,
    legend,
    new_figure,
    style_axes,
)
from workbench.plots.drawing.labels import Label, spread_right
from workbench.plots.drawing.marks import lines, shades
from workbench.present import style

if TYPE_CHECKING:
    from workbench.compress.variant import Variant


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
    """Draw validation quality over the MACs left, a line for each method; arguments as for the data."""
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
    legend(target, "lower right")
    labels = {"x": "MACs left (% of the original) ↓", "y": "Validation quality (task's metric) ↑"}
    return describe(target, "Quality by MACs left", original.task.name, **labels)


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
    """Draw the energy kept over the rank, a line for each layer; a dot marks the largest rank that saves MACs."""
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
    target.set_xlim(0, 101)
    if len(looks) <= 24:
        legend(target, "lower right", fontsize=TEXT - 2, ncols=1 + len(looks) // 9)
    detail = f"{task.name}, {plural(len(looks), 'layer')}; dot: break-even in MACs"
    labels = {"x": "Rank kept (% of the full rank) ↓", "y": "Energy kept (% of the squared singular values) ↑"}
    return describe(target, f"Energy kept by rank ({conv})", detail, **labels)


COLUMNS = ["importance", "scope", "ratio", "epochs", "macs", "macs_share", "quality", "recipe"]
_LOOKS = {
    "l2": {"color": style.BLUE, "marker": "o"},
    "l1": {"color": style.SKY, "marker": "X"},
    "bn_scale": {"color": style.PURPLE, "marker": "P"},
    "lamp": {"color": style.GREEN, "marker": "D"},
    "taylor": {"color": style.VERMILION, "marker": "^"},
    "hessian": {"color": style.ORANGE, "marker": "v"},
    "random": {"color": style.MUTED, "marker": "s"},
}
"""Looks of the importances, in the order of the table; the control, random, is gray."""


def _looks(importances: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the looks by importance; one without a look of its own gets the next of the series."""
    others = sorted(set(importances) - set(_LOOKS))
    return _LOOKS | {name: style.series(number + 1) for number, name in enumerate(others)}


def pruning_data(variants: Iterable[Variant]) -> pd.DataFrame:
    """Return a row per variant with a pruning step, ordered by importance and MACs left.

    ``macs_share`` is the share of the float model's MACs that are left, ``epochs`` the training during and after
    pruning, ``quality`` the metric on the *validation* split. Each curve includes the float model, at a share of 1.
    """
    rows: list[dict[str, Any]] = []
    for variant in variants:
        step = next((s for s in variant.recipe.steps if isinstance(s, Prune)), None)
        if step is None:
            continue
        first = variant.reports[0]
        epochs = round(sum(report.epochs_done for report in variant.reports), 2)
        curve = {"importance": step.importance, "scope": step.scope, "epochs": epochs}
        pruned = {"macs": variant.macs, "macs_share": variant.macs / first.macs_before, "quality": variant.quality}
        whole = {"macs": first.macs_before, "macs_share": 1.0, "quality": first.quality_before}
        rows.append({**curve, **pruned, "ratio": step.ratio, "recipe": variant.recipe.label})
        rows.append({**curve, **whole, "ratio": 0.0, "recipe": "float"})
    order = {name: place for place, name in enumerate(_looks(row["importance"] for row in rows))}
    frame = pd.DataFrame(rows, columns=COLUMNS).drop_duplicates()
    keys = ["epochs", "importance", "macs_share"]
    return frame.sort_values(keys, key=lambda c: c.map(order) if c.name == "importance" else c, ignore_index=True)


def plot_pruning(variants: Iterable[Variant], *, ax: Axes | None = None) -> Figure:
    """Draw quality on the validation split over the share of MACs removed, a line per importance.

    Variants trained after pruning are drawn in a second panel with its own scale; with ``ax``, all are drawn there,
    those without training dashed.
    """
    frame = pruning_data(variants)
    if frame.empty:
        return empty_chart(ax, "No variant to draw: give the variants of recipes with Prune.")
    parts = [part for _, part in frame.groupby(frame["epochs"] > 0)]
    single = ax is not None
    axes = new_figure(1.6 + 4.4 * len(parts), 4.4, columns=len(parts))[1] if ax is None else [ax] * len(parts)
    looks = _looks(frame["importance"])  # one for both panels
    labels: list[tuple[Axes, list[Label]]] = []
    for target, part in zip(axes, parts, strict=True):
        dash = "--" if single and not part["epochs"].any() else "-"
        labels.append((style_axes(target), _curves(target, part, looks, dash)))
        describe(target, x="MACs removed (%) ↑")
        target.set_xticks([0.0, 0.2, 0.4, 0.6, 0.8])
        target.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=""))
        if not single:
            describe(target, *_title(part))
    if single:
        describe(axes[0], "Pruning", "dashed: without training; solid: with training")
    figure = describe(axes[0], y="Quality (validation split) ↑")
    for target, ends in labels:
        spread_right(target, ends)
    return figure


def _title(part: pd.DataFrame) -> tuple[str, str]:
    epochs = sorted({value for value in part["epochs"] if value > 0})
    if not epochs:
        return "Pruned", "without training"
    span = f"{epochs[0]:g}" if len(epochs) == 1 else f"{epochs[0]:g} to {epochs[-1]:g}"
    return "Pruned and trained", f"epochs: {span}; own scale"


def _curves(ax: Axes, part: pd.DataFrame, looks: dict[str, dict[str, str]], dash: str) -> list[Label]:
    quality = float(part.loc[part["recipe"] == "float", "quality"].max())
    ax.axhline(quality, color=style.INK, linewidth=1.0, linestyle=":", zorder=1)
    removed = 1 - part["macs_share"]
    suffix = part["scope"].map(lambda scope: "" if scope == "local" else f", {scope}")
    curves = part.assign(removed=removed, curve=part["importance"] + suffix).sort_values("removed", kind="stable")
    curves = curves.sort_values("importance", key=lambda c: c.map(list(looks).index), kind="stable")
    dashed = {name: {**looks[name.partition(",")[0]], "linestyle": dash} for name in set(curves["curve"])}
    ends = lines(ax, curves, "removed", "quality", hue="curve", looks=dashed)
    return [Label("float", float(removed.max()), quality, color=style.MUTED), *ends]
