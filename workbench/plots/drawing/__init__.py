"""Drawing helpers that charts share: figures, labels, style, scatter, bars."""
