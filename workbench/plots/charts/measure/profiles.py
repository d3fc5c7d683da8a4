"""Profiles: time per layer by kind of operator, and two profiles layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from workbench.core.checks import require_int
from workbench.core.format.numbers import cut_middle, plural, short
from workbench.measure.bottlenecks.explanation import ProfileComparison
from workbench.measure.profiling.op_kinds import KINDS, kind_of
from workbench.measure.profiling.rows import Profile
from workbench.plots.drawing.figure import (
    TEXT,
    annotate,
    axes_or_new,
    describe,
    empty_chart,
    escaped,
    legend,
    legend_right,
)
from workbench.plots.drawing.frames import require
from workbench.plots.drawing.marks import BAR, set_rows
from workbench.present import style

_ORDER = (style.BLUE, style.VERMILION, style.ORANGE, style.PURPLE, style.SKY, style.GREEN)
COLORS = dict(zip(KINDS, _ORDER, strict=True))
"""The color of each kind of operator, in every chart of profiles."""
OUTSIDE = "outside of all nodes"
_CUT = 2.5  # the bar of OUTSIDE is cut if it is so many times as long as the longest layer
_HEIGHT, _ROW, _WIDEST = 0.66, 0.3, 36
_HALF = 0.38


def profile_data(profile: Profile, *, most: int = 14) -> pd.DataFrame:
    """Return time and share of the longest layers by kind of operator, of all other layers, and outside of all nodes.

    Columns: layer, kind, ms, share (of an undisturbed call, or of the rows if these are longer), layer_ms.
    """
    require(isinstance(profile, Profile), "plot_profile", "the result of wb.profile(...)", profile)
    require_int("plot_profile: most", most)
    frame = profile.frame()
    columns = ["layer", "kind", "ms", "share", "layer_ms"]
    if frame.empty:
        return pd.DataFrame(columns=columns)
    frame["kind"] = frame["op"].map(kind_of)
    order = frame.groupby("layer")["ms"].sum().sort_values(ascending=False, kind="stable")
    rest = list(order.index[most:])
    others = plural(len(rest), "other layer")
    frame["layer"] = frame["layer"].where(~frame["layer"].isin(rest), others)
    table = frame.groupby(["layer", "kind"], sort=False)["ms"].sum().reset_index()
    places = {name: place for place, name in enumerate([*order.index[:most], others, OUTSIDE])}
    kinds = {name: place for place, name in enumerate(KINDS)}
    if profile.outside_ms > 0 and not profile.disturbed:  # else it is the time of other processes
        row = {"layer": [OUTSIDE], "kind": [OUTSIDE], "ms": [profile.outside_ms]}
        table = pd.concat([table, pd.DataFrame(row)], ignore_index=True)
    whole = profile.total_ms if profile.disturbed else max(profile.fast_ms, profile.total_ms)
    table["share"] = table["ms"] / whole
    table["layer_ms"] = table.groupby("layer")["ms"].transform("sum")
    keys = table["layer"].map(places) * 100 + table["kind"].map(kinds).fillna(len(kinds))
    return table.iloc[keys.argsort(kind="stable")].reset_index(drop=True)[columns]


def plot_profile(profile: Profile, *, most: int = 14, ax: Axes | None = None) -> Figure:
    """Draw the time of the longest layers as bars, colored by kind of operator, with their share of a call.

    ``most`` is the number of layers with a bar of their own; the others share one.
    """
    frame = profile_data(profile, most=most)
    if frame.empty:
        return empty_chart(ax, "The runtime reported no node with a time.")
    layers = {str(name): part for name, part in frame.groupby("layer", sort=False)}
    target = axes_or_new(ax, 9.2, 1.5 + _ROW * max(5, len(layers)))
    longest = float(frame.loc[frame["layer"] != OUTSIDE, "layer_ms"].max())
    for place, (name, part) in enumerate(layers.items()):
        cut = name == OUTSIDE and part["ms"].sum() > _CUT * longest
        lengths = pd.Series([longest]) if cut else part["ms"]
        for start, length, kind in zip(lengths.cumsum() - lengths, lengths, part["kind"], strict=True):
            target.barh(place, length, left=start, height=_HEIGHT, zorder=3, **_look(kind))
        share = 100 * part["share"].sum()
        percent = f"{share:.0f} %" if share >= 1 else "<1 %"
        text = f"{short(float(part['ms'].sum()))} ms, {percent}{' (cut)' if cut else ''}"
        annotate(target, text, (lengths.sum(), place))
    _rows(target, list(layers), float(frame.loc[frame["layer_ms"] <= _CUT * longest, "layer_ms"].max()) * 1.26)
    kinds = [kind for kind in (*KINDS, OUTSIDE) if kind in set(frame["kind"])]
    legend_right(target, [Patch(label=kind, **_look(kind)) for kind in kinds])
    engine = f"{style.backend(profile.backend).word}, batch {profile.batch_size}, {plural(profile.threads, 'thread')}"
    times = f"all nodes {short(profile.total_ms)} ms, a call without profiler {short(profile.plain_ms)} ms"
    model = cut_middle(f"{profile.task}, {profile.label}, {engine}", 74)
    return describe(target, "Time of a call by layer", f"{model}\n{times}{_disturbed(profile)}")


def profiles_data(comparison: ProfileComparison, *, most: int = 14) -> pd.DataFrame:
    """Return the longest layers of two profiles: layer, before_ms, after_ms, saved_ms, ratio, state."""
    source = "the result of wb.compare_profiles(...)"
    require(isinstance(comparison, ProfileComparison), "plot_profiles", source, comparison)
    require_int("plot_profiles: most", most)
    frame = comparison.frame()[["layer", "before_ms", "after_ms", "saved_ms", "ratio", "state"]]
    frame[["before_ms", "after_ms"]] = frame[["before_ms", "after_ms"]].astype(float)
    longest = frame[["before_ms", "after_ms"]].max(axis=1)
    return frame.iloc[longest.sort_values(ascending=False, kind="stable").index[:most]].reset_index(drop=True)


def plot_profiles(comparison: ProfileComparison, *, most: int = 14, ax: Axes | None = None) -> Figure:
    """Draw the time of each layer before (gray) and after (blue), with the change, of ``wb.compare_profiles(...)``."""
    frame = profiles_data(comparison, most=most)
    if frame.empty:
        return empty_chart(ax, "Neither profile has a node with a time.")
    count = max(4, len(frame))
    target = axes_or_new(ax, 8.4, 1.8 + 0.42 * count)
    for place, row in enumerate(frame.fillna({"before_ms": 0.0, "after_ms": 0.0}).to_dict("records")):
        before, after = row["before_ms"], row["after_ms"]
        target.barh(place - _HALF / 2, before, height=_HALF, color=style.FAINT, zorder=3)
        target.barh(place + _HALF / 2, after, height=_HALF, color=BAR, zorder=3)
        annotate(target, _change(row, before, after), (max(before, after), place))
    _rows(target, list(frame["layer"]), float(frame[["before_ms", "after_ms"]].max().max()) * 1.42)
    one, two = comparison.before, comparison.after
    handles = [
        Patch(color=color, label=escaped(cut_middle(f"{when}: {profile.label}, {profile.backend}", 44)))
        for when, profile, color in (("before", one, style.FAINT), ("after", two, BAR))
    ]
    legend(target, "upper left", (0.0, -0.46 / (0.42 * count)), handles, ncols=2, fontsize=TEXT)
    nodes = f"all nodes {short(one.total_ms)} → {short(two.total_ms)} ms"
    calls = f"a call {short(one.plain_ms)} → {short(two.plain_ms)} ms ({comparison.speedup:.2f}x speedup)"
    detail = f"{one.task}, batch {one.batch_size}: {nodes}, {calls}{_disturbed(one, two)}"
    return describe(target, "Time per layer, before and after", detail)


def _change(row: Mapping[Any, Any], before: float, after: float) -> str:
    if row["state"] == "gone":
        return f"{short(before)} ms → gone"
    if row["state"] == "new":
        return f"new, {short(after)} ms"
    return f"{short(before)} → {short(after)} ms ({row['ratio']:.2f}x)"


def _look(kind: str) -> dict[str, Any]:
    if kind == OUTSIDE:
        return {"facecolor": "white", "edgecolor": style.MUTED, "linewidth": 0.6, "hatch": "////"}
    return {"facecolor": COLORS[kind], "edgecolor": "white", "linewidth": 0.5}


def _rows(ax: Axes, names: list[str], right: float) -> None:
    set_rows(ax, [cut_middle(name, _WIDEST) for name in names])
    ax.set_xlim(0, right or 1.0)
    describe(ax, x="Time (ms/call) ↓")


def _disturbed(*profiles: Profile) -> str:
    return "; disturbed by other load" if any(profile.disturbed for profile in profiles) else ""
