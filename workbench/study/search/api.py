"""Run a search of a study, and read the last one."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench.core.checks import given, require_callable
from workbench.core.errors import Cancelled, ConfigError, StudyError
from workbench.core.machine import default_threads, fingerprint_id
from workbench.core.progress import Progress, ProgressCallback
from workbench.core.untrusted import parse_untrusted
from workbench.engine.backends import require_backend
from workbench.study.config import SearchConfig
from workbench.study.plan.recipes import check_recipes
from workbench.study.plan.shapes import shape_words, task_shape
from workbench.study.results.quality_limits import LEAKAGE
from workbench.study.results.schema import TrialRow
from workbench.study.search.executor import SearchRun, search_plan
from workbench.study.search.goals import Goals, Objective, misses, objective_for, recommend
from workbench.study.search.history import History, SearchResult
from workbench.study.search.loop import SearchLoop
from workbench.study.search.sampler import OptunaSampler, load_records, search_name
from workbench.study.search.space import Space
from workbench.study.search.starting_points import starting_points, training_free_points
from workbench.study.storage.database import Store, is_stale, new_owner
from workbench.study.storage.last_run import SEARCH
from workbench.study.storage.session import RunSession
from workbench.study.workers.policy import WorkerPolicy
from workbench.study.workers.prepare_client import PackedTask, pack_task
from workbench.study.workers.process import CancelToken, OutOfTime

if TYPE_CHECKING:
    from workbench.compress.sensitivity import Sensitivity
    from workbench.study.study import Study

_CHECKED_POINTS = 50


class SearchRequest(NamedTuple):
    """The arguments of :meth:`Study.search` beyond its config."""

    space: Space
    goals: Goals | None
    minimize: str | Sequence[str] | None
    maximize: str | Sequence[str] | None
    prior: Sensitivity | Sequence[Sensitivity] | None


def search_study(
    study: Study, request: SearchRequest, config: SearchConfig, stop: CancelToken, progress: ProgressCallback
) -> SearchResult:
    """Search a space of recipes, engines and batch sizes; see :meth:`Study.search`."""
    started = time.monotonic()
    require_callable("search: progress", progress, takes="each Progress report")
    space = _checked_space(request.space, config)
    shape = shape_words(task_shape(study.task))
    objective = objective_for(request.goals, request.minimize, request.maximize, space.batch_sizes, shape=shape)
    if len(objective.figures) > 1 and config.sampler == "grid":
        raise ConfigError("search: a grid tries every point, so it takes one figure only.")
    progress(Progress("search", 0, config.trials, "checking the task"))
    some = itertools.islice(space.points(), _CHECKED_POINTS)  # every kind of step, unless the space is large
    check_recipes(list(dict.fromkeys(space.at(point).recipe for point in some)), study.task)
    first = starting_points(request.prior, space, drop=objective.goals.max_quality_drop, task=study.task)
    if config.sampler != "grid":
        first = training_free_points(space) + first
    packed = pack_task(study.task)
    threads = config.threads or default_threads()
    identity = {
        "space": space.to_dict(), "question": objective.to_dict(), "seed": config.seed, "threads": threads,
        "task": packed.fingerprint, "machine": fingerprint_id(),
    }  # fmt: skip
    name, owner = search_name(study.name, config.sampler, identity), new_owner()
    study._store.set_setting(study.name, "quality_drop", objective.goals.max_quality_drop)
    study._store.set_setting(study.name, SEARCH, {"name": name, "question": objective.to_dict()})
    sampler = OptunaSampler(
        study.storage, name, space, objective, sampler=config.sampler, seed=config.seed, owner=owner
    )
    try:
        sampler.enqueue_first(first)
        sampler.requeue_abandoned(lambda key: _is_claimed(study, key))
        new, reused, ended, cancelled = _loop(study, space, objective, sampler, packed, stop, config, threads, progress)
        history = History(name, objective, sampler.records())
    finally:
        sampler.close()
    rows = study._rows()
    best = recommend(rows, objective, machine=fingerprint_id())
    nearest = {} if best.met else misses(rows, objective, machine=fingerprint_id())
    remarks = (row["notes"].get("validation_drop", "") for row in rows if row["baseline"])
    notes = tuple(dict.fromkeys(note for note in remarks if note.startswith(LEAKAGE)))
    return SearchResult(best, nearest, history, new, reused, ended, cancelled, time.monotonic() - started, notes)


def search_history(study: Study) -> History:
    """Return the points of the last search; see :meth:`Study.search_history`."""
    last = _last_search(study._store, study.name)
    if last is None:
        raise ConfigError(f"The study {study.name!r} holds no search. Start one: study.search(wb.Space(...)).")
    name, objective = last
    return History(name, objective, load_records(study.storage, name))


def stored_question(store: Store, study: str) -> Objective | None:
    """Return the question of the last search, None if there was none or a plan was run after it."""
    last = _last_search(store, study)
    return None if last is None else last[1]


def _checked_space(space: Any, config: SearchConfig) -> Space:
    if not isinstance(space, Space):
        raise ConfigError(f"search: space must be a wb.Space(...), got {given(space)}.")
    continuous = [name for name, domain in space.domains.items() if domain.continuous]
    if config.sampler == "grid" and continuous:
        raise ConfigError(
            f"search: a grid needs a finite space, and {continuous[0]} may be any number of its range. Give it a "
            "step: wb.between(0.1, 0.8, step=0.1)."
        )
    for backend in space.backends:
        require_backend(backend)
    return space


def _loop(
    study: Study,
    space: Space,
    objective: Objective,
    sampler: OptunaSampler,
    packed: PackedTask,
    stop: CancelToken,
    config: SearchConfig,
    threads: int,
    progress: ProgressCallback,
) -> tuple[int, int, str, bool]:
    """Return the numbers of new and reused points, why the search ended, and whether it was cancelled."""
    plan = search_plan(packed.fingerprint, space.batch_sizes, threads=threads, shape=task_shape(study.task))
    rows = plan.rows(study.task.name, packed.fingerprint)
    loops: list[SearchLoop] = []

    def best() -> TrialRow | None:
        leader = recommend(study._rows(), objective, machine=fingerprint_id())
        return leader.row if leader.met else None

    drop, follow = objective.goals.max_quality_drop, config.sampler != "grid" and len(objective.figures) == 1
    with RunSession(
        study._store, study.name, plan, rows, quality_drop=drop, progress=lambda event: loops[0].relay(event)
    ) as session:
        cancelled = False
        try:
            with SearchRun(
                study.task, plan, session, packed, study.files, stop, goals=objective.goals, prune=config.prune,
                prefix_cache=study.prefix_cache, policy=WorkerPolicy(config.stall_timeout_s),
            ) as runner:  # fmt: skip
                loop = SearchLoop(
                    space, objective, sampler, runner, trials=config.trials, best=best, follow=follow, progress=progress
                )
                loops.append(loop)
                words = loop.run()
        except OutOfTime:
            words = "the time budget was used up"
        except Cancelled:
            words, cancelled = "it was cancelled", True
    return loop.new, loop.reused, words, cancelled


def _is_claimed(study: Study, key: str) -> bool:
    """Return whether a living run has claimed a trial."""
    stored = study._store.load(study.name, [key]).get(key)
    return stored is not None and stored.owner is not None and not is_stale(stored.owner, stored.heartbeat)


def _last_search(store: Store, study: str) -> tuple[str, Objective] | None:
    """Return the name and the question of the last search."""
    stored = store.setting(study, SEARCH)
    if stored is None:
        return None
    where = f"The setting {SEARCH!r} of {study!r}"

    def parse(values: dict[str, Any]) -> tuple[str, Objective]:
        return str(values["name"]), Objective.from_dict(values["question"])

    return parse_untrusted(where, stored, parse, error=StudyError)
