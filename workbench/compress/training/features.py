"""Layers inside student and teacher matched with each other: caught by hooks, projected to the same width."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from workbench.compress.graph.feature_map import INPUT, FeatureMap, first_floating, trace_maps
from workbench.compress.layer_selection import no_match_error
from workbench.compress.training.losses import attention_error, feature_error
from workbench.compress.training.numerics import to_float32
from workbench.core.errors import ConfigError
from workbench.tasks.trees import Tree, call_model, leaves

# Layers that treat the last dimension as the channels, and those that treat the one after the batch as such.
_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Embedding, nn.MultiheadAttention, nn.RNNBase)
_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)
_POOLS: dict[int, Callable[..., torch.Tensor]] = {
    1: functional.adaptive_avg_pool1d,
    2: functional.adaptive_avg_pool2d,
    3: functional.adaptive_avg_pool3d,
}


@dataclass(frozen=True)
class Pair:
    """A layer of the student and the layer of the teacher that it learns from.

    ``kind`` is ``"features"``, ``"attention"``, or ``"map"``: tensors of one shape, compared as they are. A name may
    end in ``":input"``: what goes into the layer.
    """

    student: str
    teacher: str
    kind: str


class ActivationTaps:
    """Catches what layers give or read in the last call of a module; an end comes with :meth:`close`."""

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        self.caught: dict[str, torch.Tensor] = {}
        self._hooks = [self._hook(module, name) for name in dict.fromkeys(names)]

    def _hook(self, module: nn.Module, name: str) -> Any:
        layer = module.get_submodule(name.removesuffix(INPUT))
        if not name.endswith(INPUT):
            return layer.register_forward_hook(lambda _, inputs, outputs: self._catch(name, outputs))
        return layer.register_forward_pre_hook(
            lambda _, inputs, named: self._catch(name, (inputs, named)), with_kwargs=True
        )

    def _catch(self, name: str, given: Any) -> None:
        found = leaves(given)
        tensor = first_floating(found)
        if tensor is None and found and isinstance(found[0], torch.Tensor):
            tensor = found[0]
        if tensor is not None:
            self.caught[name] = tensor

    def close(self) -> None:
        """Take the hooks away."""
        for hook in self._hooks:
            hook.remove()


class FeatureMatching:
    """The pairs of layers, with a projection learned beside the student where a pair differs in width.

    A projection is a Linear over the channels, which on images is a 1x1 convolution. It is thrown away with this
    object. Maps of different size are averaged down to the smaller one.

    Parameters
    ----------
    student, teacher
        Hooked until :meth:`close`; also a context manager.
    example
        A batch of inputs; both are run on it once to learn their shapes.
    pairs
        What to match.
    weights
        By kind: ``{"features": 1.0, "attention": 10.0}``.
    seed
        Fixes the projections' first weights.

    Raises
    ------
    ConfigError
        If a layer is not there or not reached, or two layers cannot be matched; with their names and shapes.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        example: Tree,
        pairs: Sequence[Pair],
        *,
        weights: Mapping[str, float],
        seed: int,
    ) -> None:
        self.pairs, self.weights = tuple(pairs), dict(weights)
        self._modules = student, teacher
        for module, role in ((student, "student"), (teacher, "teacher")):
            check_layers(module, [(getattr(pair, role), pair.kind) for pair in pairs], role)
        self._taps = (
            ActivationTaps(student, [pair.student for pair in pairs]),
            ActivationTaps(teacher, [pair.teacher for pair in pairs]),
        )
        self.projections = nn.ModuleList()
        try:
            self._learn_shapes(example, seed)
        except BaseException:
            self.close()
            raise

    def __bool__(self) -> bool:
        return bool(self.pairs)

    def __enter__(self) -> FeatureMatching:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the hooks away."""
        for taps in self._taps:
            taps.close()

    def teacher_maps(self) -> dict[str, torch.Tensor]:
        """Return what the teacher's layers gave in its last call, by name."""
        return {name: to_float32(x) for name, x in self._taps[1].caught.items()}

    def loss(self, teacher_maps: Mapping[str, torch.Tensor] | None = None) -> torch.Tensor:
        """Return the weighted error of the last calls of student and teacher: a mean over the pairs of each kind.

        ``teacher_maps`` stands for the teacher's last call if it did not run: what :meth:`teacher_maps` gave before.
        """
        if teacher_maps is not None:
            self._taps[1].caught = dict(teacher_maps)
        total = torch.zeros(())
        for pair, projection in zip(self.pairs, self.projections, strict=True):
            mine, theirs = self._sides(pair)
            error = attention_error if pair.kind == "attention" else feature_error
            count = sum(other.kind == pair.kind for other in self.pairs)
            total = total + self.weights[pair.kind] / count * error(projection(mine), theirs.detach())
        for taps in self._taps:
            taps.caught.clear()
        return total

    def _learn_shapes(self, example: Tree, seed: int) -> None:
        if not self.pairs:
            return
        with torch.no_grad():
            for module in self._modules:
                call_model(module, example)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for pair in self.pairs:
                mine, theirs = self._sides(pair)
                same = pair.kind != "features" or mine.shape[-1] == theirs.shape[-1]
                self.projections.append(nn.Identity() if same else nn.Linear(mine.shape[-1], theirs.shape[-1]))

    def _sides(self, pair: Pair) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what both layers gave in the last call as ``[n, positions, channels]``."""
        sides, names = [], (pair.student, pair.teacher)
        for module, taps, name in zip(self._modules, self._taps, names, strict=True):
            if name not in taps.caught:
                raise ConfigError(f"Distill.{pair.kind}: the layer {name!r} gives no tensor when the model runs.")
            caught = to_float32(taps.caught[name])
            if caught.ndim < (3 if pair.kind == "attention" else 2) or not caught.is_floating_point():
                raise ConfigError(
                    f"Distill.{pair.kind}: the layer {name!r} gives {list(caught.shape)}; "
                    + ("a map over positions" if pair.kind == "attention" else "floating values [n, ...]")
                    + " is needed."
                )
            layer = module.get_submodule(name.removesuffix(INPUT))
            sides.append(caught if pair.kind == "map" else caught.movedim(_channel_axis(layer, caught), -1))
        if pair.kind == "map":
            return sides[0], sides[1]
        mine, theirs = _same_size(sides[0], sides[1], pair)
        return mine.reshape(len(mine), -1, mine.shape[-1]), theirs.reshape(len(theirs), -1, theirs.shape[-1])


def check_layers(module: nn.Module, wanted: Sequence[tuple[str, str]], role: str) -> None:
    """Raise :class:`ConfigError` for the first of ``wanted`` (name, option) that is no layer of ``module``."""
    names = [name for name, _ in module.named_modules() if name]
    for tap, option in wanted:
        name = tap.removesuffix(INPUT)
        if name not in names:
            raise no_match_error(f"Distill.{option}: the {role} has no layer", name, names)


def match_last_maps(
    student: nn.Module, teacher: nn.Module, example: Tree, *, same_names: bool
) -> tuple[Pair | None, str]:
    """Return the pair of last feature maps, and a description of what was found.

    With ``same_names`` (the student is made from the teacher) the layer that gives the teacher's last map is looked up
    in the student first: a step may have replaced the layers around it. The pair is of kind ``"map"`` if the shapes
    are equal, else of kind ``"features"``; None if one of the two has no feature map.
    """
    theirs, own = trace_maps(teacher, example).last, trace_maps(student, example)
    if theirs is None or own.last is None:
        return None, f"no feature map was found in the {'teacher' if theirs is None else 'student'}"
    mine = own.last
    if same_names and own.shapes.get(theirs.tap) == theirs.shape:
        mine = theirs
    if mine.shape == theirs.shape:
        return Pair(mine.tap, theirs.tap, "map"), f"{_described(theirs)} is the last feature map"
    words = f"the last feature map is {_described(mine)} in the student and {_described(theirs)} in the teacher"
    return Pair(mine.tap, theirs.tap, "features"), words


def _described(found: FeatureMap) -> str:
    return f"{found.tap} {list(found.shape[1:])}"


def _channel_axis(layer: nn.Module, output: torch.Tensor) -> int:
    """Return the dimension of the channels: by the kinds of layers inside, else 1 for images and last for tokens."""
    if output.ndim == 2:
        return 1
    last = any(isinstance(part, _LAST) for part in layer.modules())
    first = any(isinstance(part, _FIRST) for part in layer.modules())
    if last != first:
        return 1 if first else -1
    return 1 if output.ndim > 3 else -1


def _same_size(mine: torch.Tensor, theirs: torch.Tensor, pair: Pair) -> tuple[torch.Tensor, torch.Tensor]:
    """Return both ``[n, ..., channels]`` with the larger averaged down to the size of the smaller."""
    a, b = mine.shape[1:-1], theirs.shape[1:-1]
    if a == b:
        return mine, theirs
    if len(a) != len(b) or len(a) not in _POOLS:
        raise ConfigError(
            f"Distill.{pair.kind}: the student's {pair.student!r} has positions {list(a)} and the teacher's "
            f"{pair.teacher!r} has {list(b)}; they cannot be matched. Choose layers of one kind."
        )
    size = [min(pair) for pair in zip(a, b, strict=True)]
    pooled = [_POOLS[len(a)](x.movedim(-1, 1), size).movedim(1, -1) for x in (mine, theirs)]
    return pooled[0], pooled[1]
