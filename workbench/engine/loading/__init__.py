"""Load models: sources, files, validation against the reference, placement, int8 weights."""
