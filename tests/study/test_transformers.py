"""Models of transformers in a study: their output classes cross from this process to the children and back."""

import pytest
from packages import require_package
from paths import SUPPORT

import workbench as wb
from workbench.engine.backends import backend_status

TASKS = SUPPORT / "transformers_tasks.py"
BACKENDS = [s.name for s in backend_status(("torch-eager", "onnxruntime", "openvino")) if s.available]
RECIPES = [
    wb.Recipe(wb.Quantize(), name="int8"),
    wb.Recipe(wb.Quantize(activations="none", bits=4), name="4-bit"),
    wb.Recipe(wb.Factorize(budget=0.7, allow_untouched=True), wb.Distill(epochs=1), name="factorize + distill"),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "vit"])
def test_a_transformer_with_outputs_by_attribute_is_measured_on_every_engine(name, tmp_path):
    require_package("transformers")
    with wb.Study(f"{TASKS}:{name}", storage=f"sqlite:///{tmp_path}/s.db") as study:
        study.run(RECIPES, backends=BACKENDS, batch_sizes=[2], threads=1)
        rows = study.rows()
    failed = [(row["recipe"], row["backend"], row["error"]) for row in rows if row["state"] != "complete"]
    assert failed == []
    assert {(row["recipe"], row["backend"]) for row in rows} >= {(r.name, b) for r in RECIPES for b in BACKENDS}
    floats = [row["quality"] for row in rows if row["recipe"] == "float"]
    assert floats and all(quality == pytest.approx(1.0, abs=0.02) for quality in floats)
