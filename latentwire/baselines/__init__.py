"""Baselines: what else could fill M places, read through the same prompts and the same scorer."""
