"""Optuna as the search sees it: it proposes by ask and tell, and keeps its tables in the study's own database."""

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
from workbench.study.storage.database import advice, is_stale
from workbench.study.storage.url import parse_url, tune_sqlite

if TYPE_CHECKING:
    import optuna

_STARTUP = 10
_POPULATION = 16
_TIMEOUT_S = 30
_MARK = "interrupted"


@dataclass
class PendingTrial:
    """A point that Optuna proposed; ``proposal`` is None where it cannot work, and ``error`` says why."""

    trial: optuna.Trial
    proposal: Proposal | None
    error: str | None = None
    told: bool = False

    @property
    def number(self) -> int:
        """Its number in Optuna's study."""
        return self.trial.number


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna from writing lines of its own, put its loudness back afterwards, and say in words what it raises."""
    import optuna

    loudness = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    except optuna.exceptions.StorageInternalError as error:
        cause = first_line(error.__cause__ or error)
        raise StudyError(f"Optuna's tables in the storage cannot be used: {cause}. {advice(cause)}") from error
    finally:
        optuna.logging.set_verbosity(loudness)


@contextlib.contextmanager
def _unless_ended() -> Iterator[None]:
    """Leave a point as it is that another process has ended meanwhile: it took this search for one that is gone."""
    import optuna

    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
        yield


class OptunaSampler:
    """One study of Optuna: it is opened again where it is there already.

    Parameters
    ----------
    storage : str
        URL of the study's database. Optuna's tables are called ``trials``, ``studies`` and so on, ours ``workbench_*``.
    name : str
        Of Optuna's study.
    sampler : str
        ``"tpe"``, ``"random"``, ``"grid"`` or ``"nsga2"``.
    owner : str
        Who asks, see :func:`workbench.study.storage.database.new_owner`: points of one that is gone are proposed again.
    """

    def __init__(
        self, storage: str, name: str, space: Space, question: Objective, *, sampler: str, seed: int, owner: str
    ) -> None:
        with optional_import("Study.search"):
            import optuna
        self._space, self._question, self._owner = space, question, owner
        with quiet():
            self._storage = _database(storage)
            self._study = optuna.create_study(
                storage=self._storage, study_name=name, directions=question.directions, load_if_exists=True
            )
            known = len(self._study.get_trials(deepcopy=False))
            # a sampler that starts anew with one seed would propose the same again
            self._study.sampler = _sampler(sampler, seed + known)
            if not known:
                self._study.set_metric_names(list(question.figures))
                for key, value in (("space", repr(space)), ("goals", question.goals.words()), ("sampler", sampler)):
                    self._study.set_user_attr(key, value)
        self._earlier_s = max((one.elapsed_s for one in self.tried()), default=0.0)
        self._started = time.monotonic()

    def ask(self) -> PendingTrial:
        """Return the next point."""
        with quiet():
            trial = self._study.ask()
            trial.set_user_attr("owner", self._owner)
            try:
                return PendingTrial(trial, self._space.propose(lambda name, domain: _suggest(trial, name, domain)))
            except (ConfigError, RecipeError) as error:
                return PendingTrial(trial, None, str(error))

    def tell(
        self,
        asked: PendingTrial,
        state: str,
        *,
        values: Sequence[float] | None = None,
        excess: Mapping[str, float] | None = None,
        row: Mapping[str, Any] | None = None,
        reason: str | None = None,
        reused: bool = False,
    ) -> None:
        """Say how a point ended; ``row`` holds the columns worth showing beside it."""
        from optuna.trial import TrialState

        states = {COMPLETE: TrialState.COMPLETE, PRUNED: TrialState.PRUNED, FAILED: TrialState.FAIL}
        asked.told = True
        with quiet(), _unless_ended():
            ending = {"reason": reason, "reused": reused, "elapsed_s": self._elapsed_s()}
            asked.trial.set_user_attr("row", dict(row or {}))
            asked.trial.set_user_attr("ending", ending)
            for goal, beyond in (excess or {}).items():
                asked.trial.set_constraint(goal, beyond)
            self._study.tell(asked.trial, None if values is None else list(values), state=states[state])

    def name(self, asked: PendingTrial, trial_key: str) -> None:
        """Note which trial a point is, before work on it begins."""
        with quiet():
            asked.trial.set_user_attr("trial_key", trial_key)

    def requeue(self, asked: PendingTrial) -> None:
        """Have a point proposed again that was interrupted, unless it was told how it ended."""
        if asked.told:
            return
        with quiet():
            self._again(asked.trial.number, asked.trial._trial_id, asked.trial.params)

    def drop(self, asked: PendingTrial, reason: str) -> None:
        """End a point that was not begun; unlike one that is put back it is not proposed again."""
        from optuna.trial import TrialState

        with quiet():
            asked.trial.set_user_attr("ending", {"reason": reason, "reused": False, "elapsed_s": self._elapsed_s()})
            asked.trial.set_user_attr(_MARK, True)
            self._study.tell(asked.trial, state=TrialState.FAIL)
        asked.told = True

    def requeue_abandoned(self, at_work: Callable[[str], bool]) -> int:
        """Have points proposed again whose search was killed; ``at_work`` says of a trial key whether a run has it."""
        from optuna.trial import TrialState

        count = 0
        with quiet():
            for trial in self._study.get_trials(states=(TrialState.RUNNING,)):
                key, owner = trial.user_attrs.get("trial_key"), trial.user_attrs.get("owner")
                gone = owner is not None and is_stale(owner, time.time())
                young = trial.datetime_start is not None and time.time() - trial.datetime_start.timestamp() < _TIMEOUT_S
                if gone or not (young or (key is not None and at_work(key))):
                    self._again(trial.number, trial._trial_id, trial.params)
                    count += 1
        return count

    def enqueue_first(self, params: Sequence[Mapping[str, Any]]) -> None:
        """Propose these first, where nothing was proposed yet; what they leave open the sampler chooses."""
        with quiet():
            if not self._study.get_trials(deepcopy=False):
                for one in params:
                    self._study.enqueue_trial(dict(one))

    def propose(self, params: Mapping[str, Any]) -> None:
        """Have this point proposed next."""
        with quiet():
            self._study.enqueue_trial(dict(params))

    def tried(self) -> tuple[TrialRecord, ...]:
        """Return what was proposed and has ended."""
        with quiet():
            trials = self._study.get_trials(deepcopy=False)
        return tuple(_tried(trial) for trial in trials if trial.state.is_finished())

    def close(self) -> None:
        """Close the connections."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    def _elapsed_s(self) -> float:
        return round(self._earlier_s + time.monotonic() - self._started, 3)

    def _again(self, number: int, trial_id: int, params: dict[str, Any]) -> None:
        from optuna.trial import TrialState

        # in this order a kill in between proposes it twice, which costs nothing, and never loses it
        self._study.enqueue_trial(params)
        with _unless_ended():
            self._storage.set_trial_user_attr(trial_id, _MARK, True)
            self._study.tell(number, state=TrialState.FAIL)


def load_records(storage: str, name: str) -> tuple[TrialRecord, ...]:
    """Return what a search of this name has tried."""
    with optional_import("Study.search_history"):
        import optuna

    with quiet():
        database = _database(storage)
        try:
            study = optuna.load_study(study_name=name, storage=database)
            return tuple(_tried(trial) for trial in study.get_trials() if trial.state.is_finished())
        finally:
            database.remove_session()
            database.engine.dispose()


def _tried(trial: Any) -> TrialRecord:
    told = trial.user_attrs
    row, ending = told.get("row", {}), told.get("ending", {})
    failed = INTERRUPTED if told.get(_MARK) else FAILED
    return TrialRecord(
        number=trial.number,
        state={"COMPLETE": COMPLETE, "PRUNED": PRUNED, "FAIL": failed}[trial.state.name],
        trial_key=told.get("trial_key"),
        recipe=row.get("recipe"),
        backend=row.get("backend"),
        batch_size=row.get("batch_size"),
        params=dict(trial.params),
        values=None if trial.values is None else tuple(trial.values),
        validation_drop=row.get("validation_drop"),
        excess={goal: float(beyond) for goal, beyond in trial.constraints.items()},
        reason=ending.get("reason"),
        technique=row.get("technique"),
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
        return samplers.TPESampler(
            seed=seed,
            n_startup_trials=_STARTUP,
            multivariate=True,
            group=True,  # options of a step that is left out are not there: each group of options is modelled apart
        )
    if name == "nsga2":
        return samplers.NSGAIISampler(seed=seed, population_size=_POPULATION)
    if name == "random":
        return samplers.RandomSampler(seed=seed)

    class _Grid(samplers.BruteForceSampler):
        """Goes through every point; it knows options that are not there, which GridSampler does not."""

        def after_trial(self, *_: Any) -> None:
            """Leave the end to the search: stopping a study is refused where one asks and tells."""

    return _Grid(seed=seed)


def _database(storage: str) -> optuna.storages.RDBStorage:
    """Open Optuna's tables in the study's database, with the same settings as ours."""
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


def search_name(study: str, sampler: str, known: Mapping[str, Any]) -> str:
    """Return the name of a search in Optuna's tables: equal questions about equal spaces have equal names."""
    return f"{study}: {sampler} {short_id({**known, 'sampler': sampler})}"
