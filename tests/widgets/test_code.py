"""The code that repeats a point is a program that does."""

from __future__ import annotations

from workbench.compress.recipe import Recipe
from workbench.compress.steps import STEP_TYPES, Distill, Factorize, Prune, Quantize, Recover
from workbench.widgets.code import code_for, step_code


def evaluate(expression: str) -> object:
    import workbench as wb

    return eval(expression, {"wb": wb})


def test_step_code_makes_the_same_step() -> None:
    steps = [
        *(kind() for kind in STEP_TYPES.values()),
        Prune(ratio=0.3, exclude=("stem", "head")),
        Distill(epochs=2.5, max_seconds=12.25),
        Factorize(ratio=0.4, types=("Linear",)),
        Recover(learning_rate=1e-4),
        Quantize(qat_epochs=1.0, reduce_range=True),
    ]
    for step in steps:
        assert evaluate(step_code(step)) == step


def test_code_builds_the_same_recipe_for_the_same_engine(fakes) -> None:
    recipe = Recipe(Prune(ratio=0.25), Distill(max_seconds=30.0), Quantize(qat_epochs=2.0), seed=7, name="chain")
    code = code_for(
        fakes.finished(fakes.waiting(recipe, "openvino", 8)), recipe, task_name="digits", reference="digits"
    )
    compile(code, "panel", "exec")
    made = code.split("recipe = ")[1].split("variant =")[0]
    assert evaluate(made.strip()) == recipe
    assert "task = wb.tasks.digits()" in code
    assert "backend='openvino', batch_size=8, threads=2" in code


def test_a_task_is_named_by_its_reference_or_left_to_the_reader(fakes) -> None:
    row = fakes.finished(fakes.waiting(fakes.RECIPES[0], "onnxruntime", 1))
    code = code_for(row, fakes.RECIPES[0], task_name="mine", reference="/tmp/mine.py:make")
    assert "task = wb.load_task('/tmp/mine.py:make')" in code
    code = code_for(row, fakes.RECIPES[0], task_name="mine", reference=None)
    assert "# task: the Task 'mine' that you gave to wb.Workbench" in code
    compile(code, "panel", "exec")
