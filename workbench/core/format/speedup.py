"""The text of a speedup: one form for headlines, tables, charts, logs and the panel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

WIDE = 1.5
"""An interval that spans more than this factor supports a bound only, not a point estimate."""
_DECIMALS = 3

Kind = Literal[
    "faster", "at least", "slower", "at most", "same", "undecided", "no interval", "baseline", "not measured"
]


@dataclass(frozen=True)
class SpeedupText:
    """The text of a speedup and its 95 % CI.

    Attributes
    ----------
    kind : str
        What the interval supports: a point estimate (``faster``, ``slower``), a bound (``at least``, ``at most``),
        ``same``, ``undecided``, ``no interval``, ``baseline`` or ``not measured``.
    figure : str
        The figure alone, for a table's cell: ``"4.2x"``, ``"at least 3.9x"``, ``"not decided"``.
    interval : str
        The 95 % CI, ``"3.9-4.5"``; empty if there is none.
    """

    kind: Kind
    figure: str
    interval: str = ""

    @property
    def brief(self) -> str:
        """The text without the 95 % CI, for a place where the interval is drawn or stands in a column of its own."""
        return self._claim("", "the baseline")

    def over(self, name: str) -> str:
        """Return the text with the name of the baseline.

        Examples
        --------
        >>> speedup_text(4.2, 3.9, 4.5, "faster").over("torch-eager")
        '4.2x speedup over torch-eager (95 % CI 3.9-4.5)'
        """
        return f"{self._claim(f' over {name}', name)}{self._certainty()}{self._slower(name)}"

    def __str__(self) -> str:
        return f"{self.brief}{self._certainty()}{self._slower('the baseline')}"

    def _claim(self, over: str, name: str) -> str:
        fixed = {
            "not measured": f"speedup{over} not measured",
            "baseline": "the baseline",
            "undecided": f"speedup{over} not decided",
            "same": f"same speed as {name}",
        }
        return fixed.get(self.kind, f"{self.figure} speedup{over}")

    def _certainty(self) -> str:
        if self.kind == "no interval":
            return " (no 95 % CI)"
        return f" (95 % CI {self.interval})" if self.interval else ""

    def _slower(self, name: str) -> str:
        return f", slower than {name}" if self.kind in ("slower", "at most") else ""


def speedup_text(ratio: float | None, low: float | None, high: float | None, verdict: str | None = None) -> SpeedupText:
    """Return the text of a speedup, with no more digits and no stronger claim than its 95 % CI supports.

    Parameters
    ----------
    ratio, low, high : float or None
        Baseline latency over this latency with its 95 % CI.
    verdict : str, optional
        The verdict of :func:`workbench.core.stats.verdict`. Without one, the interval decides.

    Examples
    --------
    >>> str(speedup_text(4.2, 3.9, 4.5, "faster"))
    '4.2x speedup (95 % CI 3.9-4.5)'
    >>> str(speedup_text(5.0, 3.9, 8.1, "faster"))
    'at least 3.9x speedup (95 % CI 3.9-8.1)'
    >>> str(speedup_text(1.1, 0.9, 1.3, "undecided"))
    'speedup not decided (95 % CI 0.9-1.3)'
    """
    if ratio is None or ratio != ratio:
        return SpeedupText("not measured", "–")
    if low is None or high is None or low != low or high != high:
        if verdict == "undecided":
            return SpeedupText("undecided", "not decided")
        return SpeedupText("no interval", f"{ratio:.2g}x" if ratio < 10 else f"{ratio:.0f}x")
    return _with_interval(ratio, low, high, verdict)


def row_speedup(row: Mapping[str, Any]) -> SpeedupText:
    """Return the text of a row's speedup."""
    if row.get("baseline"):
        return SpeedupText("baseline", "1x")
    return speedup_text(*(row.get(name) for name in ("speedup", "speedup_low", "speedup_high", "verdict")))


def _with_interval(ratio: float, low: float, high: float, verdict: str | None) -> SpeedupText:
    decimals = _decimals(low, high)
    first, last = f"{low:.{decimals}f}", f"{high:.{decimals}f}"
    interval = f"{first}-{last}"
    if verdict == "same":
        return SpeedupText("same", f"{ratio:.{decimals}f}x", interval)
    if verdict == "undecided" or low <= 1 <= high:
        return SpeedupText("undecided", "not decided", interval)
    if high > WIDE * low:
        bound = SpeedupText("at least", f"at least {first}x", interval)
        return bound if low > 1 else SpeedupText("at most", f"at most {last}x", interval)
    return SpeedupText("faster" if low > 1 else "slower", f"{ratio:.{decimals}f}x", interval)


def _decimals(low: float, high: float) -> int:
    """Return the fewest decimals that resolve the interval to a quarter of its width, and show its side of 1."""
    least = 1 if low < 10 else 0
    fine = [d for d in range(least, _DECIMALS) if 10.0**-d <= (high - low) / 4 + 1e-12]
    decimals = fine[0] if fine else _DECIMALS - 1
    while decimals < _DECIMALS and not _shows_side(low, high, decimals):
        decimals += 1
    return decimals


def _shows_side(low: float, high: float, decimals: int) -> bool:
    shown = round(low, decimals), round(high, decimals)
    return (shown[0] > 1) == (low > 1) and (shown[1] < 1) == (high < 1)
