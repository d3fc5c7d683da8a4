"""Find the removable blocks of a model: modules with an additive path, without which the model runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import nn

from workbench.compress.depth.pass_through import FIRST_INPUT, PLAIN, PassThrough
from workbench.compress.depth.trace import Call, trace_calls
from workbench.compress.layer_selection import holds_matrix
from workbench.compress.model_ops import count_macs, predict_with, removing
from workbench.core.errors import first_line
from workbench.tasks.trees import Tree, named_leaves


@dataclass(frozen=True)
class Block:
    """A removable block: its stand-in, the saved multiply-accumulates, and its kind.

    Blocks of one kind have equal classes, parameter shapes, and input and output shapes.
    """

    name: str
    type: str
    stand_in: nn.Module
    macs: int
    kind: tuple[object, ...]


@dataclass
class ResidualBlocks:
    """The removable blocks in the model's order, and the reasons of the other modules."""

    blocks: list[Block] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


def find_blocks(module: nn.Module, example: Tree, blocked: Mapping[str, str], excluded: Set[str]) -> ResidualBlocks:
    """Return the removable blocks of ``module``.

    ``blocked`` holds modules to skip with the reason; a block that contains one of ``excluded`` stays too. Of nested
    blocks the outer one is taken, unless it is a row of blocks (a stage) or cannot be removed.
    """
    return _Search(module, example, blocked, excluded).findings()


@contextmanager
def replaced(module: nn.Module, stand_ins: Mapping[str, nn.Module]) -> Iterator[None]:
    """Replace submodules by stand-ins for a block."""
    originals = {name: module.get_submodule(name) for name in stand_ins}
    try:
        for name, stand_in in stand_ins.items():
            put(module, name, stand_in)
        yield
    finally:
        for name, original in originals.items():
            module.set_submodule(name, original)


def put(module: nn.Module, name: str, stand_in: nn.Module) -> None:
    """Replace the submodule ``name`` by ``stand_in`` in the same mode."""
    stand_in.training = module.get_submodule(name).training
    module.set_submodule(name, stand_in)


class _Search:
    """Search in one model."""

    def __init__(self, module: nn.Module, example: Tree, blocked: Mapping[str, str], excluded: Set[str]) -> None:
        self.module, self.example, self.blocked, self.excluded = module, example, blocked, excluded
        self.calls = trace_calls(module, example)
        self.layers = dict(module.named_modules())
        self.names = Counter(id(layer) for _, layer in module.named_modules(remove_duplicate=False))
        self.additive = [n for n, calls in self.calls.items() if n and any(call.additive for call in calls)]
        self.classes = Counter(type(self.layers[name]) for name in self.additive)
        self.outputs = predict_with(module, example)
        self.macs = count_macs(module, example)
        self.result = ResidualBlocks()

    def findings(self) -> ResidualBlocks:
        """Return the removable blocks and the reasons of the others."""
        for name in self._parts(""):
            self._look_at(name)
        self._explain("")
        order = {name: number for number, name in enumerate(self.layers)}
        self.result.blocks.sort(key=lambda block: order[block.name])
        return self.result

    def _look_at(self, name: str) -> None:
        """Take the block, or the blocks within it if it cannot be removed."""
        block = self._block(name)
        if isinstance(block, Block):
            self.result.blocks.append(block)
            return
        before = len(self.result.blocks)
        for part in self._parts(name):
            self._look_at(part)
        if len(self.result.blocks) == before:  # else the parts have reasons
            inner = [part for part in self.result.refused if part.startswith(f"{name}.")]
            for part in inner:
                del self.result.refused[part]
            self.result.refused[name] = block

    def _parts(self, name: str) -> list[str]:
        """Return the outermost blocks within a module, with rows of blocks expanded."""
        prefix = f"{name}." if name else ""
        inner = [part for part in self.additive if part.startswith(prefix)]
        outermost = [part for part in inner if not any(part.startswith(f"{other}.") for other in inner)]
        return [block for part in outermost for block in (self._row(part) or [part])]

    def _row(self, name: str) -> list[str]:
        """Return the blocks of a module that only calls blocks in sequence; empty for others."""
        parts, layer = self._parts(name), self.layers[name]
        kinds = Counter(type(self.layers[part]) for part in parts)
        repeated = any(count > 1 for count in kinds.values())
        alone = len(parts) > 1 and self.classes[type(layer)] == 1
        return parts if _is_container(layer) or repeated or alone else []

    def _block(self, name: str) -> Block | str:
        """Return the block, or the reason against its removal."""
        layer, calls = self.layers[name], self.calls[name]
        if name in self.blocked:
            return self.blocked[name]
        within = next((part for part in self.layers if part in self.excluded and part.startswith(f"{name}.")), None)
        if within is not None:
            return f"{within} within it is excluded by name"
        if self.names[id(layer)] > 1:
            return "it has several names in the model: removing it would remove it everywhere"
        if len(calls) > 1:
            return f"it is called {len(calls)} times: removing it would remove it everywhere"
        call = calls[0]
        if call.outputs is None:
            return call.reason
        stand_in: nn.Module = PassThrough(call.outputs)
        if call.lone and call.outputs == FIRST_INPUT:
            stand_in = nn.Identity()
        return self._tried(name, stand_in, call)

    def _tried(self, name: str, stand_in: nn.Module, call: Call) -> Block | str:
        layer = self.layers[name]
        try:
            try:
                reason = self._run_without(name, stand_in)
            except AttributeError:  # the forward around the block may read its settings
                own = {name: value for name, value in vars(layer).items() if isinstance(value, PLAIN)}
                vars(stand_in).update(own | vars(stand_in))
                reason = self._run_without(name, stand_in)
            with replaced(self.module, {name: stand_in}):
                saved = self.macs - count_macs(self.module, self.example)
        except Exception as error:  # noqa: BLE001 - the forward around the block may raise anything
            return f"the model fails without it ({type(error).__name__}: {first_line(error)[:120]})"
        if reason is not None:
            return reason
        if saved <= 0:
            return "its removal saves no multiply-accumulates"
        shapes = tuple(tuple(parameter.shape) for parameter in layer.parameters())
        return Block(name, type(layer).__name__, stand_in, saved, (type(layer), call.shapes, shapes, saved))

    def _run_without(self, name: str, stand_in: nn.Module) -> str | None:
        """Run the model without a block; return why its outputs are not valid, or None."""
        reached: list[bool] = []
        hook = stand_in.register_forward_hook(lambda *_: reached.append(True))
        with removing([hook]), replaced(self.module, {name: stand_in}):
            outputs = predict_with(self.module, self.example)
        if not reached:
            return "the model's forward does not call it by its name, so that it cannot be replaced"
        return difference(self.outputs, outputs)

    def _explain(self, name: str) -> None:
        """Record reasons for the modules that are in no block, outermost first."""
        explained = {block.name for block in self.result.blocks} | set(self.result.refused)
        for child, layer in self.layers[name].named_children():
            path = f"{name}.{child}" if name else child
            if path in explained or path not in self.layers:
                continue
            if _is_container(layer) or any(other.startswith(f"{path}.") for other in explained):
                self._explain(path)
                if holds_matrix(layer):
                    self.result.refused[path] = self._reason(path)
            elif any(holds_matrix(part) for part in layer.modules()):
                self.result.refused[path] = self._reason(path)

    def _reason(self, name: str) -> str:
        calls = self.calls[name]
        if name in self.blocked:
            return self.blocked[name]
        return calls[0].reason or "it holds blocks" if calls else "the model's forward does not call it"


def difference(expected: Tree, outputs: Tree) -> str | None:
    """Return how the outputs of a model without a block differ in structure from the original, or None."""
    before, after = (dict(named_leaves(outputs)) for outputs in (expected, outputs))
    if list(before) != list(after):
        return "the model's outputs have another structure without it"
    for name, leaf in after.items():
        if (leaf.shape, leaf.dtype) != (before[name].shape, before[name].dtype):
            return "the model's outputs change their shape without it"
        if leaf.is_floating_point() and bool(before[name].isfinite().all()) and not bool(leaf.isfinite().all()):
            return "the model gives NaN or infinity without it"
    return None


def _is_container(layer: nn.Module) -> bool:
    kinds = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    return isinstance(layer, kinds) and type(layer).forward in [kind.forward for kind in kinds]
