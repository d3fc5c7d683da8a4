"""Find the channel ratio that meets a budget of multiply-accumulates, parameters or latency."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from workbench.compress.handlers import Work
from workbench.compress.model_ops import count_macs, count_params
from workbench.compress.prune.verify_cut import Cut, apply_cuts
from workbench.compress.steps import Prune
from workbench.core.errors import ConfigError
from workbench.core.progress import Progress
from workbench.tasks.module import copy_module

_MOST = 0.95
# Tolerance as a share of the first cost, and halvings of the ratio's range: latencies take seconds and are noisy.
_COUNTED = (0.01, 10)
_MEASURED = (0.03, 6)
_FAR = 0.05  # deviation from the budget that is noted


@dataclass
class CostBudget:
    """Cost that a Prune step counts, with its first and last value."""

    step: Prune
    work: Work
    candidates: int = 0
    last: float = 0.0
    first: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        if self.step.of != "channels":
            self.first = self.last = self(self.work.module)

    def __call__(self, module: nn.Module) -> float:
        """Return the cost of ``module``."""
        if self.step.of == "params":
            return count_params(module)
        if self.step.of == "latency" and self.work.cost is not None:
            return self.work.cost_of(module)
        return count_macs(module, self.work.task.examples(2))

    def ratio(self, module: nn.Module, share: float, cuts_at: Callable[[float], list[Cut]]) -> float:
        """Return the smallest channel ratio that leaves ``1 - share`` of the first cost; ConfigError if none does."""
        step, budget = self.step, (1 - share) * self.first
        close, halvings = _MEASURED if step.of == "latency" else _COUNTED
        costs: dict[tuple[tuple[str, int], ...], float] = {}

        def cost_at(ratio: float) -> float:
            cuts = cuts_at(ratio)
            key = tuple((cut.root, len(cut.channels)) for cut in cuts)
            if key not in costs:
                trial = copy_module(module)
                apply_cuts(trial, cuts, self.work.task.examples(2))
                costs[key] = self(trial.eval())
                self.candidates += 1
                self.work.progress(Progress("prune", len(costs), 0, f"{step.of}: {costs[key] / self.first:.0%} left"))
            return costs[key]

        low, high = 0.0, _MOST
        self.last = cost_at(_MOST)
        if self.last > budget + close * self.first:
            raise ConfigError(
                f"Prune(ratio={step.ratio:g}, of={step.of!r}) cannot be met: with {_MOST:.0%} of the channels pruned, "
                f"{self.last / self.first:.0%} of the {step.of} is left. Use a smaller ratio or round_to."
            )
        for _ in range(halvings):
            middle = (low + high) / 2
            cost = cost_at(middle)
            if cost > budget:
                low = middle
                continue
            high, self.last = middle, cost
            if cost >= budget - close * self.first:
                break
        return high

    def notes(self) -> tuple[str, ...]:
        """Return notes on a measured or missed budget."""
        step = self.step
        if step.of == "channels":
            return ()
        if step.of != "latency":
            left, target = self.last / self.first, 1 - step.ratio
            if abs(left - target) <= _FAR:
                return ()
            return (
                f"{left:.0%} of the {step.of} are left instead of {target:.0%}: widths are multiples of "
                f"round_to={step.round_to}, and some layers cannot be cut. A smaller round_to may come closer.",
            )
        return (
            f"Latency on {step.engine} at batch {step.engine_batch}: {self.last:.4g} of {self.first:.4g} as measured "
            f"({self.last / self.first:.0%} left, target {1 - step.ratio:.0%}), {self.candidates} candidates tried.",
        )
