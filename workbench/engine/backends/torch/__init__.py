"""PyTorch backends: eager, torch.compile, TorchScript, AOTInductor."""
