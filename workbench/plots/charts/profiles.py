"""Where a call's time goes: bars of layers by what they do, and two variants side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from workbench.core.checks import given, require_int
from workbench.core.errors import ConfigError
from workbench.measure.profiling.explanation import ProfileComparison
from workbench.measure.profiling.op_kinds import KINDS, kind_of
from workbench.measure.profiling.rows import Profile
from workbench.plots.charts.amounts import short
from workbench.plots.drawing.figure import TEXT, axes_or_new, figure_of, name_rows, plain, plural, say, title
from workbench.present import style

COLOURS = dict(zip(KINDS, ("#0072B2", "#D55E00", "#E69F00", "#CC79A7", "#56B4E9", "#009E73"), strict=True))
"""The colour of each kind of operator, in every chart of profiles."""
OUTSIDE = "outside of all nodes"
_CUT = 2.5  # a bar of what is outside that is so many times as long as the longest layer is not drawn to its end
_HEIGHT, _ROW, _WIDEST = 0.66, 0.3, 36
_AFTER = "#56B4E9"


def profile_data(profile: Profile, *, most: int = 14) -> pd.DataFrame:
    """Return ms and share of the longest layers by kind of operator, the rest of them together, and what is outside.

    Columns: layer, kind, ms, share (of an undisturbed call, or of the rows where these are longer), layer_ms.

    Raises
    ------
    ConfigError
        If it is no profile.
    """
    if not isinstance(profile, Profile):
        raise ConfigError(f"plot_profile takes what wb.profile(...) returns, got {given(profile)}.")
    require_int("plot_profile: most", most)
    frame = profile.frame()
    columns = ["layer", "kind", "ms", "share", "layer_ms"]
    if frame.empty:
        return pd.DataFrame(columns=columns)
    frame["kind"] = frame["op"].map(kind_of)
    order = frame.groupby("layer")["ms"].sum().sort_values(ascending=False, kind="stable")
    rest = list(order.index[most:])
    others = f"{plural(len(rest), 'other layer')}"
    frame["layer"] = frame["layer"].where(~frame["layer"].isin(rest), others)
    found = frame.groupby(["layer", "kind"], sort=False)["ms"].sum().reset_index()
    places = {name: place for place, name in enumerate([*order.index[:most], others, OUTSIDE])}
    kinds = {name: place for place, name in enumerate(KINDS)}
    if profile.outside_ms > 0 and not profile.disturbed:  # else it is the time of others
        row = {"layer": [OUTSIDE], "kind": [OUTSIDE], "ms": [profile.outside_ms]}
        found = pd.concat([found, pd.DataFrame(row)], ignore_index=True)
    whole = profile.total_ms if profile.disturbed else max(profile.fast_ms, profile.total_ms)
    found["share"] = found["ms"] / whole
    found["layer_ms"] = found.groupby("layer")["ms"].transform("sum")
    keys = found["layer"].map(places) * 100 + found["kind"].map(kinds).fillna(len(kinds))
    return found.iloc[keys.argsort(kind="stable")].reset_index(drop=True)[columns]


def plot_profile(profile: Profile, *, most: int = 14, ax: Axes | None = None) -> Figure:
    """Draw the longest layers as bars, coloured by what their nodes do, each with its ms and share of a call.

    Parameters
    ----------
    most : int
        Layers with a bar of their own; the others share one.

    Examples
    --------
    >>> plot_profile(wb.profile(variant, backend="openvino"))  # doctest: +SKIP
    """
    frame = profile_data(profile, most=most)
    layers = list(dict.fromkeys(frame["layer"]))
    _, target = axes_or_new(ax, 9.2, 1.5 + _ROW * max(5, len(layers)))
    if frame.empty:
        say(target, "The runtime told of no node that took time.")
        return figure_of(target)
    longest = float(frame.loc[frame["layer"] != OUTSIDE, "layer_ms"].max())
    for place, name in enumerate(layers):
        start = 0.0
        rows = frame[frame["layer"] == name]
        cut = name == OUTSIDE and rows["ms"].sum() > _CUT * longest
        for row in rows.to_dict("records"):
            length = longest if cut else row["ms"]
            target.barh(place, length, left=start, height=_HEIGHT, zorder=3, **_look(row["kind"]))
            start += length
        share = 100 * rows["share"].sum()
        more = " (cut)" if cut else ""
        said = f"{short(float(rows['ms'].sum()))} ms, {f'{share:.0f}' if share >= 1 else '<1'} %{more}"
        _behind(target, start, place, said)
    drawn = frame.loc[frame["layer_ms"] <= _CUT * longest, "layer_ms"].max()
    _rows(target, layers, float(drawn) * 1.26)
    target.set_xlabel("Time (ms/call) ↓", fontsize=TEXT, color=style.INK)
    _key(target, [kind for kind in (*KINDS, OUTSIDE) if kind in set(frame["kind"])])
    beside = f"nodes together {short(profile.total_ms)} ms, a plain call {short(profile.plain_ms)} ms"
    who = f"{profile.task}, {profile.label}, {_place(profile)}"
    title(target, "Where the time of a call goes", f"{_cut(who, 74)}\n{beside}{_disturbed(profile)}")
    return figure_of(target)


def profiles_data(comparison: ProfileComparison, *, most: int = 14) -> pd.DataFrame:
    """Return the layers of two profiles that changed or take most: layer, before_ms, after_ms, saved_ms, state.

    Raises
    ------
    ConfigError
        If it is no comparison.
    """
    if not isinstance(comparison, ProfileComparison):
        raise ConfigError(f"plot_profiles takes what wb.compare_profiles(...) returns, got {given(comparison)}.")
    require_int("plot_profiles: most", most)
    frame = comparison.frame()[["layer", "before_ms", "after_ms", "saved_ms", "ratio", "state"]]
    frame[["before_ms", "after_ms"]] = frame[["before_ms", "after_ms"]].astype(float)
    longest = frame[["before_ms", "after_ms"]].max(axis=1)
    return frame.iloc[longest.sort_values(ascending=False, kind="stable").index[:most]].reset_index(drop=True)


def plot_profiles(comparison: ProfileComparison, *, most: int = 14, ax: Axes | None = None) -> Figure:
    """Draw each layer's time before (grey) and after (blue), with what became of it.

    Examples
    --------
    >>> plot_profiles(wb.compare_profiles(before, after))  # doctest: +SKIP
    """
    frame = profiles_data(comparison, most=most)
    _, target = axes_or_new(ax, 8.4, 1.8 + 0.42 * max(4, len(frame)))
    if frame.empty:
        say(target, "Neither profile has a node that took time.")
        return figure_of(target)
    half = 0.38
    for place, row in enumerate(frame.to_dict("records")):
        before, after = (row[name] if row[name] == row[name] else 0.0 for name in ("before_ms", "after_ms"))
        target.barh(place - half / 2, before, height=half, color=style.FAINT, zorder=3)
        target.barh(place + half / 2, after, height=half, color=_AFTER, zorder=3)
        _behind(target, max(before, after), place, _change(row, before, after))
    longest = float(frame[["before_ms", "after_ms"]].max().max())
    _rows(target, list(frame["layer"]), longest * 1.42)
    target.set_xlabel("Time (ms/call) ↓", fontsize=TEXT, color=style.INK)
    ours, theirs = comparison.before, comparison.after
    handles = [
        Patch(color=style.FAINT, label=plain(_cut(f"before: {ours.label}, {ours.backend}", 44))),
        Patch(color=_AFTER, label=plain(_cut(f"after: {theirs.label}, {theirs.backend}", 44))),
    ]
    _key_below(target, handles, max(4, len(frame)))
    nodes = f"all nodes {short(ours.total_ms)} → {short(theirs.total_ms)} ms"
    calls = f"a plain call {short(ours.plain_ms)} → {short(theirs.plain_ms)} ms ({comparison.speedup:.2f}x speedup)"
    detail = f"{ours.task}, batch {ours.batch_size}: {nodes}, {calls}{_disturbed(ours, theirs)}"
    title(target, "What became of every layer", detail)
    return figure_of(target)


def _change(row: Mapping[Any, Any], before: float, after: float) -> str:
    if row["state"] == "gone":
        return f"{short(before)} ms → gone"
    if row["state"] == "new":
        return f"new, {short(after)} ms"
    return f"{short(before)} → {short(after)} ms ({row['ratio']:.2f}x)"


def _look(kind: str) -> dict[str, Any]:
    if kind == OUTSIDE:
        return {"facecolor": "white", "edgecolor": style.MUTED, "linewidth": 0.6, "hatch": "////"}
    return {"facecolor": COLOURS[kind], "edgecolor": "white", "linewidth": 0.5}


def _behind(ax: Axes, end: float, place: float, words: str) -> None:
    ax.annotate(
        words, (end, place), (5, 0), textcoords="offset points", va="center", fontsize=TEXT - 0.5, color=style.INK
    )


def _rows(ax: Axes, names: list[str], right: float) -> None:
    ax.set_yticks(range(len(names)), [plain(_cut(name, _WIDEST)) for name in names], fontsize=TEXT)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlim(0, right or 1.0)
    name_rows(ax)


def _key(ax: Axes, kinds: list[str]) -> None:
    """Put the key of kinds at the right of ``ax``."""
    handles = [Patch(label=kind, **_look(kind)) for kind in kinds]
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "borderaxespad": 0.0}
    ax.legend(handles=handles, frameon=False, fontsize=TEXT - 0.5, labelspacing=0.65, **place)


def _key_below(ax: Axes, handles: list[Patch], rows: int) -> None:
    """Put a key of two below the words of the axis; ``rows`` says how high the chart is."""
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0.0, -0.46 / (0.42 * rows)), "borderaxespad": 0.0}
    ax.legend(handles=handles, ncols=2, frameon=False, fontsize=TEXT, **place)


def _disturbed(*profiles: Profile) -> str:
    return "; other work disturbed it" if any(profile.disturbed for profile in profiles) else ""


def _place(profile: Profile) -> str:
    threads = plural(profile.threads, "thread")
    return f"{style.backend(profile.backend).word}, batch {profile.batch_size}, {threads}"


def _cut(words: str, most: int) -> str:
    if len(words) <= most:
        return words
    half = (most - 1) // 2
    return f"{words[:half]}…{words[-half:]}"
