"""Which modules a step must leave alone."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from workbench.core.errors import ConfigError, did_you_mean


def excluded_names(module: nn.Module, patterns: Sequence[str], *, where: str) -> frozenset[str]:
    """Return the names of modules that ``patterns`` cover: a name covers everything below it, ``*`` and ``?`` match.

    Raises
    ------
    ConfigError
        If a pattern matches nothing, so that a slip of the pen does not go unseen.
    """
    names = [name for name, _ in module.named_modules() if name]
    found: set[str] = set()
    for pattern in patterns:
        roots = [name for name in names if name == pattern or fnmatchcase(name, pattern)]
        if not roots:
            raise ConfigError(
                f"{where}.exclude: no module is called {pattern!r}.{did_you_mean(pattern, names)} "
                f"The model has {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}."
            )
        found.update(name for name in names if any(name == root or name.startswith(f"{root}.") for root in roots))
    return frozenset(found)
