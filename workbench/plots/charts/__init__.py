"""Charts: one module per question; data (``*_data``) apart from drawing (``plot_*``)."""
