"""Rows and what follows from them: schema, ranking, Pareto front, merge, regression, gates. Imports core only."""
