"""Match feature maps of student and teacher: captured by hooks, projected to the same width."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from workbench.compress.graph.outputs import INPUT, FeatureMap, first_floating, trace_maps
from workbench.compress.layer_selection import no_match_error
from workbench.compress.model_ops import predict_with
from workbench.compress.training.losses import attention_error, feature_error
from workbench.compress.training.numerics import to_float32
from workbench.core.errors import ConfigError
from workbench.tasks.trees import Tree, leaves

# Layers with channels in the last dimension, and those with channels after the batch.
_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Embedding, nn.MultiheadAttention, nn.RNNBase)
_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)
_POOLS: tuple[Callable[..., torch.Tensor], ...] = (
    functional.adaptive_avg_pool1d,
    functional.adaptive_avg_pool2d,
    functional.adaptive_avg_pool3d,
)


@dataclass(frozen=True)
class Pair:
    """A layer of the student and one of the teacher to match.

    ``kind`` is ``"features"``, ``"attention"``, or ``"map"``: tensors of the same shape, without projection. A name
    that ends in ``":input"`` means the input of the layer.
    """

    student: str
    teacher: str
    kind: str


class ActivationTaps:
    """Outputs or inputs of layers in the last call of a module, captured by hooks until :meth:`close`."""

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
        parts = leaves(given)
        tensor = first_floating(parts)
        if tensor is None and parts and isinstance(parts[0], torch.Tensor):
            tensor = parts[0]
        if tensor is not None:
            self.caught[name] = tensor

    def close(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()


class FeatureMatching:
    """Pairs of layers to match, with a trained projection if a pair differs in width.

    A projection is a Linear over the channels (on images a 1x1 convolution), and is not part of the student. Maps of
    different size are averaged down to the smaller one.

    Both modules run once on ``example`` and are hooked until :meth:`close`; also a context manager. ``weights`` are by
    kind: ``{"features": 1.0, "attention": 10.0}``; ``seed`` is that of the projections. A layer that does not exist or
    is not called and two layers that cannot be matched raise ConfigError.
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
        mine, theirs = [pair.student for pair in pairs], [pair.teacher for pair in pairs]
        self._taps = ActivationTaps(student, mine), ActivationTaps(teacher, theirs)
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
        """Remove the hooks."""
        for taps in self._taps:
            taps.close()

    def teacher_maps(self) -> dict[str, torch.Tensor]:
        """Return the teacher's maps of its last call, by name."""
        return {name: to_float32(x) for name, x in self._taps[1].caught.items()}

    def loss(self, teacher_maps: Mapping[str, torch.Tensor] | None = None) -> torch.Tensor:
        """Return the weighted loss of the last calls, averaged over the pairs of each kind.

        ``teacher_maps`` replaces the teacher's last call by an earlier result of :meth:`teacher_maps`.
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
        for module in self._modules:
            predict_with(module, example)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for pair in self.pairs:
                mine, theirs = self._sides(pair)
                same = pair.kind != "features" or mine.shape[-1] == theirs.shape[-1]
                self.projections.append(nn.Identity() if same else nn.Linear(mine.shape[-1], theirs.shape[-1]))

    def _sides(self, pair: Pair) -> tuple[torch.Tensor, torch.Tensor]:
        """Return both maps of the last call as ``[n, positions, channels]``."""
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


def check_layers(module: nn.Module, layers: Sequence[tuple[str, str]], role: str) -> None:
    """Raise :class:`ConfigError` for the first of ``layers`` (name, option) that ``module`` does not have."""
    names = [name for name, _ in module.named_modules() if name]
    for tap, option in layers:
        name = tap.removesuffix(INPUT)
        if name not in names:
            raise no_match_error(f"Distill.{option}: the {role} has no layer", name, names)


def match_last_maps(
    student: nn.Module, teacher: nn.Module, example: Tree, *, same_names: bool
) -> tuple[Pair | None, str]:
    """Return the pair of last feature maps and its description.

    With ``same_names`` (the student is made from the teacher) the layer of the teacher's last map is tried first in the
    student. The pair is of kind ``"map"`` if the shapes are equal, else ``"features"``; None if a map is missing.
    """
    theirs, own = trace_maps(teacher, example).last, trace_maps(student, example)
    if theirs is None or own.last is None:
        return None, f"no feature map was found in the {'teacher' if theirs is None else 'student'}"
    mine = own.last
    if same_names and own.shapes.get(theirs.tap) == theirs.shape:
        mine = theirs
    if mine.shape == theirs.shape:
        return Pair(mine.tap, theirs.tap, "map"), f"{_describe(theirs)} is the last feature map"
    description = f"the last feature map is {_describe(mine)} in the student and {_describe(theirs)} in the teacher"
    return Pair(mine.tap, theirs.tap, "features"), description


def _describe(feature_map: FeatureMap) -> str:
    return f"{feature_map.tap} {list(feature_map.shape[1:])}"


def _channel_axis(layer: nn.Module, output: torch.Tensor) -> int:
    """Return the dimension of the channels: by the layers inside, else 1 for images and last for tokens."""
    if output.ndim == 2:
        return 1
    last = any(isinstance(part, _LAST) for part in layer.modules())
    first = any(isinstance(part, _FIRST) for part in layer.modules())
    if last != first:
        return 1 if first else -1
    return 1 if output.ndim > 3 else -1


def _same_size(mine: torch.Tensor, theirs: torch.Tensor, pair: Pair) -> tuple[torch.Tensor, torch.Tensor]:
    """Return both maps ``[n, ..., channels]``, the larger averaged down to the size of the smaller."""
    a, b = mine.shape[1:-1], theirs.shape[1:-1]
    if a == b:
        return mine, theirs
    if len(a) != len(b) or not 1 <= len(a) <= len(_POOLS):
        raise ConfigError(
            f"Distill.{pair.kind}: the student's {pair.student!r} has positions {list(a)} and the teacher's "
            f"{pair.teacher!r} has {list(b)}; they cannot be matched. Choose layers of one kind."
        )
    size = [min(pair) for pair in zip(a, b, strict=True)]
    pooled = [_POOLS[len(a) - 1](x.movedim(-1, 1), size).movedim(1, -1) for x in (mine, theirs)]
    return pooled[0], pooled[1]
