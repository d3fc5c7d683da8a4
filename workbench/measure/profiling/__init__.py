"""Per-layer profiles of torch, ONNX Runtime and OpenVINO, and their bottlenecks."""
