"""Pickers for recipes and engines."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets

from workbench.compress.recipe import Recipe
from workbench.compress.steps import Distill, Factorize, Prune, PruneDepth, Quantize, Recover, Sparsify, Step
from workbench.core.errors import ConfigError, RecipeError
from workbench.present.findings import backend_name
from workbench.widgets.form import Form
from workbench.widgets.layout import close_tree, hint

STEP_ORDER: tuple[type[Step], ...] = (PruneDepth, Prune, Factorize, Sparsify, Recover, Distill, Quantize)
_STEP_WORDS = {
    PruneDepth: "depth pruning: remove residual blocks",
    Prune: "structured pruning: remove channels",
    Factorize: "low-rank factorization of layers",
    Sparsify: "unstructured sparsity: zero single weights",
    Recover: "fine-tune on the labels",
    Distill: "knowledge distillation from the original",
    Quantize: "quantization; always last",
}


class StepPicker:
    """Build a recipe from steps, with a checkbox and a form per step; ``on_add`` is called with a recipe to add."""

    def __init__(self, on_add: Callable[[Recipe], None]) -> None:
        self._on_add = on_add
        self.ticks = {kind: widgets.Checkbox(description=kind.__name__, indent=False) for kind in STEP_ORDER}
        self.forms: dict[type[Step], Form[Any]] = {
            kind: Form(kind, on_change=self._changed, hide=("allow_untouched",)) for kind in STEP_ORDER
        }
        self.name = widgets.Text(
            placeholder="empty: named after its steps",
            description="name",
            style={"description_width": "120px"},
            layout=widgets.Layout(width="auto", max_width="300px", margin="8px 0 2px 0"),
        )
        self.add = widgets.Button(description="Add recipe", icon="plus", tooltip="Add this recipe to the list above")
        self.preview = hint("")
        for tick in self.ticks.values():
            tick.observe(self._changed, names="value")
        self.view = widgets.VBox([*self._rows(), self.name, self.preview, self.add])
        self.view.add_class("wb-list")
        self._changed()

    def recipe(self) -> Recipe:
        """Return the recipe of the selected steps, in a valid order.

        Raises
        ------
        ConfigError
            If an option of a selected step is invalid.
        RecipeError
            If no step is selected, or the steps cannot be combined.
        """
        steps = [self.forms[kind].value for kind in STEP_ORDER if self.ticks[kind].value]
        if not steps:
            raise RecipeError("Select at least one step.")
        return Recipe(*steps, name=self.name.value.strip() or None)

    def add_recipe(self) -> None:
        """Add the recipe to the list and clear the selection."""
        self._on_add(self.recipe())
        self.name.value = ""
        for tick in self.ticks.values():
            tick.value = False

    def _rows(self) -> list[widgets.Widget]:
        rows = []
        for kind in STEP_ORDER:
            self.forms[kind].view.add_class("wb-step")
            rows.append(widgets.VBox([self.ticks[kind], hint(_STEP_WORDS[kind]), self.forms[kind].view]))
        return rows

    def _changed(self, _change: Any = None) -> None:
        for kind in STEP_ORDER:
            self.forms[kind].view.layout.display = "" if self.ticks[kind].value else "none"
        try:
            text, ready = f"Will add: {self.recipe().label}", True
        except ConfigError:  # shown next to the option
            text, ready = "Fix the highlighted options.", False
        except RecipeError as error:
            text, ready = str(error), False
        self.preview.value = html.escape(text)
        self.add.disabled = not ready


@dataclass(frozen=True)
class _Entry:
    recipe: Recipe
    box: widgets.Checkbox
    view: widgets.Widget
    preset: bool

    @property
    def name(self) -> str:
        return self.recipe.name or self.recipe.label


class RecipeList:
    """Select recipes to run: presets and custom ones, or the default plan (``automatic``), until one is selected."""

    def __init__(self, recipes: Sequence[Recipe] = (), *, on_change: Callable[[], None] = lambda: None) -> None:
        self._entries: dict[str, _Entry] = {}
        self._on_change = on_change
        words = "default plan: it chooses recipes"
        self.automatic = widgets.Checkbox(value=True, description=words, indent=False)
        self.automatic.observe(lambda _change: self._on_change(), names="value")
        self.view = widgets.VBox()
        self.view.add_class("wb-list")
        self.set_presets(recipes)

    def set_presets(self, recipes: Sequence[Recipe]) -> None:
        """Replace the presets; custom recipes and deselections stay."""
        old = [entry for entry in self._entries.values() if entry.preset]
        off = {entry.name for entry in old if not entry.box.value}
        own = {key: entry for key, entry in self._entries.items() if not entry.preset}
        new = [self._entry(r, (r.name or r.label) not in off, True) for r in recipes if r.recipe_id not in own]
        self._entries = {entry.recipe.recipe_id: entry for entry in new} | own
        self._show()
        for entry in old:
            close_tree(entry.view)

    def add(self, recipe: Recipe) -> None:
        """Add a recipe to the list, or select it if it is listed already.

        Raises
        ------
        RecipeError
            If another recipe has the same name.
        """
        listed = self._entries.get(recipe.recipe_id)
        if listed is not None:
            listed.box.value = True
            return
        for entry in self._entries.values():
            if recipe.name == entry.name:
                raise RecipeError(f"Recipe names must be unique, {recipe.name!r} is taken. Choose another name.")
        self._entries[recipe.recipe_id] = self._entry(recipe, True, False)
        self.automatic.value = False
        self._show()

    def tick(self, name: str, value: bool) -> None:
        """Select or deselect a recipe by name."""
        for entry in self._entries.values():
            if entry.name == name:
                entry.box.value = value
                return
        names = ", ".join(entry.name for entry in self._entries.values())
        raise RecipeError(f"Recipe must be one of {names}, got {name!r}.")

    @property
    def chosen(self) -> list[Recipe]:
        """The selected recipes, in the order shown."""
        return [entry.recipe for entry in self._entries.values() if entry.box.value]

    @property
    def plan(self) -> list[Recipe] | None:
        """The selected recipes, or None for the default plan."""
        return None if self.automatic.value else self.chosen

    def _choose_recipes(self, _change: Any) -> None:
        self.automatic.value = False
        self._on_change()

    def _show(self) -> None:
        self.view.children = [entry.view for entry in self._entries.values()]
        self._on_change()

    def _entry(self, recipe: Recipe, ticked: bool, preset: bool) -> _Entry:
        name = recipe.name or recipe.label
        box = widgets.Checkbox(value=ticked, description=name, indent=False, tooltip=repr(recipe))
        box.observe(self._choose_recipes, names="value")
        view = box if name == recipe.label else widgets.VBox([box, hint(recipe.label)])
        return _Entry(recipe, box, view, preset)


class EnginePicker:
    """Select engines; one that cannot run here is disabled, with the reason and the install command."""

    def __init__(self, statuses: Sequence[Any], *, on_change: Callable[[], None] = lambda: None) -> None:
        self.boxes: dict[str, widgets.Checkbox] = {}
        rows: list[widgets.Widget] = []
        for status in statuses:
            label = backend_name(status.name) + (f" {status.version}" if status.version else "")
            on = bool(status.available)
            box = widgets.Checkbox(value=on, disabled=not on, description=label, indent=False)
            box.observe(lambda _change: on_change(), names="value")
            self.boxes[status.name] = box
            rows.append(box)
            if not on:
                why = ". ".join(part.rstrip(".") for part in (status.reason, status.how) if part)
                rows.append(hint(f"Not available: {why}."))
        self.view = widgets.VBox(rows)
        self.view.add_class("wb-list")

    @property
    def chosen(self) -> list[str]:
        """Names of the selected engines."""
        return [name for name, box in self.boxes.items() if box.value and not box.disabled]
