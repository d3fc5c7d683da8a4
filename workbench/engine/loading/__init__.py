"""Loading of models: sources, verification, placement."""
