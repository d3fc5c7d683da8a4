"""Quality against what is left of a model: which way to judge channels holds longest, with and without training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from workbench.compress.steps import Prune
from workbench.plots.drawing.edge_labels import spread_right
from workbench.plots.drawing.figure import TEXT, dress, figure_of, new_figure, say, title
from workbench.plots.drawing.labels import Label
from workbench.present import style

if TYPE_CHECKING:
    from workbench.compress.variant import Variant

COLUMNS = ["importance", "scope", "ratio", "epochs", "macs", "macs_share", "quality", "recipe"]
# The ways to judge a channel, in the order of the Okabe-Ito palette; the control is grey.
_LOOKS = {
    "l2": ("#0072B2", "o"),
    "l1": ("#56B4E9", "X"),
    "bn_scale": ("#CC79A7", "P"),
    "lamp": ("#009E73", "D"),
    "taylor": ("#D55E00", "^"),
    "hessian": ("#E69F00", "v"),
    "random": (style.MUTED, "s"),
}


def pruning_data(variants: Iterable[Variant]) -> pd.DataFrame:
    """Return one line per variant whose recipe prunes, by importance and then by what is left.

    ``macs_share`` is the share of the float model's multiply-accumulates that are left, ``epochs`` the training in and
    after the pruning, ``quality`` the metric on the *validation* split. The float model itself is added to every
    curve, at a share of 1.
    """
    lines: list[dict[str, Any]] = []
    for variant in variants:
        step = next((s for s in variant.recipe.steps if isinstance(s, Prune)), None)
        if step is None:
            continue
        first = variant.reports[0]
        kind = {"importance": step.importance, "scope": step.scope}
        epochs = round(sum(report.epochs_done for report in variant.reports), 2)
        share = variant.macs / first.macs_before
        now = {"macs": variant.macs, "macs_share": share, "quality": variant.quality}
        whole = {"macs": first.macs_before, "macs_share": 1.0, "quality": first.quality_before}
        lines.append(kind | {"ratio": step.ratio, "epochs": epochs} | now | {"recipe": variant.recipe.label})
        lines.append(kind | {"ratio": 0.0, "epochs": epochs} | whole | {"recipe": "float"})
    frame = pd.DataFrame(lines, columns=COLUMNS).drop_duplicates()
    order = {name: place for place, name in enumerate(_LOOKS)}
    return frame.sort_values(
        ["epochs", "importance", "macs_share"], key=lambda c: c.map(order) if c.name == "importance" else c
    ).reset_index(drop=True)


def plot_pruning(variants: Iterable[Variant], *, ax: Axes | None = None) -> Figure:
    """Draw quality on the validation split against the share of MACs left, a line per importance.

    Variants that were trained after the cut stand in a panel of their own, with a scale of its own. With ``ax``, all
    stand there, those without training dashed.

    Examples
    --------
    >>> plot_pruning([recipe.apply(task) for recipe in recipes])  # doctest: +SKIP
    """
    frame = pruning_data(variants)
    if frame.empty:
        target = new_figure(9.0, 2.6)[1][0] if ax is None else ax
        say(target, "No variant to show: give the variants of recipes with Prune.")
        return figure_of(target)
    parts = [part for _, part in frame.groupby(frame["epochs"] > 0)]
    axes = new_figure(1.6 + 4.4 * len(parts), 4.4, columns=len(parts))[1] if ax is None else [dress(ax)] * len(parts)
    labels: list[tuple[Axes, list[Label]]] = []
    for target, part in zip(axes, parts, strict=True):
        labels.append((target, _curves(target, part, dashed=ax is not None and not part["epochs"].any())))
        if ax is None:
            title(target, *_words(part))
        target.set_xlabel("MACs removed", fontsize=TEXT + 0.5, color=style.INK)
        target.set_xticks([0.0, 0.2, 0.4, 0.6, 0.8])
        target.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    if ax is not None:
        title(ax, "Pruning", "dashed: as cut; solid: trained after")
    axes[0].set_ylabel("Quality (validation split) ↑", fontsize=TEXT + 0.5, color=style.INK)
    for target, found in labels:
        spread_right(target, found)
    return figure_of(axes[0])


def _words(part: pd.DataFrame) -> tuple[str, str]:
    epochs = sorted({value for value in part["epochs"] if value > 0})
    if not epochs:
        return "As cut", "no training after it"
    span = f"{epochs[0]:g}" if len(epochs) == 1 else f"{epochs[0]:g} to {epochs[-1]:g}"
    return "Trained after", f"epochs: {span}; scale of its own"


def _curves(ax: Axes, part: pd.DataFrame, *, dashed: bool) -> list[Label]:
    quality = float(part.loc[part["recipe"] == "float", "quality"].max())
    ax.axhline(quality, color=style.INK, linewidth=1.0, linestyle=":", zorder=1)
    labels = [Label("float", float(1 - part["macs_share"].min()), quality, colour=style.MUTED)]
    for key, line in part.groupby(["importance", "scope"], sort=False):
        importance, scope = map(str, key)
        line = line.sort_values("macs_share", ascending=False)
        colour, marker = _LOOKS[importance]
        gone = 1 - line["macs_share"]
        ax.plot(
            gone,
            line["quality"],
            color=colour,
            marker=marker,
            markersize=6,
            linewidth=1.8,
            linestyle="--" if dashed else "-",
        )
        words = importance + ("" if scope == "local" else f", {scope}")
        labels.append(
            Label(words, float(gone.iloc[-1]), float(line["quality"].iloc[-1]), colour=colour, essential=True)
        )
    return labels
