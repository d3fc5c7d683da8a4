"""Verify cuts on a copy: the model without the channels must equal the model with these channels at zero."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from workbench.compress.layer_selection import display_name
from workbench.compress.model_ops import predict_with, removing, require_all_grads, restoring, unfrozen
from workbench.core.errors import first_line
from workbench.tasks.module import copy_module
from workbench.tasks.trees import Tree, call_model, leaves

Tie = tuple[tuple[str, str], ...]
"""Layers that share a parameter, with its name in each: ``(("embed", "weight"), ("head", "weight"))``."""
_TOLERANCE = 1e-3  # relative to the largest output; sums over fewer terms round differently
TIED = "it would break the tied weight"


@dataclass(frozen=True)
class Cut:
    """Output channels of ``root`` to prune, together with those of ``members``.

    ``numbers`` are attributes to set, as ``("encoder.0.attention", "num_heads", 3)``. ``counted`` holds those of a
    forward that counts its heads; they are tried if the cut alone breaks the model.
    """

    root: str
    members: tuple[str, ...]
    channels: tuple[int, ...]
    numbers: tuple[tuple[str, str, int], ...] = ()
    counted: tuple[tuple[str, str, int], ...] = ()


@contextmanager
def tracing() -> Iterator[None]:
    """Enable gradients for torch-pruning's trace and drop its known warnings."""
    with warnings.catch_warnings(), torch.enable_grad():
        # Parameters outside layers (positions, class tokens) are cut along their last dimension, as intended.
        warnings.filterwarnings("ignore", message="Unwrapped parameters detected")
        warnings.filterwarnings("ignore", category=UserWarning, module="torch_pruning")
        yield


def dependency_graph(module: nn.Module, example: Tree) -> Any:
    """Return torch-pruning's graph of coupled channels."""
    from workbench.compress.prune.dependency_graph import ChannelGraph

    with tracing(), _out_of_place(module):
        return ChannelGraph().build_dependency(
            module, example_inputs=example, forward_fn=call_model, output_transform=leaves
        )


@contextmanager
def _out_of_place(module: nn.Module) -> Iterator[None]:
    """Make activations out-of-place: in-place ones hide the layer before them from the trace."""
    layers: list[Any] = [layer for layer in module.modules() if getattr(layer, "inplace", None) is True]
    with restoring(layers, "inplace"):
        for layer in layers:
            layer.inplace = False
        yield


def apply_cuts(module: nn.Module, cuts: Sequence[Cut], example: Tree) -> None:
    """Remove the channels from ``module`` in place; tied weights stay one tensor."""
    ties = find_ties(module)
    with unfrozen(module):
        graph = dependency_graph(module, example)
        for cut in cuts:
            _pruning_group(graph, module, cut).prune()
            _set_numbers(module, cut)
        restore_ties(module, ties)


def verify_cuts(module: nn.Module, cuts: Sequence[Cut], example: Tree) -> tuple[list[Cut], list[tuple[Cut, str]]]:
    """Return the cuts that pass, and the others with the reason."""
    if not cuts or _failure(module, cuts, example) is None:
        return list(cuts), []
    good: list[Cut] = []
    broken: list[tuple[Cut, str]] = []
    for cut in cuts:
        why = _failure(module, [cut], example)
        if why is not None and cut.counted:
            counted = replace(cut, numbers=cut.counted)
            if _failure(module, [counted], example) is None:
                cut, why = counted, None
        if why is None:
            good.append(cut)
        else:
            broken.append((cut, why))
    if _failure(module, good, example) is None:
        return good, broken
    together: list[Cut] = []
    for cut in good:
        why = _failure(module, [*together, cut], example)
        if why is None:
            together.append(cut)
        else:
            broken.append((cut, f"together with other groups: {why}"))
    return together, broken


def _failure(module: nn.Module, cuts: Sequence[Cut], example: Tree) -> str | None:
    """Return why the model without the channels differs from the model with these channels at zero, or None."""
    if not cuts:
        return None
    trial = copy_module(module)
    ties = find_ties(trial)
    require_all_grads(trial)
    original = _run(trial, example)
    try:
        graph = dependency_graph(trial, example)
        with _silenced(graph, trial, cuts):
            silent = _run(trial, example)
        for cut in cuts:
            group = _pruning_group(graph, trial, cut)
            if not graph.check_pruning_group(group):
                return "nothing would be left of a layer"
            group.prune()
            _set_numbers(trial, cut)
        apart = find_broken_tie(trial, ties)
        if apart is not None:
            return f"{TIED} of {describe_tie(apart)}"
        outputs = _run(trial, example)
    except Exception as error:  # noqa: BLE001 - a forward with a fixed size may raise anything
        return f"the model's forward fails without its channels ({type(error).__name__}: {first_line(error)[:120]})"
    return _difference(original, silent, outputs)


def _difference(
    original: Sequence[torch.Tensor], silent: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]
) -> str | None:
    if [o.shape for o in original] != [o.shape for o in outputs]:
        return "the model's outputs change their shape without its channels"
    if not all(bool(o.isfinite().all()) for o in outputs if o.is_floating_point()):
        return "the model gives NaN or infinity without its channels"
    for want, got in zip(silent, outputs, strict=True):
        if want.is_floating_point() and bool((want - got).abs().max() > _TOLERANCE * want.abs().max() + 1e-6):
            return "a fixed reshape or padding in forward mixes its channels: the outputs would be wrong"
    return None


@contextmanager
def _silenced(graph: Any, module: nn.Module, cuts: Sequence[Cut]) -> Iterator[None]:
    """Set the channels to zero at their producers, and exclude them from group norms, for a block."""
    quiet: dict[nn.GroupNorm, set[int]] = {}
    for cut in cuts:
        for dep, channels in _pruning_group(graph, module, cut):
            _silence(graph, dep, channels)
            if isinstance(dep.target.module, nn.GroupNorm):
                quiet.setdefault(dep.target.module, set()).update(channels)
    with removing(layer.register_forward_hook(_without(channels)) for layer, channels in quiet.items()):
        yield


def _without(channels: set[int]) -> Callable[[nn.GroupNorm, tuple[torch.Tensor], torch.Tensor], torch.Tensor]:
    """Return a hook that normalizes only the other channels, as a pruned group norm does."""

    def normalize(layer: nn.GroupNorm, given: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        kept = torch.tensor([place for place in range(layer.num_channels) if place not in channels])
        weight, bias = (None if p is None else p[kept] for p in (layer.weight, layer.bias))
        silent = torch.zeros_like(output)
        silent[:, kept] = functional.group_norm(given[0][:, kept], layer.num_groups, weight, bias, layer.eps)
        return silent

    return normalize


def _silence(graph: Any, dep: Any, channels: Sequence[int]) -> None:
    layer = dep.target.module
    index = torch.as_tensor(channels)
    if isinstance(layer, nn.Parameter):
        layer.data.index_fill_(dep.target.pruning_dim, index, 0.0)
        return
    if not graph.is_out_channel_pruning_fn(dep.handler) or not isinstance(getattr(layer, "weight", None), nn.Parameter):
        return
    along = 1 if getattr(layer, "transposed", False) or isinstance(layer, nn.Embedding) else 0
    if not isinstance(layer, nn.PReLU):
        layer.weight.data.index_fill_(along, index, 0.0)
    if isinstance(getattr(layer, "bias", None), nn.Parameter):
        layer.bias.data.index_fill_(0, index, 0.0)


def _pruning_group(graph: Any, module: nn.Module, cut: Cut) -> Any:
    root = module.get_submodule(cut.root)
    return graph.get_pruning_group(root, graph.get_pruner_of_module(root).prune_out_channels, list(cut.channels))


def _set_numbers(module: nn.Module, cut: Cut) -> None:
    for path, name, value in cut.numbers:
        setattr(module.get_submodule(path), name, value)


def _run(module: nn.Module, example: Tree) -> list[torch.Tensor]:
    return leaves(predict_with(module, example))


def find_ties(module: nn.Module) -> tuple[Tie, ...]:
    """Return the parameters that several layers hold."""
    owners: dict[int, list[tuple[str, str]]] = {}
    for name, layer in module.named_modules():
        for own, parameter in layer.named_parameters(recurse=False):
            owners.setdefault(id(parameter), []).append((name, own))
    return tuple(tuple(places) for places in owners.values() if len(places) > 1)


def find_broken_tie(module: nn.Module, ties: Sequence[Tie]) -> Tie | None:
    """Return a tie whose parameters were cut differently, or None."""
    return next((tie for tie in ties if not _is_one(module, tie)), None)


def restore_ties(module: nn.Module, ties: Sequence[Tie]) -> None:
    """Make the parameters of every tie one tensor again if they are equal: layer-by-layer cuts separate them."""
    for tie in ties:
        if _is_one(module, tie):
            first = _parameter(module, *tie[0])
            for name, own in tie[1:]:
                setattr(module.get_submodule(name), own, first)


def describe_tie(tie: Tie) -> str:
    """Return the names of the layers of a tie: ``"embed and head"``."""
    return " and ".join(display_name(name) for name, _ in tie)


def _is_one(module: nn.Module, tie: Tie) -> bool:
    first, *others = (_parameter(module, *place) for place in tie)
    return all(other is first or torch.equal(other, first) for other in others)


def _parameter(module: nn.Module, name: str, own: str) -> nn.Parameter:
    return module.get_submodule(name).get_parameter(own)
