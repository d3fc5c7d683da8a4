"""ONNX Runtime: sessions, execution providers, cached optimized graphs."""
