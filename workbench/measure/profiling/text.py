"""Format profiles and their comparisons as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.core.format.numbers import plural, text_table

if TYPE_CHECKING:
    from workbench.measure.profiling.rows import Profile

MAX_ROWS, MAX_WIDTH = 15, 34


def profile_text(profile: Profile) -> str:
    """Return a table of the longest rows, with sum, plain call and profiler overhead below."""
    rows = sorted(profile.rows, key=lambda row: -row.ms)
    lines = [head_of(profile), ""]
    lines += text_table(
        ("layer", "op", "ms", "share", "precision", "provider"),
        [
            (row.layer, row.op, ms_text(row.ms), f"{100 * row.share:.1f} %", row.precision or "–", row.provider)
            for row in rows[:MAX_ROWS]
        ],
        right=(2, 3),
        rule=True,
        widest=MAX_WIDTH,
    )
    if len(rows) > MAX_ROWS:
        rest = sum(row.ms for row in rows[MAX_ROWS:])
        lines.append(f"... and {len(rows) - MAX_ROWS} more: {rest:.4f} ms")
    notes = [*profile.notes, *disturbed_of(profile)]
    return "\n".join([*lines, "", *sums_of(profile), *(f"note: {note}" for note in notes)])


def ms_text(value: float | None) -> str:
    """Return ms with four decimals, a dash for None."""
    return "–" if value is None else f"{value:.4f}"


def disturbed_of(profile: Profile) -> list[str]:
    """Return a note for a disturbed profile."""
    if not profile.disturbed:
        return []
    return [f"disturbed: {', '.join(profile.disturbed)}. Profile {profile.label!r} again on an idle machine."]


def head_of(profile: Profile) -> str:
    """Return variant, engine and settings in one line."""
    return (
        f"{profile.task}, {profile.label} on {profile.backend} ({profile.device}), batch {profile.batch_size}, "
        f"{plural(profile.threads, 'thread')}, {profile.calls} calls"
    )


def sums_of(profile: Profile) -> list[str]:
    """Return the sum of the rows, and the calls with and without the profiler."""
    extra = 100 * profile.overhead_ms / profile.plain_ms
    return [
        f"sum of {len(profile.rows)} rows  {profile.total_ms:.4f} ms",
        f"plain call        {profile.plain_ms:.4f} ms (10th percentile {profile.fast_ms:.4f} ms)",
        f"profiled call     {profile.profiled_ms:.4f} ms ({extra:+.0f} % profiler overhead)",
    ]
