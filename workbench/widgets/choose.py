"""What to run: recipes put together from steps, engines that are there, and the settings of a run."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets

from workbench.compress.recipe import Recipe
from workbench.compress.steps import Distill, Factorize, Prune, Quantize, Recover, Step
from workbench.core.errors import ConfigError, RecipeError
from workbench.report.words import engine_name
from workbench.widgets.form import Form

STEP_ORDER: tuple[type[Step], ...] = (Prune, Factorize, Recover, Distill, Quantize)
_STEP_WORDS = {
    Prune: "take whole channels away",
    Factorize: "split layers into two thinner ones",
    Recover: "train on the labels again",
    Distill: "train to answer like the original",
    Quantize: "8-bit integers; always last",
}


class StepPicker:
    """A checkbox and a form per step; the steps that are ticked make a recipe.

    Parameters
    ----------
    on_add : callable
        Called with the finished recipe when the person adds it.
    """

    def __init__(self, on_add: Callable[[Recipe], None]) -> None:
        self._on_add = on_add
        self.ticks = {kind: widgets.Checkbox(description=kind.__name__, indent=False) for kind in STEP_ORDER}
        self.forms: dict[type[Step], Form[Any]] = {
            kind: Form(kind, on_change=self._changed, hide=("allow_untouched",)) for kind in STEP_ORDER
        }
        self.name = widgets.Text(
            placeholder="made from the steps",
            description="name",
            style={"description_width": "120px"},
            layout=widgets.Layout(width="auto", max_width="300px", margin="8px 0 2px 0"),
        )
        self.add = widgets.Button(description="Add recipe", icon="plus", tooltip="Put this recipe on the list above")
        self.says = hint("")
        for tick in self.ticks.values():
            tick.observe(self._changed, names="value")
        self.view = widgets.VBox([*self._rows(), self.name, self.says, self.add])
        self.view.add_class("wb-list")
        self._changed()

    def recipe(self) -> Recipe:
        """Return the recipe of the ticked steps, in an order that works.

        Raises
        ------
        ConfigError
            If an option of a ticked step cannot be used.
        RecipeError
            If nothing is ticked, or the steps cannot follow each other.
        """
        steps = [self.forms[kind].value for kind in STEP_ORDER if self.ticks[kind].value]
        if not steps:
            raise RecipeError("Tick at least one step.")
        return Recipe(*steps, name=self.name.value.strip() or None)

    def add_recipe(self) -> None:
        """Hand the recipe over, and clear the ticks for the next one."""
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
        except ConfigError:  # said beside the option already
            text, ready = "Put right what is marked above.", False
        except RecipeError as error:
            text, ready = str(error), False
        self.says.value = html.escape(text)
        self.add.disabled = not ready


class RecipeList:
    """The recipes to run: presets and the person's own, each with a checkbox."""

    def __init__(self, recipes: Sequence[Recipe] = (), *, on_change: Callable[[], None] = lambda: None) -> None:
        self._entries: dict[str, tuple[Recipe, widgets.Checkbox, bool]] = {}
        self._on_change = on_change
        self.view = widgets.VBox()
        self.view.add_class("wb-list")
        self.set_presets(recipes)

    def set_presets(self, recipes: Sequence[Recipe]) -> None:
        """Replace the presets; the person's own recipes and ticks taken away by name stay as they are."""
        off = {recipe.name for recipe, box, preset in self._entries.values() if preset and not box.value}
        own = {key: entry for key, entry in self._entries.items() if not entry[2]}
        presets = {r.recipe_id: (r, self._box(r, r.name not in off or r.name is None), True) for r in recipes}
        self._entries = {**presets, **{key: entry for key, entry in own.items() if key not in presets}}
        self._show()

    def add(self, recipe: Recipe) -> None:
        """Put a recipe on the list; one that is there already is ticked.

        Raises
        ------
        RecipeError
            If another recipe has the same name: rows could not be told apart.
        """
        for key, (other, box, _) in self._entries.items():
            if key == recipe.recipe_id:
                box.value = True
                return
            if recipe.name and recipe.name == (other.name or other.label):
                raise RecipeError(f"There is a recipe named {recipe.name!r} already ({other.label}). Choose another.")
        self._entries[recipe.recipe_id] = (recipe, self._box(recipe, True), False)
        self._show()

    def find(self, recipe_id: str) -> Recipe | None:
        """Return the recipe with this id, ticked or not."""
        entry = self._entries.get(recipe_id)
        return entry[0] if entry else None

    def tick(self, name: str, value: bool) -> None:
        """Tick a recipe, or take the tick away, by its name."""
        for recipe, box, _ in self._entries.values():
            if (recipe.name or recipe.label) == name:
                box.value = value
                return
        known = ", ".join(recipe.name or recipe.label for recipe, _, _ in self._entries.values())
        raise RecipeError(f"No recipe named {name!r} on the list. There are: {known}.")

    @property
    def chosen(self) -> list[Recipe]:
        """The ticked recipes, in the order shown."""
        return [recipe for recipe, box, _ in self._entries.values() if box.value]

    def _show(self) -> None:
        self.view.children = [
            widgets.VBox([box, hint(recipe.label)]) if recipe.name and recipe.name != recipe.label else box
            for recipe, box, _ in self._entries.values()
        ]
        self._on_change()

    def _box(self, recipe: Recipe, value: bool) -> widgets.Checkbox:
        box = widgets.Checkbox(value=value, description=recipe.name or recipe.label, indent=False, tooltip=repr(recipe))
        box.observe(lambda _change: self._on_change(), names="value")
        return box


class EnginePicker:
    """A checkbox per engine; one that cannot run here is off and says why and how to get it."""

    def __init__(self, statuses: Sequence[Any], *, on_change: Callable[[], None] = lambda: None) -> None:
        self.boxes: dict[str, widgets.Checkbox] = {}
        rows: list[widgets.Widget] = []
        for status in statuses:
            label = engine_name(status.name) + (f" {status.version}" if status.version else "")
            box = widgets.Checkbox(
                value=status.available, disabled=not status.available, description=label, indent=False
            )
            box.observe(lambda _change: on_change(), names="value")
            self.boxes[status.name] = box
            rows.append(box)
            if not status.available:
                why = ". ".join(part.rstrip(".") for part in (status.reason, status.how) if part)
                rows.append(hint(f"Not available: {why}."))
        self.view = widgets.VBox(rows)
        self.view.add_class("wb-list")

    @property
    def chosen(self) -> list[str]:
        """Names of the ticked engines."""
        return [name for name, box in self.boxes.items() if box.value and not box.disabled]


def hint(text: str) -> widgets.HTML:
    """Return a line of small grey text."""
    line = widgets.HTML(html.escape(text))
    line.add_class("wb-hint")
    return line
