"""Compare two states of a study: trials that became slower, larger or worse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.core.errors import StudyError
from workbench.core.stats import ASSUMED_NOISE
from workbench.study.results.schema import row_engine

Row = Mapping[str, Any]
QUALITY_SHARE = 0.005
"""Change of quality that counts without an interval."""
SIZE_SHARE = 0.01
"""Change of size that counts."""
_IDENTITY = ("machine", "recipe_id", "backend", "batch_size", "shape", "threads", "engine_json", "reference",
             "fidelity")  # fmt: skip
_KINDS = ("speed", "quality", "size")


@dataclass(frozen=True)
class Change:
    """A change of one trial: ``kind`` is speed, quality or size, ``worse`` the direction, ``words`` the figures."""

    trial: str
    kind: str
    worse: bool
    words: str


@dataclass(frozen=True)
class Regression:
    """Significant changes from one state of a study to another.

    ``missing`` are trials that are complete in the old state only, ``added`` in the new one only; ``notes`` hold
    differences of the two, such as other versions.
    """

    compared: int
    changes: tuple[Change, ...]
    missing: tuple[str, ...]
    added: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def worse(self) -> tuple[Change, ...]:
        """The changes for the worse."""
        return tuple(change for change in self.changes if change.worse)

    @property
    def holds(self) -> bool:
        """True if no trial became worse or is missing; a trial that fails now is missing."""
        return not self.worse and not self.missing

    def __str__(self) -> str:
        worse, better = len(self.worse), len(self.changes) - len(self.worse)
        lines = [f"{self.compared} trials compared: {worse} changes for the worse, {better} for the better."]
        for head, some in (("worse", True), ("better", False)):
            lines += [f"  {head}: {c.trial}: {c.words}" for c in self.changes if c.worse is some]
        lines += [f"  gone: {trial}" for trial in self.missing] + [f"  new: {trial}" for trial in self.added]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def compare_rows(before: Sequence[Row], after: Sequence[Row]) -> Regression:
    """Compare the rows of two states of a study, trial by trial.

    Speed is compared by the speedup over the baseline, for the baseline by latency: it changed if the two intervals are
    further apart than both noise floors. Quality is compared by the intervals of the drop. Each machine is compared
    with itself; of several versions on one machine, the newest counts. StudyError is raised if the two have no finished
    trial or no machine in common, or are of different tasks.

    Examples
    --------
    >>> row = {"recipe": "a", "recipe_id": "1", "backend": "openvino", "batch_size": 1, "shape": "", "threads": 2,
    ...     "engine_json": "{}", "state": "complete", "baseline": False, "task": "t", "fingerprint": "f",
    ...     "machine": "m", "speedup": 4.0, "speedup_low": 3.9, "speedup_high": 4.1}
    >>> print(compare_rows([row], [{**row, "speedup": 2.0, "speedup_low": 1.9, "speedup_high": 2.1}]))
    1 trials compared: 1 changes for the worse, 0 for the better.
      worse: a on openvino, batch 1: speedup 4.00x (3.90 to 4.10) before, 2.00x (1.90 to 2.10) now
    """
    earlier = {row.get("fingerprint") for row in before}
    current = _newest(before, ()), _newest(after, earlier)
    old, new = (_finished(rows) for rows in current)
    if not old or not new:
        raise StudyError(f"There is nothing to compare: {len(old)} finished trials before, {len(new)} now.")
    notes = _comparable(list(old.values()), list(new.values()))
    both = {row.get("machine") for row in old.values()} & {row.get("machine") for row in new.values()}
    old, new = ({key: row for key, row in rows.items() if row.get("machine") in both} for rows in (old, new))
    left = [len(rows) - len(kept) for rows, kept in zip((before, after), current, strict=True)]
    if any(left):
        notes.append(f"rows of an earlier version on the same machine were left out: {left[0]} before, {left[1]} now")
    common = [key for key in old if key in new]
    if not common:
        raise StudyError("The two have no finished trial in common: no equal recipe, backend, batch size and threads.")
    changes = [change for key in common for change in _changes(old[key], new[key])]
    return Regression(
        len(common),
        tuple(sorted(changes, key=lambda change: (not change.worse, _KINDS.index(change.kind)))),
        tuple(_words(old[key]) for key in old if key not in new),
        tuple(_words(new[key]) for key in new if key not in old),
        tuple(notes),
    )


def _newest(rows: Sequence[Row], earlier: Collection[Any]) -> list[Row]:
    """Return the rows of each machine's newest fingerprint: one that is not in ``earlier``, else the last one.

    A trial that fails after an upgrade must not count with its row from before it.
    """
    newest: dict[Any, Any] = {}
    for row in rows:
        machine, fingerprint = row.get("machine"), row.get("fingerprint")
        if machine not in newest or fingerprint not in earlier or newest[machine] in earlier:
            newest[machine] = fingerprint
    return [row for row in rows if newest[row.get("machine")] == row.get("fingerprint")]


def _finished(rows: Sequence[Row]) -> dict[tuple[Any, ...], Row]:
    """Return the finished rows by what was measured."""
    return {tuple(row.get(name) for name in _IDENTITY): row for row in rows if row.get("state") == "complete"}


def _comparable(old: list[Row], new: list[Row]) -> list[str]:
    tasks, machines, prints = (
        [{row.get(name) for row in rows} for rows in (old, new)] for name in ("task", "machine", "fingerprint")
    )
    if tasks[0] != tasks[1]:
        raise StudyError(f"The two are of different tasks: {_listed(tasks[0])} before, {_listed(tasks[1])} now.")
    if not machines[0] & machines[1]:
        raise StudyError(
            f"Figures of two machines are never compared: {_listed(machines[0])} before, {_listed(machines[1])} now."
        )
    notes = []
    if machines[0] != machines[1]:
        notes.append(f"only one of the two has rows of {_listed(machines[0] ^ machines[1])}: they were left out")
    if prints[0] != prints[1]:
        notes.append(
            "the fingerprints differ, so versions of libraries, the system or Python changed between the two: "
            f"{_listed(prints[0])} before, {_listed(prints[1])} now"
        )
    data = [Counter(row.get("task_fingerprint") for row in rows) for rows in (old, new)]
    if set(data[0]) != set(data[1]):
        notes.append("the task's data, weights or version changed between the two")
    return notes


def _listed(values: set[Any]) -> str:
    return ", ".join(sorted(str(value) for value in values))


def _changes(old: Row, new: Row) -> list[Change]:
    changes = [_speed(old, new), _quality(old, new), _size(old, new, "size_mib"), _size(old, new, "peak_rss_mib")]
    return [change for change in changes if change is not None]


def _speed(old: Row, new: Row) -> Change | None:
    """Compare speedups; of the baseline, whose speedup is 1 by definition, the latency."""
    baseline = old.get("baseline")
    name, middle, unit = ("latency_ms", "latency_ms_p50", " ms") if baseline else ("speedup", "speedup", "x")
    bounds = _intervals(old, new, name)
    if bounds is None:
        return None
    floor = (1 + _floor(old)) * (1 + _floor(new))
    (low, high), (new_low, new_high) = bounds
    rose, fell = new_low > high * floor, new_high * floor < low
    if not rose and not fell:
        return None
    head = "latency of the baseline" if baseline else "speedup"
    was, now = (f"{row[middle]:.2f}{unit} ({a:.2f} to {b:.2f})" for row, (a, b) in zip((old, new), bounds, strict=True))
    return Change(_words(new), "speed", rose if baseline else fell, f"{head} {was} before, {now} now")


def _intervals(old: Row, new: Row, name: str) -> list[tuple[float, float]] | None:
    """Return the interval of a column in both rows, None if one of them has none."""
    bounds = [(row.get(f"{name}_low"), row.get(f"{name}_high")) for row in (old, new)]
    intervals = [(float(low), float(high)) for low, high in bounds if low is not None and high is not None]
    return intervals if len(intervals) == 2 else None


def _floor(row: Row) -> float:
    floor = row.get("noise_floor")
    return ASSUMED_NOISE if floor is None else float(floor)


def _quality(old: Row, new: Row) -> Change | None:
    """Compare quality by the intervals of the drop if both have one, else by the drop; of the baseline by quality."""
    quality = old.get("quality")
    if quality is not None and new.get("quality") is None and "quality" in new:
        why = (new.get("notes") or {}).get("quality", "it was not measured")
        return Change(_words(new), "quality", True, f"quality {quality:.4g} before, unknown now: {why}")
    bounds = None if old.get("baseline") else _intervals(old, new, "quality_drop")
    if bounds is None:
        column = "quality" if old.get("baseline") else "quality_drop"
        before, after = old.get(column), new.get(column)
        if before is None or after is None or abs(after - before) <= QUALITY_SHARE * abs(quality or 1.0):
            return None
        worse = (after < before) is (column == "quality")
        return Change(_words(new), "quality", worse, f"{column.replace('_', ' ')} {before:.4g} before, {after:.4g} now")
    (low, high), (new_low, new_high) = bounds
    if new_low <= high and low <= new_high:
        return None
    was, now = (f"{a:.4g} to {b:.4g}" for a, b in bounds)
    return Change(_words(new), "quality", new_low > high, f"quality drop {was} before, {now} now (95 %)")


def _size(old: Row, new: Row, column: str) -> Change | None:
    was, now = old.get(column), new.get(column)
    if was is None or now is None or was <= 0:
        return None
    share = now / was - 1
    # only the size of the file is exact: peak memory varies with the libraries of a process
    least = SIZE_SHARE if column == "size_mib" else 10 * SIZE_SHARE
    if abs(share) <= least:
        return None
    head = "size" if column == "size_mib" else "peak memory"
    figures = f"{head} {was:.3g} MiB before, {now:.3g} MiB now ({100 * share:+.1f} %)"
    return Change(_words(new), "size", share > 0, figures)


def _words(row: Row) -> str:
    shape = f", {row['shape']}" if row.get("shape") else ""
    return f"{row['recipe']} on {row_engine(row)}, batch {row['batch_size']}{shape}"
