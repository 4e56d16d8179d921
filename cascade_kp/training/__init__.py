"""Training a cascade from a recipe: ``python -m cascade_kp.training RECIPE --data DIR --out DIR``."""
