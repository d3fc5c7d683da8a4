"""Which modules a step must leave alone."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from workbench.core.errors import ConfigError, did_you_mean


def excluded_names(module: nn.Module, patterns: Sequence[str], *, where: str) -> frozenset[str]:
    """Return the names of modules that ``patterns`` cover, and of everything below them.

    A pattern is a module's name, with ``*`` and ``?`` as in file names, or a type of layer, as ``"LayerNorm"``.

    Raises
    ------
    ConfigError
        If a pattern matches nothing, so that a slip of the pen does not go unseen.
    """
    kinds = {name: type(layer).__name__ for name, layer in module.named_modules() if name}
    names = list(kinds)
    found: set[str] = set()
    for pattern in patterns:
        roots = [name for name in names if pattern == kinds[name] or matches(name, pattern)]
        if not roots:
            raise no_match(f"{where}.exclude: no module or type of layer is called", pattern, names)
        found.update(name for name in names if any(name == root or name.startswith(f"{root}.") for root in roots))
    return frozenset(found)


def matches(name: str, pattern: str) -> bool:
    """Return whether a module's name is the pattern, or matches it with ``*`` and ``?`` as in file names."""
    return name == pattern or fnmatchcase(name, pattern)


def no_match(words: str, pattern: str, names: Sequence[str]) -> ConfigError:
    """Return the error for a pattern that matches none of ``names``."""
    shown = f"{', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
    return ConfigError(f"{words} {pattern!r}.{did_you_mean(pattern, names)} The model has {shown}.")
