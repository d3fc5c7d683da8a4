"""Python code that reproduces a row of a study: its recipe without default options, and its engine."""

from __future__ import annotations

import ast
import re

from workbench.compress.recipe import Recipe
from workbench.compress.steps import Step
from workbench.core.errors import StudyError
from workbench.core.untrusted import one_line
from workbench.present.findings import Row, backend_name
from workbench.study.plan.recipes import row_recipe
from workbench.study.results.schema import row_options


def code_for(row: Row, *, reference: str | None) -> str:
    """Return a program that builds the variant of a study's ``row`` and runs it on its engine.

    ``reference`` is the name of the task for :func:`workbench.load_task`; None if there is none.
    """
    recipe = row_recipe(row, trust=True) if row.get("recipe_json") else Recipe()  # written to code, not applied
    steps = [step_code(step) for step in recipe.steps]
    seed = [f"seed={recipe.seed}"] if recipe.seed else []
    options = [f"{name}={value!r}" for name, value in row_options(row).items()]
    shape = f", {row['shape']}" if row.get("shape") else ""
    title = f"{row['recipe']} on {backend_name(row['backend'])}, batch size {row['batch_size']}{shape}"
    lines = [
        f"# {one_line(title)}",
        "import workbench as wb",
        "",
        _task_line(reference),
        _call("recipe = wb.Recipe", [*steps, *seed]),
        "variant = recipe.apply(task)",
        "",
        _call("engine = wb.OptimizedInferenceEngine.from_variant", ["variant", *options]),
        "with engine:",
        f"    outcome = engine.predict(task.examples({int(row['batch_size'])}))",
        "",
        "outcome.result, outcome.metrics.inference_time_ms",
    ]
    return _checked("\n".join(lines))


def _checked(code: str) -> str:
    """Return ``code`` if it imports and calls only the workbench; raise StudyError otherwise."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import | ast.ImportFrom) and ast.unparse(node) != "import workbench as wb":
            raise StudyError(f"The code of a row would import: {ast.unparse(node)!r}. Do not use this study.")
        if isinstance(node, ast.Call) and not _CALLED.fullmatch(ast.unparse(node.func)):
            raise StudyError(f"The code of a row would call: {ast.unparse(node)!r}. Do not use this study.")
    return code


_CALLED = re.compile(r"wb(\.[A-Za-z_]\w*)+|recipe\.apply|engine\.predict|task\.examples")


def step_code(step: Step) -> str:
    """Return the expression of ``step``, with only the options that are not defaults.

    Examples
    --------
    >>> from workbench.compress.steps import Prune
    >>> step_code(Prune(ratio=0.3))
    'wb.Prune(ratio=0.3)'
    """
    options = [f"{name}={value!r}" for name, value in step.changed().items()]
    return f"wb.{type(step).__name__}({', '.join(options)})"


def highlighted(code: str) -> str:
    """Return code as HTML with its colors inline."""
    from pygments import highlight  # type: ignore[import-untyped]
    from pygments.formatters import HtmlFormatter  # type: ignore[import-untyped]
    from pygments.lexers import PythonLexer  # type: ignore[import-untyped]

    return f"<pre>{highlight(code, PythonLexer(), HtmlFormatter(noclasses=True, nowrap=True))}</pre>"


def _task_line(reference: str | None) -> str:
    from workbench.tasks.load import BUILTIN

    if reference in BUILTIN:
        return f"task = wb.tasks.{reference}()"
    if reference:
        return f"task = wb.load_task({reference!r})"
    return "task = ...  # the Task of the study"


def _call(head: str, arguments: list[str], width: int = 88) -> str:
    flat = f"{head}({', '.join(arguments)})"
    if len(flat) <= width:
        return flat
    return "\n".join([f"{head}(", *(f"    {argument}," for argument in arguments), ")"])
