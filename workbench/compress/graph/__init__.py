"""Graphs and module structure that several techniques share: capture, interpretation, folding, batch norm."""
