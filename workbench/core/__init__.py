"""Leaves of the package: errors, config, machine, timing statistics, files. Imports nothing of ours."""
