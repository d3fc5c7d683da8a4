"""8-bit quantization through torchao's PT2E: capture, annotate, calibrate or train, convert."""
