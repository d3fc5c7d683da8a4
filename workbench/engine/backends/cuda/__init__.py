"""CUDA: transfers on their own stream, device memory, CUDA graphs."""
