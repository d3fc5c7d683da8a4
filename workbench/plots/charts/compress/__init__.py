"""Charts of compression: methods, pruning, quantization modes, sensitivity, training."""
