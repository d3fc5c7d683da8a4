"""Plan trials: default recipes, input shapes, trial keys, order."""
