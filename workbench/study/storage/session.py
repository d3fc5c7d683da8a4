"""The session of one run: claims trials, writes rows, keeps the heartbeat and reports progress."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from workbench.core.errors import StudyError
from workbench.core.format.speedup import row_speedup
from workbench.core.progress import Progress, ProgressCallback
from workbench.study.plan.trials import Plan, Trial
from workbench.study.results.ranking import best_row
from workbench.study.results.schema import TrialRow, explained, update_row
from workbench.study.storage.database import Store, TakenOver, is_stale, new_owner

if TYPE_CHECKING:
    from workbench.study.workers.process import CancelToken

BEAT_S = 3.0
_CLEAR: dict[str, Any] = {"error": None, "notes": {}}


class RunSession:
    """The rows of a plan during one run; use it as a context manager, in which the heartbeat runs.

    ``finished`` is the number of trials that this run completed.
    """

    def __init__(
        self,
        store: Store,
        study: str,
        plan: Plan,
        rows: dict[str, TrialRow],
        *,
        quality_drop: float,
        progress: ProgressCallback,
    ) -> None:
        self._store, self._study, self._plan = store, study, plan
        self._owner = new_owner()
        self.quality_drop = quality_drop
        self._progress = progress
        store.add(study, rows)
        self._rows = {key: trial.row for key, trial in store.load(study, rows).items()}
        self._reused = sum(row["state"] == "complete" for row in self._rows.values())
        self._trials = {trial.key: trial for trial in plan.trials}
        self._mine: set[str] = set()
        self._given_up: set[str] = set()
        self._left: set[str] | None = None
        self.finished = self._failed = 0
        self._shown = 0.0
        self._end = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="workbench-heartbeat", daemon=True)

    def __enter__(self) -> RunSession:
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._heart.join()

    def extend(self, plan: Plan, rows: dict[str, TrialRow]) -> None:
        """Replace the plan and add its new trials; a search finds them one by one."""
        self._plan, self._left = plan, None
        self._trials |= {trial.key: trial for trial in plan.trials}
        new = {key: row for key, row in rows.items() if key not in self._rows}
        if new:
            self._store.add(self._study, new)
            rows = {key: trial.row for key, trial in self._store.load(self._study, new).items()}
            self._reused += sum(row["state"] == "complete" for row in rows.values())
            self._rows |= rows

    def claim(self, trials: Iterable[Trial]) -> list[Trial]:
        """Claim those of ``trials`` that are not complete, not given up in this run, and without another owner."""
        claimable = {t.key: t for t in trials if t.key not in self._given_up}
        for key, stored in self._store.load(self._study, claimable).items():
            self._rows[key] = stored.row
        open_keys = [key for key in claimable if self._rows[key]["state"] != "complete" and key not in self._mine]
        self._mine |= self._store.claim(self._study, open_keys, self._owner)
        return [t for key, t in claimable.items() if key in self._mine]

    def still_mine(self, trials: Iterable[Trial]) -> list[Trial]:
        """Return those of ``trials`` that this run has claimed and not ended."""
        return [t for t in trials if t.key in self._mine]

    def missing(self, trials: Iterable[Trial]) -> list[Trial]:
        """Return those of ``trials`` that are neither complete nor given up."""
        return [t for t in trials if t.key not in self._given_up and self._rows[t.key]["state"] != "complete"]

    def row(self, trial: Trial) -> TrialRow:
        """Return the current row of a trial."""
        return self._rows[trial.key]

    def rows(self) -> list[TrialRow]:
        """Return all rows of the plan."""
        return list(self._rows.values())

    def every_item(self) -> list[tuple[Trial, TrialRow]]:
        """Return every trial of this and of earlier plans of the run with its row."""
        return [(trial, self._rows[key]) for key, trial in self._trials.items() if key in self._rows]

    def complete_rows(self) -> list[TrialRow]:
        """Return the plan's rows that are complete."""
        return [row for row in self._rows.values() if row["state"] == "complete"]

    def best(self) -> TrialRow | None:
        """Return the row that would be recommended now, None if no row meets the goal."""
        best = best_row(self.complete_rows(), quality_drop=self.quality_drop)
        return best.row if best.met else None

    def running(self, trials: Iterable[Trial]) -> None:
        """Mark trials as running."""
        for trial in trials:
            if self._rows[trial.key]["state"] != "running":
                row = {**self._rows[trial.key], **_CLEAR, "state": "running"}
                self._save(trial, row, f"{trial.words}: started")  # type: ignore[arg-type]

    def complete(self, trial: Trial, columns: dict[str, Any]) -> None:
        """Save a complete row and release its claim."""
        self.finished += 1
        row = explained(update_row(self._rows[trial.key], **columns, state="complete"))
        self._save(trial, row, f"{trial.words}: {_result(row)}", release=True)

    def amend(self, trial: Trial, columns: dict[str, Any]) -> None:
        """Change columns of a complete row, unless another run has claimed it."""
        row = update_row(self._rows[trial.key], **columns)
        if self._store.amend(self._study, trial.key, row):
            self._rows[trial.key] = row
            self.notify(f"{trial.words}: {_result(row)}", row=row, best=self.best())

    def take_in(self, trial: Trial, *, like: Trial, columns: dict[str, Any]) -> None:
        """Add a complete row that is not in the plan, with all other columns as in the row of ``like``."""
        row = update_row(
            self._rows[like.key], **columns, trial_key=trial.key, baseline_key=trial.key, threads=trial.threads
        )
        self._store.add(self._study, {trial.key: row})
        self._rows[trial.key] = row

    def fail(self, trials: Iterable[Trial], reason: str) -> None:
        """Mark trials as failed with a reason; the next run tries them again."""
        for trial in trials:
            if trial.key in self._mine:
                self._failed += 1
                self._given_up.add(trial.key)
                row = update_row(self._rows[trial.key], state="failed", error=reason)
                self._save(trial, row, f"{trial.words}: failed. {reason}", release=True)

    def prune(self, trial: Trial, reason: str, columns: dict[str, Any]) -> None:
        """Mark a trial as pruned, with the measured columns."""
        self._given_up.add(trial.key)
        row = update_row(self._rows[trial.key], **columns, state="pruned", error=reason)
        self._save(trial, row, f"{trial.words}: pruned. {reason}", release=True)

    def cut(self, trials: Iterable[Trial], reason: str) -> None:
        """Leave trials waiting, with the reason; the next run resumes them."""
        for trial in trials:
            self._given_up.add(trial.key)
            if trial.key in self._mine:
                row = update_row(self._rows[trial.key], state="waiting", notes={"state": f"Not run: {reason}."})
                self._save(trial, row, f"{trial.words}: not run, {reason}", release=True)

    def abandon(self, *, state: str, reason: str) -> None:
        """Set running trials to ``state`` and release all claims, when a run ends early."""
        for trial in self._plan.trials:
            if trial.key in self._mine and self._rows[trial.key]["state"] == "running":
                row = update_row(self._rows[trial.key], state=state, error=reason)
                with contextlib.suppress(TakenOver):
                    self._store.save(self._study, trial.key, row, self._owner, release=True)
                    self._rows[trial.key] = row
        self._mine.clear()
        self._store.release(self._study, self._owner)

    def others_at_work(self) -> list[Trial]:
        """Return the trials that another living run has claimed."""
        keys = [t.key for t in self._plan.trials if t.key not in self._mine]
        trials = self._store.load(self._study, keys)
        for key, stored in trials.items():
            self._rows[key] = stored.row
        busy = {k for k, s in trials.items() if s.owner is not None and not is_stale(s.owner, s.heartbeat)}
        return [t for t in self._plan.trials if t.key in busy and self._rows[t.key]["state"] != "complete"]

    def wait_for_others(self, trials: Sequence[Trial], stop: CancelToken, *, look_s: float) -> bool:
        """Wait while other runs work on the plan's trials; return True if another pass can do some of the rest.

        Another run may have ended meanwhile. A pass that leaves the same trials as the one before, without other runs,
        is not repeated.
        """
        waited = False
        while others := self.others_at_work():
            waited = True
            self.notify(f"waiting for another run: {words_of(others)}")
            stop.wait(look_s)
            stop.check()
        left = {trial.key for trial in self.missing(trials)}
        again = bool(left) and (waited or left != self._left)
        self._left = left
        return again

    def counts(self) -> dict[str, int]:
        """Return the numbers of finished, reused, failed and open trials."""
        complete = sum(row["state"] in ("complete", "pruned") for row in self._rows.values())
        still_open = len(self._rows) - complete - self._failed
        return {"finished": self.finished, "reused": self._reused, "failed": self._failed, "open": still_open}

    def notify(self, message: str, *, extra: float = 0.0, **values: Any) -> None:
        """Send a progress event; ``extra`` is the finished share of a trial."""
        done = sum(row["state"] in ("complete", "pruned", "failed") for row in self._rows.values())
        self._shown = max(self._shown, min(done + extra, len(self._rows)))  # a bar never goes back
        self._progress(Progress("study", self._shown, len(self._rows), message, values))

    def following(self, words: str, *, seconds: float | None = None) -> Callable[[dict[str, Any]], None]:
        """Return a listener that forwards a worker's progress with a prefix.

        ``seconds`` is the expected time of the work: the bar moves by up to nine tenths of a trial.
        """
        started = time.monotonic()

        def listen(event: dict[str, Any]) -> None:
            share = 0.0 if seconds is None else min(0.9, 0.9 * (time.monotonic() - started) / seconds)
            step = {name: event[name] for name in ("stage", "done", "total", "message", "values")}
            self.notify(f"{words}: {_step_words(step)}", extra=share, step=step)

        return listen

    def _save(self, trial: Trial, row: TrialRow, message: str, *, release: bool = False) -> None:
        self._store.save(self._study, trial.key, row, self._owner, release=release)
        self._rows[trial.key] = row
        if release:
            self._mine.discard(trial.key)
        values: dict[str, Any] = {"row": row}
        if row["state"] == "complete":
            values["best"] = self.best()
        self.notify(message, **values)

    def _beat(self) -> None:
        while not self._end.wait(BEAT_S):
            with contextlib.suppress(StudyError):  # the next heartbeat makes up for a lost one
                self._store.beat(self._owner)


def _step_words(step: dict[str, Any]) -> str:
    if step["message"]:
        return str(step["message"])
    of = f" {step['done']:.4g} of {step['total']:.4g}" if step["total"] else ""
    return f"{step['stage']}{of}"


def _result(row: TrialRow) -> str:
    parts = [f"{row['latency_ms_p50']:.3f} ms", str(row_speedup(row))]
    if row["quality_drop"] is not None:
        parts.append(f"drop {row['quality_drop']:.4g}")
    return ", ".join(parts)


def words_of(trials: Sequence[Trial]) -> str:
    """Return the label of a group of trials."""
    backends = ", ".join(dict.fromkeys(t.backend for t in trials))
    sizes = ", ".join(dict.fromkeys(t.point.words for t in trials))
    return f"{trials[0].name} on {backends} at batch {sizes}"
