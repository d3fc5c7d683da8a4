"""The Python code that makes one row of a study again: its recipe, without default options, and its engine."""

from __future__ import annotations

import json

from workbench.compress.recipe import Recipe
from workbench.compress.steps import Step
from workbench.report.words import Row, engine_name
from workbench.study.rows import row_options


def code_for(row: Row, *, reference: str | None) -> str:
    """Return a program that makes the variant of ``row`` and runs it on its engine.

    Parameters
    ----------
    row : mapping
        A study's row; its recipe, backend, batch size, threads and engine options are used.
    reference : str or None
        How :func:`workbench.load_task` finds the task; None where only the reader has it.
    """
    recipe = Recipe.from_json(row["recipe_json"]) if row.get("recipe_json") else Recipe()
    steps = [step_code(step) for step in recipe.steps]
    seed = [f"seed={recipe.seed}"] if recipe.seed else []
    options = [f"{name}={value!r}" for name, value in row_options(row).items()]
    shape = f", {row['shape']}" if row.get("shape") else ""
    lines = [
        f"# {row['recipe']} on {engine_name(row['backend'])}, batch size {row['batch_size']}{shape}",
        "import workbench as wb",
        "",
        _task_line(reference),
        _call("recipe = wb.Recipe", [*steps, *seed]),
        "variant = recipe.apply(task)",
        "",
        _call("engine = wb.OptimizedInferenceEngine.from_variant", ["variant", *options]),
        "with engine:",
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
    given = [f"{name}={value!r}" for name, value in step.changed().items()]
    return f"wb.{type(step).__name__}({', '.join(given)})"


def highlighted(code: str) -> str:
    """Return code as HTML with its colours inline."""
    from pygments import highlight  # type: ignore[import-untyped]
    from pygments.formatters import HtmlFormatter  # type: ignore[import-untyped]
    from pygments.lexers import PythonLexer  # type: ignore[import-untyped]

    return f"<pre>{highlight(code, PythonLexer(), HtmlFormatter(noclasses=True, nowrap=True))}</pre>"


def _task_line(reference: str | None) -> str:
    from workbench.tasks.known import BUILTIN

    if reference in BUILTIN:
        return f"task = wb.tasks.{reference}()"
    if reference:
        return f"task = wb.load_task({json.dumps(reference)})"
    return "task = ...  # the Task that the study was made with"


def _call(head: str, arguments: list[str], width: int = 88) -> str:
    flat = f"{head}({', '.join(arguments)})"
    if len(flat) <= width:
        return flat
    return "\n".join([f"{head}(", *(f"    {argument}," for argument in arguments), ")"])
