"""How good a model is, and how good it could be: baselines, bounds, tables."""
