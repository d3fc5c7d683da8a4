"""Quality gates: conditions on the recommended row, such as ``speedup<3``, that fail a CI job."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from workbench.core.errors import ConfigError, unknown_name
from workbench.study.results.ranking import Recommendation
from workbench.study.results.schema import NUMERIC, row_engine

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_FORM = re.compile(r"\s*(\w+)\s*(<=|>=|<|>)\s*(\S+)\s*")


@dataclass(frozen=True)
class QualityGate:
    """A condition on a column of the recommended row; the gate fails if it holds.

    Examples
    --------
    >>> gate = Gate.parse("speedup < 3")
    >>> gate.failure({"speedup": 2.5, "notes": {}})
    'speedup is 2.5, so speedup<3 holds'
    >>> gate.failure({"speedup": 4.0, "notes": {}}) is None
    True
    """

    column: str
    compare: str
    limit: float

    @classmethod
    def parse(cls, text: str) -> QualityGate:
        """Read ``COLUMN<NUMBER``, with one of < <= > >=; ConfigError if it has another form or no numeric column."""
        match = _FORM.fullmatch(text)
        if match is None:
            raise ConfigError(f"A gate must be COLUMN<NUMBER with one of < <= > >=, such as 'speedup<3', got {text!r}.")
        column, compare, limit = match.groups()
        if column not in NUMERIC:
            raise ConfigError(f"{text!r}: {unknown_name('numeric column', column, NUMERIC)}")
        try:
            value = float(limit)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ConfigError(f"{text!r}: {limit!r} is not a number.")
        return cls(column, compare, value)

    def failure(self, row: Mapping[str, Any]) -> str | None:
        """Return why a row fails, or None. A column that was not measured fails, with its reason."""
        value = row.get(self.column)
        if value is None:
            why = (row.get("notes") or {}).get(self.column) or "no reason given"
            return f"{self.column} was not measured ({why}), so {self} may hold"
        if _COMPARE[self.compare](float(value), self.limit):
            return f"{self.column} is {value:.4g}, so {self} holds"
        return None

    def __str__(self) -> str:
        return f"{self.column}{self.compare}{self.limit:g}"


def failures(best: Recommendation, gates: Iterable[QualityGate]) -> list[str]:
    """Return a sentence for each gate that fails; only the recommendation's reason if no row met the goal."""
    gates = list(gates)
    if not gates:
        return []
    if best.row is None or not best.met:
        return [best.reason]
    name = f"{best.row['recipe']} on {row_engine(best.row)}"
    reasons = [gate.failure(best.row) for gate in gates]
    return [f"{name}: {reason}." for reason in reasons if reason is not None]
