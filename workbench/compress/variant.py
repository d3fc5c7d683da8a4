"""Variant: the module that a recipe makes, with a report per step."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from workbench.compress.model_ops import predict_with
from workbench.compress.recipe import Recipe
from workbench.compress.steps import Step, step_from_dict, step_to_dict
from workbench.core.lazy import call_late
from workbench.tasks.load import load_module
from workbench.tasks.module import protect_inputs
from workbench.tasks.trees import to_torch

if TYPE_CHECKING:
    from workbench.artifact.artifact import Artifact
    from workbench.tasks.task import Task


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """One layer in a step's coverage: touched and how, or why not."""

    name: str
    type: str
    touched: bool
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LayerReport:
        """Build from the output of :meth:`to_dict`."""
        return cls(**_fields(cls, values))


@dataclasses.dataclass(frozen=True)
class StepReport:
    """Effect of one step. Quality is measured on the validation split; MACs are per sample."""

    step: Step
    label: str
    layers: tuple[LayerReport, ...]
    params_before: int
    params_after: int
    macs_before: int
    macs_after: int
    quality_before: float
    quality_after: float
    seconds: float
    epochs_done: float
    notes: tuple[str, ...] = ()

    @property
    def touched(self) -> int:
        """Number of changed layers."""
        return sum(layer.touched for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON-ready values; ``step`` as :func:`step_to_dict` writes it."""
        layers = [layer.to_dict() for layer in self.layers]
        own = {"step": step_to_dict(self.step), "layers": layers, "touched": self.touched, "notes": list(self.notes)}
        return vars(self) | own

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StepReport:
        """Build from the output of :meth:`to_dict`; an unknown step or option raises :class:`WorkbenchError`."""
        own = {
            "step": step_from_dict(values["step"]),
            "layers": tuple(map(LayerReport.from_dict, values["layers"])),
            "notes": tuple(values.get("notes", ())),
        }
        return cls(**(_fields(cls, values) | own))


@dataclasses.dataclass(frozen=True, eq=False)
class Variant:
    """The module that a recipe makes.

    Attributes
    ----------
    module : torch.nn.Module
        In eval mode, with the inputs and output structure of the task's model. If ``quantized``, a
        ``torch.fx.GraphModule`` with simulated rounding, which has no ``train`` or ``eval``.
    params, macs : int
        Parameters, and multiply-accumulates per sample.
    quality : float
        The task's metric on the *validation* split.
    reused_steps : int
        Number of steps that came from the prefix cache.
    """

    module: nn.Module
    recipe: Recipe
    reports: tuple[StepReport, ...]
    task: Task
    quantized: bool
    params: int
    macs: int
    quality: float
    reused_steps: int = 0

    @classmethod
    def original(cls, task: Task) -> Variant:
        """Return the task's own model as a variant: the recipe without steps."""
        return Recipe().apply(task)

    def start(self) -> nn.Module:
        """Return a fresh copy of the module that the recipe starts from: the task's model or a student."""
        student = self.recipe.student
        return self.task.model() if student is None else protect_inputs(load_module(student), self.task.examples(2))

    def predict(self, inputs: Any) -> Any:
        """Run the module without gradients on arrays or tensors ``[n, ...]`` in the task's structure."""
        return predict_with(self.module, to_torch(inputs))

    def save(self, folder: str | Path, *, batch: int = 1) -> Artifact:
        """Save the variant as an artifact; see :func:`workbench.save_variant`."""
        return cast("Artifact", call_late("Variant.save", self, folder, batch=batch))

    def __repr__(self) -> str:
        return (
            f"Variant({self.recipe.label!r}, params={self.params:,}, macs={self.macs:,}, "
            f"validation quality={self.quality:.4f})"
        )


def _fields(cls: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: values[field.name] for field in dataclasses.fields(cls) if field.name in values}
