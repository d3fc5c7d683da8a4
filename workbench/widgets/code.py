"""The Python code that repeats a point: the recipe with the options that differ from their defaults, and its engine."""

from __future__ import annotations

import dataclasses

from workbench.compress.recipe import Recipe
from workbench.compress.steps import Step
from workbench.widgets.words import Row, point_name

BUILT_IN = ("digits", "digits_vit")


def code_for(row: Row, recipe: Recipe, *, task_name: str, reference: str | None) -> str:
    """Return a program that makes the variant of ``row`` again and runs it on its engine.

    Parameters
    ----------
    row : mapping
        A study's row: its backend, batch size and threads are used.
    recipe : Recipe
        The recipe of that row.
    task_name : str
        Name of the task, for built-in tasks and comments.
    reference : str or None
        ``file.py:function`` or ``module:function`` of the task; without it the code starts from a ``task`` that
        the reader already has.
    """
    steps = [step_code(step) for step in recipe.steps]
    seed = [f"seed={recipe.seed}"] if recipe.seed else []
    options = [f"backend={row['backend']!r}", f"batch_size={row['batch_size']}"]
    if row.get("threads") is not None:
        options.append(f"threads={row['threads']}")
    lines = [
        f"# {point_name(row)}",
        "import workbench as wb",
        "",
        _task_line(task_name, reference),
        _call("recipe = wb.Recipe", [*steps, *seed]),
        "variant = recipe.apply(task)",
        "",
        "with wb.OptimizedInferenceEngine.from_variant(",
        f"    variant, {', '.join(options)}",
        ") as engine:",
        f"    outcome = engine.predict(task.examples({row['batch_size']}))",
        "",
        "outcome.result, outcome.metrics.inference_time_ms",
    ]
    return "\n".join(lines)


def step_code(step: Step) -> str:
    """Return the expression that makes ``step``, with only the options that are not defaults.

    Examples
    --------
    >>> from workbench.compress.steps import Prune
    >>> step_code(Prune(ratio=0.3))
    'wb.Prune(ratio=0.3)'
    """
    default = type(step)()
    given = [
        f"{field.name}={getattr(step, field.name)!r}"
        for field in dataclasses.fields(step)
        if getattr(step, field.name) != getattr(default, field.name)
    ]
    return f"wb.{type(step).__name__}({', '.join(given)})"


def _task_line(name: str, reference: str | None) -> str:
    if reference in BUILT_IN:
        return f"task = wb.tasks.{reference}()"
    if reference:
        return f"task = wb.load_task({reference!r})"
    return f"# task: the Task {name!r} that you gave to wb.Workbench"


def _call(head: str, arguments: list[str], width: int = 72) -> str:
    flat = f"{head}({', '.join(arguments)})"
    if len(flat) <= width:
        return flat
    return "\n".join([f"{head}(", *(f"    {argument}," for argument in arguments), ")"])
