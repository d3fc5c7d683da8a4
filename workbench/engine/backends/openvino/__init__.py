"""OpenVINO: compiled models, precision of their graphs, guard against compiler crashes."""
