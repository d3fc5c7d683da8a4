"""The one training loop: schedules, precision, early stop, resumable checkpoints, and distillation objectives."""
