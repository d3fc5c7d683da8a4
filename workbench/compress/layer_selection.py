"""Select the modules that a step may change, by name, type or predicate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from workbench.core.errors import ConfigError, TaskError, did_you_mean
from workbench.tasks.load import load_function


def excluded_names(module: nn.Module, patterns: Sequence[str], *, where: str) -> frozenset[str]:
    """Return the names of the modules that ``patterns`` cover, and of everything below them.

    A pattern is a name, with ``*`` and ``?`` as in file names, a type, as ``"LayerNorm"``, or a reference to a
    predicate, ``"file.py:function"``, which is called for every module and covers that one only. A module is covered
    by each of its names, and together with the modules that share a weight with it. A pattern that matches nothing and
    a predicate that fails raise ConfigError.
    """
    return _covered(module, patterns, f"{where}.exclude")


def skip_reasons(module: nn.Module, include: Sequence[str], exclude: Sequence[str], *, where: str) -> dict[str, str]:
    """Return the modules that a step must skip, with the reason; an empty ``include`` means all.

    Patterns and errors are those of :func:`excluded_names`.
    """
    reasons: dict[str, str] = {}
    if include:
        included = _covered(module, include, f"{where}.include")
        reasons = {name: "not among those to include" for name, _ in module.named_modules() if name not in included}
    return reasons | dict.fromkeys(excluded_names(module, exclude, where=where), "excluded by name")


def _covered(module: nn.Module, patterns: Sequence[str], where: str) -> frozenset[str]:
    types = {name: type(layer).__name__ for name, layer in module.named_modules(remove_duplicate=False) if name}
    names = list(types)
    covered: set[str] = set()
    for pattern in patterns:
        if ":" in pattern:
            covered |= _chosen(module, pattern, where)
            continue
        roots = [name for name in names if pattern == types[name] or matches(name, pattern)]
        if not roots:
            raise no_match_error(f"{where}: no module or type of layer is called", pattern, names)
        covered.update(name for name in names if any(name == root or name.startswith(f"{root}.") for root in roots))
    return _with_shared_weights(module, covered)


def values_by_layer(entries: Sequence[str], names: Mapping[str, Sequence[str]], problem: str) -> dict[str, float]:
    """Return the values of entries ``"pattern=value"``, for the keys of ``names`` with a name that matches.

    A pattern that matches nothing raises ConfigError with ``problem``.
    """
    values: dict[str, float] = {}
    for entry in entries:
        pattern, _, value = entry.rpartition("=")
        matched = [key for key, own in names.items() if any(matches(name, pattern) for name in own)]
        if not matched:
            raise no_match_error(problem, pattern, [name for own in names.values() for name in own])
        values |= dict.fromkeys(matched, float(value))
    return values


def display_name(name: str) -> str:
    """Return the name of a module for reports: the model itself has none."""
    return name or "(model)"


def holds_matrix(layer: nn.Module) -> bool:
    """Return whether a layer has a weight of its own with more than one dimension, so that reports list it."""
    return any(weight.ndim > 1 for weight in layer.parameters(recurse=False))


def _with_shared_weights(module: nn.Module, covered: set[str]) -> frozenset[str]:
    layers = list(module.named_modules(remove_duplicate=False))
    selected = {layer for name, layer in layers if name in covered}
    weights = {weight for layer in selected for weight in layer.parameters(recurse=False)}
    return frozenset(
        name
        for name, layer in layers
        if name and (layer in selected or any(weight in weights for weight in layer.parameters(recurse=False)))
    )


def _chosen(module: nn.Module, reference: str, where: str) -> set[str]:
    try:
        predicate = load_function(reference)
    except TaskError as error:
        raise ConfigError(f"{where}: {error}") from error
    chosen = set()
    for name, layer in module.named_modules():
        try:
            answer = predicate(name, layer) if name else False
        except Exception as error:
            raise ConfigError(f"{where}: {reference} failed for {name!r}: {type(error).__name__}: {error}") from error
        if not isinstance(answer, bool):
            raise ConfigError(
                f"{where}: {reference} must return True or False, and returned {answer!r} for {name!r} "
                f"({type(layer).__name__})."
            )
        if answer:
            chosen.add(name)
    if not chosen:
        raise ConfigError(f"{where}: {reference} returned True for no module of the model.")
    return chosen


def matches(name: str, pattern: str) -> bool:
    """Return whether a module's name is the pattern, or matches it with ``*`` and ``?`` as in file names."""
    return name == pattern or fnmatchcase(name, pattern)


def no_match_error(problem: str, pattern: str, names: Sequence[str]) -> ConfigError:
    """Return the error for a pattern that matches none of ``names``."""
    listed = f"{', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
    return ConfigError(f"{problem} {pattern!r}.{did_you_mean(pattern, names)} The model has {listed}.")
