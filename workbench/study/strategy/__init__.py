"""The default plan: a strategy that decides from evidence what is trained, and keeps the best variant complete."""
