"""A world with a clock of its own, in which every action costs and gives what a test says."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import pytest

from workbench.study.strategy.decision_log import DecisionLog
from workbench.study.strategy.interface import PlanRequest, ProbeResult, TrialResult
from workbench.study.strategy.strategy import Strategy
from workbench.study.workers.process import OutOfTime

LOADING_S, EXPORT_S, TIMING_S, OTHER_S, FINALS_S = 8.0, 4.0, 4.0, 3.0, 14.0


class Memory:
    """Settings in a dict."""

    def __init__(self):
        self.values = {}

    def setting(self, study, name):
        return self.values.get(name)

    def set_setting(self, study, name, value):
        self.values[name] = value


@dataclass
class World:
    """Does what the strategy asks for. ``scale`` multiplies the seconds, and ``slow`` those of preparations.

    ``int8`` holds (speedup over float on the engine, drop); ``speeds`` the float model's speedup on each engine.
    ``recovers`` is the drop that a training leaves of the loss of a share; blocks and channels gain by ``gains``.
    """

    budget_s: float
    speeds: dict = dataclasses.field(default_factory=lambda: {"torch-eager": 1.0, "onnxruntime": 2.0, "openvino": 2.2})
    int8: tuple = (2.0, 0.001)
    blocks: int = 27
    scale: float = 1.0
    slow: float = 1.0
    loss: tuple = (0.01, 0.37, 3.5)
    width_loss: tuple = (0.011, 0.3, 2.4)
    gains: dict = dataclasses.field(default_factory=lambda: {"depth": 1.0, "width": 0.05, "rank": 0.0})
    trains: bool = True
    epoch_s: float = 18.0
    now: float = 0.0
    fails: set = dataclasses.field(default_factory=set)

    def __post_init__(self):
        self.rows, self.log, self.said, self.kept, self.points = {}, [], [], set(), set()
        self.trained_s = 0.0

    # what the strategy asks for

    def remaining(self):
        return self.budget_s - self.now

    def notify(self, message):
        self.said.append(message)

    def measure(self, recipe, backends, *, limit_s, survey="", judged=True, watch=None):
        found, open_ones = [], [b for b in backends if (recipe.recipe_id, b) not in self.rows]
        if open_ones:
            state, reason = self._prepare(recipe, limit_s, watch)
            for backend in open_ones:
                if state == "complete":
                    self._spend(TIMING_S / 2)
                    self.rows[recipe.recipe_id, backend] = self._row(recipe, backend, judged)
                    self.log.append((self.now, recipe.name, backend, bool(survey), judged))
                else:
                    self.rows_state = state
                    found.append(TrialResult(recipe, backend, state, reason=reason))
        found += [self.rows[recipe.recipe_id, b] for b in backends if (recipe.recipe_id, b) in self.rows]
        return found

    def probe(self, recipes, *, engine, limit_s, watch=None):
        found, end = [], self.now + limit_s
        for recipe in recipes:
            state, reason = self._prepare(recipe, end - self.now, watch)
            if state == "waiting":
                break
            if state != "complete":
                found.append(ProbeResult(error=reason))
                continue
            self._spend(0.5)
            ratio = None
            if engine is not None:
                ratio = self._speed(recipe, engine) / self._speed(recipes[0], engine)
            taken = {name: share for name, share in self._shares(recipe).items() if share}
            share = next(iter(taken.values()), 0.0)
            drop = self._drop(recipe, trained=self._training(recipe) > 0)
            found.append(
                ProbeResult(
                    ratio, drop, 0.9 - drop, 1 - share, 1 - share, self.blocks, round(share * self.blocks), 3.0,
                    self.epoch_s if self._training(recipe) or recipe is recipes[0] else None,
                )
            )  # fmt: skip
        return found

    def finals(self):
        self._spend(FINALS_S)
        self.finals_at = self.now

    def others(self, recipes, *, limit_s):
        for recipe in recipes:
            if self.remaining() > OTHER_S:
                self._spend(OTHER_S)
                self.points.add(recipe.recipe_id)

    def best(self, limit=0.01):
        within = [row for row in self.rows.values() if row.within(limit)]
        return max(within, key=lambda row: row.speedup).recipe.recipe_id if within else None

    def front(self):
        return list({row.recipe.recipe_id: row.recipe for row in self.rows.values() if row.drop is not None}.values())

    # how it goes

    def _spend(self, seconds):
        self.now += seconds * self.scale
        if self.now > self.budget_s:
            self.now = self.budget_s
            raise OutOfTime("The budget is used up.")

    def _prepare(self, recipe, limit_s, watch):
        if any(type(step).__name__ in self.fails for step in recipe.steps):
            self._spend(EXPORT_S)
            return "failed", "It cannot be prepared."
        prefixes = [prefix.recipe_id for prefix in recipe.prefixes()]
        new = [step for step, prefix in zip(recipe.steps, prefixes, strict=True) if prefix not in self.kept]
        training = sum(self._seconds(step) for step in new)
        seconds = (EXPORT_S + training) * self.slow
        if watch is not None and training:
            final = 0.9 - self._drop(recipe, trained=self.trains)
            start = 0.9 - self._drop(recipe, trained=False)
            for share in (0.25, 0.5, 0.75):
                if reason := watch(share, final + (start - final) * math.exp(-6 * share)):
                    self._spend(min(seconds * share, limit_s))
                    return "pruned", reason
        if seconds > limit_s + 1e-9:
            self._spend(max(0.0, limit_s))
            return "waiting", "It took longer than it may."
        self._spend(seconds)
        self.trained_s += training
        self.kept |= set(prefixes)
        return "complete", ""

    def _seconds(self, step):
        limit = getattr(step, "max_seconds", None)
        if limit is None:
            return 0.0
        epochs = getattr(step, "epochs", 0) or getattr(step, "qat_epochs", 0)
        return min(limit, epochs * self.epoch_s)

    def _training(self, recipe):
        return sum(self._seconds(step) for step in recipe.steps)

    def _shares(self, recipe):
        shares = {"depth": 0.0, "width": 0.0, "rank": 0.0}
        for step in recipe.steps:
            kind = type(step).__name__
            if kind == "PruneDepth":
                blocks = step.blocks or max(1, round(step.ratio * self.blocks))
                shares["depth"] += blocks / self.blocks
            elif kind == "Prune":
                shares["width"] = 1 - (1 - shares["width"]) * (1 - step.ratio)
            elif kind == "Factorize":
                shares["rank"] = 0.35
        return shares

    def _drop(self, recipe, *, trained):
        shares = self._shares(recipe)
        depth, width = self.loss, self.width_loss
        lost = depth[0] * (shares["depth"] / depth[1]) ** depth[2] + width[0] * (shares["width"] / width[1]) ** width[2]
        lost += 0.05 * shares["rank"]
        if any(type(step).__name__ == "Quantize" for step in recipe.steps):
            mended = any(getattr(step, "keep_drop", None) or getattr(step, "qat_epochs", 0) for step in recipe.steps)
            lost += min(self.int8[1], 0.002) if mended else self.int8[1]
        broken = sum(shares.values()) > 0 and not (trained and self.trains)
        return lost + (0.3 * sum(shares.values()) if broken else 0.0)

    def _speed(self, recipe, engine):
        shares = self._shares(recipe)
        saved = sum(self.gains[name] * share for name, share in shares.items())
        int8 = any(type(step).__name__ == "Quantize" for step in recipe.steps)
        factor = (0.4 if engine == "torch-eager" else self.int8[0]) if int8 else 1.0
        return self.speeds[engine] * factor / (1 - min(saved, 0.9))

    def _row(self, recipe, backend, judged):
        drop = self._drop(recipe, trained=self._training(recipe) > 0)
        last = type(recipe.steps[-1]).__name__ if recipe.steps else ""
        return TrialResult(
            recipe, backend, "complete", self._speed(recipe, backend), drop if judged else None, quality=0.9 - drop,
            validation=0.9 - drop, validation_drop=drop, quantize_loss=self.int8[1] if last == "Quantize" else None,
            epoch_s=self.epoch_s if self._training(recipe) else None,
        )  # fmt: skip


@dataclass
class Played:
    """A plan that was carried out in a world."""

    world: World
    record: DecisionLog
    ended: bool

    @property
    def best(self):
        """The fastest row within the limit."""
        within = [row for row in self.world.rows.values() if row.within(0.01)]
        return max(within, key=lambda row: row.speedup)

    @property
    def over_int8(self):
        """The speedup of the best row over the best of int8 alone and float."""
        free = [r for r in self.world.rows.values() if r.recipe.name in ("float", "quantize") and r.within(0.01)]
        return self.best.speedup / max(row.speedup for row in free)

    def decided(self, outcome):
        """Return the subjects of one outcome."""
        return [decision.subject for decision in self.record.decisions if decision.outcome == outcome]


@pytest.fixture
def play():
    """Return a function that carries a plan out in a world: the same settings and world may be given again."""

    def played(world, *, train=3370, memory=None, points=3, backends=None, limit=0.01):
        question = PlanRequest(
            limit=limit, budget_s=world.budget_s, backends=tuple(backends or world.speeds), train_samples=train,
            validation_samples=374, points=points,
        )  # fmt: skip
        record = DecisionLog(memory or Memory(), "a study", {"question": 1})
        ended = True
        try:
            Strategy(question, world, record).run()
            record.end(["a trial"])
        except OutOfTime:
            ended = False
        assert world.now <= world.budget_s + 1e-6 and math.isfinite(world.now)
        return Played(world, record, ended)

    return played


@pytest.fixture
def world():
    """Return the class of worlds."""
    return World


@pytest.fixture
def memory():
    """Return empty settings."""
    return Memory()
