"""Knowledge distillation and recovery on the labels."""
