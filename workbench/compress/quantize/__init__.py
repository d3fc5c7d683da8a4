"""Quantization: torchao's PT2E captures, annotates, calibrates or trains and converts; and what makes it better."""
