"""Pruning: quality over MACs removed for each importance, with and without training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from workbench.compress.steps import Prune
from workbench.plots.drawing.edge_labels import spread_right
from workbench.plots.drawing.figure import empty_chart, figure_of, new_figure, set_labels, set_title, style_axes
from workbench.plots.drawing.labels import Label
from workbench.plots.drawing.lines import lines
from workbench.present import style

if TYPE_CHECKING:
    from workbench.compress.variant import Variant

COLUMNS = ["importance", "scope", "ratio", "epochs", "macs", "macs_share", "quality", "recipe"]
_LOOKS = {
    "l2": {"color": "#0072B2", "marker": "o"},
    "l1": {"color": "#56B4E9", "marker": "X"},
    "bn_scale": {"color": "#CC79A7", "marker": "P"},
    "lamp": {"color": "#009E73", "marker": "D"},
    "taylor": {"color": "#D55E00", "marker": "^"},
    "hessian": {"color": "#E69F00", "marker": "v"},
    "random": {"color": style.MUTED, "marker": "s"},
}
"""Looks of the importances, in the order of the table; the control, random, is gray."""


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
    order = {name: place for place, name in enumerate(_LOOKS)}
    frame = pd.DataFrame(rows, columns=COLUMNS).drop_duplicates()
    keys = ["epochs", "importance", "macs_share"]
    frame = frame.sort_values(keys, key=lambda c: c.map(order) if c.name == "importance" else c)
    return frame.reset_index(drop=True)


def plot_pruning(variants: Iterable[Variant], *, ax: Axes | None = None) -> Figure:
    """Draw quality on the validation split over the share of MACs removed, a line per importance.

    Variants trained after pruning are drawn in a second panel with its own scale; with ``ax``, all are drawn there,
    those without training dashed.

    Examples
    --------
    >>> plot_pruning([recipe.apply(task) for recipe in recipes])  # doctest: +SKIP
    """
    frame = pruning_data(variants)
    if frame.empty:
        return empty_chart(ax, "No variant to draw: give the variants of recipes with Prune.")
    parts = [part for _, part in frame.groupby(frame["epochs"] > 0)]
    single = ax is not None
    axes = new_figure(1.6 + 4.4 * len(parts), 4.4, columns=len(parts))[1] if ax is None else [ax] * len(parts)
    labels: list[tuple[Axes, list[Label]]] = []
    for target, part in zip(axes, parts, strict=True):
        dash = "--" if single and not part["epochs"].any() else "-"
        labels.append((style_axes(target), _curves(target, part, dash)))
        set_labels(target, "MACs removed (%) ↑")
        target.set_xticks([0.0, 0.2, 0.4, 0.6, 0.8])
        target.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=""))
        if not single:
            set_title(target, *_title(part))
    if single:
        set_title(axes[0], "Pruning", "dashed: without training; solid: with training")
    set_labels(axes[0], y="Quality (validation split) ↑")
    for target, ends in labels:
        spread_right(target, ends)
    return figure_of(axes[0])


def _title(part: pd.DataFrame) -> tuple[str, str]:
    epochs = sorted({value for value in part["epochs"] if value > 0})
    if not epochs:
        return "Pruned", "without training"
    span = f"{epochs[0]:g}" if len(epochs) == 1 else f"{epochs[0]:g} to {epochs[-1]:g}"
    return "Pruned and trained", f"epochs: {span}; own scale"


def _curves(ax: Axes, part: pd.DataFrame, dash: str) -> list[Label]:
    quality = float(part.loc[part["recipe"] == "float", "quality"].max())
    ax.axhline(quality, color=style.INK, linewidth=1.0, linestyle=":", zorder=1)
    removed = 1 - part["macs_share"]
    suffix = part["scope"].map(lambda scope: "" if scope == "local" else f", {scope}")
    curves = part.assign(removed=removed, curve=part["importance"] + suffix).sort_values("removed", kind="stable")
    curves = curves.sort_values("importance", key=lambda c: c.map(list(_LOOKS).index), kind="stable")
    looks = {name: {**_LOOKS[name.partition(",")[0]], "linestyle": dash} for name in set(curves["curve"])}
    ends = lines(ax, curves, "removed", "quality", hue="curve", looks=looks)
    return [Label("float", float(removed.max()), quality, color=style.MUTED), *ends]
