"""Optuna's sampler over a search space, with its tables in the study's database."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from workbench.core.config import short_id
from workbench.core.errors import ConfigError, RecipeError, StudyError, first_line
from workbench.core.lazy import optional_import
from workbench.study.search.domain import Between, Domain
from workbench.study.search.goals import Objective
from workbench.study.search.history import COMPLETE, FAILED, INTERRUPTED, PRUNED, TrialRecord
from workbench.study.search.space import Proposal, Space, meaning
from workbench.study.storage.database import is_stale
from workbench.study.storage.url import advice, parse_url, tune_sqlite

if TYPE_CHECKING:
    import optuna

_STARTUP = 10
_POPULATION = 16
_TIMEOUT_S = 30
_MARK = "interrupted"


@dataclass
class PendingTrial:
    """A proposed point; ``proposal`` is None if it is not valid, with the reason in ``error``."""

    trial: optuna.Trial
    proposal: Proposal | None
    error: str | None = None
    ended: bool = False


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Silence Optuna's log and experimental warnings; raise its storage errors as StudyError."""
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    except optuna.exceptions.StorageInternalError as error:
        cause = first_line(error.__cause__ or error)
        raise StudyError(f"Optuna's tables in the storage cannot be used: {cause}. {advice(cause)}") from error
    finally:
        optuna.logging.set_verbosity(verbosity)


@contextlib.contextmanager
def _unless_ended() -> Iterator[None]:
    """Ignore points that another process has ended, because it took this search for dead."""
    import optuna

    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
        yield


class OptunaSampler:
    """One Optuna study, created or loaded.

    Parameters
    ----------
    storage : str
        URL of the study's database. Optuna's tables are ``trials``, ``studies`` and so on, ours ``workbench_*``.
    name : str
        Name of the Optuna study.
    sampler : str
        ``"tpe"``, ``"random"``, ``"grid"`` or ``"nsga2"``.
    owner : str
        Id of this search, see :func:`workbench.study.storage.database.new_owner`: points of dead searches are requeued.
    """

    def __init__(
        self, storage: str, name: str, space: Space, question: Objective, *, sampler: str, seed: int, owner: str
    ) -> None:
        with optional_import("Study.search"):
            import optuna
        self._space, self._question, self._owner = space, question, owner
        with quiet_optuna():
            self._storage = _database(storage)
            self._study = optuna.create_study(
                storage=self._storage, study_name=name, directions=question.directions, load_if_exists=True
            )
            count = len(self._study.get_trials(deepcopy=False))
            # with the same seed, a restarted sampler would repeat its proposals
            self._study.sampler = _sampler(sampler, seed + count)
            if not count:
                self._study.set_metric_names(list(question.figures))
                for key, value in (("space", repr(space)), ("goals", question.goals.words()), ("sampler", sampler)):
                    self._study.set_user_attr(key, value)
        self._earlier_s = max((one.elapsed_s for one in self.records()), default=0.0)
        self._started = time.monotonic()

    def ask(self) -> PendingTrial:
        """Return the next point."""
        with quiet_optuna():
            trial = self._study.ask()
            trial.set_user_attr("owner", self._owner)
            try:
                return PendingTrial(trial, self._space.propose(lambda name, domain: _suggest(trial, name, domain)))
            except (ConfigError, RecipeError) as error:
                return PendingTrial(trial, None, str(error))

    def tell(
        self,
        pending: PendingTrial,
        state: str,
        *,
        values: Sequence[float] | None = None,
        excess: Mapping[str, float] | None = None,
        row: Mapping[str, Any] | None = None,
        reason: str | None = None,
        reused: bool = False,
    ) -> None:
        """Record the end of a point; ``row`` holds columns to show in Optuna's tables.

        A point with the state ``interrupted`` does not count, and is not proposed again.
        """
        from optuna.trial import TrialState

        states = {COMPLETE: TrialState.COMPLETE, PRUNED: TrialState.PRUNED}
        pending.ended = True
        with quiet_optuna(), _unless_ended():
            elapsed_s = round(self._earlier_s + time.monotonic() - self._started, 3)
            ending = {"reason": reason, "reused": reused, "elapsed_s": elapsed_s}
            pending.trial.set_user_attr("row", dict(row or {}))
            pending.trial.set_user_attr("ending", ending)
            for goal, beyond in (excess or {}).items():
                pending.trial.set_constraint(goal, beyond)
            if state == INTERRUPTED:
                pending.trial.set_user_attr(_MARK, True)
            ended = states.get(state, TrialState.FAIL)
            self._study.tell(pending.trial, None if values is None else list(values), state=ended)

    def set_trial_key(self, pending: PendingTrial, trial_key: str) -> None:
        """Record the trial of a point before its run."""
        with quiet_optuna():
            pending.trial.set_user_attr("trial_key", trial_key)

    def requeue(self, pending: PendingTrial) -> None:
        """Propose an interrupted point again, unless it has ended."""
        if pending.ended:
            return
        with quiet_optuna():
            self._again(pending.trial)

    def requeue_abandoned(self, at_work: Callable[[str], bool]) -> int:
        """Requeue points whose search was killed; ``at_work`` returns True for trial keys claimed by a run."""
        from optuna.trial import TrialState

        count = 0
        with quiet_optuna():
            for trial in self._study.get_trials(states=(TrialState.RUNNING,)):
                key, owner = trial.user_attrs.get("trial_key"), trial.user_attrs.get("owner")
                dead = owner is not None and is_stale(owner, time.time())
                young = trial.datetime_start is not None and time.time() - trial.datetime_start.timestamp() < _TIMEOUT_S
                if dead or not (young or (key is not None and at_work(key))):
                    self._again(trial)
                    count += 1
        return count

    def enqueue_first(self, params: Sequence[Mapping[str, Any]]) -> None:
        """Enqueue parameters in a new study; the sampler chooses the missing ones."""
        with quiet_optuna():
            if not self._study.get_trials(deepcopy=False):
                for one in params:
                    self._study.enqueue_trial(dict(one))

    def enqueue(self, params: Mapping[str, Any]) -> None:
        """Propose this point next."""
        with quiet_optuna():
            self._study.enqueue_trial(dict(params))

    def records(self) -> tuple[TrialRecord, ...]:
        """Return the ended points."""
        with quiet_optuna():
            trials = self._study.get_trials(deepcopy=False)
        return tuple(_record(trial) for trial in trials if trial.state.is_finished())

    def close(self) -> None:
        """Close the connections."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    def _again(self, trial: optuna.Trial | optuna.trial.FrozenTrial) -> None:
        from optuna.trial import TrialState

        # in this order, a kill between both calls repeats the point instead of losing it
        self._study.enqueue_trial(trial.params)
        with _unless_ended():
            self._storage.set_trial_user_attr(trial._trial_id, _MARK, True)
            self._study.tell(trial.number, state=TrialState.FAIL)


def load_records(storage: str, name: str) -> tuple[TrialRecord, ...]:
    """Return the points of a search."""
    with optional_import("Study.search_history"):
        import optuna

    with quiet_optuna():
        database = _database(storage)
        try:
            study = optuna.load_study(study_name=name, storage=database)
            return tuple(_record(trial) for trial in study.get_trials() if trial.state.is_finished())
        finally:
            database.remove_session()
            database.engine.dispose()


def _record(trial: Any) -> TrialRecord:
    attrs = trial.user_attrs
    row, ending = attrs.get("row", {}), attrs.get("ending", {})
    failed = INTERRUPTED if attrs.get(_MARK) else FAILED
    return TrialRecord(
        **{name: row.get(name) for name in ("recipe", "technique", "backend", "batch_size", "validation_drop")},
        number=trial.number,
        state={"COMPLETE": COMPLETE, "PRUNED": PRUNED, "FAIL": failed}[trial.state.name],
        trial_key=attrs.get("trial_key"),
        params=dict(trial.params),
        values=None if trial.values is None else tuple(trial.values),
        excess={goal: float(beyond) for goal, beyond in trial.constraints.items()},
        reason=ending.get("reason"),
        reused=bool(ending.get("reused", False)),
        elapsed_s=float(ending.get("elapsed_s", 0.0)),
    )


def _suggest(trial: optuna.Trial, name: str, domain: Domain) -> Any:
    if not isinstance(domain, Between):
        return meaning(domain, trial.suggest_categorical(name, domain.values()))
    high = domain.values()[-1]  # the last step may end before the end of the range
    if domain.whole:
        return trial.suggest_int(name, int(domain.low), int(high), step=int(domain.step or 1), log=domain.log)
    value = trial.suggest_float(name, domain.low, high, step=domain.step, log=domain.log)
    return value if domain.step is None else domain.nearest(value)  # 0.1 + 2 * 0.1 is not 0.3


def _sampler(name: str, seed: int) -> Any:
    from optuna import samplers

    if name == "tpe":
        # group: each optional step's parameters get their own model
        return samplers.TPESampler(seed=seed, n_startup_trials=_STARTUP, multivariate=True, group=True)
    if name == "nsga2":
        return samplers.NSGAIISampler(seed=seed, population_size=_POPULATION)
    if name == "random":
        return samplers.RandomSampler(seed=seed)

    class _Grid(samplers.BruteForceSampler):
        """Grid over conditional parameters, which GridSampler lacks."""

        def after_trial(self, *_: Any) -> None:
            """Do not stop the study, which fails outside of optimize()."""

    return _Grid(seed=seed)


def _database(storage: str) -> optuna.storages.RDBStorage:
    """Open Optuna's tables in the study's database with the workbench's connection settings."""
    from optuna.storages import RDBStorage

    url = parse_url(storage)
    if url.get_backend_name() != "sqlite":
        return RDBStorage(url.render_as_string(hide_password=False), engine_kwargs={"pool_pre_ping": True})
    url = url.set(database=str(Path(str(url.database)).absolute()))
    wait = {} if "timeout" in url.query else {"timeout": _TIMEOUT_S}
    made = RDBStorage(url.render_as_string(), engine_kwargs={"connect_args": wait})
    sa.event.listen(made.engine, "connect", tune_sqlite)
    made.engine.dispose()  # connections from before the listener
    return made


def search_name(study: str, sampler: str, request: Mapping[str, Any]) -> str:
    """Return the name of a search in Optuna's tables; equal requests have equal names."""
    return f"{study}: {sampler} {short_id({**request, 'sampler': sampler})}"
