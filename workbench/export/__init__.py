"""Write a module in the format a runtime needs. Light: submodules import torch, this file does not."""
