"""Interleaved timing: blocks of calls in random order, undisturbed pace, GPU events. Imports core only."""
