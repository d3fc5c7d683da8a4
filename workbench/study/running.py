"""How a study runs a plan: from its store where it is finished, else here, or on a cluster."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.core.errors import Cancelled, StudyError
from workbench.core.progress import Progress, ProgressCallback, ignore_progress
from workbench.study.execution.summary import RunSummary
from workbench.study.results.merge import rows_of_task
from workbench.study.results.ranking import check_question
from workbench.study.search.api import SETTING
from workbench.study.storage.database import Store
from workbench.study.storage.last_run import ASKED, LastRun
from workbench.study.strategy.decision_log import CURRENT
from workbench.study.workers.policy import STALL_S, worker_policy

if TYPE_CHECKING:
    from workbench.compress.recipe import Recipe
    from workbench.measure.resources.monitor import Monitor
    from workbench.study.cluster.connection import Cluster
    from workbench.study.execution.job import Job
    from workbench.study.plan.trials import Plan
    from workbench.study.strategy.deadline import TrialDeadline
    from workbench.study.workers.prepare_client import Shipment
    from workbench.study.workers.process import CancelToken
    from workbench.tasks.task import Task


class StudyRuns:
    """The half of a :class:`Study` that runs plans."""

    name: str
    files: Path
    prefix_cache: bool
    _store: Store
    _stop: Any
    _runner: int | None
    task: Task

    if TYPE_CHECKING:  # the other halves have them

        def _begin(self, budget_s: float | None) -> Any: ...

    def run(
        self,
        recipes: Sequence[Recipe] | None = None,
        backends: Sequence[str] | None = None,
        batch_sizes: Sequence[int] = (1, 8, 32),
        *,
        threads: int | None = None,
        budget_s: float | None = None,
        quality_drop: float = 0.01,
        shapes: Mapping[str, Sequence[int]] | None = None,
        monitor: Monitor | None = None,
        cluster: Cluster | str | Any = None,
        stall_timeout_s: float | None = STALL_S,
        seed: int = 0,
        baseline: str = "torch-eager",
        references: Sequence[str] = (),
        progress: ProgressCallback = ignore_progress,
    ) -> RunSummary:
        """Run every trial that is not complete yet; complete rows are reused.

        Parameters
        ----------
        recipes : sequence of Recipe, optional
            The float model is added: it is the baseline. By default a strategy chooses them while it runs: float and
            static int8 first, then what is predicted to gain most on the fastest engine within ``quality_drop``,
            trained in the time that is left, and a survey of the other techniques; :meth:`decisions` holds what was
            decided and why. On a cluster the default is the list :func:`workbench.study.default_recipes`.
        backends : sequence of str, optional
            By default those of torch-eager, onnxruntime and openvino that run here.
        batch_sizes : sequence of int
            32, or the largest where it is not among them, is measured first for all recipes.
        threads : int, optional
            Of every engine; by default the physical cores that this process may use.
        budget_s : float, optional
            Seconds for the whole run; what does not fit is left waiting and said.
        quality_drop : float
            Largest drop of quality that a recommended variant may have, in the metric's units.
        shapes : dict of sequences of int, optional
            Sizes of dimensions that ``Task(dynamic=...)`` leaves open: ``{"sequence": [16, 64]}``. Several are taken
            together, position by position. Every batch size is timed at every shape, on example inputs that are cut
            or repeated to it; the first one is measured first. By default they keep their own size. Quality is that
            of the evaluation samples as they are.
        monitor : Monitor, optional
            Samples what the run takes, with a mark for each recipe: started for the run unless it runs already, and
            paused while processes are loaded and timed. :func:`workbench.plots.plot_monitor` draws it.
        cluster : str, Client or Cluster, optional
            Do the work on the workers of a Dask cluster: the address of its scheduler, a connected
            ``distributed.Client``, or a :class:`workbench.study.Cluster` with more options. Workers need the resource
            ``workbench``: ``dask worker tcp://head:8786 --nthreads 1 --resources "workbench=1"``. Each does one unit at
            a time, one worker of a host times at a time, and every comparison stays on one machine. Where machines
            differ, each kind of them does the whole plan with a baseline of its own.
        stall_timeout_s : float, optional
            Seconds that a process may prepare, load, time or evaluate without a sign of life (a training gives one
            every batch, an export none until it is done). Then it is killed, its trial fails, and the others go on.
            Half an hour by default; None waits for ever.
        seed : int
            Of the recipes of the default plan.
        baseline : str
            Backend on which the float model is the baseline. On torch-eager it runs on 1 thread or on ``threads``,
            whichever is faster here, and with a steady allocator, as every arm does.
        references : sequence of str
            What else the float model is timed on at the first point, to be shown beside the baseline and never ranked:
            ``"torch-default"``, torch as commonly started, with the system's allocator; ``"torch-compile"``.
        progress : callable
            Gets :class:`Progress` with ``stage="study"``, ``done`` of ``total`` trials (``done`` moves in fractions
            while a variant is prepared), a ``message`` in words, and ``values``: ``{"plan": [TrialRow, ...]}`` before
            work starts, ``{"row": TrialRow}`` when a trial changed state, with ``{"best": TrialRow | None}`` after
            each complete one, ``{"step": {...}}`` while a recipe is applied. Raising Cancelled in it stops the run.

        Returns
        -------
        RunSummary
            After a cancel too, with ``cancelled`` True. On a cluster it also tells the machines, what each worker did
            when (``spans``), and what was sent to it.

        Raises
        ------
        StudyError, TaskError, ConfigError, BackendUnavailable
            Before any work starts, when something asked for cannot be done.
        PackageMissing
            For ``cluster`` without the package distributed.
        KeyboardInterrupt
            After Ctrl-C, once the children are ended and what is complete is kept.
        """
        stop = self._begin(budget_s)
        return self._run(
            stop,
            recipes,
            backends,
            batch_sizes,
            threads=threads,
            budget_s=budget_s,
            quality_drop=quality_drop,
            shapes=shapes,
            monitor=monitor,
            cluster=cluster,
            stall_timeout_s=stall_timeout_s,
            seed=seed,
            baseline=baseline,
            references=references,
            progress=progress,
        )

    def start(self, *args: Any, **options: Any) -> Job:
        """Start :meth:`run` with the same arguments in a thread and return at once.

        The job is a future with ``cancel()``, ``done()``, ``result(timeout)`` and ``exception(timeout)``.
        """
        from workbench.study.execution.job import Job

        asked = inspect.signature(self.run).bind(*args, **options)  # a wrong name is told before it begins
        asked.apply_defaults()
        stop = self._begin(asked.arguments["budget_s"])
        return Job(lambda: self._run(stop, **asked.arguments), stop.set)

    def _note_question(
        self,
        quality_drop: float,
        backends: Sequence[str] | None,
        batch_sizes: Sequence[int],
        *,
        default: bool = False,
    ) -> None:
        self._store.set_setting(self.name, "quality_drop", quality_drop)
        self._store.set_setting(self.name, ASKED, LastRun.of(backends, batch_sizes).to_dict())
        self._store.set_setting(self.name, SETTING, None)
        if not default:
            self._store.set_setting(self.name, CURRENT, None)

    def _run(
        self,
        stop: Any,
        recipes: Sequence[Recipe] | None,
        backends: Sequence[str] | None,
        batch_sizes: Sequence[int],
        *,
        threads: int | None,
        budget_s: float | None,
        quality_drop: float,
        shapes: Mapping[str, Sequence[int]] | None,
        monitor: Monitor | None,
        cluster: Any,
        stall_timeout_s: float | None,
        seed: int,
        baseline: str,
        references: Sequence[str],
        progress: ProgressCallback,
    ) -> RunSummary:
        from workbench.study.execution.local_executor import monitoring
        from workbench.study.execution.machine_lock import machine_lock
        from workbench.study.plan.shapes import task_shapes
        from workbench.study.plan.trials import check_recipes, plan_for
        from workbench.study.strategy.deadline import TrialDeadline
        from workbench.study.strategy.launch import decision_log_for, finished_rows, float_only
        from workbench.study.workers.baseline import with_earlier_baseline, with_fastest_baseline
        from workbench.study.workers.prepare_client import PrepareClient, pack

        started = time.monotonic()
        self._runner = threading.get_ident()
        default, deadline = recipes is None, TrialDeadline(stop)
        asked = (float_only(seed) if default else recipes, backends, batch_sizes)
        limits: dict[str, Any] = {"threads": threads, "budget_s": budget_s}
        options: dict[str, Any] = {**limits, "baseline": baseline, "references": references}
        try:
            with contextlib.ExitStack() as early:
                try:
                    check_question(quality_drop=quality_drop, minimize="latency_ms_rel")
                    watched, policy = monitoring(monitor), worker_policy(stall_timeout_s)
                    progress(Progress("study", 0, 0, "checking the task"))
                    if cluster is not None and (baseline != "torch-eager" or references):
                        raise StudyError(
                            "baseline and references must be left out with cluster: each worker has its own."
                        )
                    if cluster is not None:
                        return self._run_on(
                            cluster, stop, monitor=monitor, recipes=recipes, backends=backends, batch_sizes=batch_sizes,
                            quality_drop=quality_drop, shapes=shapes, policy=policy, progress=progress, **limits,
                        )  # fmt: skip
                    points = task_shapes(self.task, shapes)
                    plan = plan_for(self.task.fingerprint, *asked, shapes=points, **options)
                    if default:
                        record = decision_log_for(
                            self._store, self.name, plan, self.task.fingerprint,
                            limit=quality_drop, budget_s=budget_s, seed=seed,
                        )  # fmt: skip
                        rows = finished_rows(record, self._store, self.name)
                        if rows:
                            self._note_question(quality_drop, backends, batch_sizes, default=default)
                            progress(Progress("study", len(rows), len(rows), plan.words(), {"plan": rows}))
                            seconds = time.monotonic() - started
                            return RunSummary(0, len(rows), 0, 0, cancelled=False, seconds=seconds)
                    earlier = rows_of_task(self._store.load(self.name).values(), self.task.fingerprint)
                    plan, new_points = with_earlier_baseline(plan, earlier)
                    host = PrepareClient(None, self.files, deadline, prefix_cache=self.prefix_cache, policy=policy)
                    early.callback(host.close, kill=True)  # if the run does not get to it
                    if not self._store.all_complete(self.name, [trial.key for trial in plan.trials]):
                        host.start()
                    check_recipes(plan.recipes, self.task)
                    shipment = pack(self.task)
                    host.carry(shipment)
                    stop.check()
                    with machine_lock(
                        exclusive=True, stop=stop, say=lambda words: progress(Progress("study", 0, 0, words))
                    ):
                        plan = with_fastest_baseline(plan, new_points, host.choose_threads)
                except Cancelled:
                    return RunSummary(0, 0, 0, 0, cancelled=True, seconds=time.monotonic() - started)
                self._note_question(quality_drop, backends, batch_sizes, default=default)
                more: dict[str, Any] = {"client": host, "monitor": monitor, "policy": policy}
                with watched:
                    found = self._work(
                        plan, shipment, stop, deadline if default else None, budget_s=budget_s,
                        quality_drop=quality_drop, seed=seed, progress=progress, **more,
                    )  # fmt: skip
                return dataclasses.replace(found, seconds=time.monotonic() - started)
        finally:
            self._stop = None

    def _work(
        self,
        plan: Plan,
        shipment: Shipment,
        stop: CancelToken,
        deadline: TrialDeadline | None,
        *,
        budget_s: float | None,
        quality_drop: float,
        seed: int,
        progress: ProgressCallback,
        **options: Any,
    ) -> RunSummary:
        """Run a plan, or with a ``deadline`` the strategy that begins with it."""
        from workbench.study.execution.local_executor import LocalExecutor
        from workbench.study.storage.session import RunSession
        from workbench.study.strategy.executor import StrategyRun
        from workbench.study.strategy.launch import decision_log_for, first_part, plan_request

        first = plan if deadline is None else first_part(plan)
        rows = first.rows(self.task.name, shipment.fingerprint)
        with RunSession(self._store, self.name, first, rows, quality_drop=quality_drop, progress=progress) as ledger:
            if deadline is None:
                return LocalExecutor(self.task, plan, ledger, shipment, self.files, stop, **options).work()
            asked: dict[str, Any] = {"limit": quality_drop, "budget_s": budget_s, "seed": seed}
            options["question"] = plan_request(self.task, plan, **asked)
            options["record"] = decision_log_for(self._store, self.name, plan, shipment.fingerprint, **asked)
            run = StrategyRun(self.task, plan, ledger, shipment, self.files, stop, deadline=deadline, **options)
            return run.work()

    def _run_on(
        self, cluster: Any, stop: Any, *, monitor: Any, shapes: Any, quality_drop: float, **asked: Any
    ) -> RunSummary:
        from workbench.study.cluster.launch import run_on_cluster
        from workbench.study.plan.shapes import task_shapes

        if monitor is not None:
            raise StudyError("A monitor watches this machine, and with cluster=... the work is done elsewhere.")
        asked["shapes"] = task_shapes(self.task, shapes)
        self._note_question(quality_drop, asked["backends"], asked["batch_sizes"])
        more: dict[str, Any] = {"quality_drop": quality_drop, "prefix_cache": self.prefix_cache}
        return run_on_cluster(self.task, cluster, self._store, self.name, stop, **more, **asked)
