"""Search over recipes, engines and batch sizes: Optuna proposes, the study's own processes answer."""
