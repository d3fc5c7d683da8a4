"""A study's plan on the workers of a cluster.

The client places the units itself instead of leaving that to Dask's scheduler: a comparison must stay on one kind of
machine, workers that come later (a restarted one has a new address) must be asked what they are first, and a parcel
goes to a worker once, which needs to know where a unit will run. Dask carries, holds the resource, and tells who lives.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.core.errors import Cancelled, StudyError, WorkbenchError
from workbench.core.files import atomic_write
from workbench.study.cluster.blobs import Blob, write_blob
from workbench.study.cluster.connection import ClusterConnection
from workbench.study.cluster.job import JobResult, Span
from workbench.study.cluster.job_factory import JobFactory
from workbench.study.cluster.summary import ClusterSummary
from workbench.study.cluster.tasks import PREPARE, TaskQueue, WorkUnit
from workbench.study.cluster.worker_info import ClusterWorker, kinds_words
from workbench.study.cluster.workers import ClusterWorkers
from workbench.study.execution.budget import TimeBudget
from workbench.study.execution.executor import BUDGET
from workbench.study.plan.trials import Plan, Trial
from workbench.study.results.ranking import pareto_rows
from workbench.study.storage.artifact_store import ArtifactStore
from workbench.study.storage.session import RunSession, words_of
from workbench.study.workers.policy import WorkerPolicy
from workbench.study.workers.process import CancelToken, OutOfTime

if TYPE_CHECKING:
    from pathlib import Path

    from workbench.study.workers.prepare_client import Shipment

_LOOK_S = 1.0
_POLL_S = 0.2


@dataclass
class RunningUnit:
    """A unit that a worker is at."""

    unit: WorkUnit
    node: ClusterWorker
    future: Any


class ClusterRun:
    """Does the trials of plans, one plan for each kind of machine, by its fingerprint; see :meth:`work`."""

    def __init__(
        self,
        plans: dict[str, Plan],
        nodes: Sequence[ClusterWorker],
        link: ClusterConnection,
        ledger: RunSession,
        shipment: Shipment,
        files: Path,
        stop: CancelToken,
        *,
        prefix_cache: bool,
        policy: WorkerPolicy,
    ) -> None:
        self._plans, self._link, self._ledger = plans, link, ledger
        self._files, self._stop = files, stop
        self._shelf = ArtifactStore(files)
        self._orders = JobFactory(link.run, shipment, files, ledger, stop, prefix_cache=prefix_cache, policy=policy)
        backends = next(iter(plans.values())).backends
        self._roster = ClusterWorkers(link, nodes, backends, shipment.fingerprint)
        self._machines = tuple(kinds_words(nodes))
        self._budget = {site: self._paced(site) for site in plans}
        self._boards: dict[str, TaskQueue] = {}
        self._flights: dict[str, RunningUnit] = {}
        self._tiers: dict[str, tuple[int, tuple[set[str], ...]]] = {}
        self._troubles: dict[WorkUnit, list[tuple[str, str]]] = {}
        self._spans: list[Span] = []
        self._cut: list[str] = []
        self._number = 0

    def work(self) -> ClusterSummary:
        """Do everything that can be done; errors as :meth:`workbench.study.execution.executor.Run.work`."""
        started = time.monotonic()
        state, reason, whole = "cancelled", "Cancelled while it ran.", False
        trials = [t for plan in self._plans.values() for t in plan.trials]
        try:
            self._announce()
            while True:
                self._do_open()
                if not self._ledger.wait_for_others(trials, self._stop, look_s=_LOOK_S):
                    break
            whole = True
        except OutOfTime:
            state, reason = "waiting", "Stopped while it ran: the time budget was used up."
            self._note_cut(self._ledger.missing(trials), BUDGET)
        except Cancelled:
            pass
        except WorkbenchError as error:
            state, reason = "failed", f"The run stopped while it ran: {error}"
            if isinstance(error, StudyError):
                raise
            raise StudyError(f"The run stopped: {error} What is complete is kept.") from error
        finally:
            if not whole:
                self._link.halt(flight.future for flight in self._flights.values())
            self._ledger.abandon(state=state, reason=reason)
        counts: dict[str, Any] = self._ledger.counts()
        return ClusterSummary(
            **counts,
            cancelled=not whole and state == "cancelled",
            seconds=time.monotonic() - started,
            cut=tuple(self._cut),
            machines=self._machines,
            dashboard=self._link.dashboard,
            spans=tuple(self._spans),
            sent=tuple(self._link.sent),
        )

    def _announce(self) -> None:
        plan = next(iter(self._plans.values()))
        where = f"dashboard {self._link.dashboard}" if self._link.dashboard else self._link.address
        self._ledger.say(f"{plan.words()}; {'; '.join(self._machines)}; {where}", plan=self._ledger.rows())

    def _do_open(self) -> None:
        for site, plan in self._plans.items():
            mine = self._ledger.claim(plan.trials)
            there = {t.artifact_key for t in plan.trials if self._shelf.prepared(t, plan.batch_sizes) is not None}
            self._boards[site] = TaskQueue(site, plan, mine, prepared=there)
        while any(board.open for board in self._boards.values()):
            self._stop.check()
            self._look()
            for node in self._roster.idle({flight.node.address for flight in self._flights.values()}):
                self._place(node)
            with contextlib.suppress(queue.Empty):
                self._hear(*self._link.events.get(timeout=_POLL_S))

    def _hear(self, kind: str, what: Any) -> None:
        if kind == "said":
            step = {"step": what["step"]} if "step" in what else {}
            self._ledger.say(f"{what['message']} (worker {what['by']})", **step)
        elif what.key in self._flights:
            self._land(self._flights.pop(what.key))

    # what may start, and where

    def _place(self, node: ClusterWorker) -> None:
        board = self._boards[node.site.fingerprint]
        making = {f.unit.artifact_key for f in self._flights.values() if f.unit.kind == PREPARE}
        for unit in self._worth(board, near=node.held_blobs):
            if node.address in {address for address, _ in self._troubles.get(unit, ())}:
                continue
            if unit.kind == PREPARE and unit.artifact_key in making:
                continue  # another kind of machine makes the same
            if unit.kind == PREPARE and self._shelf.prepared(unit.trials[0], board.plan.batch_sizes) is not None:
                board.end(unit)
            elif self._fits(unit):
                self._start(unit, node)
                return

    def _worth(self, board: TaskQueue, *, near: Collection[str]) -> list[WorkUnit]:
        rows = [row for row in self._ledger.complete_rows() if row["fingerprint"] == board.site]
        known, tiers = self._tiers.get(board.site, (-1, ()))
        if known != len(rows):  # what is worth doing next changes with a new row only
            primary = [row for row in rows if row["batch_size"] == board.plan.primary.batch]
            best, front = self._ledger.best(), pareto_rows(primary, x="latency_ms_rel", y="quality")
            tiers = ({best["recipe_id"]} if best else set(), {row["recipe_id"] for row in front})
            self._tiers[board.site] = len(rows), tiers
        return board.ready(first=tiers, near=near)

    def _fits(self, unit: WorkUnit) -> bool:
        """Say whether a unit fits into the budget; leave it out where it does not."""
        board, budget = self._boards[unit.site], self._budget[unit.site]
        primary = unit.point in (None, board.plan.primary)
        if unit.kind == PREPARE:
            if budget.fits(unit.recipe, prepared=False) or not unit.recipe.steps:
                return True
            board.drop(unit.recipe)
            out = self._ledger.still_mine(board.plan.of(unit.recipe))
        elif primary or budget.group_fits():
            return True
        else:
            board.end(unit)
            out = self._ledger.still_mine(unit.trials)
        budget.skip(primary=primary)
        budget.prepared(unit.recipe)
        self._leave(out, BUDGET)
        return False

    def _start(self, unit: WorkUnit, node: ClusterWorker) -> None:
        plan, budget = self._boards[unit.site].plan, self._budget[unit.site]
        mine = self._ledger.still_mine(unit.trials)
        primary = [t for t in mine if t.point == plan.primary] or mine[:1]
        self._ledger.running(primary if unit.kind == PREPARE else mine)
        self._ledger.say(f"{unit.words}: goes to {node.words}")
        try:
            for blob in self._orders.blobs(unit, plan):
                self._link.send(node, blob, self._orders.fingerprint)
        except StudyError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a broken connection raises
            self._lose(node, f"could not be reached ({type(error).__name__}: {error})")
            return
        self._number += 1
        future = self._link.submit(node, self._orders.order(unit, node, self._roster.nodes, plan, budget), self._number)
        self._boards[unit.site].start(unit)
        self._flights[future.key] = RunningUnit(unit, node, future)

    # what came of it

    def _land(self, flight: RunningUnit) -> None:
        outcome, trouble = self._link.result(flight.future, flight.node)
        if outcome is None:
            self._stop.check()  # a unit that was told to stop ends like one that failed
            self._trouble(flight, trouble)
            return
        self._spans += outcome.spans
        unit, board = flight.unit, self._boards[flight.unit.site]
        if outcome.refused:
            self._give_up(unit, f"The variant could not be prepared: {outcome.error}")
        elif outcome.error is not None:
            self._trouble(flight, outcome.error)
        else:
            board.end(unit)
            if outcome.blob is not None:
                self._keep(unit, flight.node, outcome.blob)
            else:
                self._write(unit, flight.node, outcome)

    def _keep(self, unit: WorkUnit, node: ClusterWorker, blob: Blob) -> None:
        write_blob(blob, self._files)
        self._orders.keep(blob)
        node.held_blobs[blob.name] = blob.digest
        self._budget[unit.site].prepared(unit.recipe)

    def _write(self, unit: WorkUnit, node: ClusterWorker, outcome: JobResult) -> None:
        """Write the rows of a group; what a worker sent of a trial that is not ours any more is dropped."""
        for name, content in outcome.samples.items():
            with atomic_write(self._files / "samples" / name) as path:
                path.write_bytes(content)
        for trial in self._ledger.still_mine(unit.trials):
            row: dict[str, Any] = dict(outcome.rows[trial.key])
            if row.pop("state") == "complete":
                notes = {**row["notes"], "machine": f"Timed by {node.words}."}
                self._ledger.complete(trial, {**row, "notes": notes})
            else:
                self._ledger.fail([trial], str(row["error"] or "Its worker gave no result."))
                if trial.baseline:
                    raise StudyError(f"The baseline at batch {trial.point.words} cannot be timed: {row['error']}")
        primary = unit.point == self._boards[unit.site].plan.primary
        seconds = sum(span.ended - span.started for span in outcome.spans if span.kind == unit.kind)
        self._budget[unit.site].grouped(seconds, primary=primary)

    def _trouble(self, flight: RunningUnit, reason: str) -> None:
        """Have a unit done elsewhere, or give it up: after so many tries, or where no other worker is left to try."""
        unit, known = flight.unit, self._troubles.setdefault(flight.unit, [])
        known.append((flight.node.address, f"{flight.node.words} {reason}"))
        tried = {address for address, _ in known}
        living = self._roster.addresses(unit.site)
        if len(known) >= self._link.config.tries or (living and living <= tried):
            count = f"{len(known)} tries" if len(known) > 1 else "one try"
            self._give_up(unit, f"Given up after {count}: {'; '.join(words for _, words in known)}.")
        else:
            self._boards[unit.site].back(unit)
            self._ledger.say(f"{unit.words}: {known[-1][1]}; it is done again elsewhere")

    def _give_up(self, unit: WorkUnit, reason: str) -> None:
        board = self._boards[unit.site]
        board.end(unit)
        self._budget[unit.site].prepared(unit.recipe)
        if unit.kind == PREPARE:
            board.drop(unit.recipe)
        self._ledger.fail(self._ledger.still_mine(unit.trials), reason)
        if not unit.recipe.steps:
            raise StudyError(f"{unit.words} failed, so there is no baseline: {reason}")

    # who is there

    def _look(self) -> None:
        lost, refused = self._roster.look()
        for node in lost:
            self._lose(node, "ended")
        for words in refused:
            self._ledger.say(f"not taken: {words}")
        for site in self._roster.deserted([site for site, board in self._boards.items() if board.open]):
            plan = self._boards[site].plan
            self._leave(self._ledger.still_mine(plan.trials), "every worker of their kind is gone")
            self._boards[site] = TaskQueue(site, plan, (), prepared=())

    def _lose(self, node: ClusterWorker, why: str) -> None:
        self._roster.drop(node)
        self._ledger.say(f"{node.words} is gone: it {why}")
        for key in [key for key, flight in self._flights.items() if flight.node is node]:
            flight = self._flights.pop(key)
            self._link.cancel([flight.future])
            self._trouble(flight, f"{why} while it ran this")

    # what is left out

    def _leave(self, trials: Sequence[Trial], reason: str) -> None:
        self._note_cut(trials, reason)
        self._ledger.cut(trials, reason)

    def _note_cut(self, trials: Sequence[Trial], reason: str) -> None:
        for recipe in dict.fromkeys(t.recipe for t in trials):
            self._cut.append(f"not run, {reason}: {words_of([t for t in trials if t.recipe == recipe])}")

    def _paced(self, site: str) -> TimeBudget:
        budget = TimeBudget(self._plans[site], self._stop)
        budget.benches = max(1, self._roster.hosts(site))
        return budget
