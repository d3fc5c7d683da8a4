"""``Study.search`` and what it returns."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.core.checks import given, require_bool, require_callable, require_int
from workbench.core.errors import Cancelled, ConfigError, StudyError, unknown_name
from workbench.core.machine import default_threads, fingerprint_id
from workbench.core.progress import Progress, ProgressCallback, ignore_progress
from workbench.core.untrusted import parse_untrusted
from workbench.study.results.leakage import SEEN
from workbench.study.results.schema import TrialRow
from workbench.study.search.goals import Goals, Objective, misses, question, recommend
from workbench.study.search.history import History
from workbench.study.search.result import SearchResult
from workbench.study.search.sampler import SAMPLERS, OptunaSampler, search_name
from workbench.study.search.space import Space
from workbench.study.search.warm_start import training_free_points
from workbench.study.storage.database import Store, is_stale, new_owner
from workbench.study.workers.policy import STALL_S, WorkerPolicy, worker_policy

if TYPE_CHECKING:
    from workbench.compress.recipe import Recipe
    from workbench.compress.sensitivity import Sensitivity
    from workbench.study.workers.prepare_client import Shipment
    from workbench.study.workers.process import CancelToken
    from workbench.tasks.task import Task

SETTING = "search"
"""Name of the setting that says what the last search of a study was asked; None after a run of a plan."""
_LOOKED_AT = 50


class StudySearch:
    """The half of a :class:`Study` that searches."""

    name: str
    storage: str
    files: Path
    prefix_cache: bool
    _store: Store
    _lock: threading.Lock
    _stop: Any
    _runner: int | None

    if TYPE_CHECKING:  # the other halves have them
        task: Task

        def _begin(self, budget_s: float | None) -> Any: ...

        def _rows(self) -> list[TrialRow]: ...

    def search(
        self,
        space: Space,
        *,
        sampler: str = "tpe",
        goals: Goals | None = None,
        minimize: str | Sequence[str] | None = None,
        maximize: str | Sequence[str] | None = None,
        trials: int = 30,
        budget_s: float | None = None,
        seed: int = 0,
        threads: int | None = None,
        prior: Sensitivity | Sequence[Sensitivity] | None = None,
        prune: bool = True,
        stall_timeout_s: float | None = STALL_S,
        progress: ProgressCallback = ignore_progress,
    ) -> SearchResult:
        """Search a space of recipes, engines and batch sizes for the one point to take.

        Optuna proposes. Each point goes through the processes of :meth:`run` and becomes a row of this study; one that
        is complete already is answered from its row. Where some points train and others do not, it begins with the
        latter, and gives what a point trained the engine and the untrained steps of the best one so far: both cost
        seconds. The same call again goes on where the last one ended, was cancelled or killed. The search sees the
        validation split; quality on the evaluation split is measured once for every finished row, and decides in the
        end.

        Parameters
        ----------
        space : Space
            What may vary.
        sampler : str
            ``"tpe"``, ``"random"``, ``"grid"`` (every point of a finite space, in an order by chance) or ``"nsga2"``,
            which recombines points and so needs several open options.
        goals : Goals, optional
            What a point must hold; ``wb.Goals()``, a drop of at most 0.01, by default. TPE and NSGA-II get them as
            constraints.
        minimize, maximize : str or sequence of str, optional
            Columns of a row. By default latency at one batch size, and throughput over several. Of several figures, for
            NSGA-II, the first one decides in the end.
        trials : int
            How many different points have been tried in the end, those of interrupted calls included.
        budget_s : float, optional
            Seconds for this call. A training for which the time left is too short, as far as earlier ones of the call
            tell, is not begun, and cheaper points are tried.
        seed : int
            Of the sampler.
        threads : int, optional
            Of the baseline, and of every engine unless the space varies them; by default the physical cores.
        prior : Sensitivity or several, optional
            Of this task: the search starts with what the table says is about as much as the goal allows.
        prune : bool
            Leave out the timing of what is hopeless after preparing: its validation quality is beyond the goal by more
            than chance explains, or its file is too large. Such rows have the state ``pruned`` and the reason.
        stall_timeout_s : float, optional
            As in :meth:`run`.
        progress : callable
            Gets :class:`Progress` with ``stage="search"``, ``done`` of ``total`` points, a ``message``, and ``values``
            as in :meth:`run`: ``{"row": TrialRow, "best": TrialRow | None}`` when a point has ended.

        Returns
        -------
        SearchResult
            After a cancel too, with ``cancelled`` True.

        Raises
        ------
        ConfigError, StudyError, TaskError, BackendUnavailable
            Before any work starts, when something asked for cannot be done.

        Examples
        --------
        >>> space = wb.Space(wb.vary(wb.Prune, ratio=wb.between(0.1, 0.8)))  # doctest: +SKIP
        >>> study.search(space, goals=wb.Goals(max_quality_drop=0.02), trials=20).best  # doctest: +SKIP
        """
        require_bool("search: prune", prune)
        asked = self._asked(space, sampler, goals, minimize, maximize, trials, seed, threads, progress)
        policy = worker_policy(stall_timeout_s)
        stop = self._begin(budget_s)
        self._runner = threading.get_ident()
        try:
            return self._search(
                space, asked, stop, sampler, trials=trials, seed=seed, threads=threads or default_threads(),
                prior=prior, prune=prune, policy=policy, progress=progress,
            )  # fmt: skip
        finally:
            self._stop = None

    def search_history(self) -> History:
        """Return what the last search of this study has tried, also while it runs in another process.

        Raises
        ------
        ConfigError
            If this study was not searched, or was run with a plan since.
        """
        from workbench.study.search.sampler import load_records

        known = _searched(self._store, self.name)
        if known is None:
            raise ConfigError(f"The study {self.name!r} holds no search. Start one: study.search(wb.Space(...)).")
        name, asked = known
        return History(name, asked, load_records(self.storage, name))

    def _asked(
        self, space: Any, sampler: Any, goals: Any, minimize: Any, maximize: Any, trials: Any, seed: Any, threads: Any,
        progress: Any,
    ) -> Objective:  # fmt: skip
        """Check what was asked for, and return the question."""
        from workbench.engine.backends import require_backend
        from workbench.study.plan.shapes import shape_words, task_shape

        if not isinstance(space, Space):
            raise ConfigError(f"search: space must be a wb.Space(...), got {given(space)}.")
        if sampler not in SAMPLERS:
            raise ConfigError("search: " + unknown_name("sampler", sampler, SAMPLERS))
        require_int("search: trials", trials)
        require_int("search: seed", seed, minimum=0)
        if threads is not None:
            require_int("search: threads", threads)
        require_callable("search: progress", progress, takes="each Progress report")
        continuous = [name for name, domain in space.domains.items() if domain.continuous]
        if sampler == "grid" and continuous:
            raise ConfigError(
                f"search: a grid needs a finite space, and {continuous[0]} may be any number of its range. Give it a "
                "step: wb.between(0.1, 0.8, step=0.1)."
            )
        for backend in space.backends:
            require_backend(backend)
        asked = question(goals, minimize, maximize, space.batch_sizes, shape=shape_words(task_shape(self.task)))
        if len(asked.figures) > 1 and sampler == "grid":
            raise ConfigError("search: a grid tries everything, so one figure is enough: the first decides.")
        return asked

    def _search(
        self,
        space: Space,
        asked: Objective,
        stop: CancelToken,
        sampler: str,
        *,
        trials: int,
        seed: int,
        threads: int,
        prior: Any,
        prune: bool,
        policy: WorkerPolicy,
        progress: ProgressCallback,
    ) -> SearchResult:
        from workbench.study.plan.trials import check_recipes
        from workbench.study.search.starting_points import starting_points
        from workbench.study.workers.prepare_client import pack

        started = time.monotonic()
        progress(Progress("search", 0, trials, "checking the task"))
        check_recipes(_some_recipes(space), self.task)
        first = starting_points(prior, space, drop=asked.goals.max_quality_drop, task=self.task)
        if sampler != "grid":
            first = training_free_points(space) + first
        shipment = pack(self.task)
        known = {
            "space": space.to_dict(), "question": asked.to_dict(), "seed": seed, "threads": threads,
            "task": shipment.fingerprint, "machine": fingerprint_id(),
        }  # fmt: skip
        name, owner = search_name(self.name, sampler, known), new_owner()
        self._store.set_setting(self.name, "quality_drop", asked.goals.max_quality_drop)
        self._store.set_setting(self.name, SETTING, {"name": name, "question": asked.to_dict()})
        proposer = OptunaSampler(self.storage, name, space, asked, sampler=sampler, seed=seed, owner=owner)
        try:
            proposer.enqueue_first(first)
            proposer.requeue_abandoned(self._at_work)
            new, reused, ended, cancelled = self._loop(
                space, asked, proposer, shipment, stop, trials=trials, threads=threads, prune=prune, policy=policy,
                follow=sampler != "grid" and len(asked.figures) == 1, progress=progress,
            )  # fmt: skip
            history = History(name, asked, proposer.tried())
        finally:
            proposer.close()
        rows = self._rows()
        best = recommend(rows, asked, machine=fingerprint_id())
        nearest = {} if best.met else misses(rows, asked, machine=fingerprint_id())
        told = (row["notes"].get("validation_drop", "") for row in rows if row["baseline"])
        notes = tuple(dict.fromkeys(note for note in told if note.startswith(SEEN)))
        return SearchResult(best, nearest, history, new, reused, ended, cancelled, time.monotonic() - started, notes)

    def _loop(
        self,
        space: Space,
        asked: Objective,
        proposer: OptunaSampler,
        shipment: Shipment,
        stop: CancelToken,
        *,
        trials: int,
        threads: int,
        prune: bool,
        follow: bool,
        policy: WorkerPolicy,
        progress: ProgressCallback,
    ) -> tuple[int, int, str, bool]:
        from workbench.study.plan.shapes import task_shape
        from workbench.study.search.executor import SearchRun, search_plan
        from workbench.study.search.loop import SearchLoop
        from workbench.study.storage.session import RunSession
        from workbench.study.workers.process import OutOfTime

        plan = search_plan(shipment.fingerprint, space.batch_sizes, threads=threads, shape=task_shape(self.task))
        rows = plan.rows(self.task.name, shipment.fingerprint)
        loops: list[SearchLoop] = []

        def relay(event: Progress) -> None:
            loops[0].relay(event)

        def best() -> TrialRow | None:
            found = recommend(self._rows(), asked, machine=fingerprint_id())
            return found.row if found.met else None

        drop = asked.goals.max_quality_drop
        more: dict[str, Any] = {"goals": asked.goals, "prune": prune, "prefix_cache": self.prefix_cache}
        more["policy"] = policy
        with RunSession(self._store, self.name, plan, rows, quality_drop=drop, progress=relay) as ledger:
            cancelled = False
            try:
                with SearchRun(self.task, ledger, shipment, self.files, stop, plan=plan, **more) as runner:
                    loop = SearchLoop(
                        space, asked, proposer, runner, trials=trials, best=best, follow=follow, progress=progress
                    )
                    loops.append(loop)
                    words = loop.work()
            except OutOfTime:
                words = "the time budget was used up"
            except Cancelled:
                words, cancelled = "it was cancelled", True
        return loop.new, loop.reused, words, cancelled

    def _at_work(self, key: str) -> bool:
        """Say whether a living run has this trial."""
        stored = self._store.load(self.name, [key]).get(key)
        return stored is not None and stored.owner is not None and not is_stale(stored.owner, stored.heartbeat)


def stored_question(store: Store, study: str) -> Objective | None:
    """Return what the last search of a study was asked; None where there was none, or a plan was run since."""
    known = _searched(store, study)
    return None if known is None else known[1]


def _searched(store: Store, study: str) -> tuple[str, Objective] | None:
    """Return the name and the question of the last search."""
    known = store.setting(study, SETTING)
    if known is None:
        return None
    where = f"The setting {SETTING!r} of {study!r}"
    return parse_untrusted(
        where, known, lambda found: (str(found["name"]), Objective.from_dict(found["question"])), error=StudyError
    )


def _some_recipes(space: Space) -> list[Recipe]:
    """Return recipes of the first points, which have every kind of step where the space is not a large one."""
    return list(dict.fromkeys(space.at(point).recipe for point in itertools.islice(space.points(), _LOOKED_AT)))
