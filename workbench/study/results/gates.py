"""Conditions on the recommended row, such as ``speedup<3``: what a model's own CI fails on."""

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
    """A condition on a column of the recommended row; where it holds, the check fails.

    Examples
    --------
    >>> gate = Gate.parse("speedup < 3")
    >>> gate.failure({"speedup": 2.5, "notes": {}})
    'speedup is 2.5, and speedup<3 fails'
    >>> gate.failure({"speedup": 4.0, "notes": {}}) is None
    True
    """

    column: str
    compare: str
    limit: float

    @classmethod
    def parse(cls, text: str) -> QualityGate:
        """Read ``COLUMN<NUMBER``, with one of < <= > >=.

        Raises
        ------
        ConfigError
            If it has another form, the column is not one of numbers, or the limit is none.
        """
        found = _FORM.fullmatch(text)
        if found is None:
            raise ConfigError(f"A condition is COLUMN<NUMBER with one of < <= > >=, such as 'speedup<3'; got {text!r}.")
        column, compare, limit = found.groups()
        if column not in NUMERIC:
            raise ConfigError(f"{text!r}: {unknown_name('numeric column', column, NUMERIC)}")
        try:
            value = float(limit)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ConfigError(f"{text!r}: {limit!r} is no number.")
        return cls(column, compare, value)

    def failure(self, row: Mapping[str, Any]) -> str | None:
        """Return why a row fails, None where it does not; a column that was not measured fails, with its reason."""
        value = row.get(self.column)
        if value is None:
            why = (row.get("notes") or {}).get(self.column) or "it was not measured"
            return f"{self.column} is not known, so {self} cannot be ruled out: {why}"
        if _COMPARE[self.compare](float(value), self.limit):
            return f"{self.column} is {value:.4g}, and {self} fails"
        return None

    def __str__(self) -> str:
        return f"{self.column}{self.compare}{self.limit:g}"


def failures(best: Recommendation, gates: Iterable[QualityGate]) -> list[str]:
    """Return why a study fails its conditions, a sentence each; where nothing met the goal, that alone."""
    conditions = list(gates)
    if not conditions:
        return []
    if best.row is None or not best.met:
        return [best.reason]
    name = f"{best.row['recipe']} on {row_engine(best.row)}"
    found = [gate.failure(best.row) for gate in conditions]
    return [f"{name}: {words}." for words in found if words is not None]
